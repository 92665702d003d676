"""iPNDM: Adams-Bashforth on the slope, with constant or with variable-step coefficients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pipeline.lagrange import adams_bashforth
from pipeline.methods import METHODS, Method, Pair
from pipeline.registry import require
from pipeline.solvers import SOLVERS, Evaluate, Point, State, along_slopes

# Adams-Bashforth on equal steps, newest slope first (Liu et al., 2022, arXiv 2202.09778, eq. 12 for order 4).
WEIGHTS: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@SOLVERS.register("ipndm")
@dataclass(frozen=True)
class IPNDM:
    """Adams-Bashforth with the coefficients of equal steps, whatever the steps (Zhang & Chen, 2023, arXiv 2204.13902).

    The first moves use what points there are (lower orders), where PNDM (Liu et al., 2022, arXiv 2202.09778) spends
    Runge-Kutta steps.
    """

    order: Literal[1, 2, 3, 4] = 4

    one_step: ClassVar[bool] = False
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
        step = sigmas[i + 1] - points[-1].sigma
        return along_slopes(points, [step * weight for weight in WEIGHTS[min(self.order, len(points))]]), None


@SOLVERS.register("ipndm_v")
@dataclass(frozen=True)
class IPNDMVariable:
    """Adams-Bashforth with coefficients for the steps as they are, as far as the published code has them right.

    As published: `coefficients` "published" are those of zju-pi/diff-sampler diff-solvers-main/solvers.py
    ipndm_v_sampler, whose tables have them. At orders 3 and 4 they are not Adams-Bashforth: see `published_weights`.
    "exact" ones integrate the polynomial through the slopes, as solver lms does.
    """

    order: Literal[1, 2, 3, 4] = 4
    coefficients: Literal["published", "exact"] = "published"

    one_step: ClassVar[bool] = False
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
        if self.coefficients == "exact":
            return along_slopes(points, adams_bashforth(behind, target)), None
        steps = [newer - older for newer, older in pairwise([target, *behind])]
        return along_slopes(points, [steps[0] * weight for weight in published_weights(steps)]), None


def published_weights(steps: Sequence[float]) -> list[float]:
    """The weights of zju-pi/diff-sampler's ipndm_v_sampler: exact up to order 2, then with three slips.

    Newest slope first, per unit of the step to make; `steps` in sigma, that one first.

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


def _fourth_order(name: str) -> Callable[[int], Pair | None]:
    def pair(nfe: int) -> Pair | None:
        if nfe < 1:
            return None
        return {"name": name, "order": 4}, {"name": "edm", "num_steps": nfe, "final": "sigma_min"}

    return pair


for _name, _title, _paper in (
    ("ipndm", "iPNDM", "Zhang & Chen, 2023, arXiv 2204.13902"),
    ("ipndm_v", "iPNDM_v", "zju-pi/diff-sampler, after Zhang & Chen, 2023, arXiv 2204.13902"),
):
    METHODS.register(
        Method(
            name=_name,
            title=_title,
            source=f"{_paper}; order 4, polynomial schedule, rho 7: zju-pi/diff-sampler, README",
            pair=_fourth_order(_name),
        )
    )
