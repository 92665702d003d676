"""The Frechet distance from moments, beside torch-fidelity's from features."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
from torch_fidelity.metric_fid import fid_statistics_to_metric

from pipeline.metrics.distances import Reference, frechet_distance, jackknife
from pipeline.metrics.moments import Moments

DIM = 512


@pytest.fixture(scope="module")
def held():
    rng = np.random.default_rng(0)
    mix = np.eye(DIM) + 0.3 * rng.standard_normal((DIM, DIM)) / DIM**0.5
    reference = Reference.of(Moments.of(rng.standard_normal((4 * DIM, DIM)) @ mix))
    shards = [Moments.of(0.1 + rng.standard_normal((DIM, DIM)) @ mix) for _ in range(4)]
    return shards, reference


def seconds(call, rounds=5):
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def test_distance_beside_torch_fidelitys(benchmark, held, show):
    shards, reference = held
    moments = Moments.merge(shards)
    ours = frechet_distance(moments, reference)  # also makes the reference's root, once for a study
    theirs = {"mu": moments.mean, "sigma": moments.covariance}
    data = {"mu": reference.mean, "sigma": reference.covariance}

    def oracle():
        return fid_statistics_to_metric(theirs, data, False)["frechet_inception_distance"]

    assert ours == pytest.approx(oracle(), rel=1e-9)
    ratio = seconds(oracle) / seconds(lambda: frechet_distance(moments, reference))
    benchmark.extra_info["torch_fidelity_over_ours"] = round(ratio, 2)
    show(f"{DIM} features: torch-fidelity takes {ratio:.1f} times as long")
    benchmark(frechet_distance, moments, reference)


def test_distance_with_its_standard_error(benchmark, held):
    shards, reference = held
    benchmark.pedantic(jackknife, args=(shards, reference), rounds=3, warmup_rounds=1)
