"""How the command refuses: one line that names the mistake, status 2, nothing written."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import benchmarks, cli, store, yaml_file
from tests.cli.console import TINY, command, contents, misused, refused

BENCHMARKS = ", ".join(benchmarks.names())


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
        ({"benchmark": "gm"}, f"benchmark: unknown benchmark, given 'gm'; allowed: {BENCHMARKS}; did you mean 'gmm'"),
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
    # A store that nobody answers for may be back before a search ends.
    searched = () if "127.0.0.1:9" in uri else (("search", TINY),)
    for argv in (*searched, ("report", "tiny"), ("ui",)):
        line = refused(elsewhere, *argv)
        assert line.startswith("error: MLFLOW_TRACKING_URI: ")
        assert says in line
        assert store.masked(uri) in line


def test_a_search_without_its_mlflow_warns_once_and_its_status_says_that_nothing_was_reported(elsewhere, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    ran = command("search", TINY)
    assert ran.status == 1
    assert ran.out.count("warning: MLflow does not answer") == 1
    assert "the search goes on" in ran.out
    assert ran.err.startswith("error: MLflow does not answer")
    assert "`sigmasearch sync`" in ran.err
    assert ran.err.count("\n") == 1
    assert "secret" not in ran.out + ran.err


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_refused(elsewhere, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    line = refused(elsewhere, "search", TINY, "--workers", 1)
    assert line.startswith("error: RAY_ADDRESS: no Ray cluster answers there")
    assert f"given '{address}'" in line


def test_the_address_of_a_job_server_is_refused(elsewhere, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://user:secret@127.0.0.1:8265")
    line = refused(elsewhere, "search", TINY, "--workers", 1)
    assert line.startswith("error: RAY_ADDRESS: is the address of a job server")
    assert "given 'http://user:***@127.0.0.1:8265'" in line


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
    assert "benchmark.version: the card was made for another gmm, given 0; allowed: 2" in line


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
