"""What a network's training calls its input, its time and its answer, as D(x; sigma) of x = x0 + sigma n.

A scaling is read from the configuration of the pipeline's scheduler, the only place where diffusers keeps it.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.registry import SpecError

PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
PRESERVING = (
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
EXPLODING = ("ScoreSdeVeScheduler",)
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


class Scaling(Protocol):
    """Between EDM's coordinates, with data in [-1, 1], and the network's."""

    def seen(self, x: Tensor, sigma: float) -> Tensor:
        """What the network is shown of x."""
        ...

    def time(self, sigma: float) -> float:
        """What the network is told of sigma."""
        ...

    def denoised(self, x: Tensor, answer: Tensor, sigma: float) -> Tensor:
        """D(x; sigma) of what the network answers."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All that decides it."""
        ...


@dataclass(frozen=True)
class VariancePreserving:
    """The network sees x / sqrt(1 + sigma²), and was told `times` at exp(`log_sigmas`), of which `betas` decide.

    Between two of them the time is linear in log(sigma), as in diffusers' schedulers; beyond them it is the nearest.
    `prediction`: epsilon (n), v_prediction (alpha n - sigma alpha x0, alpha = 1 / sqrt(1 + sigma²)) or sample (x0).
    """

    prediction: str
    betas: Mapping[str, Any]
    times: NDArray[np.float64]
    log_sigmas: NDArray[np.float64]

    def seen(self, x: Tensor, sigma: float) -> Tensor:
        """Of variance 1 where the data's is."""
        return x * (1 / math.hypot(1, sigma))

    def time(self, sigma: float) -> float:
        """A trained timestep, or what lies between two."""
        return float(np.interp(math.log(sigma), self.log_sigmas, self.times))

    def denoised(self, x: Tensor, answer: Tensor, sigma: float) -> Tensor:
        """The answer is x0, or is taken from x."""
        if self.prediction == "sample":
            return answer
        if self.prediction == "epsilon":
            return x - sigma * answer
        alpha = 1 / math.hypot(1, sigma)
        return alpha**2 * x - sigma * alpha * answer

    def to_json(self) -> dict[str, Any]:
        """All that decides it."""
        return {"scaling": "vp", "prediction": self.prediction, **self.betas}


@dataclass(frozen=True)
class VarianceExploding:
    """Song et al., 2021, arXiv 2011.13456: the network sees x itself, is told sigma and answers with the score.

    It was trained on images in [0, 1], where sigma is half of what it is in [-1, 1].
    """

    def seen(self, x: Tensor, sigma: float) -> Tensor:
        """What x is as an image in [0, 1]."""
        return (x + 1) / 2

    def time(self, sigma: float) -> float:
        """Sigma of an image in [0, 1]."""
        return sigma / 2

    def denoised(self, x: Tensor, answer: Tensor, sigma: float) -> Tensor:
        """x0 = x + sigma² score in [0, 1], in [-1, 1] again."""
        return x + (sigma**2 / 2) * answer

    def to_json(self) -> dict[str, Any]:
        """All that decides it."""
        return {"scaling": "ve"}


@dataclass(frozen=True)
class RectifiedFlow:
    """The network sees (1 - t) x0 + t n with t = sigma / (1 + sigma), is told `steps` t, and answers with n - x0.

    Where a pipeline shifts its times, it moves only the t at which the network is asked.
    """

    steps: int

    def seen(self, x: Tensor, sigma: float) -> Tensor:
        """The point between data and noise."""
        return x * (1 / (1 + sigma))

    def time(self, sigma: float) -> float:
        """In steps of training, not rounded."""
        return self.steps * sigma / (1 + sigma)

    def denoised(self, x: Tensor, answer: Tensor, sigma: float) -> Tensor:
        """The path's end, t velocities back."""
        return (x - sigma * answer) * (1 / (1 + sigma))

    def to_json(self) -> dict[str, Any]:
        """All that decides it."""
        return {"scaling": "flow", "steps": self.steps}


def scaling_of(config: Mapping[str, Any]) -> Scaling:
    """The scaling of a pipeline whose scheduler has this configuration.

    Raises:
        SpecError: a scheduler, or a setting of it, that says something else than is understood here.
    """
    name = config.get("_class_name")
    if name in EXPLODING:
        return VarianceExploding()
    if name in FLOW:
        if config.get("invert_sigmas"):
            raise SpecError("is not understood", path="invert_sigmas", given=True, allowed="false")
        return RectifiedFlow(_steps(config.get("num_train_timesteps", 1000)))
    if name not in PRESERVING:
        raise SpecError("is not understood", path="_class_name", given=name, allowed=[*PRESERVING, *EXPLODING, *FLOW])
    if config.get("timestep_type", "discrete") != "discrete":  # log(sigma) / 4 in the place of a time
        raise SpecError("is not understood", path="timestep_type", given=config["timestep_type"], allowed="discrete")
    package = importlib.import_module("diffusers")
    own = inspect.signature(getattr(package, str(name)).__init__).parameters  # each has defaults of its own
    held = {key: config.get(key, own[key].default) for key in (*BETAS, "prediction_type") if key in own}
    prediction = held.pop("prediction_type")
    if prediction not in PREDICTIONS:
        raise SpecError("is not understood", path="prediction_type", given=prediction, allowed=PREDICTIONS)
    _steps(held["num_train_timesteps"])
    try:
        kept = package.DDPMScheduler(**held).alphas_cumprod.double().numpy()
        with np.errstate(divide="ignore", invalid="ignore"):  # the last of a model that begins with noise alone is 0
            log_sigmas = 0.5 * (np.log1p(-kept) - np.log(kept))
    except Exception as error:  # whatever diffusers makes of a stranger's values
        raise SpecError(f"gives no noise levels ({' '.join(str(error).split())})", path="beta_schedule") from None
    known = np.isfinite(log_sigmas)
    times, log_sigmas = np.flatnonzero(known), log_sigmas[known]
    if len(times) < 2 or not known[:-1].all() or np.any(np.diff(log_sigmas) <= 0):
        raise SpecError("gives noise levels that do not increase", path="beta_schedule")
    return VariancePreserving(prediction, held, times.astype(np.float64), log_sigmas)


def _steps(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 2 <= given <= 10**6:
        raise SpecError("is out of range", path="num_train_timesteps", given=given, allowed="2 to 1000000")
    return given
