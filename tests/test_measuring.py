"""Scores whose distances workers measure: the same to the last bit as the driver's, and nothing of it lost."""

import numpy as np
import pytest
import torch

from pipeline import benchmarks, scoring
from pipeline.metrics.distances import Part, Reference, frechet_distance, growing, jackknife, left_out
from pipeline.metrics.moments import Moments
from pipeline.scoring import MomentScoring
from pipeline.trial import ShardResult, TrialSpec, evaluate, prepare
from pipeline.worker import Failure, Measured, Task
from tests.spied_search import RUNGS, run, values


@pytest.fixture
def by_workers(monkeypatch):
    """Any number of features is too many for the driver."""
    monkeypatch.setattr(scoring, "DRIVER_FEATURES", 0)


def normal(dim, n, seed):
    return Moments.of(np.random.default_rng(seed).normal(size=(n, dim)))


def test_a_search_finds_the_same_whoever_measures(small_study, monkeypatch):
    study = small_study(rungs=RUNGS, trials=8)
    driver = run(None, study)
    monkeypatch.setattr(scoring, "DRIVER_FEATURES", 0)
    workers = run(None, study)
    assert not [task for task in driver.pool.tasks if task.what == "measure"]
    assert [task for task in workers.pool.tasks if task.what == "measure"]
    # One worker does one task after the other, so that even the order of trials is the same.
    assert values(workers.records) == values(driver.records)


def test_a_rung_is_measured_in_parts_each_of_them_once(small_study, by_workers):
    ran = run(None, small_study(rungs=RUNGS, trials=0, confirm=None))
    parts = [(task.part.whole.n, task.part.group and task.part.group.n) for task in ran.pool.of("floor", "measure")]
    # 40, 100 and 200 images in shards of 20: the whole, and a group for each shard. An extrapolation of 144 features
    # would want more images than these.
    assert sorted(parts, key=str) == sorted(
        [(n, part) for n in (40, 100, 200) for part in (None, *(n // 20) * [20])], key=str
    )
    assert len(ran.record("floor").result.score.leave_one_out) == 10


@pytest.mark.parametrize("last", [False, True])
def test_the_last_rung_is_extrapolated_too(last, monkeypatch):
    monkeypatch.setattr(scoring, "DRIVER_FEATURES", 0)
    shards = [ShardResult(range(20 * i, 20 * i + 20), normal(2, 20, i), 0, 0.0) for i in (2, 0, 1, *range(3, 10))]
    ordered = [normal(2, 20, i) for i in range(10)]
    parts = MomentScoring(benchmarks.load("gmm")).parts(shards, last=last)
    reference = Reference.of(normal(2, 500, 99))
    expected = left_out(ordered) + (growing(ordered) if last else [])
    assert [part.distance(reference) for part in parts] == [part.distance(reference) for part in expected]
    runs = [part.whole.n for part in parts if part.group is None]
    assert runs == [200, *(5 * [40] + 2 * [80] + [120, 160, 200] if last else [])]


def test_a_measurement_that_fails_ends_its_trial_alone(small_study, by_workers):
    def spoil(task, outcome):
        broken = task.what == "measure" and task.key == "baseline/ddim/3"
        return Failure("out of luck") if broken else outcome

    ran = run(None, small_study(rungs=RUNGS, trials=2, confirm=None), spoil)
    record = ran.record("baseline/ddim/3")
    assert (record.state, record.reason) == ("failed", "out of luck")
    assert {r.state for r in ran.records if r.key != record.key} <= {"complete", "pruned"}


def test_a_driver_killed_while_its_workers_measure_samples_nothing_again(small_study, tmp_path, by_workers):
    study = small_study(rungs=RUNGS, trials=2, confirm=None)
    whole = run(None, study)

    class Killed(Exception):
        """The driver is gone."""

    def kill(task, outcome):
        if task.what == "measure" and task.key == "floor" and task.part.whole.n == 200:
            raise Killed
        return outcome

    with pytest.raises(Killed):
        run(tmp_path / "run", study, kill, disk=True)
    again = run(tmp_path / "run", study, disk=True)
    assert values(again.records) == values(whole.records)
    assert not again.pool.of("floor", "evaluate")


@pytest.mark.parametrize("count", [1, 2, 10, 50])
def test_parts_together_are_the_jackknife(count):
    shards = [normal(6, 30, seed) for seed in range(count)]
    reference = Reference.of(normal(6, 500, 99))
    parts = left_out(shards)
    found = [part.distance(reference) for part in parts]
    assert parts[0] == Part(parts[0].whole)
    assert parts[0].whole.n == 30 * count
    estimate = jackknife(shards, reference)
    assert (estimate.fid, *estimate.leave_one_out) == tuple(found)
    assert len(found) == {1: 1, 2: 3, 10: 11, 50: 26}[count]


@pytest.mark.parametrize("dim", [1, 8, 64])
def test_torch_finds_the_distance_that_numpy_finds(monkeypatch, dim):
    from pipeline.metrics import distances

    moments, reference = normal(dim, 40, 1), Reference.of(normal(dim, 500, 2))
    on_the_cpu = frechet_distance(moments, reference)
    monkeypatch.setattr(
        distances, "_eigenvalues", lambda covariance, root: distances._eigenvalues_on("cpu", covariance, root)
    )
    assert frechet_distance(moments, reference) == pytest.approx(on_the_cpu, rel=1e-10, abs=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_distance_that_numpy_finds():
    moments, reference = normal(512, 2000, 1), Reference.of(normal(512, 4000, 2))
    assert frechet_distance(moments, reference, "cuda") == pytest.approx(frechet_distance(moments, reference), rel=1e-9)


def test_ray_workers_measure_moments_as_the_driver_does(ray_pool):
    gmm = benchmarks.load("gmm")
    spec = TrialSpec("gmm", {"name": "euler"}, {"name": "edm", "num_steps": 4}, images=40, shard_images=20)
    parts = left_out([shard.moments for shard in evaluate(prepare(spec, gmm).plan, gmm, range(40), 20)])
    for i, part in enumerate(parts):
        ray_pool.submit(Task("a", (1, i), spec, what="measure", part=part))
    answers = [next_of(ray_pool) for _ in parts]
    found = {answer.index: answer.distance for answer in answers if isinstance(answer, Measured)}
    assert found == pytest.approx({i: part.distance(gmm.reference) for i, part in enumerate(parts)}, rel=1e-12)


def next_of(pool):
    while (answer := pool.next(timeout=60.0)) is None:
        pass
    return answer[1]
