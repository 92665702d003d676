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
# A calibration is held in memory; the papers take 128 or 256 images.
MOST_CALIBRATION_IMAGES = 100_000
# Squares and tenth powers (rho 0.1) of it stay within double precision.
LARGEST_SIGMA = 1e30
# In units of the larger sigma. A multistep rule divides by the gaps, and below this they are rounding.
LEAST_GAP = 1e-10


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
    """Return `sigmas` if they are a schedule: float64, finite, strictly decreasing, not negative, at least two.

    Raises:
        SpecError: they are not; it names the first sigma that is wrong, or the first two that do not decrease.
    """
    values = sigmas.to(torch.float64).tolist()
    if len(values) < 2:
        raise SpecError(f"schedule {name!r} gives fewer than two sigmas", given=values, allowed="two or more")
    for i, value in enumerate(values):
        if not 0 <= value <= LARGEST_SIGMA:
            raise SpecError(
                f"schedule {name!r} gives a sigma that is out of range: sigma {i}",
                given=value,
                allowed=f"0 to {LARGEST_SIGMA:g}",
            )
    for i, (before, after) in enumerate(itertools.pairwise(values)):
        if after >= before * (1 - LEAST_GAP):
            raise SpecError(
                f"schedule {name!r} gives sigmas that are not strictly decreasing: sigmas {i} and {i + 1}",
                given=[before, after],
                allowed="each below the one before, by more than rounding",
            )
    return sigmas.to(torch.float64)


def check_calibration_images(images: int, key: str = "calibration_images") -> None:
    """Raise a `SpecError` about `key` unless `images` is a number that a calibration can hold."""
    require(1 <= images <= MOST_CALIBRATION_IMAGES, key, images, f"1 to {MOST_CALIBRATION_IMAGES}")


def _check_rho(rho: float) -> None:
    require(0.1 <= rho <= 1e6, "rho", rho, "0.1 to 1e6")


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
        require(0 < self.sigma_max <= LARGEST_SIGMA, "sigma_max", self.sigma_max, f"above 0, at most {LARGEST_SIGMA:g}")
        require(0 < self.sigma_min < self.sigma_max, "sigma_min", self.sigma_min, f"above 0 and below {self.sigma_max}")
        require(self.final in ("zero", "sigma_min"), "final", self.final, "zero, sigma_min")

    @property
    def nodes(self) -> int:
        """How many sigmas above 0 there are."""
        return self.num_steps + (self.final == "sigma_min")

    @property
    def ends(self) -> tuple[float, float]:
        """The highest and the lowest sigma above 0; with a single one, it is the highest."""
        return self.sigma_max, self.sigma_min

    def curve(self, u: np.ndarray) -> np.ndarray:
        """Sigma at u in [0, 1]: sigma_max at 0, sigma_min at 1."""
        raise NotImplementedError  # the subclass is the formula

    def above_zero(self) -> np.ndarray:
        """The sigmas above 0, (nodes,) float64."""
        sigmas = np.asarray(self.curve(np.linspace(0.0, 1.0, self.nodes)), dtype=np.float64)
        # The ends are what was asked for, not what rounding made of it.
        sigmas[-1] = self.sigma_min
        sigmas[0] = self.sigma_max
        return sigmas

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """(N + 1,) float64; neither the denoiser nor noise is used."""
        del denoise, noise
        sigmas = self.above_zero()
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
        _check_rho(self.rho)

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


@SCHEDULES.register("loglinear")
@dataclass(frozen=True)
class LogLinear(LogSNR):
    """Uniform in log sigma, under the name that aiimaginglab/sdm gives it: the sigmas of `logsnr`."""


@SCHEDULES.register("ve")
@dataclass(frozen=True)
class VE(LogSNR):
    """sigma^2 geometric, the VE discretisation of Karras et al., 2022, arXiv 2206.00364, Table 1: those of `logsnr`.

    The process is Song et al.'s (2021, arXiv 2011.13456).
    """


def vp_betas(sigma_min: float, sigma_max: float, epsilon_s: float) -> tuple[float, float]:
    """beta_d and beta_min of the VP process with sigma_min at time epsilon_s and sigma_max at time 1.

    sigma(t)^2 + 1 = exp(beta_d t^2 / 2 + beta_min t) (Karras et al., 2022, arXiv 2206.00364, Table 1).

    Raises:
        SpecError: no such process, since sigma would not rise with time all the way.
    """
    log_high, log_low = math.log1p(sigma_max**2), math.log1p(sigma_min**2)
    least = 1 - math.sqrt(1 - log_low / log_high)  # there sigma stops rising at time 1
    require(least < epsilon_s < 1, "epsilon_s", epsilon_s, f"above {least:.3g} and below 1")
    beta_d = 2 * (log_high - log_low / epsilon_s) / (1 - epsilon_s)
    beta_min = log_high - beta_d / 2
    return beta_d, beta_min


def _vp_sigma(t: np.ndarray, betas: tuple[float, float]) -> np.ndarray:
    beta_d, beta_min = betas
    return np.asarray(np.sqrt(np.expm1(0.5 * beta_d * t**2 + beta_min * t)))


@SCHEDULES.register("vp")
@dataclass(frozen=True)
class VP(ClosedForm):
    """Uniform in the VP process's time, from 1 to epsilon_s (Song et al., 2021; Karras et al., 2022, Table 1).

    arXiv 2011.13456 and 2206.00364. The sigmas of `time_uniform` with rho 1.
    """

    epsilon_s: float = 1e-3  # Karras et al. (2022), Table 1, VP column

    def __post_init__(self) -> None:
        super().__post_init__()
        vp_betas(self.sigma_min, self.sigma_max, self.epsilon_s)

    def curve(self, u: np.ndarray) -> np.ndarray:
        """Sigma(t) at t linear from 1 to epsilon_s."""
        return _vp_sigma(1 + u * (self.epsilon_s - 1), vp_betas(self.sigma_min, self.sigma_max, self.epsilon_s))


@SCHEDULES.register("time_uniform")
@dataclass(frozen=True)
class TimeUniform(ClosedForm):
    """Uniform in the VP process's time to the power 1/rho (Song et al., 2021, arXiv 2011.13456; DEIS uses rho = 2)."""

    rho: float = 1.0
    epsilon_s: float = 1e-3  # Karras et al. (2022), Table 1, VP column

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rho(self.rho)
        vp_betas(self.sigma_min, self.sigma_max, self.epsilon_s)

    def curve(self, u: np.ndarray) -> np.ndarray:
        """Sigma(t) at t^(1/rho) linear from 1 to epsilon_s^(1/rho)."""
        t = (1 + u * (self.epsilon_s ** (1 / self.rho) - 1)) ** self.rho
        return _vp_sigma(t, vp_betas(self.sigma_min, self.sigma_max, self.epsilon_s))


@SCHEDULES.register("iddpm")
@dataclass(frozen=True)
class IDDPM(ClosedForm):
    """Members of iDDPM's grid of m noise levels (Nichol & Dhariwal, 2021, arXiv 2102.09672).

    In the form of Karras et al., 2022, Table 1: sigma_j^2 + 1 is the product over k > j of 1 / max(a_{k-1} / a_k, c_1),
    with a_k = sin^2(pi k / (2 m (1 + c_2))), the cosine schedule. Of the members between sigma_min and sigma_max, those
    at evenly spaced indices are taken, rounded. The ends are therefore members too: 71.29 and 0.00643 by default, not
    sigma_max and sigma_min.

    Raises:
        SpecError: more sigmas are asked for than the grid has in this range.
    """

    c_1: float = 0.001  # Karras et al. (2022), Table 1, iDDPM column; so are the next two
    c_2: float = 0.008
    m: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.c_1 < 1, "c_1", self.c_1, "above 0 and below 1")
        require(0 <= self.c_2 < math.inf, "c_2", self.c_2, "0 or more and finite")
        require(1 <= self.m <= MOST_STEPS, "m", self.m, f"1 to {MOST_STEPS}")
        members = len(self.members())
        if self.nodes > members:
            raise SpecError(
                f"asks for {self.nodes} sigmas above 0, and the grid has {members} from sigma_min to sigma_max",
                path="num_steps",
                given=self.num_steps,
                allowed=f"at most {members - (self.final == 'sigma_min')}, or a wider range, or a larger m",
            )

    @property
    def ends(self) -> tuple[float, float]:
        """The highest and the lowest member in the range."""
        members = self.members()
        return float(members[0]), float(members[-1])

    def members(self) -> np.ndarray:
        """The grid's sigmas from sigma_max down to sigma_min."""
        level = np.sin(0.5 * np.pi * np.arange(self.m + 1) / (self.m * (1 + self.c_2))) ** 2
        with np.errstate(over="ignore"):  # a level beyond double precision is above any sigma_max
            growth = np.cumprod(1 / np.maximum(level[:-1] / level[1:], self.c_1)[::-1])[::-1]
        grid = np.sqrt(growth - 1)
        return np.asarray(grid[(grid >= self.sigma_min) & (grid <= self.sigma_max)])

    def above_zero(self) -> np.ndarray:
        """Members at evenly spaced indices, (nodes,), counted from the lowest (aiimaginglab/sdm modules/utils.py)."""
        rising = self.members()[::-1]
        if self.nodes == 1:
            return rising[-1:]
        picked = np.round(np.linspace(0, len(rising) - 1, self.nodes)).astype(int)
        return np.array(rising[picked][::-1])


@SCHEDULES.register("given")
@dataclass(frozen=True)
class Given:
    """A list of sigmas, as it stands; the last may be 0."""

    values: tuple[float, ...]

    calibration_images: ClassVar[int] = 0
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        try:
            check_sigmas(torch.tensor(self.values, dtype=torch.float64), self.registry_name)
        except SpecError as error:
            raise error.under("values") from None

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """The listed values, float64."""
        del denoise, noise
        return torch.tensor(self.values, dtype=torch.float64)
