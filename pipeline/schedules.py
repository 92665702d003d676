"""Schedules: where the sigmas lie. Closed forms here; learned ones in `pipeline.sdm` and `baselines`.

`num_steps` is always the number of moves N, so that len(sigmas) == N + 1. `final` says where the last move ends:
"zero" (EDM: the last move goes from sigma_min to 0 and returns D) or "sigma_min" (diff-sampler: it stops there).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.registry import Registry, SpecError, require

Final = Literal["zero", "sigma_min"]
# EDM's range (Karras et al., 2022, arXiv 2206.00364, Table 1), which all three papers keep.
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
# Ten times the longest walk that the papers look at; more is a slip of the keyboard.
MOST_STEPS = 10_000


@runtime_checkable
class Schedule(Protocol):
    """Places the sigmas, from the denoiser and calibration noise where it learns them.

    `calibration_images` is how many unit-normal images `sigmas` wants as `noise`: 0 for a closed form.
    """

    @property
    def calibration_images(self) -> int: ...

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """(N + 1,) float64, strictly decreasing, ending in 0 or sigma_min. `noise`: (B, C, H, W) unit normal."""
        ...


SCHEDULES: Registry[Schedule] = Registry("schedule", ("pipeline.sdm", "baselines"))


def check_sigmas(sigmas: Tensor, name: str) -> Tensor:
    """Return `sigmas` if they are a schedule: float64, finite, strictly decreasing, not negative, at least two."""
    values = sigmas.tolist()
    decreasing = all(a > b for a, b in itertools.pairwise(values))
    if len(values) < 2 or not decreasing or values[-1] < 0 or not all(map(math.isfinite, values)):
        raise SpecError(
            f"schedule {name!r} gives sigmas that are not strictly decreasing",
            given=[float(f"{v:.4g}") for v in values],
            allowed="at least two finite sigmas, each below the one before, none negative",
        )
    return sigmas.to(torch.float64)


@dataclass(frozen=True)
class ClosedForm:
    """What the closed forms share: N moves between sigma_max and the end that `final` names."""

    num_steps: int
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    final: Final = "zero"

    calibration_images: ClassVar[int] = 0
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(1 <= self.num_steps <= MOST_STEPS, "num_steps", self.num_steps, f"1 to {MOST_STEPS}")
        require(0 < self.sigma_max < math.inf, "sigma_max", self.sigma_max, "above 0 and finite")
        require(0 < self.sigma_min < self.sigma_max, "sigma_min", self.sigma_min, f"above 0 and below {self.sigma_max}")

    def curve(self, u: np.ndarray) -> np.ndarray:
        """Sigma at u in [0, 1]: sigma_max at 0, sigma_min at 1."""
        raise NotImplementedError  # the subclass is the formula

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """(N + 1,) float64; neither the denoiser nor noise is used."""
        del denoise, noise
        nodes = self.num_steps + (self.final == "sigma_min")
        u = np.linspace(0.0, 1.0, nodes) if nodes > 1 else np.zeros(1)
        sigmas = np.asarray(self.curve(u), dtype=np.float64)
        # The ends are what was asked for, not what rounding made of it.
        sigmas[0] = self.sigma_max
        if nodes > 1:
            sigmas[-1] = self.sigma_min
        if self.final == "zero":
            sigmas = np.append(sigmas, 0.0)
        return check_sigmas(torch.from_numpy(sigmas), self.registry_name)


@SCHEDULES.register("edm")
@dataclass(frozen=True)
class EDM(ClosedForm):
    """Polynomial in sigma^(1/rho) (Karras et al., 2022, arXiv 2206.00364, eq. 5)."""

    rho: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0.1 <= self.rho <= 1e6, "rho", self.rho, "0.1 to 1e6")

    def curve(self, u: np.ndarray) -> np.ndarray:
        """Linear in sigma^(1/rho)."""
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return np.asarray((high + u * (low - high)) ** self.rho)


@SCHEDULES.register("logsnr")
@dataclass(frozen=True)
class LogSNR(ClosedForm):
    """Uniform in log sigma (Lu et al., 2022, arXiv 2206.00927, section 3.4: uniform logSNR)."""

    def curve(self, u: np.ndarray) -> np.ndarray:
        """Geometric from sigma_max to sigma_min."""
        return np.asarray(self.sigma_max * (self.sigma_min / self.sigma_max) ** u)


@SCHEDULES.register("time_uniform")
@dataclass(frozen=True)
class TimeUniform(ClosedForm):
    """Uniform in the VP process's time to the power 1/rho (Song et al., 2021, arXiv 2011.13456; DEIS uses rho = 2).

    The VP process's beta_d and beta_min follow from sigma_min at time epsilon_s and sigma_max at time 1.
    """

    rho: float = 1.0
    epsilon_s: float = 1e-3  # Karras et al. (2022), Table 1, VP column

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0.1 <= self.rho <= 1e6, "rho", self.rho, "0.1 to 1e6")
        require(0 < self.epsilon_s < 1, "epsilon_s", self.epsilon_s, "above 0 and below 1")

    def curve(self, u: np.ndarray) -> np.ndarray:
        """Sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1) at t linear in t^(1/rho)."""
        log_high, log_low = math.log1p(self.sigma_max**2), math.log1p(self.sigma_min**2)
        beta_d = 2 * (log_low / self.epsilon_s - log_high) / (self.epsilon_s - 1)
        beta_min = log_high - 0.5 * beta_d
        t = (1 + u * (self.epsilon_s ** (1 / self.rho) - 1)) ** self.rho
        return np.asarray(np.sqrt(np.expm1(0.5 * beta_d * t**2 + beta_min * t)))


@SCHEDULES.register("given")
@dataclass(frozen=True)
class Given:
    """A list of sigmas, as it stands; the last may be 0."""

    values: tuple[float, ...]

    calibration_images: ClassVar[int] = 0
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        check_sigmas(torch.tensor(self.values, dtype=torch.float64), "given")

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """The listed values, float64."""
        del denoise, noise
        return torch.tensor(self.values, dtype=torch.float64)
