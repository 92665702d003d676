"""LMS: Adams-Bashforth with the weights of the steps as they are, as k-diffusion has it (Katherine Crowson)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipeline.lagrange import adams_bashforth
from pipeline.methods import METHODS, Method, Pair
from pipeline.registry import require
from pipeline.solvers import SOLVERS, Evaluate, Point, State, along_slopes, euler_move


@SOLVERS.register("lms")
@dataclass(frozen=True)
class LinearMultistep:
    """Adams-Bashforth in sigma through the last `order` slopes: sample_lms of crowsonkb/k-diffusion.

    The first moves use what points there are. `extrapolate_to_zero` makes a move to 0 like every other one.

    Differs from crowsonkb/k-diffusion k_diffusion/sampling.py sample_lms: a move to 0 returns the denoised, as it does
    for every solver here, unless `extrapolate_to_zero` asks for theirs.
    """

    order: Literal[1, 2, 3, 4] = 4
    extrapolate_to_zero: bool = False

    one_step: ClassVar[bool] = False
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.order in (1, 2, 3, 4), "order", self.order, "1, 2, 3 or 4")

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """One evaluation, the loop's."""
        del denoise, state
        here, target = points[-1], sigmas[i + 1]
        used = list(points)[-self.order :]
        if len(used) == 1 or (target == 0 and not self.extrapolate_to_zero):
            return euler_move(here, target), None
        return along_slopes(used, adams_bashforth([point.sigma for point in reversed(used)], target)), None


def _lms(nfe: int) -> Pair | None:
    if nfe < 1:
        return None
    solver = {"name": "lms", "order": 4, "extrapolate_to_zero": True}
    return solver, {"name": "edm", "num_steps": nfe, "final": "zero"}


METHODS.register(
    Method(
        name="lms",
        title="LMS",
        source="crowsonkb/k-diffusion, README and sample.py: order 4 on the sigmas of Karras et al., 2022, "
        "arXiv 2206.00364, rho 7",
        pair=_lms,
    )
)
