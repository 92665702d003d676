"""GITS: exact shortest paths, the published schedule, what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from baselines.gits import GITS, ShortestPaths, chord_distance, shortest_path
from pipeline.denoiser import Meter
from pipeline.registry import SpecError
from tests.conformance_problem import CALIBRATION_LATENTS, MIXTURE


def brute_force(cost: np.ndarray, num_steps: int, coeff: float) -> tuple[float, list[int]]:
    last = len(cost) - 1
    paths = [[0, *inner, last] for inner in itertools.combinations(range(1, last), num_steps - 1)]
    priced = [(sum(coeff**m * cost[a, b] for m, (a, b) in enumerate(itertools.pairwise(p))), p) for p in paths]
    return min(priced)


@pytest.mark.parametrize("seed", range(12))
def test_shortest_path_is_exact(seed):
    generator = np.random.default_rng(seed)
    nodes = int(generator.integers(2, 9))
    cost = generator.normal(0.5, 1.0, (nodes, nodes))  # negative costs happen: "dev" is signed
    coeff = float(generator.choice([0.8, 1.0, 1.15]))
    paths = ShortestPaths(cost, coeff)
    for num_steps in range(1, nodes):
        assert paths.indices(num_steps) == brute_force(cost, num_steps, coeff)[1]
        assert shortest_path(torch.from_numpy(cost), num_steps, coeff) == paths.indices(num_steps)


def test_of_equal_paths_the_first_is_taken():
    assert shortest_path(np.zeros((7, 7)), 4, 1.15) == [0, 1, 2, 3, 6]


@pytest.mark.parametrize("num_steps", [0, 7])
def test_shortest_path_names_the_range(num_steps):
    with pytest.raises(SpecError, match=r"num_steps.*1 to 6"):
        shortest_path(np.zeros((7, 7)), num_steps, 1.0)


def test_published_schedule_lies_on_the_teacher_grid():
    """CIFAR-10, iPNDM, 6 NFE, as printed in the README of zju-pi/diff-sampler, gits-main."""
    grid = GITS(num_steps=6).teacher_sigmas()
    assert len(grid) == 61
    picked = [grid[j] for j in (0, 19, 27, 33, 39, 45, 60)]
    assert picked == pytest.approx([80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002], rel=1e-4, abs=5e-5)


@pytest.mark.parametrize(("final", "most"), [("sigma_min", 12), ("zero", 13)])
def test_every_budget_up_to_the_teacher_moves(final, most):
    for num_steps in range(1, most + 1):
        schedule = GITS(num_steps=num_steps, teacher_steps=12, warmup=8, final=final)
        sigmas = schedule.sigmas(MIXTURE, CALIBRATION_LATENTS[:8]).tolist()
        assert len(sigmas) == num_steps + 1
        assert (sigmas[0], sigmas[-1]) == (80.0, 0.0 if final == "zero" else 0.002)
    with pytest.raises(SpecError, match=rf"num_steps.*1 to {most}"):
        GITS(num_steps=most + 1, teacher_steps=12, final=final)


def test_one_calibration_costs_the_teacher_alone():
    meter = Meter(MIXTURE)
    GITS(num_steps=5, teacher_steps=20, warmup=50).sigmas(meter, CALIBRATION_LATENTS[:50])
    assert meter.rows == 20 * 50


def test_cost_does_not_depend_on_how_the_images_are_split(monkeypatch):
    schedule = GITS(num_steps=5, teacher_steps=20, warmup=50)
    whole = schedule.cost(MIXTURE, CALIBRATION_LATENTS[:50])
    monkeypatch.setattr("baselines.gits.IMAGES_AT_ONCE", 7)
    assert torch.allclose(schedule.cost(MIXTURE, CALIBRATION_LATENTS[:50]), whole, rtol=0, atol=1e-12)


def test_distance_to_the_chord():
    start, end = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64)
    assert chord_distance(torch.tensor([[3.0, 4.0, 7.0]], dtype=torch.float64), start, end).item() == 5.0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"teacher": {"name": "ipndn"}}, r"teacher.*did you mean 'ipndm'"),
        ({"teacher": {"name": "switch"}}, r"teacher.*needs calibration"),
        ({"coeff": 0.0}, "coeff"),
        ({"sigma_min": 90.0}, "sigma_min"),
    ],
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(SpecError, match=message):
        GITS(num_steps=5, **spec)


def test_it_needs_a_denoiser_and_noise():
    with pytest.raises(SpecError, match="denoiser"):
        GITS(num_steps=5).sigmas()
