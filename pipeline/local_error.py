"""What a step really costs: the true local error of Euler steps, beside the estimate and the bound that SDM goes by.

SDM sizes its steps by eta, a secant's guess at the local error (Jo & Choi, 2026, arXiv 2602.12624, eq. 13). Theorem 3.2
asks for more: the supremum of the slope's derivative along the true path. Both are checked here against a fine solve of
the probability flow from the same states. It costs network rows, hundreds an image for a short walk.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.registry import require
from pipeline.sampler import integrate
from pipeline.sdm import SDM
from pipeline.solvers import Euler, Heun, Point, Solver, euler_move
from pipeline.wasserstein import batch_norm

Verdict = Literal["kept", "broken", "inconclusive", "not verified"]
# Two fine solves agree when they differ by less than this share of the error that they measure.
AGREEMENT = 1e-3
# And when the steepest slopes that they met differ by less than this share: a bound needs no third digit.
STEEPEST_AGREEMENT = 0.03
# How often the substeps are doubled at most: solves that do not agree by then will not.
MOST_DOUBLINGS = 6
# The fine solve's coordinate is EDM's own, sigma^(1/7), in which a path bends evenly (Karras et al., 2022, eq. 5).
RHO = 7.0


class StepError(NamedTuple):
    """One Euler step's local error, estimated, bounded and true; all in image L2 norm.

    `eta` is the estimate mean |x_Heun - x_Euler|. `error` is the true mean |x_Euler - x_true| over the batch, with its
    `standard_error`; `rms` is sqrt(mean |x_Euler - x_true|^2), which bounds W2 (Theorem 3.2). `supremum_bound` is
    step^2 S / 2 with S the largest mean |dv/dsigma| on the true path (eq. 12), to a few hundredths; means as the
    published code takes them, so that it bounds `error`, while `rms` may exceed it. `uncertainty` is what the last two
    fine solves still differed by. `allowed` is the budget, if there is one.

    `error` to `uncertainty` are None for a move to 0: below sigma_min the network was never trained.
    """

    sigma: float
    target: float
    eta: float
    error: float | None
    standard_error: float | None
    rms: float | None
    supremum_bound: float | None
    uncertainty: float | None
    allowed: float | None

    @property
    def verdict(self) -> Verdict:
        """Whether error +- (2 standard errors + uncertainty) lies within `allowed`, above it, or astride.

        "not verified" where there is no budget, or no true error.
        """
        if self.error is None or self.standard_error is None or self.uncertainty is None or self.allowed is None:
            return "not verified"
        margin = 2 * self.standard_error + self.uncertainty
        if self.error + margin <= self.allowed:
            return "kept"
        return "broken" if self.error - margin > self.allowed else "inconclusive"


def local_errors(
    denoise: Denoiser,
    noise: Tensor,
    sigmas: Sequence[float],
    *,
    allowed: Callable[[float], float] | None = None,
    mover: Solver | None = None,
    fine_steps: int = 4,
) -> list[StepError]:
    """The local error of an Euler step from each state of a walk on `sigmas`, one entry a step.

    The fine solve is the classical Runge-Kutta rule of order 4 in sigma^(1/7), its substeps doubled until two solves
    agree (`AGREEMENT`, `STEEPEST_AGREEMENT`), until doubling helps no more (rounding), or `MOST_DOUBLINGS` times.

    Args:
        denoise: D(x; sigma); asked in the dtype of `noise`, while the path is kept in float64.
        noise: the calibration batch, (B, C, H, W) unit normal, B at least 2.
        sigmas: (N + 1,) strictly decreasing, ending in 0 or not.
        allowed: the error budget of a step that starts at sigma (`Walk.allowed`).
        mover: what takes the walk from state to state: Euler, if nothing else is given.
        fine_steps: substeps of the first fine solve, 2 or more.

    Raises:
        SpecError: a batch of one, or fewer than two substeps.
    """
    require(len(noise) >= 2, "calibration_images", len(noise), "2 or more: one image has no standard error")
    require(fine_steps >= 2, "fine_steps", fine_steps, "2 or more")
    steps: list[StepError] = []

    def exact(x: Tensor, sigma: float) -> Tensor:
        return denoise(x.to(noise.dtype), sigma).to(torch.float64)

    def measure(here: Point) -> None:
        target = sigmas[len(steps) + 1]
        budget = None if allowed is None else allowed(here.sigma)
        steps.append(_step_error(exact, here, target, budget, fine_steps))

    integrate(exact, sigmas[0] * noise.to(torch.float64), sigmas, mover or Euler(), observe=measure)
    return steps


def verify_walk(schedule: SDM, denoise: Denoiser, noise: Tensor) -> list[StepError]:
    """The true local errors of the schedule's walk, at the walk's own states, against its budget eta(sigma).

    The walk, not what it is resampled to: that has no budget (`local_errors` takes it all the same). The move to 0 is
    no step of it. `noise`: (B, C, H, W) unit normal.
    """
    walk = schedule.walk
    sigmas = [step.sigma for step in walk.path(denoise, noise, measure_end=False)] + [walk.sigma_min]
    mover = Euler() if walk.mover == "euler" else Heun()
    return local_errors(denoise, noise, sigmas, allowed=walk.allowed, mover=mover)


def _step_error(denoise: Denoiser, here: Point, target: float, allowed: float | None, fine_steps: int) -> StepError:
    if target == 0:
        return StepError(here.sigma, 0.0, 0.0, None, None, None, None, None, allowed)
    end = euler_move(here, target)
    width = here.sigma - target
    bend = Point(target, end, denoise(end, target)).slope - here.slope
    eta = 0.5 * width * float(batch_norm(bend).mean())

    substeps, uncertainty, stalled = fine_steps, math.inf, 0
    gap, steepest = _fine_solve(denoise, here, target, substeps)
    for _ in range(MOST_DOUBLINGS):
        substeps, before = 2 * substeps, (gap, steepest, uncertainty)
        gap, steepest = _fine_solve(denoise, here, target, substeps)
        uncertainty = float(batch_norm(gap - before[0]).mean())
        agree = uncertainty <= AGREEMENT * float(batch_norm(gap).mean())
        # Once may be a kink that the coarser solve stepped over; twice is rounding.
        stalled = stalled + 1 if uncertainty > before[2] / 2 else 0
        if stalled == 2 or (agree and abs(steepest - before[1]) <= STEEPEST_AGREEMENT * steepest):
            break
    errors = batch_norm(gap)
    return StepError(
        here.sigma,
        target,
        eta,
        error=float(errors.mean()),
        standard_error=float(errors.std()) / math.sqrt(len(errors)),
        rms=math.sqrt(float(errors.square().mean())),
        supremum_bound=0.5 * width**2 * steepest,
        uncertainty=uncertainty,
        allowed=allowed,
    )


def _fine_solve(denoise: Denoiser, start: Point, target: float, substeps: int) -> tuple[Tensor, float]:
    """The true x at `target` less Euler's, and the largest mean |dv/dsigma| on the way there.

    What is integrated is that gap, of which a straight path has none: beside x itself it would drown in rounding.
    """
    origin = start.slope
    times = np.linspace(start.sigma ** (1 / RHO), target ** (1 / RHO), substeps + 1).tolist()

    def at(gap: Tensor, sigma: float) -> Point:
        x = start.x + (sigma - start.sigma) * origin + gap
        return Point(sigma, x, denoise(x, sigma))

    def rate(point: Point, time: float) -> Tensor:
        speed: Tensor = (RHO * time ** (RHO - 1)) * (point.slope - origin)
        return speed

    gap, last, steepest = torch.zeros_like(start.x), [start], 0.0
    for time, after in itertools.pairwise(times):
        step, middle = after - time, (time + after) / 2
        first = rate(last[-1], time)
        second = rate(at(gap + (step / 2) * first, middle**RHO), middle)
        third = rate(at(gap + (step / 2) * second, middle**RHO), middle)
        fourth = rate(at(gap + step * third, after**RHO), after)
        gap = gap + (step / 6) * (first + 2 * second + 2 * third + fourth)
        last = [*last[-2:], at(gap, target if after == times[-1] else after**RHO)]
        if len(last) == 3:
            steepest = max(steepest, _steepest(*last))
    return gap, steepest


def _steepest(a: Point, b: Point, c: Point) -> float:
    """The largest mean |dv/dsigma| at three points of a path, from the parabola through their slopes."""
    first = (1 / (b.sigma - a.sigma)) * (b.slope - a.slope)
    second = (1 / (c.sigma - b.sigma)) * (c.slope - b.slope)
    bend = (1 / (c.sigma - a.sigma)) * (second - first)
    speeds = (
        first + (a.sigma - b.sigma) * bend,
        first + (b.sigma - a.sigma) * bend,
        second + (c.sigma - b.sigma) * bend,
    )
    return max(float(batch_norm(speed).mean()) for speed in speeds)
