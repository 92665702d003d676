"""What the comparisons share: the sigmas, our side of each, and what "equal" means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.churn import Churn
from pipeline.denoiser import Meter
from pipeline.sampler import trace
from pipeline.schedules import EDM, LogSNR
from pipeline.solvers import SOLVERS, Evaluate, Point, Solver, State
from tests.conformance_problem import LATENTS, MIXTURE

# Samples at the last sigma, and the network calls that they took.
Result = tuple[Tensor, int]

TO_ZERO: dict[str, list[float]] = {
    "edm-6": EDM(6).sigmas().tolist(),
    "edm-11": EDM(11).sigmas().tolist(),
    "logsnr-8": LogSNR(8).sigmas().tolist(),
    "irregular": [80.0, 11.0, 9.0, 2.0, 0.3, 0.22, 0.05, 0.0],
    "two-moves": [80.0, 1.5, 0.0],
}
TO_SIGMA_MIN: dict[str, list[float]] = {
    "edm-7-to-sigma-min": EDM(7, final="sigma_min").sigmas().tolist(),
    "logsnr-9-to-sigma-min": LogSNR(9, final="sigma_min").sigmas().tolist(),
    "irregular-to-sigma-min": [80.0, 11.0, 9.0, 2.0, 0.3, 0.22, 0.05],
}


class Replaced(ModuleType):
    """A module with some names replaced, to stand in its place in one module of a peer."""

    def __init__(self, module: ModuleType, **names: object) -> None:
        super().__init__(module.__name__)
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@dataclass(frozen=True)
class InTurn:
    """A solver for each move: what a peer does that lowers its order where ours does not."""

    solvers: tuple[Solver, ...]

    order: ClassVar[int] = 1
    one_step: ClassVar[bool] = False

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        return self.solvers[i].step(denoise, points, sigmas, i, state)


def in_turn(specs: Sequence[dict[str, Any]]) -> InTurn:
    return InTurn(tuple(SOLVERS.build(spec) for spec in specs))


def ours(
    solver: Solver | dict[str, Any],
    sigmas: Sequence[float],
    churn: Churn | None = None,
    fresh: Callable[[int], Tensor] | None = None,
) -> Result:
    """Our samples on these sigmas, by the plan."""
    meter = Meter(MIXTURE)
    built = SOLVERS.build(solver) if isinstance(solver, dict) else solver
    return trace(built, sigmas, churn=churn).run(meter, LATENTS, fresh), meter.calls


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    assert found.dtype == expected.dtype == torch.float64
    return float((found - expected).abs().max() / expected.abs().max())


def check(found: Result, expected: Result, tolerance: float) -> None:
    """As many network calls, and samples that differ by no more than `tolerance` of the largest value."""
    assert found[1] == expected[1], "network calls"
    assert error(found[0], expected[0]) <= tolerance
