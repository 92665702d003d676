"""The pool: the same answers on Ray as in process, whatever happens to a worker."""

import contextlib
import ipaddress
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import benchmarks
from pipeline.cluster import InProcessPool, RayPool, open_pool
from pipeline.registry import SpecError
from pipeline.teacher import compare, teach
from pipeline.trial import Prepared, TrialSpec, prepare
from pipeline.worker import Compared, Evaluated, Failure, Task
from tests.spied_search import RUNGS, run, values

SPEC = TrialSpec("gmm", {"name": "heun"}, {"name": "edm", "num_steps": 6}, images=400, shard_images=50)


def drain(pool, count):
    answers = []
    deadline = time.monotonic() + 120
    while len(answers) < count:
        assert time.monotonic() < deadline, f"only {len(answers)} of {count} tasks came back"
        answer = pool.next(timeout=1.0)
        if answer is not None:
            answers.append(answer)
    return answers


def actors(pool):
    return [slot.actor for slot in pool._slots]


def shards(pool, key="t"):
    pool.submit(Task(key, (0, 0), SPEC))
    ((_, prepared),) = drain(pool, 1)
    assert isinstance(prepared, Prepared)
    for i, seeds in enumerate(SPEC.shards()):
        pool.submit(Task(key, (0, i), SPEC, prepared.plan, seeds, "evaluate"))
    return prepared


def moments(answers):
    assert all(isinstance(outcome, Evaluated) for _, outcome in answers), answers
    return {task.seeds.start: [shard.moments.to_json() for shard in outcome.shards] for task, outcome in answers}


@pytest.fixture(scope="module")
def expected():
    pool = InProcessPool("gmm")
    shards(pool)
    answers = moments(drain(pool, len(SPEC.shards())))
    pool.close()
    return answers


def test_ray_gives_the_moments_of_a_run_in_process(ray_pool, expected):
    shards(ray_pool)
    assert moments(drain(ray_pool, len(SPEC.shards()))) == expected


def test_both_workers_work(ray_pool, expected):
    pids = set(ray_pool._ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in actors(ray_pool)]))
    assert len(pids) == 2


def test_the_oldest_trial_goes_first():
    pool = InProcessPool("gmm")
    for order in ((2, 0), (1, 1), (1, 0), (3, 0)):
        pool.submit(Task(str(order), order, SPEC))
    assert [task.order for task, _ in drain(pool, 4)] == [(1, 0), (1, 1), (2, 0), (3, 0)]


def test_a_cancelled_key_is_not_run():
    pool = InProcessPool("gmm")
    for key in ("a", "b", "a"):
        pool.submit(Task(key, (0, 0), SPEC))
    pool.cancel("a")
    assert [task.key for task, _ in drain(pool, 1)] == ["b"]
    assert pool.next(0) is None


def test_a_wrong_spec_is_an_answer(ray_pool):
    wrong = TrialSpec("gmm", {"name": "heun"}, {"name": "sdm", "num_steps": 4, "eta_min": 1.0, "eta_max": 0.5})
    ray_pool.submit(Task("wrong", (0, 0), wrong))
    ((_, outcome),) = drain(ray_pool, 1)
    assert isinstance(outcome, Failure)
    assert "eta_min" in outcome.reason
    assert not outcome.machine


def test_a_killed_worker_loses_nothing(ray_pool, expected):
    pid = ray_pool._ray.get(actors(ray_pool)[0].__ray_call__.remote(lambda self: os.getpid()))
    shards(ray_pool)
    os.kill(pid, signal.SIGKILL)
    assert moments(drain(ray_pool, len(SPEC.shards()))) == expected
    # The worker comes back: both answer again.
    shards(ray_pool)
    assert moments(drain(ray_pool, len(SPEC.shards()))) == expected


def all_up(pool):
    """Wait for the workers that a test has killed."""
    deadline = time.monotonic() + 120
    while not all(slot.up for slot in pool._slots):
        assert time.monotonic() < deadline, "a worker did not come back"
        assert pool.next(timeout=1.0) is None


def test_workers_without_work_are_given_back_and_come_again(ray_pool, expected, monkeypatch):
    """As on a cluster that was not started here; the cluster may shrink then."""
    all_up(ray_pool)
    monkeypatch.setattr(ray_pool, "_idle_seconds", 0.5)
    deadline = time.monotonic() + 60
    while any(slot.actor is not None for slot in ray_pool._slots):
        assert time.monotonic() < deadline, "they are kept"
        assert ray_pool.next(timeout=0.1) is None
        time.sleep(0.1)
    assert ray_pool.size == 2
    monkeypatch.setattr(ray_pool, "_idle_seconds", float("inf"))
    shards(ray_pool)
    assert moments(drain(ray_pool, len(SPEC.shards()))) == expected
    all_up(ray_pool)


def distances(pool, plan, count=6):
    """The plan's distance to the teacher that the pool shares, as `count` tasks tell it."""
    for i in range(count):
        pool.submit(Task("t", (0, i), SPEC, plan, what="compare"))
    outcomes = [outcome for _, outcome in drain(pool, count)]
    assert all(isinstance(outcome, Compared) for outcome in outcomes), outcomes
    return {outcome.distance for outcome in outcomes}


def test_every_worker_has_the_teacher_and_one_that_was_killed_has_it_again(ray_pool):
    gmm = benchmarks.load("gmm")
    plan, fine = (prepare(replace(SPEC, schedule={"name": "edm", "num_steps": n}), gmm).plan for n in (6, 20))
    teacher, _ = teach(fine, gmm, range(40))
    expected, _ = compare(plan, gmm, teacher)
    all_up(ray_pool)
    ray_pool.share(teacher)
    assert distances(ray_pool, plan) == {expected}
    pids = ray_pool._ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in actors(ray_pool)])
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert distances(ray_pool, plan) == {expected}
    all_up(ray_pool)
    held = ray_pool._ray.get([actor.__ray_call__.remote(lambda self: self.teacher) for actor in actors(ray_pool)])
    assert all(each.samples.equal(teacher.samples) for each in held)


def test_a_search_with_one_ray_worker_repeats_exactly(ray_pool, small_study):
    """And ends as one in this process does, but for the order in which trials overlap."""
    study, ends = small_study(rungs=RUNGS, trials=10, confirm=None), []
    pool = RayPool("gmm", workers=1)
    closing, pool.close = pool.close, lambda: None
    try:
        for _ in range(2):
            ends.append(run(None, study, pool=pool).records)
    finally:
        closing()
    first, second = ends
    assert values(first) == values(second)
    assert {r.state for r in first} == {"complete", "pruned"}
    here = values(run(None, study).records)
    measured = [r.key for r in first if r.role in ("floor", "baseline", "published")]
    assert {key: values(first)[key] for key in measured} == {key: here[key] for key in measured}


def listening(word):
    """The addresses on which processes with `word` in their command line listen, from /proc."""
    sockets = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word in (process / "cmdline").read_bytes():
                sockets |= {os.readlink(fd) for fd in (process / "fd").iterdir()}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                words = bytes.fromhex(fields[1].split(":")[0])
                found.append(b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4)))
    return [ipaddress.ip_address(packed) for packed in found]


def test_nothing_listens_beyond_loopback(ray_pool):
    addresses = listening(b"ray")
    assert addresses
    beyond = [a for a in addresses if not (getattr(a, "ipv4_mapped", None) or a).is_loopback]
    assert beyond == []


def test_an_unknown_benchmark_is_told_before_any_worker_starts():
    with pytest.raises(SpecError, match="did you mean 'gmm'"):
        open_pool("gmn", 0)
