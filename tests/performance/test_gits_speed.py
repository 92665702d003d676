"""GITS without its network: the cost matrix of 256 trajectories and the paths of every budget, beside plain loops."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from pipeline.schedules import EDM
from pipeline.shortest_path import ShortestPaths
from pipeline.trajectory import cost_matrix

SIGMAS = EDM(60, final="sigma_min").sigmas()
BUDGETS = range(3, 21)
COEFF = 1.15
BATCH, BATCHES = 32, 8  # 256 warm-up images, as many at a time as `baselines.gits` walks


def smooth_trajectories(pixels):
    """Exact flows to a Gaussian of its own mean and width in every pixel: states and slopes of one batch."""
    generator = torch.Generator().manual_seed(0)
    mean, noise = torch.randn((2, BATCH, pixels), generator=generator, dtype=torch.float64)
    sigma = SIGMAS[:, None, None]
    radius = (sigma**2 + 0.01 + torch.rand(pixels, generator=generator, dtype=torch.float64)).sqrt()
    return 0.5 * mean + noise * radius, (noise * sigma / radius)[:-1]


def schedules(states, slopes, metric, batches=1):
    cost = sum(cost_matrix(states, slopes, SIGMAS.tolist(), metric) for _ in range(batches)) / batches
    paths = ShortestPaths(cost.numpy(), COEFF)
    return cost.numpy(), {budget: paths.indices(budget) for budget in BUDGETS}


def distance(x, start, end):
    along = (end - start) / (end - start).norm(dim=-1, keepdim=True)
    offset = x - start
    return (offset - (offset * along).sum(-1, keepdim=True) * along).norm(dim=-1)


def plain_loops(states, slopes, metric):
    """The same by the definition: each pair in turn, and a table filled entry by entry."""
    nodes = len(states)
    cost = np.zeros((nodes, nodes))
    truth = distance(states, states[0], states[-1])
    for i in range(nodes - 1):
        for j in range(i + 1, nodes):
            reached = states[i] + (SIGMAS[j] - SIGMAS[i]) * slopes[i]
            if metric == "dev":
                error = distance(reached, states[0], states[-1]) - truth[j]
            else:
                error = (reached - states[j]).norm(p=int(metric[1]), dim=-1)
            cost[i, j] = error.mean()
    value = np.full((max(BUDGETS) + 1, nodes), np.inf)
    value[1, :-1] = cost[:-1, -1]
    after = np.full((max(BUDGETS) + 1, nodes), nodes - 1)
    for k in range(2, max(BUDGETS) + 1):
        for i in range(nodes - 1):
            for j in range(i + 1, nodes - 1):
                total = cost[i, j] + COEFF * value[k - 1, j]
                if total < value[k, i]:
                    value[k, i], after[k, i] = total, j
    paths = {}
    for budget in BUDGETS:
        path = [0]
        for k in range(budget, 0, -1):
            path.append(int(after[k, path[-1]]))
        paths[budget] = path
    return cost, paths


def timed(call, *args):
    started = time.perf_counter()
    result = call(*args)
    return result, time.perf_counter() - started


@pytest.mark.parametrize("metric", ["dev", "l1", "l2"])
@pytest.mark.parametrize("pixels", [8 * 8, 3 * 32 * 32])
def test_schedules_of_every_budget(benchmark, pixels, metric, show):
    states, slopes = smooth_trajectories(pixels)
    ours, loops = [], []
    for _ in range(3):  # in turn, so that a busy machine slows both
        (cost, paths), seconds = timed(schedules, states, slopes, metric)
        ours.append(seconds)
        (expected, expected_paths), seconds = timed(plain_loops, states, slopes, metric)
        loops.append(seconds)
        np.testing.assert_allclose(cost, expected, rtol=0, atol=1e-10)
        assert paths == expected_paths
    ratio = float(np.median(loops) / np.median(ours))
    benchmark.extra_info["plain_loops_over_ours"] = round(ratio, 1)
    benchmark.pedantic(schedules, args=(states, slopes, metric, BATCHES), rounds=3, warmup_rounds=1)
    show(
        f"{metric}, {pixels} pixels: {1e3 * benchmark.stats.stats.median:.0f} ms for {BATCH * BATCHES} trajectories; "
        f"plain loops take {ratio:.0f} times as long on {BATCH}"
    )
