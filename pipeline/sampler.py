"""A method is a pair, solver x schedule, and this is the only sampling loop there is.

The loop owns the first evaluation of every step, the history of points and the analytical first step, so that a solver
is only its formula and none of these exists twice.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.plan import Plan, Tape
from pipeline.schedules import Schedule
from pipeline.solvers import HISTORY, Evaluate, Point, Solver


@runtime_checkable
class Calibrated(Protocol):
    """A solver that decides something from the data: once, on fixed noise, and then frozen (SDM's switch)."""

    @property
    def calibration_images(self) -> int: ...

    def calibrate(self, denoise: Denoiser, noise: Tensor, sigmas: Sequence[float]) -> Solver:
        """The same solver with its decision taken. `noise`: (B, C, H, W) unit normal."""
        ...


def integrate(
    denoise: Evaluate,
    x: Any,
    sigmas: Sequence[float],
    solver: Solver,
    *,
    afs: bool = False,
    observe: Callable[[Point], object] | None = None,
    carry: Callable[[Any], Any] | None = None,
) -> Any:
    """Move `x` from sigmas[0] to sigmas[-1].

    Args:
        denoise: D(x; sigma) over tensors or formal vectors.
        x: noise times sigmas[0], (B, C, H, W) or formal.
        sigmas: (N + 1,) strictly decreasing.
        solver: moves x, one step of the schedule at a time.
        afs: take the first point from the closed form D = x - sigma x / sqrt(1 + sigma^2) instead of the network
            (analytical first step; Dockhorn et al., 2022, arXiv 2210.05475).
        observe: called with each evaluated point of the schedule.
        carry: called with the solver's state after each step; the tape uses it.
    """
    points: deque[Point] = deque(maxlen=HISTORY)
    state: Any = None
    for i, sigma in enumerate(sigmas[:-1]):
        free = afs and i == 0
        denoised = (1 - sigma / math.sqrt(1 + sigma**2)) * x if free else denoise(x, sigma)
        points.append(Point(sigma, x, denoised))
        if observe is not None:
            observe(points[-1])
        x, state = solver.step(denoise, points, sigmas, i, state)
        if carry is not None:
            state = carry(state)
    return x


def trace(solver: Solver, sigmas: Sequence[float], *, afs: bool = False) -> Plan:
    """Write the sampler down as a `Plan`; no network is needed, since only the sigmas decide the coefficients."""
    tape = Tape()
    values = tuple(float(sigma) for sigma in sigmas)
    end = integrate(tape.denoise, values[0] * tape.noise(), values, solver, afs=afs, carry=tape.carry)
    return tape.plan(end, values)


@dataclass(frozen=True)
class Sampler:
    """A solver on a schedule. `prepare` learns, calibrates and traces; the result no longer depends on any batch."""

    solver: Solver
    schedule: Schedule
    afs: bool = False

    @property
    def calibration_images(self) -> int:
        """How many unit-normal images `prepare` wants: the larger of what the two parts want, 0 if neither does."""
        solver = self.solver.calibration_images if isinstance(self.solver, Calibrated) else 0
        return max(self.schedule.calibration_images, solver)

    def prepare(self, denoise: Denoiser, noise: Tensor) -> tuple[Sampler, Plan]:
        """Place the sigmas, take the solver's decision, trace. `noise`: (`calibration_images`, C, H, W) unit normal."""
        sigmas = self.schedule.sigmas(denoise, noise[: self.schedule.calibration_images])
        solver = self.solver
        if isinstance(solver, Calibrated):
            solver = solver.calibrate(denoise, noise[: solver.calibration_images], sigmas.tolist())
        return replace(self, solver=solver), trace(solver, sigmas.tolist(), afs=self.afs)
