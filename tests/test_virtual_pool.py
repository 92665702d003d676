"""The pool on a Ray without processes: who works when, and what travels how often, at sizes that no test could run."""

import pickle

import numpy as np
import pytest
import torch

from pipeline import benchmarks
from pipeline.ledger import Ledger
from pipeline.metrics.moments import Moments
from pipeline.ray_pool import RayPool
from pipeline.scoring import MomentScoring
from pipeline.search import Search
from pipeline.teacher import Teacher
from pipeline.trial import ShardResult, prepare
from pipeline.worker import Evaluated, Taught
from tests.performance.virtual_ray import VirtualRay

ROW_SECONDS = 0.01


class CountingRay(VirtualRay):
    """Remembers what was put into the store, and each worker's tasks."""

    def __init__(self, work):
        super().__init__(work)
        self.held = []

    def put(self, value):
        self.held.append(value)
        return super().put(value)


def answers(benchmark):
    """What gmm's workers would say, without its moments: those are made up."""
    features = len(benchmark.reference.mean)

    def work(task):
        sent.append(len(pickle.dumps(task)))
        if task.what == "prepare":
            return prepare(task.spec, benchmark), 0.0
        seconds = len(task.seeds) * len(task.plan) * ROW_SECONDS
        if task.what == "teach":
            return Taught(Teacher.merge([teach_nothing(task.seeds)]), 0), seconds
        size = task.spec.shard_images
        moments = Moments(size, np.zeros(features), size * np.eye(features))
        starts = range(0, len(task.seeds), size)
        shards = [ShardResult(task.seeds[at : at + size], moments, size * len(task.plan), 0.1) for at in starts]
        return Evaluated(tuple(shards)), seconds

    sent: list[int] = []
    return work, sent


def teach_nothing(seeds):
    return Teacher(seeds, torch.zeros(len(seeds), 1), torch.zeros(len(seeds), 1))


@pytest.fixture(scope="module")
def gmm():
    return benchmarks.load("gmm")


def search(ray, study, gmm):
    ledger = Ledger(None, study.study, study.draw, "random", 0, 1)
    with ray.installed():
        pool = RayPool("gmm", workers=study.workers)
    return Search(study, ledger, lambda: pool, MomentScoring(gmm), (gmm.sigma_min, gmm.sigma_max)).run()


@pytest.mark.parametrize("workers", [1, 8])
def test_one_large_trial_alone_keeps_all_workers_busy(small_study, gmm, workers):
    study = small_study(
        images=50_000, shard_images=500, trials=0, baselines=[], rungs=None, confirm=None, workers=workers
    )
    work, _ = answers(gmm)
    ray = CountingRay(work)
    status = search(ray, study, gmm)
    assert (status.done, status.failed) == (1, 0)
    nfe = status.rows // study.images
    assert ray.busy == pytest.approx(50_000 * nfe * ROW_SECONDS)
    # 100 batches for 8 workers: 13 turns, the last of them for four. The rest is the driver's own time.
    turns = {1: 100, 8: 13}[workers]
    assert ray.clock.waited + ray.clock.driver == pytest.approx(turns * 500 * nfe * ROW_SECONDS, rel=0.02)


def test_the_model_and_the_teacher_travel_once_and_tasks_are_small(small_study, gmm):
    study = small_study(trials=0, baselines=[], rungs=None, confirm=None, workers=3)
    work, sent = answers(gmm)
    ray = CountingRay(work)
    with ray.installed():
        pool = RayPool("gmm", workers=3)
    teacher = teach_nothing(range(4))
    pool.share(teacher)
    ledger = Ledger(None, study.study, study.draw, "random", 0, 1)
    Search(study, ledger, lambda: pool, MomentScoring(gmm), (gmm.sigma_min, gmm.sigma_max)).run()
    assert [type(value) for value in ray.held] == [type(gmm), Teacher]
    whole = len(pickle.dumps(gmm))
    assert whole > 300_000
    assert max(sent) < whole / 10
