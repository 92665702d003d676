"""The Wasserstein-bounded walk of SDM, its local errors, and its N-step resampling.

Jo & Choi, 2026, arXiv 2602.12624, section 3, Algorithm 1. The steps of the walk are sized by a local error eta in units
of the image's L2 norm, averaged over a calibration batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.registry import SpecError, require
from pipeline.sampler import integrate
from pipeline.schedules import EDM, SIGMA_MAX, SIGMA_MIN
from pipeline.solvers import Euler, Point, euler_move


def batch_norm(x: Tensor) -> Tensor:
    """L2 norm of each image: (B, C, H, W) -> (B,)."""
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms


class PathStep(NamedTuple):
    """One committed step of the Wasserstein-bounded walk; eta and allowed in image L2 norm."""

    sigma: float
    step: float
    secant: float
    eta: float
    allowed: float


@dataclass(frozen=True)
class Walk:
    """The Wasserstein-bounded walk over an EDM base grid (Jo & Choi, 2026, Algorithm 1, Theorem 3.2).

    A trial Euler step gives the secant S = mean |v~ - v| / step and the local error eta~ = step^2 S / 2, which is
    exactly mean |x_Heun - x_Euler|. The step grows over grid bins or is halved until eta~ is below
    eta(sigma) = eta_min + (eta_max - eta_min) (sigma / sigma_max)^eta_p; the walk then moves by
    gamma_step * sqrt(2 eta / S), never less than the step that was tried.

    As published, that last, longer step is not checked against eta again; `PathStep` records what it really cost (but
    see `path` for the last one).
    Differs from aiimaginglab/sdm modules/sampler.py:1432: the accepted trial's slope is kept, so that a walk spends at
    most as many evaluations.
    """

    eta_min: float
    eta_max: float
    eta_p: float = 1.0
    base_steps: int = 18
    rho: float = 7.0
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    mover: Literal["euler", "heun"] = "euler"
    grid_snap: bool = False
    gamma_step: float = 0.95
    c_shrink: float = 0.5
    max_expand_bins: int = 2
    max_shrink_iters: int = 2

    def allowed(self, sigma: float) -> float:
        """The error budget of a step that starts at sigma, in image L2 norm."""
        share: float = (sigma / self.sigma_max) ** self.eta_p
        return self.eta_min + (self.eta_max - self.eta_min) * share

    def path(self, denoise: Denoiser, noise: Tensor, *, measure_end: bool = False) -> list[PathStep]:
        """Walk from sigma_max to sigma_min on the calibration batch. `noise`: (B, C, H, W) unit normal.

        The walk itself has no use for D at sigma_min; `measure_end` evaluates it, so that the last step's secant is
        its own and not its trial's.
        """
        grid = EDM(self.base_steps, self.sigma_min, self.sigma_max, "zero", self.rho).sigmas().tolist()[:-1]
        x = grid[0] * noise
        here = Point(grid[0], x, denoise(x, grid[0]))
        steps: list[PathStep] = []
        while here.sigma > self.sigma_min:
            trial, tried = self._line_search(denoise, here, grid)
            target = self._target(here.sigma, trial, grid)
            width = here.sigma - target
            there = tried if tried.sigma == target else None
            if there is None and (target > self.sigma_min or self.mover == "heun" or measure_end):
                moved = euler_move(here, target)
                there = Point(target, moved, denoise(moved, target))
            secant = trial[0] if there is None else _mean_bend(here, there) / width
            steps.append(PathStep(here.sigma, width, secant, 0.5 * width**2 * secant, self.allowed(here.sigma)))
            if there is None or target <= self.sigma_min:
                break
            if self.mover == "heun":
                x = here.x + (0.5 * (target - here.sigma)) * (here.slope + there.slope)
                there = Point(target, x, denoise(x, target))
            here = there
        return steps

    def _line_search(self, denoise: Denoiser, here: Point, grid: list[float]) -> tuple[tuple[float, float], Point]:
        """The step to trust, as (secant, width), and the last evaluated trial point."""
        bin_index = max(i for i, sigma in enumerate(grid) if sigma >= here.sigma - 1e-12)
        width = here.sigma - grid[min(bin_index + 1, len(grid) - 1)]
        allowed = self.allowed(here.sigma)
        accepted: tuple[float, float] | None = None
        accepted_point: Point | None = None
        expands = shrinks = 0
        while True:
            sigma = here.sigma - width
            x = euler_move(here, sigma)
            there = Point(sigma, x, denoise(x, sigma))
            secant = _mean_bend(here, there) / width
            if 0.5 * width**2 * secant <= allowed:
                accepted, accepted_point = (secant, width), there
                if shrinks or expands >= self.max_expand_bins:
                    break
                expands += 1
                wider = here.sigma - grid[min(bin_index + 2**expands, len(grid) - 1)]
                if wider <= width + 1e-15:
                    break
                width = wider
            elif shrinks < self.max_shrink_iters:
                shrinks += 1
                width *= self.c_shrink
            else:
                break
        # As published: where no trial met the bound, the last one, which did not, is used all the same.
        return accepted or (secant, width), accepted_point or there

    def _target(self, sigma: float, trial: tuple[float, float], grid: list[float]) -> float:
        """Where the walk moves from `sigma`: as far as the bound lets the trusted secant go, at least the trial."""
        secant, width = trial
        step = self.gamma_step * math.sqrt(2 * self.allowed(sigma) / max(secant, 1e-12))
        target = sigma - min(max(step, width), sigma - self.sigma_min)
        if self.grid_snap:
            target = max((node for node in grid if node <= target + 1e-12), default=self.sigma_min)
        return self.sigma_min if target < self.sigma_min + 1e-9 else target


def _mean_bend(before: Point, here: Point) -> float:
    """Mean over the batch of |v - v_before|, in image L2 norm; a `SpecError` if the denoiser gave no finite number."""
    bend = float(batch_norm(here.slope - before.slope).mean())
    if not math.isfinite(bend):
        raise SpecError(
            "the slope along the calibration path is not finite", path=f"sigma {here.sigma:.4g}", given=bend
        )
    return bend


def measured_eta(denoise: Denoiser, noise: Tensor, sigmas: Sequence[float]) -> tuple[list[float], list[float]]:
    """Local error eta and secant S of each step of an Euler walk on `sigmas`, (N,) each; both 0 for a move to 0.

    eta_i = step^2 S / 2, S = mean |v_{i+1} - v_i| / step (Jo & Choi, 2026, Theorem 3.2 and eq. 13).
    """
    points: list[Point] = []
    integrate(denoise, sigmas[0] * noise, sigmas, Euler(), observe=points.append)
    if sigmas[-1] > 0:
        last = points[-1]
        end = euler_move(last, sigmas[-1])
        points.append(Point(sigmas[-1], end, denoise(end, sigmas[-1])))
    bends = [_mean_bend(before, here) for before, here in itertools.pairwise(points)]
    widths = [before.sigma - here.sigma for before, here in itertools.pairwise(points)]
    etas = [0.5 * width * bend for width, bend in zip(widths, bends, strict=True)]
    secants = [bend / width for width, bend in zip(widths, bends, strict=True)]
    tail = [0.0] * (len(sigmas) - 1 - len(etas))
    return etas + tail, secants + tail


def resample(
    sigmas: Sequence[float], eta: Sequence[float], nodes: int, *, power: float = 0.5, q: float = 0.1, rho: float = 7.0
) -> list[float]:
    """N-step resampling: `nodes` sigmas at equal shares of the weighted length of a walk; the last 0 is left out.

    Each step weighs eta^power * (sigma_max / sigma_next)^q; sigma^(1/rho) is interpolated over the cumulative weight by
    a monotone cubic (Jo & Choi, 2026, section 3; aiimaginglab/sdm modules/utils.py:403).

    Args:
        sigmas: the walk, strictly decreasing, with or without a final 0.
        eta: its steps' local errors, image L2 norm; steps to 0 are ignored.
        nodes: how many sigmas, ends included.
        power: how strongly error attracts sigmas.
        q: how strongly low noise attracts sigmas.
        rho: exponent of the interpolated coordinate.

    Raises:
        SpecError: fewer than one node, no step with an error above 0, or weights beyond double precision.
    """
    require(nodes >= 1, "num_steps", nodes, "1 or more")
    walk = [sigma for sigma in sigmas if sigma > 0]
    tiny = 1e-12
    try:
        weights = [
            max(e, 0.0) ** power * ((walk[0] + tiny) / (after + tiny)) ** q
            for e, after in zip(eta, walk[1:], strict=False)
        ]
    except OverflowError:
        weights = [math.inf]
    if not math.isfinite(sum(weights)):
        raise SpecError("the weights of the walk are not finite", path="power and q", given=(power, q))
    if not sum(weights) > 0:
        raise SpecError("every step of the walk has zero error: nothing to resample by", path="eta", given=list(eta))
    if nodes == 1:
        return [walk[0]]
    length = np.concatenate([[0.0], np.cumsum(weights)])
    coordinate = np.asarray(walk) ** (1 / rho)
    # A step without weight would repeat a knot, which the interpolation cannot take; its end stands for both.
    keep = np.concatenate([[True], np.diff(length) > 0])
    keep[-1] = True
    length, coordinate = length[keep], coordinate[keep]
    if len(length) > 1 and length[-1] <= length[-2]:
        length, coordinate = np.delete(length, -2), np.delete(coordinate, -2)
    at = np.linspace(0.0, length[-1], nodes)
    placed = np.asarray(PchipInterpolator(length, coordinate)(at)) ** rho
    placed[0], placed[-1] = walk[0], walk[-1]
    return [float(value) for value in placed]
