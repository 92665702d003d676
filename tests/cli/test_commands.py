"""The command as a user meets it: what it prints and what it leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import benchmarks
from pipeline.card import read_card
from pipeline.methods import METHODS
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from tests.cli.console import COMMANDS, SHIPPED, TABLES, contents, done, refused


def test_a_search_prints_its_front_and_where_everything_lies(visits, runs):
    out = visits[0].ran.out
    assert "FID within each NFE budget" in out
    assert "floor" in out
    lines = [line.split() for line in out.splitlines()]
    for budget in ("3", "5"):
        assert any(line[:1] == [budget] for line in lines), out
    for place in ("report/table.md", "report/front.png", "report/report.html", "front"):
        assert str(runs / "tiny" / place) in out
        assert (runs / "tiny" / place).exists()
    assert f"sqlite:///{runs / 'mlflow.db'}" in out
    assert "new" in out
    assert "Traceback" not in visits[0].ran.err


def test_a_search_leaves_its_run_directory(visits, runs):
    names = {path.name for path in (runs / "tiny").iterdir()}
    assert {"study.json", "study.db", "report", "front"} <= names
    for name in ("front.png", "front.svg", "report.html", *TABLES):
        assert (runs / "tiny" / "report" / name).stat().st_size > 100
    roles = visits[0].roles.copy()
    assert roles.pop("confirmed") > 0
    assert roles == {"floor": 1, "baseline": 4, "published": 2, "searched": 4}
    assert len(visits[0].runs) == visits[0].roles.total() + 1, "and the study itself"


def test_the_table_names_the_baselines_and_the_search(visits):
    table = visits[0].tables["table.md"].decode()
    for word in ("DDIM", "Heun", "searched", "gmm", "200"):
        assert word.lower() in table.lower()


def test_json_is_all_that_stdout_holds(visits):
    told = visits[1].told
    assert told["study"] == "tiny"
    assert told["benchmark"] == "gmm"
    assert sum(told["trials"].values()) == visits[1].roles.total()
    assert [budget["budget"] for budget in told["budgets"]] == [3, 5]
    assert told["front"] == sorted(told["front"], key=lambda row: row["nfe"])
    fids = [row["fid"] for row in told["front"]]
    assert fids == sorted(fids, reverse=True)
    assert all(row["images"] == 200 for row in told["front"])
    assert "nothing to add" in visits[1].ran.err  # for people, and not on stdout


def test_the_same_command_adds_nothing(visits):
    first, again, _ = visits
    assert again.told["new_trials"] == 0
    assert again.tables == first.tables
    assert again.cards == first.cards
    assert set(again.runs) == set(first.runs)
    # At most the study's own run was touched; no trial was written again.
    assert sum(again.runs[run] != ended for run, ended in first.runs.items()) <= 1


def test_more_trials_continue_the_study(visits):
    _, again, more = visits
    assert more.roles["searched"] == again.roles["searched"] + 2
    assert more.told["new_trials"] == more.roles.total() - again.roles.total()
    assert sum(more.told["trials"].values()) == more.roles.total()
    assert set(again.runs) < set(more.runs)  # every earlier run is still the same run
    for before, after in zip(again.told["budgets"], more.told["budgets"], strict=True):
        assert after["baseline"] == before["baseline"]
        assert after["searched"]["fid"] <= before["searched"]["fid"]


def test_the_front_has_a_card_for_each_of_its_trials(visits, runs):
    told = visits[2].told
    cards = {path: read_card(path)[2] for path in (runs / "tiny" / "front").glob("*.json")}
    assert {value["plan_digest"] for value in cards.values()} == {row["plan"] for row in told["front"]}
    for path, value in cards.items():
        assert path.name == f"nfe-{value['nfe']:02}.json"
        assert value["result"]["images"] == 200


def test_a_report_from_the_record_alone_has_the_same_bytes(visits, runs, elsewhere):
    ran = done("report", "tiny", "--runs", runs, "--out", "copy")
    drawn = [f"{figure}.{kind}" for figure in ("front", "sigmas", "hypervolume") for kind in ("png", "svg")]
    assert ran.out.split() == [f"copy/{n}" for n in (*TABLES, *drawn, "report.html")]
    copies = contents(elsewhere / "copy")
    assert {name: copies[name] for name in TABLES} == visits[2].tables
    for name in (*drawn, "report.html"):
        assert copies[name] == (runs / "tiny" / "report" / name).read_bytes()


def test_a_report_for_a_script(visits, runs, elsewhere):
    told = json.loads(done("report", "tiny", "--benchmark", "gmm", "--runs", runs, "--json").out)
    assert told["study"] == "tiny"
    assert told["trials"] == visits[2].roles.total()
    assert all((elsewhere / name).is_file() for name in told["files"])
    assert len(told["files"]) == 10


def test_the_store_may_be_named_by_its_variable(visits, runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'mlflow.db'}")
    assert json.loads(done("report", "tiny", "--json").out)["trials"] == visits[2].roles.total()


def test_a_card_scores_what_the_search_said_of_it(runs):
    cards = sorted((runs / "tiny" / "front").glob("*.json"))
    assert cards
    for path in cards:
        held = read_card(path)[2]["result"]
        told = json.loads(done("evaluate", path, "--json").out)
        for key in ("fid", "fid_se", "fid_corrected", "nfe", "images", "first_seed", "shard_images"):
            assert told[key] == held[key], key


def test_other_seeds_score_otherwise(card):
    held = read_card(card)[2]["result"]
    told = json.loads(done("evaluate", card, "--first-seed", 100_000, "--json").out)
    assert (told["first_seed"], told["images"]) == (100_000, 200)
    assert told["fid"] != held["fid"]
    assert told["nfe"] == held["nfe"]


def test_one_shard_is_refused_since_it_has_no_error(card, elsewhere):
    said = refused(elsewhere, "evaluate", card, "--images", 20, "--shard-images", 20)
    assert "--shard-images: is out of range, given 20; allowed: 1 to 10" in said


def test_evaluate_says_its_conditions(card):
    out = done("evaluate", card, "--images", 40, "--first-seed", 7).out
    for word in ("FID ", " ± ", "NFE", "40 images", "seeds 7-46", "gmm reference"):
        assert word in out


def test_plan_evaluate_sample(elsewhere):
    options = ["--set", "schedule.num_steps=3", "--set", "schedule.calibration_images=8"]
    options += ["--set", "solver.calibration_images=8", "--set", 'solver.low={"name": "ipndm", "order": 3}']
    ran = done("plan", "gmm", "--solver", "switch", "--schedule", "sdm", *options, "--out", "cards/mine.json")
    spec, plan, held = read_card(Path("cards/mine.json"))
    assert spec.solver["low"] == {"name": "ipndm", "order": 3}
    assert spec.schedule["num_steps"] == 3
    assert held["solver"]["switch_at"] is not None
    assert f"{len(plan)} NFE" in ran.out
    assert "card: cards/mine.json" in ran.out
    told = json.loads(done("evaluate", "cards/mine.json", "--images", 40, "--shard-images", 10, "--json").out)
    assert told["nfe"] == len(plan) == held["nfe"]
    assert told["plan"] == plan.digest
    assert done("sample", "cards/mine.json", "--images", 5, "--out", "pictures/mine.png").out == "pictures/mine.png\n"
    assert (elsewhere / "pictures" / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_a_plan_for_a_script_is_its_card(elsewhere):
    out = done("plan", "gmm", "--baseline", "ddim", "--nfe", 4, "--afs", "--json").out
    held = json.loads(out)
    assert held == json.loads((elsewhere / "card.json").read_text())
    assert held["spec"]["afs"] is True
    assert held["nfe"] == 3  # the first of four evaluations is free


def test_samples_follow_their_seeds(card, elsewhere):
    for name, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        done("sample", card, "--images", 4, "--first-seed", seed, "--out", name)
    a, b, c = ((elsewhere / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("benchmarks", benchmarks.names()),
        ("solvers", SOLVERS.names()),
        ("schedules", SCHEDULES.names()),
        ("baselines", METHODS.names()),
        ("spaces", SHIPPED),
    ],
)
def test_ls_lists_every_name_with_a_line(kind, names):
    lines = done("ls", kind).out.splitlines()
    assert [line.split()[0] for line in lines] == names
    told = json.loads(done("ls", kind, "--json").out)
    assert list(told) == names
    for line, (name, text) in zip(lines, told.items(), strict=True):
        assert line.split(maxsplit=1) == [name, text]
        assert len(text) > 10


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name):
    out = done(name, "--help").out
    assert "Example" in out
    assert f"sigmasearch {name}" in " ".join(out.split("Example", 1)[1].split())


def test_help_imports_nothing_heavy():
    script = (
        "import sys, pipeline; from pipeline import cli; sys.argv = ['sigmasearch', '--help']\n"
        "try: cli.main()\nexcept SystemExit as left: assert not left.code\n"
        "print('heavy:', *sorted({'torch', 'ray', 'mlflow', 'optuna', 'pandas'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "heavy:"
    for name in COMMANDS:
        assert f" {name} " in ran.stdout


def test_version_tells_the_revision_that_records_carry():
    from pipeline import __version__
    from pipeline.provenance import git_revision

    assert done("--version").out == f"sigmasearch {__version__} ({git_revision()})\n"
