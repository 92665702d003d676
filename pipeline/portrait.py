"""What a plan's first images look like and how its path bends, seen while they are sampled for its score anyway."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.benchmarks import Benchmark
from pipeline.denoiser import Denoiser
from pipeline.device import in_float64
from pipeline.plan import Plan
from pipeline.wasserstein import SAME_SIGMA, batch_norm

PICTURES = 16  # of the study's first seeds, the same of every trial: a grid of 4 x 4
PATH_IMAGES = 128  # aiimaginglab/sdm, adaptive_scheduling.sh: one batch of 128
DIGITS = 6
CHANNELS = (1, 3, 4)  # of what can be shown as a picture


@dataclass(frozen=True, eq=False)
class Portrait:
    """A plan as its first images show it.

    `sigmas`: one of each evaluation, and where the plan ends. `kappas`, `etas`: one of each evaluation, against the
    last one at another sigma, means over `images`; nan where there is none, as at the first. Kappa per unit sigma, eta
    in image L2 norm, both as the plan ran: in float32 rounding alone bends a path at the smallest sigmas. `pixels`:
    (n, H, W, C) uint8 of the first seeds, None where samples are no pictures.
    """

    sigmas: tuple[float, ...]
    kappas: tuple[float, ...]
    etas: tuple[float, ...]
    images: int
    pixels: NDArray[np.uint8] | None = None


class Sitting:
    """Watches one batch of a plan on its way. It reads what passes and changes none of it, and asks for no evaluation.

    `portrait` is what came of it. `seconds` is what it took of the worker's time, which is no cost of the plan.
    """

    def __init__(self) -> None:
        self.portrait: Portrait | None = None
        self._sigmas: list[float] = []
        self._bends: list[tuple[Tensor, Tensor] | None] = []
        # The slope at the last evaluation, and at the last one before it at another sigma.
        self._here: tuple[float, Tensor] | None = None
        self._before: tuple[float, Tensor] | None = None
        self._images = 0
        self.seconds = 0.0

    def watch(self, network: Denoiser) -> Denoiser:
        """The same network, watched."""

        def watched(x: Tensor, sigma: float) -> Tensor:
            denoised = network(x, sigma)
            started = time.perf_counter()
            seen = slice(0, PATH_IMAGES)
            self._see(float(sigma), (in_float64(x[seen]) - in_float64(denoised[seen])) / sigma)
            self.seconds += time.perf_counter() - started
            return denoised

        return watched

    def _see(self, sigma: float, slope: Tensor) -> None:
        self._images = len(slope)
        if self._here is not None and abs(self._here[0] - sigma) > SAME_SIGMA * sigma:
            self._before = self._here
        self._sigmas.append(sigma)
        if self._before is None:
            self._bends.append(None)
        else:
            width, before = abs(self._before[0] - sigma), self._before[1]
            bend = batch_norm(slope - before)
            # Left on their device: a number read now would make the host wait for it.
            self._bends.append(((bend / (width * batch_norm(before))).mean(), (0.5 * width * bend).mean()))
        self._here = sigma, slope

    def end(self, plan: Plan, samples: Tensor, benchmark: Benchmark) -> None:
        """Put down what was seen, with the images that came of it. `samples`: (B, C, H, W), images or latents."""
        told = [(math.nan, math.nan) if bend is None else (_short(bend[0]), _short(bend[1])) for bend in self._bends]
        pixels = None
        if benchmark.spec.quantise and samples.ndim == 4:
            images = benchmark.images(samples[:PICTURES])
            if images.shape[1] in CHANNELS:
                pixels = images.movedim(1, -1).contiguous().cpu().numpy()
        kappas, etas = (tuple(column) for column in zip(*told, strict=True)) if told else ((), ())
        self.portrait = Portrait((*self._sigmas, plan.sigmas[-1]), kappas, etas, self._images, pixels)


def _short(value: Tensor) -> float:
    number = float(value)
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else math.nan
