"""DPM-Solver and DPM-Solver++ in single steps against huggingface/diffusers' scheduler, in double precision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from baselines.dpm_solver_singlestep import DPMSolverPPSinglestep
from pipeline.lagrange import taylor_weights
from pipeline.schedules import EDM
from pipeline.solvers import Evaluate, Point, State, euler_move
from tests.peers.comparison import TO_SIGMA_MIN, check, error, ours
from tests.peers.diffusers_loop import OLD_HABITS, TOLERANCE, run

pytestmark = OLD_HABITS

# By order, where in a move the inner points lie by default.
PLACES = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}
# (order, orders of the last moves, whether one more move goes to 0): how they split the evaluations that are left.
SPLITS = [
    *((3, tail, False) for tail in [(2, 1), (1,), (2,)]),
    *((3, tail, True) for tail in [(2,), (), (1,)]),
    *((2, tail, zero) for tail, zero in [((1, 1), False), ((1,), False), ((1,), True), ((), True)]),
    *((1, (), zero) for zero in (False, True)),
]


def theirs(build, sigmas, orders, places=PLACES, **config):
    """Their list of sigmas has the inner points in it, and every evaluation is a step."""
    whole = []
    for (start, end), order in itertools.zip_longest(itertools.pairwise(sigmas), orders, fillvalue=1):
        whole += [start, *(start ** (1 - r) * end**r for r in places[order])]
    return run(build("DPMSolverSinglestepScheduler", **config), [*whole, sigmas[-1]])


@pytest.mark.parametrize(
    ("order", "tail", "zero", "algorithm"),
    [
        *((*split, "dpmsolver++") for split in SPLITS),
        *((*split, "dpmsolver") for split in SPLITS if not split[-1]),  # to 0 they refuse noise prediction
    ],
)
def test_splits(build, order, tail, zero, algorithm):
    """In both variants, but for their midpoint of order 3: see the next test."""
    orders, final = [order] * 3 + list(tail), "zero" if zero else "sigma_min"
    sigmas = EDM(len(orders) + zero, final=final).sigmas().tolist()
    config = {"solver_order": order, "algorithm_type": algorithm, "final_sigmas_type": final, "lower_order_final": True}
    spec = {"name": "dpm_solver_pp_singlestep", "order": order, "final_orders": list(tail)}
    for variant in ("midpoint", "heun") if order < 3 else ("heun",):
        found = ours(spec | {"variant": variant, "predict_x0": algorithm == "dpmsolver++"}, sigmas)
        check(found, theirs(build, sigmas, orders, solver_type=variant, **config), TOLERANCE)


@dataclass(frozen=True)
class InnerMidpoint:
    """Their midpoint of order 3: the second inner point by 2S midpoint, with phi_1 / 2 where the paper has phi_2."""

    published: DPMSolverPPSinglestep

    order: ClassVar[int] = 3
    one_step: ClassVar[bool] = True

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        here, target, way = points[-1], sigmas[i + 1], self.published
        sigma = here.sigma ** (1 - way.r2) * target**way.r2
        x, _ = replace(way, order=2, r1=way.r1 / way.r2).step(denoise, points, [here.sigma, sigma], 0, None)
        there = Point(sigma, x, denoise(x, sigma))
        change = there.denoised - here.denoised if way.predict_x0 else there.slope - here.slope
        weight = taylor_weights(here.sigma, target, predict_x0=way.predict_x0)[1] / way.r2
        return euler_move(here, target) + weight * change, None


@pytest.mark.parametrize("sigmas", TO_SIGMA_MIN.values(), ids=TO_SIGMA_MIN.keys())
@pytest.mark.parametrize(
    ("order", "places"), [(2, (0.3,)), (2, (0.8,)), (3, PLACES[3]), (3, (0.4, 0.9)), (3, (0.2, 0.5))], ids=str
)
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "dpmsolver"])
def test_inner_points_anywhere(build, order, places, variant, algorithm, sigmas):
    config = {"solver_order": order, "algorithm_type": algorithm, "solver_type": variant}
    orders = [order] * (len(sigmas) - 1)
    expected = theirs(build, sigmas, orders, {order: places}, final_sigmas_type="sigma_min", **config)
    ratios = {"r1": places[0]} | ({"r2": places[1]} if order == 3 else {})
    solver = DPMSolverPPSinglestep(order, algorithm == "dpmsolver++", variant, **ratios)
    if order == 3 and variant == "midpoint":
        assert error(ours(solver, sigmas)[0], expected[0]) > 1e-4
        solver = InnerMidpoint(solver)
    check(ours(solver, sigmas), expected, TOLERANCE)
