"""Single-step DPM-Solver and DPM-Solver++: every move starts afresh (Lu et al., 2022, arXiv 2206.00927, 2211.01095)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pipeline.lagrange import taylor_weights
from pipeline.methods import METHODS, Method, Pair
from pipeline.registry import require
from pipeline.solvers import SOLVERS, Evaluate, Point, State, euler_move


@SOLVERS.register("dpm_solver_pp_singlestep")
@dataclass(frozen=True)
class DPMSolverPPSinglestep:
    """Exponential integrator in lambda = -log sigma with `order` evaluations a move, inner ones at lambda + r h.

    2S is Lu et al. (2022, arXiv 2211.01095, Algorithm 1), 3S and the choices below their published code's
    (LuChengTHU/dpm-solver dpm_solver_pytorch.py).

    `predict_x0` takes the denoised as output (DPM-Solver++), otherwise the noise (DPM-Solver-2 and -3, arXiv
    2206.00927, Algorithms 1 and 2). `r1`, `r2` say where the inner points lie; r1 null is 1/2 in a move of order 2 and
    1/3 in one of order 3, and r2 is for order 3 alone.
    `variant` is how the outputs are weighed. "midpoint" takes the first and the last one, at order 2 with phi_1 / 2, at
    order 3 with phi_2; "heun" (their "taylor") integrates the polynomial through all of them. Either way order 3 needs
    r2 = 2/3: elsewhere the error of the first inner point stays, and the order is 2.
    `final_orders` are the orders of the last moves, where the evaluations do not divide by `order`. A move to 0 returns
    the denoised for one evaluation and is not one of them.
    """

    order: Literal[1, 2, 3] = 3
    predict_x0: bool = True
    variant: Literal["midpoint", "heun"] = "midpoint"
    r1: float | None = None
    r2: float = 2 / 3
    final_orders: tuple[int, ...] = ()

    one_step: ClassVar[bool] = True
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.order in (1, 2, 3), "order", self.order, "1, 2 or 3")
        require(self.variant in ("midpoint", "heun"), "variant", self.variant, "midpoint, heun")
        require(self.r1 is None or 0 < self.r1 <= 1, "r1", self.r1, "above 0, at most 1, or null")
        require(0 < self.r2 <= 1, "r2", self.r2, "above 0, at most 1")
        if self.order == 3:
            first = self._first(3)
            require(first < self.r2, "r2", self.r2, f"above r1 ({first:.3g}), at most 1")
        known = all(k in range(1, self.order + 1) for k in self.final_orders)
        require(known, "final_orders", self.final_orders, f"a list of orders, each 1 to {self.order}")

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """One evaluation, the loop's, and one fewer than the move's order."""
        del state
        here, target = points[-1], sigmas[i + 1]
        if target == 0:
            return here.denoised, None
        left = len(sigmas) - 1 - i - (sigmas[-1] == 0)
        order = self.final_orders[-left] if left <= len(self.final_orders) else self.order

        moved = euler_move(here, target)  # in either prediction
        if order == 1:
            return moved, None

        scale = taylor_weights(here.sigma, target, predict_x0=self.predict_x0)
        r1 = self._first(order)
        change_1 = self._change(denoise, here, target, r1)
        if order == 2:
            weight = scale[0] / 2 if self.variant == "midpoint" else scale[1]
            return moved + (weight / r1) * change_1, None

        change_2 = self._change(denoise, here, target, self.r2, (self.r2 / r1) * change_1)
        slope_2 = (1 / self.r2) * change_2
        if self.variant == "midpoint":
            return moved + scale[1] * slope_2, None
        slope_1 = (1 / r1) * change_1
        bend = (1 / (self.r2 - r1)) * (slope_2 - slope_1)
        return moved + scale[1] * (slope_1 - r1 * bend) + (2 * scale[2]) * bend, None

    def _first(self, order: int) -> float:
        return 1 / order if self.r1 is None else self.r1

    def _output(self, point: Point) -> Any:
        return point.denoised if self.predict_x0 else point.slope

    def _change(self, denoise: Evaluate, here: Point, target: float, r: float, slope: Any = None) -> Any:
        """The output at r of the move less the one here; on the way there the output changes by `slope`, if given."""
        sigma = target if r == 1 else here.sigma * (target / here.sigma) ** r
        x = euler_move(here, sigma)
        if slope is not None:
            x = x + taylor_weights(here.sigma, sigma, predict_x0=self.predict_x0)[1] * slope
        return self._output(Point(sigma, x, denoise(x, sigma))) - self._output(here)


def _singlestep(order: int) -> Callable[[int], Pair | None]:
    def pair(nfe: int) -> Pair | None:
        """Their split: moves of full order, then lower ones; at order 3 a full last move is split into 2 and 1."""
        if nfe < 1:
            return None
        left = nfe % order
        final = [left] if left else [2, 1] if order == 3 else []
        full = (nfe - sum(final)) // order
        solver = {"name": "dpm_solver_pp_singlestep", "order": order, "predict_x0": True, "final_orders": final}
        return solver, {"name": "logsnr", "num_steps": full + len(final), "final": "sigma_min"}

    return pair


for _order in (2, 3):
    METHODS.register(
        Method(
            name=f"dpm_solver_pp_{_order}s",
            title=f"DPM-Solver++({_order}S)",
            source="Lu et al., 2022, arXiv 2211.01095; on uniform logSNR to sigma_min: LuChengTHU/dpm-solver "
            "dpm_solver_pytorch.py get_orders_and_timesteps_for_singlestep_solver",
            pair=_singlestep(_order),
        )
    )


def _dpm_solver_2(nfe: int) -> Pair | None:
    if nfe < 2 or nfe % 2:
        return None
    return {"name": "dpm_solver_2"}, {"name": "edm", "num_steps": nfe // 2, "final": "sigma_min"}


METHODS.register(
    Method(
        name="dpm_solver_2",
        title="DPM-Solver-2",
        source="Lu et al., 2022, arXiv 2206.00927; on the polynomial schedule, rho 7: zju-pi/diff-sampler, README",
        pair=_dpm_solver_2,
    )
)
