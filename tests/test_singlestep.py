from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from baselines.dpm_solver_singlestep import DPMSolverPPSinglestep
from pipeline.methods import METHODS
from pipeline.sampler import integrate, trace
from pipeline.schedules import EDM, SCHEDULES, LogSNR
from pipeline.solvers import SOLVERS, Point, Solver
from tests.conformance_problem import LATENTS, MIXTURE

GRIDS = {
    "to-sigma-min": LogSNR(5, final="sigma_min").sigmas().tolist(),
    "to-zero": EDM(5).sigmas().tolist(),
    "irregular": [80.0, 11.0, 9.0, 0.3, 0.0],
}
every_grid = pytest.mark.parametrize("sigmas", GRIDS.values(), ids=GRIDS.keys())


def samples(solver: Solver, sigmas: list[float], x: Any = None) -> torch.Tensor:
    end: torch.Tensor = integrate(MIXTURE, sigmas[0] * LATENTS if x is None else x, sigmas, solver)
    return end


def assert_same(one: Solver, other: Solver, sigmas: list[float]) -> None:
    assert (samples(one, sigmas) - samples(other, sigmas)).abs().max().item() < 1e-10
    stages = [[stage.sigma for stage in trace(solver, sigmas).stages] for solver in (one, other)]
    assert stages[0] == pytest.approx(stages[1], rel=1e-12)


# The same method under two names ----------------------------------------------------------------------------------


@every_grid
@pytest.mark.parametrize("r", [0.2, 0.5, 0.9, 1.0])
def test_dpm_solver_2_is_the_single_step_solver_in_noise_prediction(sigmas, r):
    other = DPMSolverPPSinglestep(order=2, predict_x0=False, r1=r)
    assert_same(SOLVERS.build({"name": "dpm_solver_2", "r": r}), other, sigmas)


@every_grid
def test_dpm_solver_2_with_its_second_point_at_the_end_is_heun(sigmas):
    heun = SOLVERS.build({"name": "heun"})
    assert trace(SOLVERS.build({"name": "dpm_solver_2", "r": 1.0}), sigmas).digest == trace(heun, sigmas).digest


@every_grid
@pytest.mark.parametrize("predict_x0", [True, False])
def test_first_order_is_euler_in_either_prediction(sigmas, predict_x0):
    solver = DPMSolverPPSinglestep(order=1, predict_x0=predict_x0)
    assert trace(solver, sigmas).digest == trace(SOLVERS.build({"name": "euler"}), sigmas).digest


@pytest.mark.parametrize("order", [1, 2, 3])
def test_outputs_that_do_not_change_leave_nothing_to_predict(order):
    """With D constant the path is a straight line, which every order walks exactly in data prediction."""
    for variant in ("midpoint", "heun"):
        solver = DPMSolverPPSinglestep(order=order, variant=variant)
        assert integrate(lambda x, s: 2.0, 5.0, [8.0, 3.0, 0.5], solver) == pytest.approx(2 + 3 * 0.5 / 8)


# Closed forms -----------------------------------------------------------------------------------------------------


@given(st.floats(0.1, 50), st.floats(0.05, 0.95), st.floats(0.05, 1), st.floats(0.01, 10))
def test_2s_is_the_published_algorithm(sigma, ratio, r, variance):
    """Lu et al., 2022, arXiv 2211.01095, Algorithm 1, with alpha = 1, on data N(0, variance)."""
    denoise = lambda x, s: x * variance / (s**2 + variance)  # noqa: E731  # a formula
    target, h, x = sigma * ratio, -math.log(ratio), 1.7
    middle = sigma * math.exp(-r * h)
    u = middle / sigma * x - (math.exp(-r * h) - 1) * denoise(x, sigma)
    output = (1 - 1 / (2 * r)) * denoise(x, sigma) + 1 / (2 * r) * denoise(u, middle)
    expected = target / sigma * x - (math.exp(-h) - 1) * output
    solver = DPMSolverPPSinglestep(order=2, r1=r)
    assert integrate(denoise, x, [sigma, target], solver) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@given(st.floats(0.1, 50), st.floats(0.05, 0.95), st.floats(0.01, 10))
def test_dpm_solver_3_is_the_published_algorithm(sigma, ratio, variance):
    """Lu et al., 2022, arXiv 2206.00927, Algorithm 2, with alpha = 1: r1 = 1/3, r2 = 2/3, in the noise."""
    noise = lambda x, s: x * s / (s**2 + variance)  # noqa: E731  # a formula
    h, x = -math.log(ratio), 1.7
    first, second, target = (sigma * math.exp(-r * h) for r in (1 / 3, 2 / 3, 1))
    e0 = noise(x, sigma)
    u1 = x - first * math.expm1(h / 3) * e0
    d1 = noise(u1, first) - e0
    u2 = x - second * math.expm1(2 * h / 3) * e0 - 2 * second * (math.expm1(2 * h / 3) / (2 * h / 3) - 1) * d1
    d2 = noise(u2, second) - e0
    expected = x - target * math.expm1(h) * e0 - 1.5 * target * (math.expm1(h) / h - 1) * d2
    solver = DPMSolverPPSinglestep(order=3, predict_x0=False)
    got = integrate(lambda x, s: x - s * noise(x, s), x, [sigma, target], solver)
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-11)


# For which powers of log sigma a move is exact: the outputs are theirs and do not depend on x.
DEGREES = [
    ("midpoint", 2, None, 2 / 3, 0),
    ("heun", 2, None, 2 / 3, 1),
    ("heun", 2, 0.3, 2 / 3, 1),
    ("midpoint", 3, None, 2 / 3, 1),
    ("heun", 3, None, 2 / 3, 2),
    ("heun", 3, 0.2, 0.9, 2),
]


@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize(("variant", "order", "r1", "r2", "degree"), DEGREES)
def test_outputs_that_are_polynomials_are_integrated_exactly(variant, order, r1, r2, degree, predict_x0):
    solver = DPMSolverPPSinglestep(order=order, predict_x0=predict_x0, variant=variant, r1=r1, r2=r2)
    sigma, target = 6.0, 1.5
    errors = []
    for power in range(degree + 2):
        if predict_x0:
            change, _ = quad(lambda r, power=power: math.log(r) ** power, 1 / sigma, 1 / target, epsrel=1e-12)
            expected = target * (1 / sigma + change)
            denoise = lambda x, s, power=power: (-math.log(s)) ** power  # noqa: E731  # a formula
        else:
            change, _ = quad(lambda s, power=power: math.log(s) ** power, sigma, target, epsrel=1e-12)
            expected = 1 + change
            denoise = lambda x, s, power=power: x - s * math.log(s) ** power  # noqa: E731  # a formula
        errors.append(abs(integrate(denoise, 1.0, [sigma, target], solver) - expected))
    assert max(errors[:-1]) < 1e-11
    assert errors[-1] > 1e-4, "one power more is beyond it"


def observed_order(solver: Solver) -> float:
    """On data N(0, 1/2), whose path is known."""
    path = lambda s: math.sqrt((s**2 + 0.5) / 100.5)  # noqa: E731  # a formula
    errors = []
    for num_steps in (40, 80):
        sigmas = LogSNR(num_steps, sigma_min=0.3, sigma_max=10.0, final="sigma_min").sigmas().tolist()
        end = integrate(lambda x, s: x * 0.5 / (s**2 + 0.5), path(10.0), sigmas, solver)
        errors.append(abs(end - path(0.3)))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("variant", ["midpoint", "heun"])
@pytest.mark.parametrize("predict_x0", [True, False])
@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"order": 1}, 1),
        ({"order": 2}, 2),
        ({"order": 2, "r1": 0.8}, 2),
        ({"order": 3}, 3),
        ({"order": 3, "r1": 0.5}, 3),
        ({"order": 3, "r2": 0.9}, 2),
    ],
)
def test_order(options, order, predict_x0, variant):
    """Order 3 hangs on r2 = 2/3."""
    solver = DPMSolverPPSinglestep(predict_x0=predict_x0, variant=variant, **options)
    assert observed_order(solver) == pytest.approx(order, abs=0.3)


# Where it evaluates -----------------------------------------------------------------------------------------------


def evaluated(solver: Solver, sigmas: list[float]) -> list[float]:
    return [stage.sigma for stage in trace(solver, sigmas).stages]


def test_inner_points_are_uniform_in_log_sigma():
    expected = [16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25]
    assert evaluated(DPMSolverPPSinglestep(order=3), [16.0, 2.0, 0.25, 0.0]) == pytest.approx(expected, rel=1e-12)
    told = evaluated(DPMSolverPPSinglestep(order=3, r1=0.25, r2=0.75), [16.0, 1.0])
    assert told == pytest.approx([16.0, 8.0, 2.0], rel=1e-12)
    assert evaluated(DPMSolverPPSinglestep(order=2), [16.0, 1.0]) == pytest.approx([16.0, 4.0], rel=1e-12)
    assert evaluated(SOLVERS.build({"name": "dpm_solver_2", "r": 0.25}), [16.0, 1.0]) == pytest.approx([16.0, 8.0])


@pytest.mark.parametrize("end", [[], [0.0]])
def test_final_orders_are_those_of_the_last_moves_before_sigma_min(end):
    """A walk with them is three walks one after the other; r1 follows the order of each move."""
    sigmas = [80.0, 20.0, 7.0, 2.0, 0.1]
    whole = samples(DPMSolverPPSinglestep(order=3, final_orders=(2, 1)), sigmas + end)
    parts = None
    for order, part in ((3, sigmas[:3]), (2, sigmas[2:4]), (1, sigmas[3:] + end)):
        parts = samples(DPMSolverPPSinglestep(order=order), part, parts)
    assert (whole - parts).abs().max().item() < 1e-12


def test_final_orders_beyond_the_walk_are_not_made():
    solver = DPMSolverPPSinglestep(order=3, final_orders=(3, 2, 1))
    assert len(trace(solver, [80.0, 1.0])) == 1
    assert len(trace(solver, [80.0, 9.0, 1.0, 0.0])) == 2 + 1 + 1


def orders(name: str, nfe: int) -> list[int]:
    """The evaluations of each move of a method."""
    pair = METHODS.get(name).pair(nfe)
    assert pair is not None
    sigmas = SCHEDULES.build(pair[1]).sigmas().tolist()
    stages = evaluated(SOLVERS.build(pair[0]), sigmas)
    return [sum(high >= sigma > low for sigma in stages) for high, low in pairwise(sigmas)]


def test_methods_split_their_evaluations_as_published():
    """LuChengTHU/dpm-solver, get_orders_and_timesteps_for_singlestep_solver."""
    third = {1: [1], 2: [2], 3: [2, 1], 4: [3, 1], 5: [3, 2], 6: [3, 2, 1], 7: [3, 3, 1], 8: [3, 3, 2], 9: [3, 3, 2, 1]}
    second = {1: [1], 2: [2], 3: [2, 1], 4: [2, 2], 5: [2, 2, 1], 8: [2] * 4}
    assert {nfe: orders("dpm_solver_pp_3s", nfe) for nfe in third} == third
    assert {nfe: orders("dpm_solver_pp_2s", nfe) for nfe in second} == second


def test_dpm_solver_2_has_no_odd_budgets():
    assert [nfe for nfe in range(7) if METHODS.get("dpm_solver_2").pair(nfe)] == [2, 4, 6]
    assert orders("dpm_solver_2", 6) == [2, 2, 2]


@pytest.mark.parametrize(
    "spec", [{"name": "dpm_solver_2"}, {"name": "dpm_solver_pp_singlestep"}], ids=lambda s: s["name"]
)
def test_earlier_points_do_not_matter(spec):
    solver: Solver = SOLVERS.build(spec)
    assert solver.one_step
    here = Point(5.0, 4.0, 1.0)
    halve: Callable[[float, float], float] = lambda x, s: x / 2  # noqa: E731  # a formula
    alone = solver.step(halve, [here], [9.0, 5.0, 1.0], 1, None)
    assert solver.step(halve, [Point(9.0, -3.0, 8.0), here], [9.0, 5.0, 1.0], 1, None) == alone
