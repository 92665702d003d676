"""SDM (Jo & Choi, 2026, arXiv 2602.12624): switch solvers where the path bends, place sigmas by a Wasserstein bound.

The curvature proxy kappa and the local error eta are read off evaluations that the walk makes anyway. Both are means
over a fixed calibration batch, decided once and frozen, so that a result depends on no batch size (the published code
decides again in every batch). Norms are over the whole image: eta is in units of the image's L2 norm, kappa per sigma.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.registry import SpecError, require, to_spec
from pipeline.resampling import resample
from pipeline.sampler import Lesson, integrate
from pipeline.schedules import (
    MOST_STEPS,
    SCHEDULES,
    SIGMA_MAX,
    SIGMA_MIN,
    Final,
    check_calibration_images,
    check_sigmas,
)
from pipeline.solvers import SOLVERS, Evaluate, Point, Solver, State
from pipeline.wasserstein import PathStep, Walk, batch_norm, measured_eta

CALIBRATION_IMAGES = 128  # aiimaginglab/sdm, adaptive_scheduling.sh: one batch of 128


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
        check_calibration_images(self.calibration_images)
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

    @property
    def one_step(self) -> bool:
        """Whether both solvers are: then neither carries anything over the switch."""
        return all(solver.one_step for solver in self._pair)

    def calibrate(self, denoise: Denoiser, noise: Tensor, sigmas: Sequence[float]) -> Switch:
        """Walk the schedule once with the low solver and freeze the step at which kappa reaches tau_k."""
        lesson = self.lesson(sigmas)
        return self if lesson is None else self.decided(lesson.learn(denoise, noise))

    def lesson(self, sigmas: Sequence[float]) -> Lesson | None:
        """The kappas on these sigmas, which serve every tau_k and every high solver; None if all is decided."""
        if self.rule != "step" or self.switch_at is not None:
            return None
        nodes = [float(sigma) for sigma in sigmas]
        inputs = {
            "sigmas": nodes,
            "low": to_spec(self._pair[0]),
            "curvature": self.curvature,
            "calibration_images": self.calibration_images,
        }
        return Lesson("curvature", inputs, lambda denoise, noise: self._kappas(denoise, noise, nodes))

    def decided(self, learned: Sequence[float]) -> Switch:
        """The switch at the first step whose kappa, of those `learned`, reaches tau_k."""
        return replace(self, switch_at=switch_index(learned, self.tau_k))

    def _kappas(self, denoise: Denoiser, noise: Tensor, sigmas: Sequence[float]) -> list[float]:
        points: list[Point] = []
        integrate(denoise, sigmas[0] * noise, sigmas, self._pair[0], observe=points.append)
        kappas = curvature_profile(points, relative=self.curvature == "relative")
        for point, kappa in zip(points, kappas, strict=True):
            if not math.isfinite(kappa):
                raise SpecError(
                    f"the curvature along the calibration path is not finite at sigma {point.sigma:.4g}",
                    path="tau_k",
                    given=kappa,
                    allowed="a denoiser and a low solver that are finite there, or switch_at instead",
                )
        return kappas

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


@SCHEDULES.register("sdm")
@dataclass(frozen=True)
class SDM:
    """The Wasserstein-bounded walk resampled to `num_steps` moves; without `num_steps`, the walk itself.

    Defaults: CIFAR-10 unconditional VP, aiimaginglab/sdm dpmsolver_scripts/test_cifar10.sh:18-22. eta does not transfer
    between resolutions: it is a norm over all pixels.

    `enforce_bound` holds every step of the walk to eta (see `Walk`), down to sigma_min: the move to 0 has no eta. Only
    without `num_steps` are these the steps of the schedule, for Euler on the calibration noise. Resampled to a given
    number of steps no bound can be promised, and none is: as many steps cost what they cost.
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
    enforce_bound: bool = False
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    final: Final = "zero"
    calibration_images: int = CALIBRATION_IMAGES

    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        most = f"1 to {MOST_STEPS}, or null"
        require(self.num_steps is None or 1 <= self.num_steps <= MOST_STEPS, "num_steps", self.num_steps, most)
        check_calibration_images(self.calibration_images)
        require(0 <= self.power < math.inf, "power", self.power, "0 or more")
        require(math.isfinite(self.q), "q", self.q, "a finite number")
        _ = self.walk  # checks the rest

    @property
    def walk(self) -> Walk:
        """The walk that this schedule is resampled from."""
        names = Walk.__dataclass_fields__
        return Walk(**{name: getattr(self, name) for name in names})

    def place(self, denoise: Denoiser, noise: Tensor) -> tuple[Tensor, list[PathStep]]:
        """What `sigmas` gives, and the steps of the walk behind it, each with the error it had and was allowed.

        With `num_steps` the steps are not the schedule's: theirs begin at other sigmas, and `measured_eta` has their
        errors. `noise`: (B, C, H, W) unit normal.
        """
        return self.placed(self._learn(denoise, noise))

    def lesson(self) -> Lesson:
        """The walk, which serves every resampling; with the etas to resample it by where those are not its own."""
        inputs = {**asdict(self.walk), "calibration_images": self.calibration_images, "measured": self._measures}
        return Lesson("sdm walk", inputs, self._learn)

    def placed(self, learned: Mapping[str, Any]) -> tuple[Tensor, list[PathStep]]:
        """What `place` gives, of a walk that is known."""
        steps = [PathStep(*values) for values in learned["steps"]]
        placed = [step.sigma for step in steps] + [self.sigma_min]
        if self.num_steps is not None:
            etas = learned["etas"] if self._measures else [step.eta for step in steps]
            nodes = self.num_steps + (self.final == "sigma_min")
            placed = resample(placed, etas, nodes, power=self.power, q=self.q, rho=self.rho)
        if self.final == "zero":
            placed = [*placed, 0.0]
        return check_sigmas(torch.tensor(placed, dtype=torch.float64), self.registry_name), steps

    @property
    def _measures(self) -> bool:
        """Whether its sigmas are walked again for their etas (n_step_resampling.py:91); an Euler walk has its own."""
        return self.num_steps is not None and self.mover != "euler"

    def _learn(self, denoise: Denoiser, noise: Tensor) -> dict[str, Any]:
        steps = self.walk.path(denoise, noise)
        walked = [step.sigma for step in steps] + [self.sigma_min]
        etas = measured_eta(denoise, noise, walked)[0] if self._measures else []
        return {"steps": [list(step) for step in steps], "etas": etas}

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """(N + 1,) float64; `noise` is the calibration batch, (B, C, H, W) unit normal, and both are needed."""
        if denoise is None or noise is None:
            raise ValueError("the sdm schedule is learned: it needs a denoiser and calibration noise")
        return self.place(denoise, noise)[0]
