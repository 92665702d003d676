"""iPNDM: Adams-Bashforth on the slope, with constant or with variable-step coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.methods import METHODS, Method, Pair
from pipeline.registry import require
from pipeline.solvers import SOLVERS, Evaluate, Point, State

# Adams-Bashforth on equal steps, newest slope first (Liu et al., 2022, arXiv 2202.09778, eq. 12 for order 4).
WEIGHTS: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def _move(points: Sequence[Point], target: float, weights: Sequence[float]) -> Any:
    here = points[-1]
    step = target - here.sigma
    moved = here.x
    for weight, point in zip(weights, reversed(points), strict=False):
        moved = moved + (step * weight) * point.slope
    return moved


@SOLVERS.register("ipndm")
@dataclass(frozen=True)
class IPNDM:
    """Adams-Bashforth with the coefficients of equal steps, whatever the steps (Zhang & Chen, 2023, arXiv 2204.13902).

    The first moves use what points there are (lower orders), where PNDM (Liu et al., 2022, arXiv 2202.09778) spends
    Runge-Kutta steps.
    """

    order: Literal[1, 2, 3, 4] = 4

    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.order in WEIGHTS, "order", self.order, "1, 2, 3 or 4")

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """One evaluation, the loop's."""
        del denoise, state
        if sigmas[i + 1] == 0:
            return points[-1].denoised, None
        return _move(points, sigmas[i + 1], WEIGHTS[min(self.order, len(points))]), None


@SOLVERS.register("ipndm_v")
@dataclass(frozen=True)
class IPNDMVariable:
    """Adams-Bashforth with coefficients for the steps as they are, as far as the published code has them right.

    `coefficients` "published" are those of zju-pi/diff-sampler diff-solvers-main/solvers.py ipndm_v_sampler, whose
    tables they reproduce. At orders 3 and 4 they are not Adams-Bashforth: see `published_weights`. "exact" ones
    integrate the interpolated slope.
    """

    order: Literal[1, 2, 3, 4] = 4
    coefficients: Literal["published", "exact"] = "published"

    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.order in WEIGHTS, "order", self.order, "1, 2, 3 or 4")
        require(self.coefficients in ("published", "exact"), "coefficients", self.coefficients, "published, exact")

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """One evaluation, the loop's."""
        del denoise, state
        target = sigmas[i + 1]
        if target == 0:
            return points[-1].denoised, None
        behind = [point.sigma for point in reversed(points)][: self.order]
        steps = [newer - older for newer, older in zip([target, *behind], behind, strict=False)]
        weights = exact_weights(steps) if self.coefficients == "exact" else published_weights(steps)
        return _move(points, target, weights), None


def exact_weights(steps: Sequence[float]) -> list[float]:
    """Adams-Bashforth weights, newest slope first, for the `steps` in sigma, the one to make first.

    They integrate the polynomial through the slopes exactly (Hairer, Norsett & Wanner, 1993, section III.5).
    """
    # The nodes in units of the step to make: 0 here, negative behind.
    nodes = [-sum(steps[1 : k + 1]) / steps[0] for k in range(len(steps))]
    moments = [1 / (power + 1) for power in range(len(steps))]
    weights: list[float] = np.linalg.solve(np.vander(nodes, increasing=True).T, moments).tolist()
    return weights


def published_weights(steps: Sequence[float]) -> list[float]:
    """The weights of zju-pi/diff-sampler's ipndm_v_sampler: exact up to order 2, then with three slips.

    In Newton's form, with the exact coefficients beside: order 3 takes (1 - u v) / 2 for (1 - u) v / 2; order 4 takes
    the same, adds where a subtraction is due, and weighs the oldest slope by the wrong ratio of steps.
    """
    weights = [1.0] + [0.0] * (len(steps) - 1)

    def add(amount: float, pattern: Sequence[float]) -> None:
        for k, value in enumerate(pattern):
            weights[k] += amount * value

    if len(steps) > 1:
        h, a = steps[:2]
        add(h / a / 2, (1, -1))
    if len(steps) > 2:
        b = steps[2]
        u, v = h / (3 * (h + a)), h * (h + a) / (a * (a + b))
        add((1 - u * v) / 2, (1, -(1 + a / b), a / b))
    if len(steps) > 3:
        c = steps[3]
        w = v * (h + a + b) / (a + b + c)
        q = a * (a + b) / (b * (b + c))
        amount = ((1 - u) / 2 + (1 - h / (2 * (h + a))) * h / (6 * (h + a + b))) * w
        add(amount, (1, -(1 + a / b + q), a / b + q * (1 + b / c), -q * a / b))
    return weights


def _ipndm(nfe: int) -> Pair | None:
    if nfe < 1:
        return None
    return {"name": "ipndm", "order": 4}, {"name": "edm", "num_steps": nfe, "final": "sigma_min"}


METHODS.register(
    Method(
        name="ipndm",
        title="iPNDM",
        source="Zhang & Chen, 2023, arXiv 2204.13902; order 4, polynomial schedule, rho 7: zju-pi/diff-sampler, README",
        pair=_ipndm,
    )
)
