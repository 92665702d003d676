"""`sigmasearch sync --check`: what differs on stdout, and an exit status that a script can use."""

import json
import shutil

from pipeline import store
from tests.cli.console import TINY, command, contents, done, refused


def test_it_says_what_differs_and_writes_nothing(runs, elsewhere):
    for name in ("mlflow.db", "tiny"):
        (shutil.copytree if (runs / name).is_dir() else shutil.copyfile)(runs / name, elsewhere / name)
    asked = ("sync", TINY, "--run-dir", "tiny", "--check")
    assert done(*asked).out == "MLflow's record is the study's\n"
    assert json.loads(done(*asked, "--json").out) == {"differences": []}

    client = store.open_client(f"sqlite:///{elsewhere}/mlflow.db", create=False)
    experiment = client.get_experiment_by_name("gmm").experiment_id
    [floor] = client.search_runs([experiment], f"tags.`{store.KEY}` = 'floor'")
    client.delete_run(floor.info.run_id)
    before = contents(elsewhere)
    ran = command(*asked)
    after = contents(elsewhere)
    assert (ran.status, ran.err) == (1, "")
    lines = ran.out.splitlines()
    assert lines[0] == "floor: no run"
    assert lines[-1] == f"differences: {len(lines) - 1}"
    told = command(*asked, "--json")
    assert (told.status, json.loads(told.out)["differences"]) == (1, lines[:-1])
    assert after == before

    assert "runs written: 1, new ones among them: 1" in done("sync", TINY, "--run-dir", "tiny").out
    assert done(*asked).out == "MLflow's record is the study's\n"


def test_it_needs_a_study(elsewhere):
    assert "holds no study" in refused(elsewhere, "sync", TINY, "--run-dir", "none", "--check")
