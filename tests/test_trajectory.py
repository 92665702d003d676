"""Costs and deviations beside the definition, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.denoiser import Meter
from pipeline.sampler import integrate
from pipeline.schedules import EDM
from pipeline.solvers import SOLVERS
from pipeline.trajectory import IN_CACHE, cost_matrix, record_trajectory, trajectory_deviation
from tests.conformance_problem import LATENTS, MIXTURE

SIGMAS = EDM(9, final="sigma_min").sigmas().tolist()
EULER = SOLVERS.build({"name": "euler"})


def bent(images, dim, seed=0):
    """A trajectory of nothing in particular, with slopes that are only nearly its own."""
    rng = np.random.default_rng(seed)
    knots = np.array(SIGMAS)[:, None, None]
    states = rng.normal(size=(images, dim)) * knots + rng.normal(size=(images, dim)) * np.sin(knots)
    slopes = np.diff(states, axis=0) / np.diff(knots, axis=0) + 0.1 * rng.normal(size=(len(knots) - 1, images, dim))
    return torch.from_numpy(states), torch.from_numpy(slopes)


def to_line(point, start, end):
    """Distance to the line through two points, as the least squares solution of point = start + s (end - start)."""
    direction = (end - start)[:, None]
    along = np.linalg.lstsq(direction, point - start, rcond=None)[0]
    return np.linalg.norm(point - start - direction @ along)


def cost_by_definition(states, slopes, i, j, metric):
    costs = []
    for x, slope in zip(states.permute(1, 0, 2).numpy(), slopes.permute(1, 0, 2).numpy(), strict=True):
        reached = x[i] + (SIGMAS[j] - SIGMAS[i]) * slope[i]
        if metric == "dev":
            costs.append(to_line(reached, x[0], x[-1]) - to_line(x[j], x[0], x[-1]))
        else:
            costs.append(np.linalg.norm(reached - x[j], ord={"l1": 1, "l2": 2}[metric]))
    return np.mean(costs)


@pytest.mark.parametrize("metric", ["dev", "l1", "l2"])
@pytest.mark.parametrize(("images", "dim"), [(5, 1), (5, 2), (4, 12), (7, IN_CACHE // 3)])
def test_every_cost_is_its_definition(images, dim, metric):
    states, slopes = bent(images, dim)
    cost = cost_matrix(states, slopes, SIGMAS, metric)
    for i in range(len(SIGMAS)):
        for j in range(len(SIGMAS)):
            expected = cost_by_definition(states, slopes, i, j, metric) if j > i else 0.0
            assert cost[i, j].item() == pytest.approx(expected, rel=1e-11, abs=1e-11 * dim)


@pytest.mark.parametrize(("metric", "scale"), [("dev", 1), ("l1", 1), ("l2", 1), ("dev", 1e6), ("l2", 1e6)])
def test_a_move_that_the_trajectory_made_costs_nothing(metric, scale):
    """An Euler walk: to rounding of the states, where a difference of squares would be off by its square root."""
    states, slopes = record_trajectory(MIXTURE, LATENTS, SIGMAS, EULER)
    cost = cost_matrix(scale * states, scale * slopes, SIGMAS, metric)
    assert cost.diagonal(1).abs().max().item() <= 1e-12 * scale * 80


@pytest.mark.parametrize("metric", ["dev", "l1", "l2"])
def test_cost_and_images(metric):
    """The mean over images: of all, and of two parts."""
    states, slopes = bent(6, 12)
    first, second = (cost_matrix(states[:, part], slopes[:, part], SIGMAS, metric) for part in (slice(2), slice(2, 6)))
    whole = cost_matrix(states, slopes, SIGMAS, metric)
    assert torch.allclose((2 * first + 4 * second) / 6, whole, rtol=0, atol=1e-12)


def test_deviation_is_the_distance_to_the_chord():
    states, _ = bent(4, 12)
    expected = [
        np.mean([to_line(x[k], x[0], x[-1]) for x in states.permute(1, 0, 2).numpy()])
        for k in range(1, len(SIGMAS) - 1)
    ]
    assert trajectory_deviation(states).tolist() == pytest.approx(expected, rel=1e-11)


def test_a_path_to_one_point_of_the_plane():
    """By hand: from (0, 0) over (3, 4) to (10, 0), the middle lies 4 off the chord."""
    states = torch.tensor([[0.0, 0], [3, 4], [10, 0]], dtype=torch.float64)[:, None]
    assert trajectory_deviation(states).item() == pytest.approx(4.0, rel=1e-14)


@pytest.mark.parametrize(("spec", "rows"), [({"name": "euler"}, 9), ({"name": "heun"}, 18)])
def test_recorded_is_what_was_walked(spec, rows):
    solver, meter = SOLVERS.build(spec), Meter(MIXTURE)
    states, slopes = record_trajectory(meter, LATENTS, SIGMAS, solver)
    assert meter.rows == rows * len(LATENTS)
    assert states.shape == (10, len(LATENTS), 12)
    assert torch.equal(states[0], 80 * LATENTS.flatten(1))
    assert torch.equal(states[-1], integrate(MIXTURE, 80 * LATENTS, SIGMAS, solver).flatten(1))
    for sigma, x, slope in zip(SIGMAS, states, slopes, strict=False):
        denoised = MIXTURE(x.reshape(LATENTS.shape), sigma).flatten(1)
        assert torch.allclose(slope, (x - denoised) / sigma, rtol=1e-12, atol=1e-12)
