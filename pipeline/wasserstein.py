"""The Wasserstein-bounded walk of SDM, and its local errors as the walk itself sees them.

Jo & Choi, 2026, arXiv 2602.12624, section 3, Algorithm 1. The steps of the walk are sized by a local error eta in units
of the image's L2 norm, averaged over a calibration batch. What a step really costs: `pipeline.local_error`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.registry import SpecError, require
from pipeline.sampler import integrate
from pipeline.schedules import EDM, MOST_STEPS, SIGMA_MAX, SIGMA_MIN
from pipeline.solvers import Euler, Point, euler_move

# A constant bend and gamma_step = 1 land on the bound itself, up to the rounding of its square root.
ROUNDING = 1e-9
# In units of the step's sigma. Slopes this close differ in their last seven digits only: no secant is left below.
SMALLEST_STEP = 1e-9
# Two sigmas this close, relative to themselves, are one that was computed in two ways.
SAME_SIGMA = 1e-12


def batch_norm(x: Tensor) -> Tensor:
    """L2 norm of each image: (B, C, H, W) -> (B,)."""
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms


class PathStep(NamedTuple):
    """One committed step of the Wasserstein-bounded walk; eta and allowed in image L2 norm.

    `secant` and `eta` are those of the step that was taken, from the slope at its own Euler end, also where the walk
    then moves by Heun; nan where that was not evaluated (`Walk.path` without `measure_end`, its last step).
    """

    sigma: float
    step: float
    secant: float
    eta: float
    allowed: float

    @property
    def kept(self) -> bool:
        """Whether the step keeps its bound, up to `ROUNDING`; not where it was not measured."""
        return self.eta <= self.allowed * (1 + ROUNDING)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with what `kept` says."""
        return {**self._asdict(), "kept": self.kept}


class _Probe(NamedTuple):
    """An Euler step that was evaluated at its end."""

    end: Point
    width: float
    secant: float

    @property
    def eta(self) -> float:
        return 0.5 * self.width**2 * self.secant


@dataclass(frozen=True)
class Walk:
    """The Wasserstein-bounded walk over an EDM base grid (Jo & Choi, 2026, Algorithm 1, Theorem 3.2).

    A trial Euler step gives the secant S = mean |v~ - v| / step and the local error eta~ = step^2 S / 2, which is
    exactly mean |x_Heun - x_Euler|. The step grows over grid bins or is shrunk until eta~ is at most
    eta(sigma) = eta_min + (eta_max - eta_min) (sigma / sigma_max)^eta_p; the walk then moves by
    gamma_step * sqrt(2 eta / S), never less than the step that was tried.

    As published: that is no bound. Where no trial kept eta the last one is used all the same, and the step that is
    taken is not the one that was tried. `enforce_bound` checks the step itself by its own secant and shortens it until
    eta~ <= eta, the last one to sigma_min included. It cannot go with `grid_snap`, which lengthens a step to the next
    node below: a node that keeps the bound need not exist.

    Differs from aiimaginglab/sdm modules/sampler.py:1398: with `enforce_bound` a step that exceeds its bound is taken
    back.
    Differs from aiimaginglab/sdm modules/sampler.py:1411: a sigma within rounding of a node, or of sigma_min, is that
    node. There the last bit makes the published walk take an empty step, or skip a node when it snaps.
    Differs from aiimaginglab/sdm modules/sampler.py:1432: the slope of a trial that becomes the step is kept, so that a
    walk spends at most as many evaluations, and one more where the end is measured.

    Raises:
        SpecError: a setting out of range; from `path`, a slope that is not finite, more than `MOST_STEPS` steps, or a
            bound that no step above `SMALLEST_STEP` keeps.
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
    enforce_bound: bool = False

    def __post_init__(self) -> None:
        require(2 <= self.base_steps <= MOST_STEPS, "base_steps", self.base_steps, f"2 to {MOST_STEPS}")
        require(self.eta_min > 0, "eta_min", self.eta_min, "above 0")
        require(math.isfinite(self.eta_max), "eta_max", self.eta_max, "a finite number")
        if self.eta_min > self.eta_max:
            raise SpecError("is above eta_max", path="eta_min", given=self.eta_min, allowed=f"at most {self.eta_max}")
        require(0 <= self.eta_p < math.inf, "eta_p", self.eta_p, "0 or more")
        require(0 < self.gamma_step <= 1, "gamma_step", self.gamma_step, "above 0, at most 1")
        require(0 < self.c_shrink < 1, "c_shrink", self.c_shrink, "above 0, below 1")
        for key in ("max_expand_bins", "max_shrink_iters"):
            require(0 <= getattr(self, key) <= MOST_STEPS, key, getattr(self, key), f"0 to {MOST_STEPS}")
        if self.enforce_bound and self.grid_snap:
            raise SpecError(
                "lengthens steps beyond their bound, which enforce_bound forbids",
                path="grid_snap",
                given=True,
                allowed="false, or enforce_bound: false",
            )
        self.grid()

    def grid(self) -> list[float]:
        """The base grid, sigma_max to sigma_min."""
        return [float(v) for v in EDM(self.base_steps, self.sigma_min, self.sigma_max, "zero", self.rho).sigmas()[:-1]]

    def allowed(self, sigma: float) -> float:
        """The error budget of a step that starts at sigma, in image L2 norm."""
        share: float = (sigma / self.sigma_max) ** self.eta_p
        return self.eta_min + (self.eta_max - self.eta_min) * share

    def path(self, denoise: Denoiser, noise: Tensor, *, measure_end: bool = True) -> list[PathStep]:
        """Walk from sigma_max to sigma_min on the calibration batch. `noise`: (B, C, H, W) unit normal.

        The walk itself has no use for D at sigma_min. `measure_end` evaluates it all the same, so that the last step's
        eta is its own; without it that eta is nan, unless the step was tried or is checked anyway.
        """
        grid = self.grid()
        x = grid[0] * noise
        here = Point(grid[0], x, denoise(x, grid[0]))
        steps: list[PathStep] = []
        while True:
            if len(steps) == MOST_STEPS:
                raise SpecError(
                    f"needs more than {MOST_STEPS} steps: the walk has come to sigma {here.sigma:.4g} only",
                    path="eta_min",
                    given=self.eta_min,
                    allowed="a larger eta_min and eta_max",
                )
            trial, met = self._line_search(denoise, here, grid)
            target = self._target(here.sigma, trial, grid)
            allowed = self.allowed(here.sigma)
            if self.enforce_bound:
                taken = self._shortened(denoise, here, trial, target if met else trial.end.sigma)
            elif target == trial.end.sigma:
                taken = trial
            elif target > self.sigma_min or self.mover == "heun" or measure_end:
                taken = _probe(denoise, here, target)
            else:
                return [*steps, PathStep(here.sigma, here.sigma - target, math.nan, math.nan, allowed)]
            steps.append(PathStep(here.sigma, taken.width, taken.secant, taken.eta, allowed))
            if taken.end.sigma <= self.sigma_min:
                return steps
            here = taken.end if self.mover == "euler" else _heun_end(denoise, here, taken)

    def _line_search(self, denoise: Denoiser, here: Point, grid: list[float]) -> tuple[_Probe, bool]:
        """The trial to trust, and whether it met the bound: the last that did, or else the last of all."""
        bin_index = max(i for i, sigma in enumerate(grid) if sigma >= here.sigma * (1 - SAME_SIGMA))
        allowed = self.allowed(here.sigma)
        accepted: _Probe | None = None
        expands = shrinks = 0
        target = grid[min(bin_index + 1, len(grid) - 1)]
        while True:
            trial = _probe(denoise, here, target)
            if trial.eta <= allowed:
                accepted = trial
                node = bin_index + 2 ** (expands + 1)
                if shrinks or expands >= self.max_expand_bins or node >= len(grid):
                    break
                expands += 1
                target = grid[node]
            elif shrinks < self.max_shrink_iters:
                shrinks += 1
                target = here.sigma - max(trial.width * self.c_shrink, SMALLEST_STEP * here.sigma)
                if target == trial.end.sigma:
                    break
            else:
                break
        return accepted or trial, accepted is not None

    def _target(self, sigma: float, trial: _Probe, grid: list[float]) -> float:
        """Where the published walk moves from `sigma`: as far as the trusted secant lets it, at least the trial."""
        step = self.gamma_step * math.sqrt(2 * self.allowed(sigma) / max(trial.secant, 1e-30))
        target = max(min(sigma - step, trial.end.sigma), self.sigma_min)
        if self.grid_snap:
            target = max((node for node in grid if node <= target * (1 + SAME_SIGMA)), default=self.sigma_min)
        return self.sigma_min if target <= self.sigma_min * (1 + SMALLEST_STEP) else target

    def _shortened(self, denoise: Denoiser, here: Point, trial: _Probe, target: float) -> _Probe:
        """The step to `target`, made shorter by its own secant until it keeps the bound; the trial if that one does."""
        allowed = self.allowed(here.sigma)
        taken = trial if target == trial.end.sigma else _probe(denoise, here, target)
        shrink = self.gamma_step
        while taken.eta > allowed:
            width = shrink * math.sqrt(2 * allowed / taken.secant)
            if trial.eta <= allowed and width <= trial.width:
                return trial
            if width < SMALLEST_STEP * here.sigma:
                raise SpecError(
                    f"no step from sigma {here.sigma:.4g} keeps it: over {taken.width:.3g} eta is {taken.eta:.3g}",
                    path="eta_min",
                    given=self.eta_min,
                    allowed="a larger eta_min and eta_max, or enforce_bound: false",
                )
            taken = _probe(denoise, here, here.sigma - width)
            shrink *= self.c_shrink
        return taken


def _probe(denoise: Denoiser, here: Point, target: float) -> _Probe:
    """Move to `target` by Euler and evaluate there."""
    x = euler_move(here, target)
    there = Point(target, x, denoise(x, target))
    width = here.sigma - target
    return _Probe(there, width, _mean_bend(here, there) / width)


def _heun_end(denoise: Denoiser, here: Point, taken: _Probe) -> Point:
    x = here.x - (0.5 * taken.width) * (here.slope + taken.end.slope)
    return Point(taken.end.sigma, x, denoise(x, taken.end.sigma))


def _mean_bend(before: Point, here: Point) -> float:
    """Mean over the batch of |v - v_before|, in image L2 norm; a `SpecError` if the denoiser gave no finite number."""
    bend = float(batch_norm(here.slope - before.slope).mean())
    if not math.isfinite(bend):
        wrong = here if torch.isfinite(before.slope).all() else before
        raise SpecError(
            f"the slope along the calibration path is not finite at sigma {wrong.sigma:.4g}",
            given=bend,
            allowed="a denoiser that is finite from sigma_max to sigma_min",
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
