"""What a search prints and tells a script at its end."""

import io
import json

import pytest
from rich.console import Console

from pipeline import summary
from pipeline.summary import Outcome
from reports.record import frame_of
from tests.report_rows import as_recorded, row
from tests.synthetic_study import climbed, demo_study
from tests.synthetic_study import small_study as records

BUDGETS = [3, 4, 6, 10]


@pytest.fixture
def ended(small_study, tmp_path):
    def make(frame, budgets=BUDGETS):
        study = small_study(budgets=budgets, images=8000, shard_images=400)
        return Outcome(study, tmp_path, "sqlite:///x.db", 1.0, 2, frame, dict.fromkeys(summary.PLACES, tmp_path))

    return make


def printed(outcome):
    console = Console(file=io.StringIO(), width=80)
    summary.show(outcome, console)
    return console.file.getvalue()


def row_of(text, budget):
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [str(budget)])


def test_the_screen_shows_confirmed_numbers_and_what_is_said_of_them(ended):
    text = printed(ended(as_recorded(climbed(records(), BUDGETS))))
    assert row_of(text, 6) == ["6", "0.0840", "±", "0.0022", "6", "0.1030", "±", "0.0020", "iPNDM", "·", "4", "better"]
    assert row_of(text, 4)[-1] == "inconclusive"
    assert row_of(text, 10)[-1] == "worse"
    assert "shown: FID at 8,000 images, seeds 1000000-1007999, which chose nothing" in text
    assert "floor: Heun on edm scores 0.0730 ± 0.0020" in text
    assert "   6 NFE   FID 0.0840 ± 0.0022" in text
    assert "stopped at: teacher 4, 800 images 4, 2,400 images 4, unknown 1" in text
    assert "rank check: lowest rho 0." in text
    assert "cost: 0.293 M network rows searched (43.4 % of full size), 1.15 M beside" in text
    assert "*" not in text


def test_what_is_not_confirmed_is_shown_as_the_search_scored_it(ended):
    text = printed(ended(as_recorded(records())))
    assert row_of(text, 6) == ["6", "0.0800", "±", "0.0020", "6", "0.1000", "±", "0.0020", "iPNDM", "·", "4", "better"]
    assert "shown: the same, unconfirmed" in text
    assert "rank check" not in text
    assert "*" not in text


def test_a_star_marks_what_is_not_confirmed_among_what_is(ended):
    study = [item for item in climbed(records(), BUDGETS) if item.confirms != "searched/9"]
    text = printed(ended(as_recorded(study)))
    assert row_of(text, 6) == ["6", "0.0800", "±", "0.0020", "6", "0.1000", "±", "0.0020", "iPNDM", "·", "4", "better*"]
    assert row_of(text, 3)[-1] == "better"
    assert "   6 NFE   FID 0.0800 ± 0.0020* " in text
    assert "* not confirmed" in text


def test_at_the_floor_nothing_is_ranked(ended):
    frame = frame_of([row("floor", 31, 0.07), row("baseline/a/5", 5, 0.07), row("searched/1", 5, 0.06)])
    text = printed(ended(frame, [5]))
    assert row_of(text, 5)[-3:] == ["at", "the", "floor"]
    assert "From 5 evaluations on the best baseline cannot be told from the fine solve:" in text
    assert "nothing is ranked there." in text


def test_a_doubtful_rung_is_said(ended):
    rows = [row(f"searched/{k}", 5, 1.0 + k, teacher_distance=(7 * k) % 10, plan=f"p{k}") for k in range(10)]
    assert "rank check: doubtful, rho " in printed(ended(frame_of(rows), [5]))


def test_the_widest_names_and_numbers_fit_eighty_columns(ended):
    frame = as_recorded(demo_study())
    baselines = frame["role"].eq("baseline") | frame["key"].str.startswith("confirmed/baseline")
    frame.loc[baselines, "method"] = "DPM-Solver++(3M)"
    frame = frame[~frame["key"].isin(["confirmed/searched/101"])]
    text = printed(ended(frame, [3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30]))
    lines = text[: text.index("          report")].splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert "*" in text
    assert "DPM-Solver++(3M)" in text


def test_a_script_is_told_all_of_it(ended):
    told = json.loads(json.dumps(ended(as_recorded(climbed(records(), BUDGETS))).to_json(), allow_nan=False))
    six = told["budgets"][2]
    assert (six["verdict"], six["confirmed"], six["at_floor"], six["paired"]) == ("better", True, False, True)
    assert six["gap"] == pytest.approx(0.019)
    assert six["optimism"] == pytest.approx(0.001)
    assert (six["searched"]["key"], six["searched"]["fid"]) == ("searched/9", 0.08)
    assert six["searched"]["confirmed"]["fid"] == 0.084
    assert six["baseline"]["confirmed"]["fid_corrected"] == pytest.approx(0.093)
    assert told["floor"]["confirmed"]["fid"] == 0.073
    assert [point["confirmed"]["fid"] for point in told["front"]] == [0.304, 0.203, 0.084]
    assert told["stopped"] == {"teacher": 4, "800": 4, "2400": 4, "": 1}
    assert told["network_rows"]["confirmation"] == 536_000
    assert {item["rung"] for item in told["rank_check"]} >= {"teacher_distance", "fid_at_800", "fid_at_2400"}


def test_unknown_numbers_are_null_for_a_script(ended):
    told = json.loads(json.dumps(ended(as_recorded(records())).to_json(), allow_nan=False))
    assert told["budgets"][0]["optimism"] is None
    assert told["budgets"][0]["searched"]["confirmed"] is None
    assert told["network_rows"]["searched"] is None
    assert told["rank_check"] == []
