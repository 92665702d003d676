"""SDM (Jo & Choi, 2026, arXiv 2602.12624): switch solvers where the path bends, place sigmas by a Wasserstein bound.

The curvature proxy kappa and the local error eta are read off evaluations that the walk makes anyway. Both are means
over a fixed calibration batch, decided once and frozen, so that a result depends on no batch size (the published code
decides again in every batch). Norms are over the whole image: eta is in units of the image's L2 norm, kappa per sigma.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.registry import SpecError, require
from pipeline.sampler import integrate
from pipeline.schedules import EDM, SCHEDULES, SIGMA_MAX, SIGMA_MIN, Final, check_sigmas
from pipeline.solvers import SOLVERS, Euler, Evaluate, Point, Solver, State, euler_move

CALIBRATION_IMAGES = 128  # aiimaginglab/sdm, adaptive_scheduling.sh: one batch of 128


def batch_norm(x: Tensor) -> Tensor:
    """L2 norm of each image: (B, C, H, W) -> (B,)."""
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms


def curvature_profile(points: Sequence[Point], *, relative: bool = True) -> list[float]:
    """Kappa at each point, 0 at the first: batch mean of |v_i - v_{i-1}| / (|sigma_i - sigma_{i-1}| |v_{i-1}|).

    `relative=False` leaves out the last factor. Jo & Choi (2026), section 3: the proxy that costs no evaluation.
    """
    kappas = [0.0]
    for before, here in itertools.pairwise(points):
        bend = batch_norm(here.slope - before.slope) / abs(here.sigma - before.sigma)
        kappas.append(float((bend / batch_norm(before.slope) if relative else bend).mean()))
    return kappas


def switch_index(kappas: Sequence[float], tau_k: float) -> int:
    """The first step whose kappa reaches tau_k; the number of steps if none does. The switch never goes back."""
    return next((i for i, kappa in enumerate(kappas) if kappa >= tau_k), len(kappas))


def _heun() -> dict[str, Any]:
    return {"name": "heun"}


def _euler() -> dict[str, Any]:
    return {"name": "euler"}


@SOLVERS.register("switch")
@dataclass(frozen=True)
class Switch:
    """SDM's adaptive solver: Lambda * low + (1 - Lambda) * high, sharing the first evaluation of the step.

    rule "step": Lambda falls from 1 to 0 at the first step whose kappa reaches tau_k and stays there. "linear" and
    "cosine": Lambda falls over the steps, both solvers run, and no calibration is needed (Jo & Choi, 2026, section 3).

    Differs from aiimaginglab/sdm modules/sampler.py:743: the decision is taken once on `calibration_images` latents and
    frozen in `switch_at`, not in each batch.
    """

    low: Mapping[str, Any] = field(default_factory=_euler)
    high: Mapping[str, Any] = field(default_factory=_heun)
    rule: Literal["step", "linear", "cosine"] = "step"
    tau_k: float = 2e-4  # CIFAR-10, dpmsolver_scripts/test_cifar10.sh
    curvature: Literal["relative", "absolute"] = "relative"
    calibration_images: int = CALIBRATION_IMAGES
    switch_at: int | None = None

    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(math.isfinite(self.tau_k) and self.tau_k >= 0, "tau_k", self.tau_k, "0 or more")
        require(self.calibration_images >= 1, "calibration_images", self.calibration_images, "1 or more")
        require(self.switch_at is None or self.switch_at >= 0, "switch_at", self.switch_at, "0 or more")
        for key, solver in zip(("low", "high"), self._pair, strict=True):
            if isinstance(solver, Switch) and solver.rule == "step" and solver.switch_at is None:
                # Only the outer switch is calibrated.
                raise SpecError("is a step switch that is not decided", path=key, allowed="one with switch_at")

    @cached_property
    def _pair(self) -> tuple[Solver, Solver]:
        pair = []
        for key, spec in (("low", self.low), ("high", self.high)):
            try:
                pair.append(SOLVERS.build(spec))
            except SpecError as error:
                raise error.under(key) from None
        return pair[0], pair[1]

    @property
    def order(self) -> int:
        """The low solver's: before the switch nothing better holds."""
        return self._pair[0].order

    def calibrate(self, denoise: Denoiser, noise: Tensor, sigmas: Sequence[float]) -> Switch:
        """Walk the schedule once with the low solver and freeze the step at which kappa reaches tau_k."""
        if self.rule != "step" or self.switch_at is not None:
            return self
        points: list[Point] = []
        integrate(denoise, sigmas[0] * noise, sigmas, self._pair[0], observe=points.append)
        kappas = curvature_profile(points, relative=self.curvature == "relative")
        if not all(map(math.isfinite, kappas)):
            raise SpecError("the curvature along the calibration path is not finite", given=kappas)
        return replace(self, switch_at=switch_index(kappas, self.tau_k))

    def weight(self, i: int, num_steps: int) -> float:
        """Lambda at step i of num_steps: 1 is the low solver alone, 0 the high one."""
        if self.rule == "step":
            if self.switch_at is None:
                raise ValueError("a step switch must be calibrated before it samples: see Sampler.prepare")
            return 1.0 if i < self.switch_at else 0.0
        u = i / max(num_steps - 1, 1)
        return 1 - u if self.rule == "linear" else 0.5 * (1 + math.cos(math.pi * u))

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """One move of the blend; the last move, to 0, is the low solver's."""
        low, high = self._pair
        low_state, high_state = state if state is not None else (None, None)
        share = 1.0 if sigmas[i + 1] == 0 else self.weight(i, len(sigmas) - 1)
        if share == 1:
            x, low_state = low.step(denoise, points, sigmas, i, low_state)
        elif share == 0:
            x, high_state = high.step(denoise, points, sigmas, i, high_state)
        else:
            x_low, low_state = low.step(denoise, points, sigmas, i, low_state)
            x_high, high_state = high.step(denoise, points, sigmas, i, high_state)
            x = share * x_low + (1 - share) * x_high
        return x, (low_state, high_state)


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

    As published, that last, longer step is not checked against eta again; `PathStep` records what it really cost.
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


@SCHEDULES.register("sdm")
@dataclass(frozen=True)
class SDM:
    """The Wasserstein-bounded walk resampled to `num_steps` moves; without `num_steps`, the walk itself.

    Defaults: CIFAR-10 unconditional VP, aiimaginglab/sdm dpmsolver_scripts/test_cifar10.sh:18-22. eta does not transfer
    between resolutions: it is a norm over all pixels.
    """

    num_steps: int | None = None
    eta_min: float = 0.01
    eta_max: float = 0.40
    eta_p: float = 1.0
    power: float = 0.5
    q: float = 0.1
    base_steps: int = 18
    rho: float = 7.0
    mover: Literal["euler", "heun"] = "euler"
    grid_snap: bool = False
    gamma_step: float = 0.95
    c_shrink: float = 0.5
    max_expand_bins: int = 2
    max_shrink_iters: int = 2
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    final: Final = "zero"
    calibration_images: int = CALIBRATION_IMAGES

    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.num_steps is None or self.num_steps >= 1, "num_steps", self.num_steps, "1 or more, or null")
        require(self.base_steps >= 2, "base_steps", self.base_steps, "2 or more")
        require(self.eta_min > 0, "eta_min", self.eta_min, "above 0")
        if self.eta_min > self.eta_max:
            raise SpecError("is above eta_max", path="eta_min", given=self.eta_min, allowed=f"at most {self.eta_max}")
        require(0 < self.gamma_step <= 1, "gamma_step", self.gamma_step, "above 0, at most 1")
        require(0 < self.c_shrink < 1, "c_shrink", self.c_shrink, "above 0, below 1")
        require(0 < self.sigma_min < self.sigma_max, "sigma_min", self.sigma_min, f"above 0 and below {self.sigma_max}")
        require(self.calibration_images >= 1, "calibration_images", self.calibration_images, "1 or more")
        for key in ("eta_max", "q"):
            require(math.isfinite(getattr(self, key)), key, getattr(self, key), "a finite number")
        for key in ("eta_p", "power"):
            require(getattr(self, key) >= 0 and math.isfinite(getattr(self, key)), key, getattr(self, key), "0 or more")
        require(self.rho > 0 and math.isfinite(self.rho), "rho", self.rho, "above 0")

    @property
    def walk(self) -> Walk:
        """The walk that this schedule is resampled from."""
        names = Walk.__dataclass_fields__
        return Walk(**{name: getattr(self, name) for name in names})

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """(N + 1,) float64; `noise` is the calibration batch, (B, C, H, W) unit normal, and both are needed."""
        if denoise is None or noise is None:
            raise ValueError("the sdm schedule is learned: it needs a denoiser and calibration noise")
        # An Euler walk has measured its own steps; the published code walks it again (n_step_resampling.py:91).
        measured = self.mover == "euler" and self.num_steps is not None
        steps = self.walk.path(denoise, noise, measure_end=measured)
        walked = [step.sigma for step in steps] + [self.sigma_min]
        if self.num_steps is None:
            placed = walked
        else:
            etas = [step.eta for step in steps] if measured else measured_eta(denoise, noise, walked)[0]
            nodes = self.num_steps + (self.final == "sigma_min")
            placed = resample(walked, etas, nodes, power=self.power, q=self.q, rho=self.rho)
        if self.final == "zero":
            placed = [*placed, 0.0]
        return check_sigmas(torch.tensor(placed, dtype=torch.float64), self.registry_name)
