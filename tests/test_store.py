"""Where the MLflow store is, how it is refused, and what a kill leaves of one that is being made."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline import store
from pipeline.registry import SpecError
from pipeline.store import server_command, store_uri
from pipeline.tracking import Record

# MLflow 3.17 asks SQLAlchemy for a loader that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

EXPERIMENT = "digits-kde"
OPEN = "import sys; from pipeline.tracking import Record; Record.open(sys.argv[1], 'digits-kde', 'study', 'f00d')"


def opening(folder):
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", OPEN, f"sqlite:///{folder}/mlflow.db"])


@pytest.mark.parametrize("half_made", [1, 300_000])
def test_a_kill_while_the_store_is_made_leaves_no_half_of_one(half_made, tmp_path):
    process = opening(tmp_path)
    while not any(made.stat().st_size >= half_made for made in tmp_path.glob("mlflow.db.partial-*/mlflow.db")):
        assert process.poll() is None, "it was done before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [left] = tmp_path.iterdir()
    assert left.name.startswith("mlflow.db.partial-")
    os.utime(left, (0, 0))  # an hour later
    held = Record.open(f"sqlite:///{tmp_path}/mlflow.db", EXPERIMENT, "study", "f00d")
    assert held._client.get_run(held.run_id).info.status == "RUNNING"
    assert [item.name for item in tmp_path.iterdir()] == ["mlflow.db"]


def test_two_that_make_the_store_at_once_share_it(tmp_path):
    for process in [opening(tmp_path), opening(tmp_path)]:
        assert process.wait() == 0
    client = store.open_client(f"sqlite:///{tmp_path}/mlflow.db", create=False)
    assert [found.name for found in client.search_experiments(filter_string="name = 'digits-kde'")] == [EXPERIMENT]
    assert [item.name for item in tmp_path.iterdir()] == ["mlflow.db"]


def test_the_store_is_where_it_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")
    assert store_uri(tmp_path / "elsewhere") == f"sqlite:///{tmp_path}/here.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store_uri(tmp_path) == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("runs", "is not the address"),
        ("file:///somewhere/mlruns", "is not the address"),
        ("databricks://profile", "is not the address"),
        ("sqlite://", "in memory"),
        ("sqlite:///{tmp}", "is a folder"),
        ("sqlite:///{tmp}/text", "not a sqlite database"),
        ("sqlite:///{tmp}/no/such/folder.db", "does not exist"),
        ("http://127.0.0.1:9", "cannot be opened"),
        ("postgresql://me:secret@127.0.0.1:9/db", "cannot be opened"),
    ],
)
def test_a_bad_address_is_one_clear_line(given, told, tmp_path, monkeypatch):
    (tmp_path / "text").write_text("this is no database, whatever its name")
    given = given.format(tmp=tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    with pytest.raises(SpecError) as caught:
        Record.open(store_uri(tmp_path), EXPERIMENT, "study", "f00d")
    text = str(caught.value)
    assert text.startswith("MLFLOW_TRACKING_URI: ")
    assert told in text
    assert "secret" not in text
    assert "\n" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]


def test_the_server_listens_to_nobody_else(tmp_path):
    argv, environment = server_command(f"sqlite:///{tmp_path}/mlflow.db", 5001)
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--port") + 1] == "5001"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["PATH"] == os.environ["PATH"]
    with pytest.raises(SpecError, match="server already"):
        server_command("http://127.0.0.1:5000")


def test_importing_the_module_does_not_import_mlflow():
    code = "import pipeline.tracking, sys; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
