"""The closed-form problem of `data/conformance.json`: a Gaussian mixture, its exact denoiser, its latents."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

DATA = Path(__file__).parent / "data" / "conformance.json"


class MixtureDenoiser:
    """D(x; sigma) = E[x0 | x] of isotropic Gaussians, float64; images have `shape`."""

    def __init__(
        self, weights: list[float], means: list[list[float]], stds: list[float], shape: tuple[int, ...]
    ) -> None:
        self.log_weights = torch.tensor(weights, dtype=torch.float64).log()
        self.means = torch.tensor(means, dtype=torch.float64)
        self.shape = tuple(shape)
        self.variances = torch.tensor(stds, dtype=torch.float64).square()

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        rows = x.reshape(len(x), 1, -1)
        spread = self.variances + sigma**2
        log_density = -0.5 * (rows - self.means).square().sum(2) / spread - 0.5 * self.means.shape[1] * spread.log()
        share = torch.softmax(self.log_weights + log_density, 1)[:, :, None]
        gain = (self.variances / spread)[:, None]
        return (share * (self.means + gain * (rows - self.means))).sum(1).reshape(len(x), *self.shape)


class Problem(NamedTuple):
    """A conformance file: its mixture, the latents of its samples and of its calibration, its cases."""

    mixture: MixtureDenoiser
    latents: Tensor
    calibration_latents: Tensor
    cases: list[dict[str, Any]]


def load(path: Path) -> Problem:
    content = json.loads(path.read_text())
    problem = content["problem"]

    def images(rows: list[list[float]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, *problem["shape"])

    mixture = MixtureDenoiser(*(problem[key] for key in ("weights", "means", "stds", "shape")))
    return Problem(mixture, images(content["latents"]), images(content["calibration_latents"]), content["cases"])


SHIPPED = load(DATA)
# What the conformance tests run on; every other test knows its numbers by the shipped problem.
ASKED = load(Path(os.environ.get("SIGMASEARCH_CONFORMANCE") or DATA))
MIXTURE, LATENTS, CALIBRATION_LATENTS, _ = SHIPPED
