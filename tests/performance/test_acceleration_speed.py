"""What the ways to run a network bring on the device that is there, as ratios to float32 in one run."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from pipeline.acceleration import Acceleration, Accelerator
from pipeline.device import chosen
from pipeline.models.edm import EdmDenoiser
from pipeline.networks.preconditioning import PRECONDITIONERS
from tests.networks.tiny import DDPMPP

DEVICE = chosen("auto")
# EDM's network for CIFAR-10 where there is a GPU, and a sixteenth of its width where there is none.
SIZE, CHANNELS, IMAGES = (32, 128, 128) if DEVICE == "cuda" else (16, 32, 16)
WAYS = {
    "channels last": {"channels_last": True},
    "bfloat16": {"autocast": "bfloat16"},
    "bfloat16, channels last": {"autocast": "bfloat16", "channels_last": True},
}
ON_CUDA = {
    "float16, channels last": {"autocast": "float16", "channels_last": True},
    "graphs": {"cuda_graphs": True},
    "compiled": {"compile": True},
    "bfloat16, channels last, compiled, graphs": {
        "autocast": "bfloat16", "channels_last": True, "compile": True, "cuda_graphs": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    arguments = {**DDPMPP, "model_channels": CHANNELS, "img_resolution": SIZE, "img_channels": 3}
    made = PRECONDITIONERS["EDMPrecond"](**arguments, attn_resolutions=[16]).eval().requires_grad_(False)
    return EdmDenoiser(made.to(DEVICE))


# On one processor the compiler takes minutes for a U-Net, and there is nothing to wait for between launches.
@pytest.mark.parametrize("settings", (WAYS | (ON_CUDA if DEVICE == "cuda" else {})).items(), ids=lambda item: item[0])
def test_a_network_beside_itself_in_float32(benchmark, denoiser, settings, show):
    name, asked = settings
    fast = Accelerator(Acceleration(**asked))(denoiser)
    x = torch.randn((IMAGES, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def timed(denoise):
        started = time.perf_counter()
        denoise(x, 0.5)
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for denoise in (denoiser, fast):  # compiles, captures, chooses algorithms
        timed(denoise)
    times = [(timed(denoiser), timed(fast)) for _ in range(7)]  # in turn, so that a busy machine slows both
    as_it_is, so = (statistics.median(column) for column in zip(*times, strict=True))
    benchmark.extra_info["over_float32"] = round(so / as_it_is, 3)
    show(f"{DEVICE}, {IMAGES} images of {SIZE} x {SIZE}: {name} takes {so / as_it_is:.2f} of float32's time")
    benchmark(timed, fast)
