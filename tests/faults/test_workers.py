"""Workers die, hang, run out of memory, and their nodes come and go: the study ends as an undisturbed one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import yaml_file
from pipeline.cluster import InProcessPool
from pipeline.patience import Patience
from pipeline.task_queue import MACHINE_RETRIES
from pipeline.trial import Prepared
from pipeline.worker import Evaluated, Failure, Task, Worker
from search_spaces import Study
from tests.faults.driver import LISTED, TINY
from tests.faults.processes import ray_workers
from tests.spied_search import run, values
from tests.test_cluster import SPEC, drain, moments, shards

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def listed():
    return Study.model_validate(yaml_file.read(TINY) | LISTED)


@pytest.fixture(scope="module")
def undisturbed(listed):
    return values(run(None, listed, pool=InProcessPool("gmm")).records)


def fingerprint(found):
    """Of all numbers, to the last bit, in whatever order the trials ended."""
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def changed(found, whole):
    """What came of the trials that are not the same, in short."""
    return {key: (found.get(key, ())[:3], each[:3]) for key, each in whole.items() if found.get(key) != each}


class Disturbed:
    """A pool on Ray to whose workers something happens between answers."""

    def __init__(self, pool, disturb):
        self._pool, self._disturb, self.answers = pool, disturb, 0
        self.submit, self.share, self.cancel = pool.submit, pool.share, pool.cancel

    @property
    def size(self):
        return self._pool.size

    def next(self, timeout):
        self._disturb()
        answer = self._pool.next(timeout)
        self.answers += answer is not None
        return answer

    def close(self):
        """The pool is the session's."""


@pytest.mark.fault
def test_twenty_workers_killed_at_random_moments_change_no_bit(ray_pool, listed, undisturbed, monkeypatch):
    # With every third task lost one of them would be so four times in the end, and its trial fail as it should.
    monkeypatch.setattr("pipeline.task_queue.MACHINE_RETRIES", 20)
    rng, due, killed = random.Random(7), [0], []

    def disturb():
        # By answers, of which a study has as many on any machine; in the middle of what the workers do next.
        if len(killed) < 20 and pool.answers >= due[0] and (there := ray_workers()):
            time.sleep(rng.uniform(0.0, 0.1))
            killed.append(rng.choice(there))
            with contextlib.suppress(ProcessLookupError):
                os.kill(killed[-1], signal.SIGKILL)
            due[0] = pool.answers + rng.choice([1, 1, 2, 3])

    pool = Disturbed(ray_pool, disturb)
    found = values(run(None, listed, pool=pool).records)
    assert not changed(found, undisturbed), killed
    assert len(killed) == 20, f"{pool.answers} answers"


def test_a_worker_that_hangs_is_replaced(ray_pool, monkeypatch):
    monkeypatch.setattr(ray_pool, "_patience", Patience(factor=20.0, least=3.0, first=60.0))
    expected = moments(drained(ray_pool))  # and so it is known how long a task takes
    prepared = shards(ray_pool)
    stopped = ray_workers()[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert moments(drain(ray_pool, len(SPEC.shards()))) == expected
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGKILL)
    assert isinstance(prepared, Prepared)
    assert stopped not in ray_workers()


def drained(pool):
    shards(pool)
    return drain(pool, len(SPEC.shards()))


class Starved(Worker):
    """A worker whose machine has no memory left, so many times."""

    times = 0

    def _done(self, task):
        if task.what == "evaluate" and Starved.times > 0:
            Starved.times -= 1
            raise MemoryError("no memory left")
        return super()._done(task)


@pytest.mark.parametrize("times", [MACHINE_RETRIES, MACHINE_RETRIES + 1])
def test_a_worker_out_of_memory_is_given_the_task_three_times_more(times):
    pool = InProcessPool("gmm")
    pool._worker, Starved.times = Starved("gmm", 1), times
    pool.submit(Task("t", (0, 0), SPEC))
    ((_, prepared),) = drain(pool, 1)
    pool.submit(Task("t", (0, 1), SPEC, prepared.plan, range(50), "evaluate"))
    ((_, outcome),) = drain(pool, 1)
    if times == MACHINE_RETRIES:
        assert isinstance(outcome, Evaluated)
    else:
        assert outcome == Failure("MemoryError: no memory left, 4 times", machine=True)


class Broken(Worker):
    """A network that raises on one batch."""

    tried = 0

    def _done(self, task):
        if task.what == "evaluate" and task.seeds.start == 100:
            Broken.tried += 1
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return super()._done(task)


def test_a_fault_that_is_no_machines_is_not_tried_again_and_is_in_the_record(listed):
    pool, Broken.tried = InProcessPool("gmm"), 0
    pool._worker = Broken("gmm", 1)
    ran = run(None, listed.model_copy(update={"baselines": ["ddim"], "trials": 0, "confirm": None}), pool=pool)
    states = {record.key: (record.state, record.reason) for record in ran.records}
    told = ("failed", "RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert states == {"floor": told, "baseline/ddim/3": told, "baseline/ddim/5": told}
    assert Broken.tried == 3


@pytest.mark.fault
def test_a_node_that_goes_and_one_that_comes(listed, undisturbed):
    """Three nodes, then two, then three, in a process of its own: a session of Ray has one cluster."""
    script = Path(__file__).with_name("nodes.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    told = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    said = json.loads(told.stdout.splitlines()[-1])
    assert said["values"] == fingerprint(undisturbed)
    assert said["nodes_before"] == 3
    assert said["new_node_used"]
    assert said["seconds_without_answer"] < 60
