"""The command as a user meets it: what it prints, what it leaves behind, and how it refuses."""

import contextlib
import fcntl
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import yaml

import search_spaces
from pipeline import benchmarks, cli, yaml_file
from pipeline.card import read_card
from pipeline.methods import METHODS
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS

TINY = Path(__file__).parent / "data" / "tiny.yaml"
SHIPPED = sorted(path.stem for path in Path(search_spaces.__file__).parent.glob("*.yaml"))
TABLES = ("table.md", "table.csv", "table.tex")
COMMANDS = sorted(typer.main.get_command(cli.app).commands)


def command(*argv):
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["sigmasearch", *map(str, argv)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    return SimpleNamespace(status=left.value.code or 0, out=out.getvalue(), err=err.getvalue())


def done(*argv):
    ran = command(*argv)
    assert ran.status == 0, ran.err
    return ran


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test has a folder of its own to write in by mistake."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def refused(folder, *argv):
    """One line on stderr, status 2, nothing written; returns the line."""
    before = contents(folder)
    ran = command(*argv)
    assert ran.status == 2, ran
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert ran.err.endswith("\n")
    assert "Traceback" not in ran.err
    assert contents(folder) == before
    return ran.err


def misused(folder, *argv):
    """Typer's own words: a usage line and the reason."""
    ran = command(*argv)
    assert ran.status == 2
    assert "Usage: sigmasearch" in ran.err
    assert "Traceback" not in ran.err
    assert contents(folder) == {}
    return " ".join(ran.err.split())


# One study, run three times.


@dataclass
class Visit:
    """What one run of the search command printed and left behind."""

    ran: SimpleNamespace
    tables: dict[str, bytes]
    cards: dict[str, bytes]
    runs: dict[str, int]
    told: dict = field(default_factory=dict)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("tiny")


def mlflow_runs(uri):
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    return {run.info.run_id: run.info.end_time for run in runs}


@pytest.fixture(scope="module")
def visits(root):
    """The study run, run again for a script, and continued to 8 trials."""

    def visit(*options):
        ran = done("search", TINY, "--run-dir", root / "runs" / "tiny", *options)
        report, front = root / "runs" / "tiny" / "report", root / "runs" / "tiny" / "front"
        return Visit(
            ran,
            {name: (report / name).read_bytes() for name in TABLES},
            {path.name: path.read_bytes() for path in front.glob("*.json")},
            mlflow_runs(f"sqlite:///{root / 'runs' / 'mlflow.db'}"),
            json.loads(ran.out) if "--json" in options else {},
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return [visit(), visit("--json"), visit("--trials", 8, "--json")]


@pytest.fixture(scope="module")
def runs(visits, root):
    """The folder with the finished study's MLflow store."""
    return root / "runs"


@pytest.fixture(scope="module")
def card(visits, runs):
    return sorted((runs / "tiny" / "front").glob("*.json"))[-1]


def test_a_search_prints_its_front_and_where_everything_lies(visits, runs):
    out = visits[0].ran.out
    assert "FID within each NFE budget" in out
    assert "floor" in out
    lines = [line.split() for line in out.splitlines()]
    for budget in ("3", "5"):
        assert any(line[:1] == [budget] for line in lines), out
    for place in ("report/table.md", "report/front.png", "report/front.html", "front"):
        assert str(runs / "tiny" / place) in out
        assert (runs / "tiny" / place).exists()
    assert f"sqlite:///{runs / 'mlflow.db'}" in out
    assert "new" in out
    assert "Traceback" not in visits[0].ran.err


def test_a_search_leaves_its_run_directory(visits, runs):
    names = {path.name for path in (runs / "tiny").iterdir()}
    assert {"study.json", "study.db", "report", "front"} <= names
    for name in ("front.png", "front.svg", "front.html", *TABLES):
        assert (runs / "tiny" / "report" / name).stat().st_size > 100
    # 1 floor, 2 baselines at 2 budgets, 6 trials, and the study itself.
    assert len(visits[0].runs) == 12


def test_the_table_names_the_baselines_and_the_search(visits):
    table = visits[0].tables["table.md"].decode()
    for word in ("DDIM", "Heun", "searched", "gmm", "200"):
        assert word.lower() in table.lower()


def test_json_is_all_that_stdout_holds(visits):
    told = visits[1].told
    assert told["study"] == "tiny"
    assert told["benchmark"] == "gmm"
    assert sum(told["trials"].values()) == 11
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
    assert more.told["new_trials"] == 2
    assert sum(more.told["trials"].values()) == 13
    assert len(more.runs) == 14
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
    assert ran.out.split() == [f"copy/{n}" for n in (*TABLES, "front.png", "front.svg", "front.html")]
    copies = contents(elsewhere / "copy")
    assert {name: copies[name] for name in TABLES} == visits[2].tables
    for name in ("front.png", "front.svg"):
        assert copies[name] == (runs / "tiny" / "report" / name).read_bytes()


def test_a_report_for_a_script(runs, elsewhere):
    told = json.loads(done("report", "tiny", "--benchmark", "gmm", "--runs", runs, "--json").out)
    assert told["study"] == "tiny"
    assert told["trials"] == 13
    assert all((elsewhere / name).is_file() for name in told["files"])
    assert len(told["files"]) == 6


def test_the_store_may_be_named_by_its_variable(runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'mlflow.db'}")
    assert json.loads(done("report", "tiny", "--json").out)["trials"] == 13


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


def test_a_mistake_has_no_traceback_in_a_real_process(elsewhere):
    ran = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "search", "digts"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])},
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: no such study file, given 'digts'; allowed: ")
    assert ran.stderr.endswith("; did you mean 'digits.yaml'?\n")
    assert ran.stderr.count("\n") == 1
    assert contents(elsewhere) == {}


# Mistakes.


def study_file(folder, **changes):
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(yaml_file.read(TINY) | changes))
    return file


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trails": 5}, "trails: unknown key, given 'trails'"),
        ({"trials": "six"}, "trials: "),
        ({"baselines": ["huen"]}, "baselines[0]: unknown method, given 'huen'"),
        ({"budgets": [1]}, "budgets[0]: "),
        ({"shard_images": 30}, "shard_images: does not divide images, given 30; allowed: a divisor of 200"),
        ({"benchmark": "gm"}, "benchmark: unknown benchmark, given 'gm'; allowed: digits-kde, gmm; did you mean 'gmm'"),
        ({"published": [{}]}, "published[0].schedule.eta_max: is required and missing"),
    ],
)
def test_a_wrong_study_file_is_refused(elsewhere, changes, says):
    file = study_file(elsewhere, **changes)
    assert refused(elsewhere, "search", file).startswith(f"error: {file}: {says}")


def test_a_study_that_is_no_file_is_refused(elsewhere):
    (elsewhere / "empty.yaml").touch()
    assert "did you mean 'digits.yaml'" in refused(elsewhere, "search", "digits.yml")
    assert "empty.yaml: holds no mapping" in refused(elsewhere, "search", "empty.yaml")
    assert "directory" in refused(elsewhere, "search", elsewhere)
    (elsewhere / "two\nlines.yaml").touch()
    assert "two lines.yaml: holds no mapping" in refused(elsewhere, "search", "two\nlines.yaml")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("bogus", "given 'bogus'; allowed: http://"),
        ("mlruns/here", "given 'mlruns/here'; allowed: http://"),
        ("http://127.0.0.1:9", "the store cannot be opened"),
        ("postgresql://user@127.0.0.1:9/db", "the store cannot be opened"),
        ("sqlite:////proc/mlflow.db", "the store cannot be opened"),
        ("sqlite:////no/such/folder/mlflow.db", "folder of this database does not exist"),
        ("sqlite:///:memory:", "in memory"),
        (f"sqlite:///{TINY}", "not a sqlite database"),
    ],
)
def test_a_bad_tracking_uri_is_refused(elsewhere, monkeypatch, uri, says):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for argv in (("search", TINY), ("report", "tiny"), ("ui",)):
        line = refused(elsewhere, *argv)
        assert line.startswith("error: MLFLOW_TRACKING_URI: ")
        assert says in line
        assert uri in line


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "http://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_refused(elsewhere, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    line = refused(elsewhere, "search", TINY, "--workers", 1)
    assert line.startswith("error: RAY_ADDRESS: no Ray cluster answers there")
    assert f"given '{address}'" in line


def test_a_run_directory_that_is_none_is_refused(elsewhere):
    (elsewhere / "taken").write_text("a file")
    for folder in ("taken", "taken/below"):
        line = refused(elsewhere, "search", TINY, "--run-dir", folder)
        assert "--run-dir: " in line
        assert str(elsewhere / folder) in line


def test_a_run_directory_of_another_study_is_refused(runs, elsewhere):
    floor = {"solver": {"name": "heun"}, "schedule": {"name": "edm", "num_steps": 17}}
    before = contents(runs / "tiny")
    line = refused(elsewhere, "search", study_file(elsewhere, floor=floor), "--run-dir", runs / "tiny")
    for word in ("floor.schedule.num_steps", "16", "17", str(runs / "tiny"), "--run-dir"):
        assert word in line
    assert contents(runs / "tiny") == before


def test_a_run_directory_in_use_is_refused(runs, elsewhere):
    with (runs / "tiny" / "driver.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = refused(elsewhere, "search", TINY, "--run-dir", runs / "tiny")
    assert "--run-dir: another search is running there" in line
    assert str(runs / "tiny") in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give --baseline with --nfe, or --solver with --schedule"),
        (["--solver", "heun"], "give --baseline with --nfe, or --solver with --schedule"),
        (["--baseline", "heun"], "--baseline: needs --nfe with it, given 'heun'"),
        (["--baseline", "huen", "--nfe", 3], "--baseline: unknown method, given 'huen'; allowed: ddim, "),
        (["--baseline", "huen", "--nfe", 3], "did you mean 'heun'"),
        (["--baseline", "ddim_gits", "--nfe", 61], "--nfe: DDIM + GITS cannot spend exactly that many"),
        (["--baseline", "ddim_gits", "--nfe", 61], "given 61; allowed: 1-60\n"),
        (["--baseline", "heun", "--nfe", 3, "--solver", "heun"], "--baseline: goes without --solver"),
        (["--solver", "heun", "--schedule", "edm", "--nfe", 3], "--nfe: goes with --baseline"),
        (["--solver", "huen", "--schedule", "edm"], "solver.name: unknown solver, given 'huen'"),
        (["--solver", "heun", "--schedule", "emd"], "did you mean 'edm'"),
        (["--solver", "heun", "--schedule", "edm"], "schedule.num_steps: is required and missing"),
        (["--solver", '{"name": ', "--schedule", "edm"], "--solver: is not JSON"),
        (["--solver", "{}", "--schedule", "edm"], "solver.name: a solver needs a name"),
        (["--solver", "heun", "--schedule", '{"name": "edm"'], "--schedule: is not JSON"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(elsewhere, options, says):
    assert says in refused(elsewhere, "plan", "gmm", *options)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("tau_k=1", "--set: is no setting, given 'tau_k=1'; allowed: solver.FIELD=VALUE"),
        ("solver.tau_k", "--set: is no setting, given 'solver.tau_k'"),
        ("=", "--set: is no setting, given '='"),
        ("solver.name.x=1", "--set: is no setting, given 'solver.name.x=1'"),
        ("solver.tau=1", "solver.tau: unknown key, given 'tau'"),
        ("solver.tau=1", "did you mean 'tau_k'"),
        ("solver.tau_k=high", "solver.tau_k: has the wrong type, given 'high'; allowed: a number"),
        ("solver.tau_k=NaN", "solver.tau_k: is out of range, given nan"),
        ("solver.low.name=eulr", "solver.low.name: unknown solver, given 'eulr'"),
        ("solver.low.name=switch", "solver.low: "),
        ("schedule.num_steps=2.5", "schedule.num_steps: has the wrong type, given 2.5; allowed: a whole number"),
        ("schedule.eta_min=3", "schedule.eta_min: is above eta_max, given 3.0; allowed: at most 0.4"),
    ],
)
def test_a_wrong_setting_is_refused(elsewhere, setting, says):
    assert says in refused(elsewhere, "plan", "gmm", "--solver", "switch", "--schedule", "sdm", "--set", setting)


def test_an_unknown_benchmark_is_refused(elsewhere):
    line = refused(elsewhere, "plan", "gm", "--baseline", "ddim", "--nfe", 3)
    assert line.startswith("error: benchmark: unknown benchmark, given 'gm'")
    assert "did you mean 'gmm'" in line
    assert "nope.yaml: cannot be read" in refused(elsewhere, "plan", "nope.yaml", "--baseline", "ddim", "--nfe", 3)


def edited(card, change):
    held = json.loads(card.read_text())
    change(held)
    return json.dumps(held)


def row(held):
    return held["plan"]["stages"][1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lambda card: "", "not JSON"),
        (lambda card: card.read_text()[:300], "not JSON, or only the start of it"),
        (lambda card: "\x00\x01", "not JSON"),
        (lambda card: '{"a": 1}', "schema: this JSON is not a card"),
        (lambda card: "[1]", "a card is a JSON object, given 'list'"),
        (lambda card: edited(card, lambda c: c.update(schema="sigmasearch/card-99")), "newer sigmasearch"),
        (lambda card: edited(card, lambda c: c.pop("spec")), "spec: is required and missing"),
        (lambda card: edited(card, lambda c: c.update(plan={})), "plan: is not a plan"),
        (lambda card: edited(card, lambda c: row(c).update(sigma=float("nan"))), "not a finite number, given nan"),
        (lambda card: edited(card, lambda c: row(c).update(sigma=float("inf"))), "not a finite number, given inf"),
        (lambda card: edited(card, lambda c: row(c)["input"].update(d9=1.0)), "read before it is written, given 'd9'"),
        (lambda card: edited(card, lambda c: c["spec"].update(benchmark="gm")), "did you mean 'gmm'"),
        (lambda card: edited(card, lambda c: c["spec"].update(benchmark=3)), "spec.benchmark: has the wrong type"),
        (lambda card: edited(card, lambda c: c["spec"].update(images="200")), "spec.images: has the wrong type"),
        (lambda card: edited(card, lambda c: c["spec"].update(first_seed=0.5)), "spec.first_seed: has the wrong type"),
        (lambda card: edited(card, lambda c: c["spec"].update(imges=3)), "spec.imges: unknown key, given 'imges'"),
        (lambda card: edited(card, lambda c: c["spec"].update(shard_images=30)), "spec.shard_images: does not divide"),
    ],
)
def test_an_unreadable_card_is_refused(card, elsewhere, text, says):
    (elsewhere / "bad.json").write_text(text(card))
    for name in ("evaluate", "sample"):
        line = refused(elsewhere, name, "bad.json")
        assert line.startswith("error: bad.json: ")
        assert says in line


def test_a_missing_card_is_refused(elsewhere):
    assert "gone.json: the card cannot be read" in refused(elsewhere, "evaluate", "gone.json")
    assert "gone.json: the card cannot be read" in refused(elsewhere, "sample", "gone.json")
    assert "directory" in refused(elsewhere, "evaluate", elsewhere)


def test_a_plan_that_gives_no_finite_samples_is_refused(card, elsewhere):
    def spoil(written):
        written["plan"]["output"].update(n=1e300)
        del written["plan_digest"]

    (elsewhere / "wild.json").write_text(edited(card, spoil))
    line = refused(elsewhere, "evaluate", "wild.json", "--images", 20)
    assert line.startswith("error: wild.json: ")
    assert "not finite" in line


def test_shards_that_do_not_divide_are_refused(card, elsewhere):
    line = refused(elsewhere, "evaluate", card, "--images", 40, "--shard-images", 15)
    assert "--shard-images: does not divide images, given 15; allowed: a divisor of 40" in line


def test_a_card_that_was_changed_by_hand_or_for_another_benchmark_is_refused(card, elsewhere):
    (elsewhere / "mine.json").write_text(edited(card, lambda c: c["plan"]["output"].update(n=1.0)))
    assert "plan_digest: is not the plan's" in refused(elsewhere, "evaluate", "mine.json")
    (elsewhere / "old.json").write_text(edited(card, lambda c: c["benchmark"].update(version=0)))
    line = refused(elsewhere, "evaluate", "old.json")
    assert "benchmark.version: the card was made for another gmm, given 0; allowed: 1" in line


@pytest.mark.parametrize("where", ["taken/x", "/proc/no/x"])
def test_what_cannot_be_written_is_told(card, runs, elsewhere, where):
    (elsewhere / "taken").write_text("a file")
    assert "cannot be written" in refused(elsewhere, "plan", "gmm", "--baseline", "ddim", "--nfe", 3, "--out", where)
    assert "--out: cannot be written" in refused(elsewhere, "sample", card, "--images", 1, "--out", where)
    assert "--out: cannot be written" in refused(elsewhere, "report", "tiny", "--runs", runs, "--out", where)


def test_a_report_of_what_is_not_there_is_refused(runs, elsewhere):
    assert "there is no MLflow store here yet" in refused(elsewhere, "report", "tiny", "--runs", "nowhere")
    line = refused(elsewhere, "report", "tinny", "--runs", runs)
    assert "study: no such study in this store, given 'tinny'; allowed: tiny; did you mean 'tiny'?" in line
    line = refused(elsewhere, "report", "tiny", "--runs", runs, "--benchmark", "gm")
    assert "given 'gm'" in line
    assert "did you mean 'gmm'" in line
    assert "there is no MLflow store here yet" in refused(elsewhere, "ui", "--runs", "nowhere")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("search",), "Missing argument"),
        (("serch",), "Did you mean 'search'?"),
        (("search", TINY, "--trials", "-1"), "'--trials'"),
        (("search", TINY, "--trials", "many"), "'--trials'"),
        (("search", TINY, "--workers", "-1"), "'--workers'"),
        (("search", TINY, "--run-dri", "x"), "--run-dri"),
        (("plan", "gmm", "--baseline", "ddim", "--nfe", "0"), "'--nfe'"),
        (("sample", "card.json", "--images", "0"), "'--images'"),
        (("evaluate", "card.json", "--images", "1"), "'--images'"),
        (("evaluate", "card.json", "--first-seed", "-1"), "'--first-seed'"),
        (("ls", "solver"), "'solvers'"),
        (("train", "digits"), "'digits-cnn'"),
        (("ui", "--port", "0"), "'--port'"),
    ],
)
def test_a_wrong_option_is_refused(elsewhere, argv, says):
    assert says in misused(elsewhere, *argv)


def test_an_interrupted_search_says_how_to_go_on(monkeypatch, elsewhere):
    from pipeline import run_study

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_study, "search", interrupted)
    ran = command("search", TINY)
    assert ran.status == 130
    assert ran.err == "stopped; the same command goes on from here\n"


def test_version_tells_the_revision_that_records_carry():
    from pipeline import __version__
    from pipeline.provenance import git_revision

    assert done("--version").out == f"sigmasearch {__version__} ({git_revision()})\n"
