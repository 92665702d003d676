"""`ray job submit --working-dir . -- sigmasearch search ...` on a head on loopback: stopped, sent again, once more.

The head has a token, and a grace of Ray's own three seconds.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml

from tests.cli.console import mlflow_runs
from tests.conftest import SMALL

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
STUDY = SMALL | {"workers": 2, "images": 20_000, "shard_images": 500, "confirm": None}
OVER = ("COMPLETE", "PRUNED", "FAIL")


def free_ports(count):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


class Head:
    """A cluster of one node, with everything of its own: ports, token, folder and home."""

    def __init__(self, folder):
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        gcs, dashboard, agent, client = free_ports(4)
        self.folder, self.address = folder, f"http://127.0.0.1:{dashboard}"
        self.home = folder / "home"
        self.home.mkdir()
        self.token = token.read_text()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        self.environment = clean | {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_API_SERVER_ADDRESS": self.address,
        }
        command = [
            *(
                BIN / "ray",
                "start",
                "--head",
                "--block",
                "--num-cpus=2",
                f"--temp-dir={folder / 'ray'}",
                f"--port={gcs}",
            ),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0"),
            *("--object-store-memory=100000000", "--disable-usage-stats", "--log-color=false"),
        ]
        # Jobs inherit this environment: its PATH finds the command, its HOME holds what has a relative path.
        mine = self.environment | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
        }
        self.log = folder / "head.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=mine, stdout=log, stderr=subprocess.STDOUT)

    def get(self, path):
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def wait(self):
        deadline = time.monotonic() + 90
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            try:
                return self.get("/api/jobs/")
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)

    def ray(self, *arguments):
        command = [BIN / "ray", "job", arguments[0], "--log-style=record", "--log-color=false", *arguments[1:]]
        # stderr is Ray's own, its warnings of what it leaves out of the upload.
        return subprocess.Popen(
            command, env=self.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def submit(self, name, *arguments):
        return self.ray("submit", "--submission-id", name, "--working-dir", ".", "--", "sigmasearch", *arguments)

    def log_of(self, name):
        """What the job wrote, without what Ray says before it starts."""
        text = self.get(f"/api/jobs/{name}/logs")["logs"]
        return text.partition("Running entrypoint for job")[2].partition("\n")[2]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def head():
    # A short name: a socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="job-", ignore_cleanup_errors=True) as folder:
        head = Head(Path(folder))
        try:
            head.wait()
            yield head
        finally:
            head.stop()


def trials(run_dir):
    """What Optuna holds of the study, searched and measured: (study, number) -> (state, values)."""
    url = f"sqlite:///{run_dir / 'study.db'}"
    return {
        (name, trial.number): (trial.state.name, trial.values)
        for name in optuna.get_all_study_names(url)
        for trial in optuna.load_study(study_name=name, storage=url).get_trials(deepcopy=False)
        if name == "small" or "key" in trial.user_attrs  # the others only say how a trial that waited has ended
    }


def visit(head, name, file, until=None):
    """One submission to its end, or to the `ray job stop` after a line that matches `until`."""
    with head.submit(name, "search", str(file)) as process:
        for line in process.stdout:
            if until is not None and re.match(until, line):
                until = None
                head.ray("stop", name).communicate()
    run_dir = head.home / "runs" / "small"
    return SimpleNamespace(
        status=process.returncode,
        log=head.log_of(name),
        state=head.get(f"/api/jobs/{name}")["status"],
        trials=trials(run_dir),
        runs=mlflow_runs(f"sqlite:///{run_dir.parent / 'mlflow.db'}"),
    )


@pytest.fixture(scope="module")
def visits(head):
    file = head.folder / "small.yaml"
    file.write_text(yaml.safe_dump(STUDY))
    return [
        visit(head, "first", file, until=r"\[3/"),
        visit(head, "second", file),
        visit(head, "third", file),
    ]


def test_a_stopped_job_says_in_one_line_how_to_go_on_and_is_not_killed(visits, head):
    first, _, _ = visits
    assert first.state == "STOPPED"
    said = [line for line in first.log.splitlines() if line.startswith("stopped")]
    assert len(said) == 1
    assert "SIGTERM" in said[0]
    assert re.search(r"to go on: sigmasearch search .*small\.yaml", said[0])
    assert first.log.splitlines()[-1] == said[0]
    assert "Traceback" not in first.log
    (supervisor,) = (head.folder / "ray").glob("session_2*/logs/jobs/supervisor-first.log")
    assert "terminated gracefully" in supervisor.read_text()


def test_the_job_sent_again_completes_and_loses_nothing(visits):
    first, second, _ = visits
    assert (second.status, second.state) == (0, "SUCCEEDED")
    told = {key: end for key, end in first.trials.items() if end[0] in OVER}
    assert len(told) >= 3
    assert len(told) < len(second.trials)
    assert {key: second.trials[key] for key in told} == told
    assert {state for state, _ in second.trials.values()} <= {"COMPLETE", "PRUNED"}
    searched = [number for name, number in second.trials if name == "small"]
    assert sorted(searched) == list(range(STUDY["trials"]))


def test_the_run_directory_is_complete_and_outlives_the_throw_away_copy(visits, head):
    run_dir = head.home / "runs" / "small"
    assert {"table.md", "front.png", "report.html"} <= {path.name for path in (run_dir / "report").iterdir()}
    assert list((run_dir / "front").glob("nfe-*.json"))
    assert not list((head.folder / "ray").glob("session_*/runtime_resources/working_dir_files/*/runs"))


def test_sent_once_more_it_adds_nothing(visits):
    _, second, third = visits
    assert (third.status, third.state) == (0, "SUCCEEDED")
    assert "nothing to add" in third.log
    assert third.trials == second.trials
    assert third.runs == second.runs


def test_the_log_reads_well_without_a_terminal(visits):
    for each in visits:
        assert "\x1b" not in each.log
        assert "\r" not in each.log
        assert each.log.splitlines()[0].split()[:1] in (["small:"], ["all"])
        numbers = [int(n) for n in re.findall(r"^\[(\d+)/", each.log, flags=re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1))
    first, second, _ = visits
    assert len(re.findall(r"^\[", second.log, flags=re.MULTILINE)) >= 3
    assert first.log.count("\n") < 40


def test_the_workers_were_the_clusters(visits, head):
    """A search that starts a Ray of its own inside a job would find no room there, or take twice the machine."""
    actors = head.get("/api/v0/actors?detail=1&limit=100")["data"]["result"]["result"]
    workers = [each for each in actors if each["class_name"] == "RayWorker"]
    assert len(workers) >= 4  # two of each job that had something to do
    assert {each["state"] for each in workers} == {"DEAD"}


def test_a_mistake_ends_the_job_with_one_line_and_a_failure(head):
    process = head.submit("mistaken", "search", "no-such-study")
    streamed, _ = process.communicate()
    assert process.returncode == 1
    assert "failed with exit code 2" in streamed
    (line,) = head.log_of("mistaken").splitlines()
    assert line.startswith("error: ")


def test_a_run_directory_in_the_copy_is_refused(head):
    """Here by its absolute path, which a shell in the job would make of `$PWD/runs`."""
    process = head.ray("submit", "--submission-id", "inside", "--working-dir", ".", "--", "bash", "-c",
                       "exec sigmasearch search digits --run-dir $PWD/runs/digits")  # fmt: skip
    process.communicate()
    assert process.returncode == 1
    assert "thrown away" in head.log_of("inside")
