"""A real MLflow server that is not there, goes, and comes back: the search never notices, and the record is whole."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from pipeline.store import server_command
from reports.record import read
from tests.faults.driver import COMMAND, LISTED, finish, plain_environment, start, study_file

# MLflow 3.17 asks SQLAlchemy for a loader that SQLAlchemy 2.1 deprecates.
pytestmark = [pytest.mark.fault, pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")]
CHANGES = LISTED | {"trials": 4}


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Server:
    """MLflow on 127.0.0.1, over the database of one folder."""

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def __enter__(self):
        argv, environment = server_command(f"sqlite:///{self.folder}/server.db", self.port)
        argv += ["--default-artifact-root", "mlflow-artifacts:/", "--artifacts-destination", str(self.folder / "files")]
        self.process = subprocess.Popen(
            argv, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return self
            except OSError:
                time.sleep(0.2)
        raise AssertionError("the server does not answer")

    def __exit__(self, *error):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def synced(file, folder, uri):
    """`sigmasearch sync`, to its end."""
    argv = [sys.executable, "-W", "ignore", "-c", COMMAND, "sync", str(file), "--run-dir", str(folder / "run")]
    done = subprocess.run(
        argv, cwd=folder, env=plain_environment() | {"MLFLOW_TRACKING_URI": uri}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def table(frame):
    """What the record says, but for what belongs to one run of one machine."""
    kept = ["key", "role", "state", "method", "fid", "fid_corrected", "nfe", "spent_rows", "plan", "budget", "reason"]
    return frame[kept].sort_values("key").reset_index(drop=True)


def test_a_server_that_is_down_goes_and_comes_back(tmp_path):
    whole = tmp_path / "whole"
    file = study_file(whole, CHANGES)
    finish(file, whole)
    expected = table(read(f"sqlite:///{whole}/mlflow.db", "gmm", "listed"))

    # Down from the start to the end.
    folder = tmp_path / "down"
    folder.mkdir()
    server = Server(tmp_path)
    process = start(file, folder, MLFLOW_TRACKING_URI=server.uri)
    told, _ = process.communicate(timeout=240)
    assert process.returncode == 1, told
    assert told.count("warning: MLflow does not answer") == 1
    assert told.splitlines()[-1].startswith("error: MLflow does not answer")
    with server:
        synced(file, folder, server.uri)
        assert table(read(server.uri, "gmm", "listed")).equals(expected)

    # Killed in the middle, and back only afterwards.
    folder, other = tmp_path / "killed", Server(tmp_path / "killed")
    folder.mkdir()
    with other:
        process = start(file, folder, MLFLOW_TRACKING_URI=other.uri)
        for line in process.stdout:
            if line.startswith("[4/"):
                break
    told, _ = process.communicate(timeout=240)
    assert process.returncode == 1, told
    assert told.count("warning: MLflow does not answer") == 1
    with other:
        synced(file, folder, other.uri)
        assert table(read(other.uri, "gmm", "listed")).equals(expected)
