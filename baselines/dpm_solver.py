"""DPM-Solver++, the multistep family 1M, 2M, 3M (Lu et al., 2022, arXiv 2211.01095)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipeline.lagrange import taylor_weights
from pipeline.methods import METHODS, Method, Pair
from pipeline.registry import require
from pipeline.solvers import SOLVERS, Evaluate, Point, State, euler_move


@SOLVERS.register("dpm_solver_pp")
@dataclass(frozen=True)
class DPMSolverPP:
    """Exponential integrator in lambda = -log sigma over the last `order` outputs.

    One move adds phi_1 m + phi_2 D1 + phi_3 D2: m the newest output, D1 and D2 its first and second differences per
    step (Lu et al., 2022, arXiv 2211.01095, Algorithm 2 for 2M; their published code for 3M).

    `predict_x0` takes the denoised as output (DPM-Solver++), otherwise the noise (DPM-Solver, arXiv 2206.00927).
    `lower_order_final` ends on moves of order 2 and 1; a move to 0 is not counted among them, since it returns the
    denoised at any order. So with a schedule that ends in 0, `lower_order_final=False` is k-diffusion's dpmpp_2m.
    `variant` is how the second order weighs D1: phi_1 / 2 ("midpoint", Algorithm 2) or phi_2 ("heun", the published
    code's "taylor").

    As published: with the divided difference f[0,1,2] of the outputs, the parabola through three of them has the second
    derivative 2 f[0,1,2] h^2 per step. The published D2 is half of that (LuChengTHU/dpm-solver and, after it,
    diffusers): 3M is of order 2 with a small constant. Kept as `third_order` "published", since every published number
    has it; "exact" integrates the parabola and has order 3.

    Differs from zju-pi/diff-sampler diff-solvers-main/solvers.py dpm_pp_sampler: no clipping; thresholding belongs to
    the denoiser.
    """

    order: Literal[1, 2, 3] = 2
    predict_x0: bool = True
    lower_order_final: bool = True
    variant: Literal["midpoint", "heun"] = "midpoint"
    third_order: Literal["published", "exact"] = "published"

    one_step: ClassVar[bool] = False
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.order in (1, 2, 3), "order", self.order, "1, 2 or 3")
        require(self.variant in ("midpoint", "heun"), "variant", self.variant, "midpoint, heun")
        require(self.third_order in ("published", "exact"), "third_order", self.third_order, "published, exact")

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """One evaluation, the loop's."""
        del denoise, state
        here, target = points[-1], sigmas[i + 1]
        if target == 0:
            return here.denoised, None
        order = min(self.order, len(points))
        if self.lower_order_final:
            order = min(order, len(sigmas) - 1 - i - (sigmas[-1] == 0))

        moved = euler_move(here, target)  # in either prediction
        if order == 1:
            return moved, None

        scale = taylor_weights(here.sigma, target, predict_x0=self.predict_x0)
        outputs = [point.denoised if self.predict_x0 else point.slope for point in reversed(points)][:order]
        h = math.log(here.sigma / target)
        r_0 = math.log(points[-2].sigma / here.sigma) / h
        slope_0 = (1 / r_0) * (outputs[0] - outputs[1])
        if order == 2:
            weight = scale[0] / 2 if self.variant == "midpoint" else scale[1]
            return moved + weight * slope_0, None

        r_1 = math.log(points[-3].sigma / points[-2].sigma) / h
        slope_1 = (1 / r_1) * (outputs[1] - outputs[2])
        bend = (1 / (r_0 + r_1)) * (slope_0 - slope_1)
        weight = 2 * scale[2] if self.third_order == "exact" else scale[2]
        return moved + scale[1] * (slope_0 + r_0 * bend) + weight * bend, None


def _multistep(order: int) -> Callable[[int], Pair | None]:
    def pair(nfe: int) -> Pair | None:
        if nfe < 1:
            return None
        solver = {"name": "dpm_solver_pp", "order": order, "predict_x0": True, "lower_order_final": True}
        return solver, {"name": "logsnr", "num_steps": nfe, "final": "sigma_min"}

    return pair


for _order in (2, 3):
    METHODS.register(
        Method(
            name=f"dpm_solver_pp_{_order}m",
            title=f"DPM-Solver++({_order}M)",
            source="Lu et al., 2022, arXiv 2211.01095; on uniform logSNR to sigma_min: zju-pi/diff-sampler, README",
            pair=_multistep(_order),
        )
    )
