"""A diffusers scheduler run on any list of sigmas, with the exact denoiser in the place of the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.denoiser import Meter
from tests.conformance_problem import LATENTS, MIXTURE
from tests.peers.comparison import Result

# At sigma 80 all but a part in 80 of a variance-preserving state is noise, and their log(sigma_t), of 1 - 8e-5, has
# lost four digits. Up to 2e-12 is seen (UniPC in noise prediction), 2e-13 elsewhere.
TOLERANCE = 1e-11
OLD_HABITS = [
    # They hand tensors to numpy in ways that numpy 2 deprecates, and call "dpmsolver" itself deprecated.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.algorithm_types.*dpmsolver:FutureWarning"),
]


def alpha(sigma: float) -> float:
    """What a variance-preserving state is of x: their `_sigma_to_alpha_sigma_t`, so that nothing is approximate."""
    return 1 / math.sqrt(1 + sigma**2)


def run(scheduler: Any, sigmas: Sequence[float], dtype: torch.dtype = torch.float64, **options: Any) -> Result:
    """Its own loop: scale the input, call the network, step. Samples in our coordinates and float64."""
    place(scheduler, sigmas, dtype)
    meter = Meter(MIXTURE)
    preserving = scheduler.init_noise_sigma == 1
    x = (sigmas[0] * (alpha(sigmas[0]) if preserving else 1) * LATENTS).to(dtype)
    for sigma in scheduler.timesteps:
        answer = network(scheduler, meter, scheduler.scale_model_input(x, sigma).double(), float(sigma))
        x = scheduler.step(answer.to(dtype), sigma, x, **options).prev_sample
        assert x.dtype == dtype
    return x.double() / (alpha(sigmas[-1]) if preserving else 1), meter.calls


def place(scheduler: Any, sigmas: Sequence[float], dtype: torch.dtype) -> None:
    """Put our sigmas in the places of theirs. As timesteps they get the sigma of each network call."""
    nodes = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.set_timesteps(len(sigmas) - 1)
    shapes = scheduler.sigmas.shape, scheduler.timesteps.shape
    kind = type(scheduler).__name__
    if kind == "HeunDiscreteScheduler":
        scheduler.sigmas = torch.cat([nodes[:1], nodes[1:-1].repeat_interleave(2), nodes[-1:]])
        scheduler.timesteps = scheduler.sigmas[:-1]
    elif kind == "KDPM2DiscreteScheduler":
        between = (nodes * nodes.roll(1)).sqrt()
        scheduler.timesteps = torch.stack([between[:-1], nodes[:-1]], 1).flatten()[1:]
        nodes, between = (torch.cat([row[:1], row[1:].repeat_interleave(2), row[-1:]]) for row in (nodes, between))
        scheduler.sigmas, scheduler.sigmas_interpol = nodes.to(dtype), between.to(dtype)
    else:
        scheduler.sigmas, scheduler.timesteps = nodes, nodes[:-1]
    scheduler.sigmas = scheduler.sigmas.to(dtype)
    assert (scheduler.sigmas.shape, scheduler.timesteps.shape) == shapes
    scheduler.set_begin_index(0)


def network(scheduler: Any, denoise: Meter, seen: Tensor, sigma: float) -> Tensor:
    """What the network that the scheduler expects answers to `seen`, its scaled input."""
    if hasattr(scheduler, "precondition_outputs"):  # EDM's network, inside EDM's preconditioning
        data = scheduler.config.sigma_data
        norm = math.hypot(sigma, data)
        x = norm * seen
        return (denoise(x, sigma) - (data / norm) ** 2 * x) * (norm / (sigma * data))
    x = seen / alpha(sigma)
    denoised = denoise(x, sigma)
    return denoised if scheduler.config.prediction_type == "sample" else (x - denoised) / sigma
