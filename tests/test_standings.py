"""Who leads, and what is said of it. Rows by hand: their leave-one-out values are a spread, rolled for other noise."""

import math

import numpy as np
import pytest

from pipeline.comparison import Estimate, difference
from reports import pareto
from reports.record import frame_of, groups
from reports.standings import Standings, standings
from tests.report_rows import row

T19 = 2.093024054408263  # Student's t, 19 degrees of freedom, 97.5 %


def judged(*rows, budgets=None):
    (found,) = standings(frame_of(rows), budgets)
    return found


def only(*rows):
    (verdict,) = judged(*rows).verdicts()
    return verdict


def again(key, nfe, fid, **more):
    """A confirmation: other seeds, other noise."""
    return row(f"confirmed/{key}", nfe, fid, **{"roll": 7} | more)


# --- verdicts ---


def test_a_difference_well_within_both_errors_is_called_where_the_noise_is_the_same():
    paired = only(row("baseline/a/5", 5, 0.4, se=0.05), row("searched/1", 5, 0.38, se=0.05))
    assert (paired.words, paired.difference.paired) == ("better (unconfirmed)", True)
    assert paired.difference.gap == pytest.approx(0.02)
    assert paired.difference.error == pytest.approx(0, abs=1e-12)
    other = only(row("baseline/a/5", 5, 0.4, se=0.05, shard_images=200), row("searched/1", 5, 0.38, se=0.05))
    assert (other.words, other.difference.paired) == ("inconclusive (unconfirmed)", False)
    assert other.difference.error == pytest.approx(T19 * 0.05 * math.sqrt(2))


@pytest.mark.parametrize(
    ("ours", "words"),
    [(0.3, "better"), (0.5, "worse"), (0.4 * 0.99, "inconclusive"), (0.4 * 0.98, "better")],
)
def test_the_word_is_of_the_searched_one_and_small_gaps_are_not_called(ours, words):
    verdict = only(row("baseline/a/5", 5, 0.4), row("searched/1", 5, ours))
    assert verdict.words == words + " (unconfirmed)"


def test_confirmations_decide_where_both_are_confirmed():
    rows = [row("baseline/a/5", 5, 0.4), row("searched/1", 5, 0.3)]
    both = [again("baseline/a/5", 5, 0.41), again("searched/1", 5, 0.45)]
    verdict = only(*rows, *both)
    assert verdict.words == "worse"
    assert verdict.difference.gap == pytest.approx(-0.04)
    assert verdict.confirmed
    assert verdict.searched.confirmed["fid"] == 0.45
    for half in both:
        alone = only(*rows, half)
        assert alone.words == "better (unconfirmed)"
        assert alone.difference.gap == pytest.approx(0.1)


def test_a_confirmation_of_other_seeds_than_its_rivals_is_not_paired():
    rows = [row("baseline/a/5", 5, 0.4), row("searched/1", 5, 0.3)]
    verdict = only(*rows, again("baseline/a/5", 5, 0.41), again("searched/1", 5, 0.31, first_seed=2_000_000))
    assert verdict.words == "better"
    assert not verdict.difference.paired


def test_leaders_are_chosen_on_the_searchs_seeds_whatever_the_confirmation_says():
    verdict = only(
        row("baseline/a/5", 5, 0.4),
        row("searched/1", 5, 0.30),
        row("searched/2", 5, 0.31),
        again("baseline/a/5", 5, 0.4),
        again("searched/1", 5, 0.5),
        again("searched/2", 5, 0.2),
    )
    assert verdict.searched.row["key"] == "searched/1"
    assert verdict.words == "worse"


def test_an_unknown_error_is_never_a_win():
    verdict = only(row("baseline/a/5", 5, 0.4), row("searched/1", 5, 0.1, se=float("nan")))
    assert verdict.words == "inconclusive (unconfirmed)"
    assert math.isnan(verdict.difference.error)


def test_one_side_alone_has_nothing_to_compare():
    assert only(row("baseline/a/5", 5, 0.4)).words == "nothing to compare"
    assert [v.words for v in judged(row("searched/1", 5, 0.4)).verdicts()] == ["nothing to compare"]


# --- optimism ---


def test_optimism_is_the_rise_above_the_floor_and_its_error_that_of_both_differences():
    rows = [
        row("floor", 31, 0.07, se=0.001),
        row("searched/1", 5, 0.30, se=0.004),
        again("floor", 31, 0.09, se=0.001),
        again("searched/1", 5, 0.35, se=0.003),
    ]
    found = judged(*rows)
    optimism = found.optimism(found.group.set_index("key", drop=False).loc["searched/1"])
    assert optimism.gap == pytest.approx((0.35 - 0.09) - (0.30 - 0.07))
    # The spreads are alike but for their size, so that the error of a paired difference is that of the errors.
    assert optimism.error == pytest.approx(T19 * math.hypot(0.004 - 0.001, 0.003 - 0.001))


def test_what_other_seeds_do_to_every_sampler_is_no_optimism():
    rows = [row("floor", 31, 0.07), row("searched/1", 5, 0.30), row("baseline/a/5", 5, 0.4)]
    shifted = [again(item["key"], item["nfe"], item["fid"] + 0.02) for item in rows]
    verdict = only(*rows, *shifted)
    assert verdict.optimism.gap == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("missing", ["floor", "confirmed/floor", "confirmed/searched/1"])
def test_without_the_floor_or_a_confirmation_optimism_is_unknown(missing):
    rows = [row("floor", 31, 0.07), row("searched/1", 5, 0.3), again("floor", 31, 0.08), again("searched/1", 5, 0.3)]
    found = judged(*(item for item in rows if item["key"] != missing))
    optimism = found.optimism(found.group.set_index("key", drop=False).loc["searched/1"])
    assert math.isnan(optimism.gap)
    assert math.isnan(optimism.error)


# --- the floor ---


def test_at_the_floor_nobody_is_better_and_nothing_is_marked():
    found = judged(
        row("floor", 31, 0.07),
        row("baseline/a/5", 5, 0.2),
        row("baseline/a/9", 9, 0.0705),
        row("searched/1", 5, 0.1),
        row("searched/2", 9, 0.06),
    )
    low, high = found.verdicts()
    assert (low.at_floor, high.at_floor) == (False, True)
    assert low.words == "better (unconfirmed)"
    assert high.word == "better"
    assert high.words == "inconclusive; at the floor (unconfirmed)"
    assert [(cell.winner, cell.tied) for cell in found.at(9)] == [(False, False)] * 2
    assert [cell.winner for cell in found.at(5)] == [False, True]


def test_the_confirmations_say_whether_a_baseline_is_at_the_floor():
    rows = [row("floor", 31, 0.07), row("baseline/a/9", 9, 0.07), row("searched/1", 9, 0.06)]
    apart = [again("floor", 31, 0.07), again("baseline/a/9", 9, 0.09)]
    assert only(*rows).at_floor
    assert not only(*rows, *apart).at_floor
    assert only(*rows, *apart, again("searched/1", 9, 0.06)).words == "better"
    # One alone says nothing: the search's own seeds do.
    assert only(*rows, apart[1]).at_floor


def test_of_an_unknown_error_nothing_is_said_about_the_floor():
    nan = float("nan")
    assert not only(row("floor", 31, 0.07, se=nan), row("baseline/a/9", 9, 0.07), row("searched/1", 9, 0.06)).at_floor


# --- leaders, fronts, constraints ---


def test_the_budget_binds_baselines_and_the_search_alike():
    found = judged(
        row("baseline/a/3", 3, 0.2), row("baseline/a/5", 5, 0.4), row("searched/1", 5, 0.5), row("searched/2", 6, 0.1)
    )
    at = {(cell.method, cell.budget): cell.row["key"] for budget in (3, 5) for cell in found.at(budget)}
    assert at == {("a", 3): "baseline/a/3", ("a", 5): "baseline/a/3", ("searched", 5): "searched/1"}


def test_who_exceeds_a_constraint_neither_leads_nor_is_on_the_front():
    rows = [
        row("baseline/a/5", 5, 0.4),
        row("searched/1", 5, 0.1, feasible="false"),
        row("searched/2", 5, 0.3),
    ]
    found = judged(*rows)
    assert next(found.verdicts()).searched.row["key"] == "searched/2"
    assert list(pareto.front(found.group)["key"]) == ["searched/2"]
    assert pareto.best_at(found.group, 5)["key"] == "searched/2"
    alone = judged(row("searched/1", 5, 0.1, feasible="false"))
    assert alone.methods == []
    assert alone.at(5) == []


def test_a_rival_that_cannot_be_told_from_the_lowest_is_tied_with_it():
    found = judged(row("baseline/a/5", 5, 0.402), row("baseline/b/5", 5, 0.5), row("searched/1", 5, 0.4))
    assert [(c.method, c.winner, c.tied) for c in found.at(5)] == [
        ("a", False, True),
        ("b", False, False),
        ("searched", True, True),
    ]


def test_the_corrected_distance_leads_though_the_plain_one_is_higher():
    found = judged(row("baseline/a/5", 5, 0.41, fid_corrected=0.3), row("searched/1", 5, 0.4, fid_corrected=0.39))
    assert [(c.winner, c.tied) for c in found.at(5)] == [(True, False), (False, False)]


def test_different_measurements_are_different_standings():
    frame = frame_of([row("baseline/a/5", 5, 0.4), row("searched/1", 5, 0.2), row("searched/2", 5, 0.01, images=1000)])
    assert [len(group) for group in groups(frame)] == [2, 1]
    assert [each.at(5)[-1].row["key"] for each in standings(frame)] == ["searched/1", "searched/2"]


def test_rows_are_judged_as_their_estimates_are():
    spread = np.random.default_rng(0).normal(scale=0.01, size=(2, 20))
    ours, theirs = (Estimate.of(8000, fid, tuple(fid + part)) for fid, part in zip((0.3, 0.33), spread, strict=True))
    rows = [
        row(key, 5, held.fid, held.se, fid_corrected=held.corrected, leave_one_out=held.leave_one_out)
        for key, held in (("searched/1", ours), ("baseline/a/5", theirs))
    ]
    assert only(*rows).difference == difference(theirs, ours)


def test_the_front_keeps_one_of_equals_and_what_is_not_beaten():
    points = {
        "searched/1": (3, 0.5),
        "searched/10": (4, 0.3),
        "searched/2": (4, 0.3),
        "searched/3": (5, 0.3),
        "searched/4": (6, 0.2),
    }
    frame = frame_of([row(key, nfe, fid) for key, (nfe, fid) in points.items()])
    assert list(pareto.front(frame)["key"]) == ["searched/1", "searched/2", "searched/4"]
    assert pareto.best_at(frame, 5.5)["key"] == "searched/2"
    assert pareto.best_at(frame, 2) is None


def test_the_front_is_what_no_point_beats():
    random = np.random.default_rng(0)
    points = [
        (int(nfe), round(float(fid), 2)) for nfe, fid in zip(random.integers(3, 9, 60), random.random(60), strict=True)
    ]
    frame = frame_of([row(f"searched/{i}", nfe, fid) for i, (nfe, fid) in enumerate(points)])
    beaten = {p for p in points if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert set(zip(pareto.front(frame)["nfe"], pareto.front(frame)["fid"], strict=True)) == set(points) - beaten


def test_the_area_under_a_front():
    assert pareto.hypervolume([], (10, 1)) == 0
    assert pareto.hypervolume([(5, 0.5)], (10, 1)) == 2.5
    assert pareto.hypervolume([(5, 0.5), (2, 0.8), (6, 0.6), (11, 0.1), (1, 2)], (10, 1)) == pytest.approx(3.1)


def test_budgets_are_those_of_the_baselines_else_what_the_search_reached():
    rows = [row("searched/1", 5, 0.4), row("searched/2", 8, 0.3), again("baseline/a/9", 9, 0.2, budget=9)]
    assert judged(*rows).budgets == [5, 8]
    assert judged(*rows, row("baseline/a/6", 6, 0.3)).budgets == [6]
    assert Standings(frame_of(rows[:1]), [7, 5, 7]).budgets == [5, 7]
