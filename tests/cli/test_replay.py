"""`sigmasearch replay`: what it prints, what it refuses, and a table of one's own."""

import json

import pytest
import yaml

from pipeline.replay import build
from pipeline.replay.show import opened
from tests.cli.console import command, done, misused, refused
from tests.replay_study import GRID


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    file = tmp_path_factory.mktemp("grid") / "grid.yaml"
    file.write_text(yaml.safe_dump(GRID))
    return file


@pytest.fixture(scope="module")
def table(study):
    out = study.parent / "mine.zip"
    ran = done("replay", "--measure", study, "--out", out)
    assert ran.out == f"{out}\n"
    assert "53 trials measured, 0 could not be sampled" in ran.err
    return out


def test_the_shipped_table_is_replayed():
    told = json.loads(done("replay", "--seeds", 1, "--trials", 40, "--json").out)
    assert (told["table"], told["seeds"], told["trials"], told["workers"]) == ("digits-kde", 1, 40, 2)
    full, *others = told["policies"]
    assert (full["rungs"], full["rows_share"], full["hypervolume_share"]) == (False, 1.0, 1.0)
    assert full["winners"]["same"] == sum(full["winners"].values())
    assert [other["stopped"] for other in others] == ["pruned", "complete", "constraint"]
    for other in others:
        assert other["network_rows"] < full["network_rows"] / 2
        assert other["rows_share"] == other["network_rows"] / full["network_rows"]
        assert sum(other["stopped_at"].values()) > 0
        assert set(other["stopped_at"]) <= {"plan", "teacher", "800", "1600", "4000"}


def test_a_table_of_ones_own_is_replayed(table):
    options = ("--seeds", 2, "--optimizer", "random", "--optimizer", "tpe", "--stopped", "pruned")
    told = json.loads(done("replay", table, *options, "--json").out)
    assert [row["policy"] for row in told["policies"]] == [
        "random, all at full size",
        "random, rungs, told as pruned",
        "tpe, all at full size",
        "tpe, rungs, told as pruned",
    ]
    assert (told["entries"], told["trials"]) == (53, 16)
    text = done("replay", table, *options).out
    assert all(row["policy"] in text for row in told["policies"])
    assert "53 stored trials; 2 searches of 16 trials each" in text


def test_what_spends_next_to_nothing_is_printed_too(table):
    for trials in (1, 2):
        assert "1/1.0" in done("replay", table, "--seeds", 3, "--trials", trials, "--optimizer", "random").out


def test_measuring_goes_on_and_cleans_up(study, table, elsewhere, monkeypatch):
    asked, honest = [], build.evaluate

    def interrupted(plan, *rest):
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append(plan.digest)
        return honest(plan, *rest)

    monkeypatch.setattr(build, "evaluate", interrupted)
    assert command("replay", "--measure", study, "--out", "again.zip").status != 0
    assert [path.name for path in elsewhere.iterdir()] == ["again.zip.partial"]
    kept = len(list((elsewhere / "again.zip.partial").iterdir()))
    assert kept == 5
    asked = [None] * 6
    done("replay", "--measure", study, "--out", "again.zip")
    assert [path.name for path in elsewhere.iterdir()] == ["again.zip"]
    plans = {entry.plan.digest for entry in opened("again.zip")}
    assert (
        len(asked) - 6
        == len(plans)
        + sum(
            plan.confirmed is not None
            for plan in {entry.plan.digest: entry.plan for entry in opened("again.zip")}.values()
        )
        - kept
    )
    assert [entry.plan.scores for entry in opened("again.zip")] == [entry.plan.scores for entry in opened(str(table))]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("digits-kd",), "no such table, given 'digits-kd'; allowed: digits-kde, "),
        (("digits-kd",), "did you mean 'digits-kde'?"),
        (
            ("--optimizer", "tpee"),
            "--optimizer: is not one of the choices, given 'tpee'; allowed: tpe, gp, nsga2, qmc,",
        ),
        (("--optimizer", "tpee"), "did you mean 'tpe'?"),
        (("--stopped", "prune"), "did you mean 'pruned'?"),
        (("--measure", "digits-gird"), "did you mean 'digits-grid.yaml'?"),
        (("--measure", "gmm"), "has no finite number of values"),
        (("--measure", "digits-grid", "--out", "no/t.zip"), "--out: no such folder, given 'no'"),
        (("--measure", "digits-grid", "--out", "."), "--out: is a folder, given '.'"),
        (("--measure", "digits-grid", "--out", "/proc/t.zip"), "--out: cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_begun(elsewhere, monkeypatch, argv, says):
    monkeypatch.setattr(build, "teach", lambda *_: pytest.fail("the measuring began"))
    assert says in refused(elsewhere, "replay", *argv)


def test_what_is_no_table_is_refused(elsewhere):
    (elsewhere / "t.zip").write_text("no")
    assert refused(elsewhere, "replay", "t.zip").startswith("error: t.zip: is no table of a replay")
    assert "directory" in refused(elsewhere, "replay", elsewhere)


@pytest.mark.parametrize("option", ["--seeds", "--trials", "--workers"])
def test_a_wrong_number_is_refused(elsewhere, option):
    assert f"'{option}'" in misused(elsewhere, "replay", option, "0")
