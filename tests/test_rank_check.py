"""Whether the rungs ranked plans as all images do, and what they saved. Beside scipy's own Spearman."""

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from reports import tables
from reports.cost import Cost
from reports.rank_check import CORRECTED, PIXELS, TEACHER, RankCheck
from reports.record import frame_of
from tests.report_rows import row

RANDOM = np.random.default_rng(3)


def trial(number, nfe=5, full=None, teacher=None, small=None, **more):
    """A trial with the rungs that it reached; stopped where it has no full score."""
    role = more.pop("role", "searched")
    held = row(f"{role}/{number}" if role != "baseline" else f"baseline/a{number}/{nfe}", nfe, full or 0.0)
    held |= {"plan": f"p{number}", "teacher_distance": teacher, "fid_at_800": small, "spent_rows": 100.0}
    if full is None:
        held |= {"state": "pruned", "fid": None, "fid_corrected": None, "images": None}
        held |= {"stopped_at": "teacher" if small is None else "800"}
    else:
        held |= {"fid_corrected": full, "fid_at_8000": full}
    return held | more


def noisy(count, stopped=0):
    full = RANDOM.random(count)
    small = full + 0.3 * RANDOM.random(count)
    teacher = full + 0.6 * RANDOM.random(count)
    nfe = 3 + np.arange(count) % 9
    rows = [trial(k, int(nfe[k]), full[k], teacher[k], small[k]) for k in range(count)]
    gone = [trial(count + k, 4, None, 1.0 + k, 2.0 - k) for k in range(stopped)]
    return rows + gone, full, small, teacher, nfe


def test_the_correlations_are_scipys_over_those_that_reached_both():
    rows, full, small, teacher, nfe = noisy(40, stopped=6)
    check = RankCheck(frame_of(rows))
    assert check.rungs == [TEACHER, "fid_at_800"]
    found = check.correlation("fid_at_800", CORRECTED)
    assert found.n == 40
    assert found.rho == pytest.approx(spearmanr(small, full).statistic)
    to_next = check.correlation(TEACHER, check.following(TEACHER))
    assert to_next.n == 46
    with_stopped = [*teacher, *(1.0 + k for k in range(6))], [*small, *(2.0 - k for k in range(6))]
    assert to_next.rho == pytest.approx(spearmanr(*with_stopped).statistic)
    assert check.bands[0][0] == 3
    assert check.bands[-1][1] == 11
    for low, high in check.bands:
        inside = (nfe >= low) & (nfe <= high)
        banded = check.correlation(TEACHER, CORRECTED, (low, high))
        assert banded.n == inside.sum() >= 10
        assert banded.rho == pytest.approx(spearmanr(teacher[inside], full[inside]).statistic)


def test_equal_values_share_their_rank():
    full, small = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 1.0, 2.0, 2.0, 2.0, 1.0]
    check = RankCheck(frame_of([trial(k, 5, full[k], None, small[k]) for k in range(6)]))
    assert check.correlation("fid_at_800", CORRECTED).rho == pytest.approx(spearmanr(small, full).statistic)


def test_a_plan_counts_once_with_the_most_that_is_known_of_it():
    rows, *_ = noisy(8)
    twin = trial(99, 5, None, rows[0]["teacher_distance"], None, plan="p0")
    check = RankCheck(frame_of([*rows, twin]))
    assert check.correlation(TEACHER, CORRECTED).n == 8
    assert check.correlation(TEACHER, "fid_at_800").n == 8


def test_the_floor_and_confirmations_take_no_part_and_baselines_do():
    rows, *_ = noisy(8)
    rows += [trial("", 31, 0.1, 0.1, 0.1, role="floor"), trial("searched/1", 5, 0.1, 0.1, 0.1, role="confirmed")]
    rows += [trial(77, 5, 0.2, 0.3, 0.3, role="baseline")]
    assert RankCheck(frame_of(rows)).correlation(TEACHER, CORRECTED).n == 9


def test_too_few_or_all_alike_say_nothing():
    rows, *_ = noisy(4)
    assert math.isnan(RankCheck(frame_of(rows)).correlation(TEACHER, CORRECTED).rho)
    assert RankCheck(frame_of(rows)).lowest() is None
    alike = [trial(k, 5, 0.1 * k + 0.1, 1.0, 0.2) for k in range(9)]
    assert math.isnan(RankCheck(frame_of(alike)).correlation(TEACHER, CORRECTED).rho)


def test_a_record_without_rungs_has_nothing_to_check():
    check = RankCheck(frame_of([row(f"searched/{k}", 5, 0.1 * k) for k in range(9)]))
    assert (check.rungs, list(check.correlations()), check.lowest()) == ([], [], None)
    assert RankCheck(frame_of([])).rungs == []


def test_a_rung_that_ranks_badly_is_warned_of_and_pixels_are_not():
    rows = [trial(k, 5, 1.0 + k, (7 * k) % 10, 1.0 + k, teacher_distance_pixels=-k) for k in range(10)]
    check = RankCheck(frame_of(rows))
    assert check.correlation(PIXELS, CORRECTED).rho == pytest.approx(-1)
    lowest = check.lowest()
    assert (lowest.rung, lowest.rho) == (
        TEACHER,
        pytest.approx(spearmanr([(7 * k) % 10 for k in range(10)], range(10)).statistic),
    )
    assert {(found.rung, found.other) for found in check.doubtful()} == {(TEACHER, "fid_at_800"), (TEACHER, CORRECTED)}
    text = tables.markdown(frame_of(rows))
    assert text.count("**Warning**") == 2
    assert f"rho {lowest.rho:.2f} (n 10), teacher's rung to 8,000 images" in text
    good = [trial(k, 5, 1.0 + k, 1.0 + k, 1.0 + k) for k in range(10)]
    assert "**Warning**" not in tables.markdown(frame_of(good))


def test_the_rank_check_in_the_report():
    rows, full, small, *_ = noisy(40, stopped=6)
    lines = tables.markdown(frame_of(rows)).splitlines()
    line = next(line for line in lines if line.startswith("| FID at 800 images |"))
    rho = spearmanr(small, full).statistic
    assert line.startswith(f"| FID at 800 images | {rho:.2f} (40) | {rho:.2f} (40) | ")
    assert any("Stopped trials are missing from later rungs" in line for line in lines)


# --- cost ---


def test_the_cost_of_a_study_by_hand():
    rows = [
        trial("", 31, 0.1, role="floor", spent_rows=31 * 8000),
        trial(0, 5, 0.3, role="baseline", spent_rows=5 * 8000),
        trial(1, 5, 0.3, 0.1, 0.2, spent_rows=40_000 + 640, setup_rows=640),
        trial(2, 6, None, 0.1, None, spent_rows=768),
        trial(3, 7, None, 0.1, 0.2, spent_rows=5600, setup_rows=None),
        trial(4, 40, None, None, None, spent_rows=100, stopped_at="plan"),  # beyond the last budget
        trial(5, 5, None, None, None, spent_rows=200, stopped_at="plan", feasible="false"),
        trial(6, 5, None, None, None, spent_rows=0, stopped_at="plan"),  # nothing to win
        trial("searched/1", 5, 0.31, role="confirmed", spent_rows=40_000),
    ]
    cost = Cost.of(frame_of(rows), last_budget=10)
    assert cost.stopped == {"plan": 3, "teacher": 1, "800": 1}
    assert list(cost.stopped) == ["plan", "teacher", "800"]
    assert cost.rows == {"searched": 40_640 + 768 + 5600 + 300, "baselines and floor": 288_000, "confirmation": 40_000}
    assert cost.full_size == (5 + 6 + 7 + 5) * 8000 + 640 + 300
    assert cost.share == cost.rows["searched"] / cost.full_size
    text = tables.markdown(frame_of(rows), [10])
    assert "Trials stopped, by rung: plan 3, teacher 1, 800 images 1." in text
    assert "Network rows: searched 47,308, baselines and floor 288,000, confirmation 40,000." in text
    assert "184,940 network rows; they took 25.6 % of that." in text


def test_rungs_are_told_in_their_order():
    rows = [trial(k, 5, None, 0.1, 0.2, stopped_at=rung) for k, rung in enumerate(["2400", "", "800", "teacher"])]
    assert list(Cost.of(frame_of(rows), 10).stopped) == ["teacher", "800", "2400", ""]


def test_a_record_that_does_not_say_what_it_spent_gives_no_sum():
    rows = [row("searched/1", 5, 0.3), trial(2, 5, 0.2)]
    cost = Cost.of(frame_of(rows), 10)
    assert math.isnan(cost.rows["searched"])
    assert math.isnan(cost.share)
    assert "searched unknown" in tables.markdown(frame_of(rows))
    assert "### Cost" not in tables.markdown(frame_of(rows[:1]))
