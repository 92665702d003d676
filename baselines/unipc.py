"""UniPC: a predictor and a corrector of any order that share one evaluation (Zhao et al., 2023, arXiv 2302.04867)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.methods import METHODS, Method, Pair
from pipeline.registry import require
from pipeline.solvers import SOLVERS, Evaluate, Point, State


@SOLVERS.register("unipc")
@dataclass(frozen=True)
class UniPC:
    """UniP-p with UniC-p, multistep, in lambda = -log sigma (Zhao et al., 2023, arXiv 2302.04867, section 3).

    The loop evaluates the predicted x of a move; the next step corrects that move with this evaluation, then predicts
    from the corrected x. So a move costs one evaluation, and the last move is never corrected. The state is the x that
    the last prediction started from.

    `variant` is B(h): h ("bh1") or exp(h) - 1 ("bh2"). `predict_x0` takes the denoised as output, otherwise the noise.
    `lower_order_final` ends on moves of order 2 and 1; a move to 0 is not counted among them, since it returns the
    denoised at any order. `disable_corrector` lists moves that are not corrected, 0 for the first.

    Differs from zju-pi/diff-sampler diff-solvers-main/solvers.py unipc_sampler: no clipping; thresholding belongs to
    the denoiser.
    """

    order: Literal[1, 2, 3] = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    predict_x0: bool = True
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()

    one_step: ClassVar[bool] = False
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.order in (1, 2, 3), "order", self.order, "1, 2 or 3")
        require(self.variant in ("bh1", "bh2"), "variant", self.variant, "bh1, bh2")
        require(all(i >= 0 for i in self.disable_corrector), "disable_corrector", self.disable_corrector, "0 or more")

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """One evaluation, the loop's; it corrects move i - 1 before it predicts move i."""
        del denoise
        points, here, target = list(points), points[-1], sigmas[i + 1]
        if target == 0:
            return here.denoised, None
        x = here.x
        if state is not None and i - 1 not in self.disable_corrector:
            past = points[:-1]
            x = self._move(state, past, here.sigma, self._order(past, sigmas, i - 1), corrector=here)
        return self._move(x, points, target, self._order(points, sigmas, i)), x

    def _order(self, points: Sequence[Point], sigmas: Sequence[float], i: int) -> int:
        order = min(self.order, len(points))
        if self.lower_order_final:
            order = min(order, len(sigmas) - 1 - i - (sigmas[-1] == 0))
        return order

    def _output(self, point: Point) -> Any:
        return point.denoised if self.predict_x0 else point.slope

    def _move(self, x: Any, points: Sequence[Point], target: float, order: int, corrector: Point | None = None) -> Any:
        """UniP from `x` at the last point to `target`; UniC with `corrector`, the point evaluated there."""
        here = points[-1]
        h = math.log(here.sigma / target)
        signed = -h if self.predict_x0 else h
        phi = math.expm1(signed)
        scale = -1.0 if self.predict_x0 else -target
        base = target / here.sigma if self.predict_x0 else 1.0
        output = self._output(here)
        moved = base * x + (scale * phi) * output

        # The paper's D_m / r_m: each earlier output (r < 0), and the one at the target (r = 1), against the current.
        before = [points[-1 - k] for k in range(1, order)]
        ratios = [math.log(here.sigma / point.sigma) / h for point in before]
        differences = [(1 / r) * (self._output(p) - output) for r, p in zip(ratios, before, strict=True)]
        if corrector is not None:
            ratios.append(1.0)
            differences.append(self._output(corrector) - output)
        b = signed if self.variant == "bh1" else phi
        for weight, difference in zip(self._weights(ratios, signed, b), differences, strict=True):
            moved = moved + (scale * b * weight) * difference
        return moved

    @staticmethod
    def _weights(ratios: Sequence[float], signed: float, b: float) -> list[float]:
        """The a with sum_m a_m r_m^(k - 1) = k! h phi_(k + 1)(h) / B(h), k = 1, 2, ... (Theorem 3.1)."""
        if len(ratios) < 2:
            # One unknown: 1/2 whatever h, which keeps the order and does without the ill-conditioned quotient.
            return [0.5] * len(ratios)
        phi = math.expm1(signed) / signed - 1
        right = []
        for k in range(1, len(ratios) + 1):
            right.append(phi * math.factorial(k) / b)
            phi = phi / signed - 1 / math.factorial(k + 1)
        weights: list[float] = np.linalg.solve(np.vander(ratios, increasing=True).T, right).tolist()
        return weights


def _multistep(order: int) -> Callable[[int], Pair | None]:
    def pair(nfe: int) -> Pair | None:
        if nfe < 1:
            return None
        solver = {
            "name": "unipc",
            "order": order,
            "variant": "bh2",
            "predict_x0": True,
            "lower_order_final": True,
        }
        return solver, {"name": "logsnr", "num_steps": nfe, "final": "sigma_min"}

    return pair


for _order in (2, 3):
    METHODS.register(
        Method(
            name=f"unipc_{_order}",
            title=f"UniPC-{_order}",
            source="Zhao et al., 2023, arXiv 2302.04867; on uniform logSNR to sigma_min: zju-pi/diff-sampler, README",
            pair=_multistep(_order),
        )
    )
