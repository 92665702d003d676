"""The text above a study's run in MLflow: what it shows, where it links, and that it fits."""

import re

import pytest

from reports import leaderboard as module
from reports.leaderboard import LEGEND, Page, leaderboard
from reports.record import frame_of
from tests.report_rows import HOSTILE, as_recorded, row
from tests.synthetic_study import climbed, demo_study, small_study

PAGE = Page("7", "cafe")


@pytest.fixture(scope="module")
def frame():
    return as_recorded(climbed(small_study(), [3, 4, 6, 10]), ["searched/1", "searched/2", "searched/9"])


def lines_of(text):
    return [line for line in text.splitlines() if line.startswith(("| front", "| floor", "| baseline"))]


def test_it_begins_with_what_was_found_and_shows_the_front(frame):
    text = leaderboard(frame, PAGE)
    # MLflow folds it after its first lines.
    assert text.startswith("Beside the best published baseline, the search is better at 2 of 4 NFE budgets (3 and 6)")
    assert text.index("The whole report") < text.index("leaderboard.png") < text.index(LEGEND) < text.index("| floor")
    assert "![leaderboard.png](get-artifact?path=leaderboard.png&run_uuid=cafe)" in text
    assert "(#/experiments/7/runs/cafe/artifacts/report.html?workflowType=machine_learning)" in text
    assert "(#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=leaderboard-cafe)" in text
    assert "data:" not in text  # MLflow's page would strip it


def test_every_line_leads_to_its_run_and_says_the_same_without_links(frame):
    plain, linked = leaderboard(frame), leaderboard(frame, PAGE)
    assert "](" not in plain
    bare = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", "\n".join(lines_of(linked))).replace("&emsp;", "")
    assert bare.splitlines() == lines_of(plain)
    assert [line.split(" | ")[0] for line in lines_of(plain)] == ["| floor", *["| front"] * 3, *["| baseline"] * 4]
    for key in ("floor", "searched/1", "baseline/ipndm/3"):
        assert f"](#/experiments/7/runs/{key}?" in linked


def test_what_is_too_long_loses_its_links_and_then_its_last_lines(frame, monkeypatch):
    full = lines_of(leaderboard(frame, PAGE))
    monkeypatch.setattr(module, "MOST_CHARACTERS", len(leaderboard(frame, PAGE)) - 1)
    text = leaderboard(frame, PAGE)
    assert len(lines_of(text)) == len(full)
    assert "[iPNDM" not in text
    assert "get-artifact" in text
    monkeypatch.setattr(module, "MOST_CHARACTERS", len(text) - 1)
    shorter = leaderboard(frame, PAGE)
    assert lines_of(shorter) == lines_of(text)[:-1]
    assert "One more row is in the report." in shorter
    monkeypatch.setattr(module, "MOST_CHARACTERS", len(text) - 150)
    shortest = leaderboard(frame, PAGE)
    assert lines_of(shortest) == lines_of(text)[:-3]
    assert "3 more rows are in the report." in shortest
    assert len(shortest) <= len(text) - 150
    monkeypatch.undo()
    large = demo_study(300)
    assert len(leaderboard(as_recorded(large, []), PAGE)) <= 8000


def test_names_are_escaped_in_links_too():
    held = [row("floor", 31, 0.07, method=HOSTILE), row("searched/1", 5, 0.3, name=HOSTILE + "](javascript:x)")]
    text = leaderboard(frame_of(held), PAGE)
    assert "<b>" not in text
    assert "](javascript" not in text.replace("\\]", "")
    for line in lines_of(text):
        assert line.replace("\\|", "").count("|") == 7


def test_without_a_scored_trial_it_says_so():
    assert leaderboard(frame_of([]), PAGE) == "No trials.\n"
    stopped = frame_of([row("searched/1", 5, float("nan"), state="pruned")])
    assert leaderboard(stopped, PAGE) == "Runs: 1 pruned. No trial has been scored on all its images yet.\n"
