"""Clusters within clusters in independent patches: a mixture of very many Gaussians whose denoiser is still exact."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.models import MODELS
from pipeline.models.gmm import GaussianMixture
from pipeline.noise import noise
from pipeline.registry import require

MOST_COMPONENTS = 4096
# Logits at a time on the CPU, 256 KiB in float64: several arrays of that size stay in cache.
CPU_LOGITS = 2**15
# On a device: 512 MiB in float64.
DEVICE_LOGITS = 2**26
# Means are rounded to this many decimals, so that the last bit of a library's logarithm changes nothing.
DECIMALS = 9


@MODELS.register("gaussian_hierarchy")
@dataclass(frozen=True)
class GaussianHierarchy:
    """An image of independent patches, each drawn from the same tree of Gaussian clusters.

    A patch is `patch` values that follow one another in (C, H, W). Its tree has a level for each entry of `branching`:
    every centre of the level above has that many children, `spreads[level]` from it in each value (one standard
    deviation; `pipeline.noise.noise([seed], stream=level)`). Leaf k is an isotropic Gaussian of standard deviation
    stds[k % len(stds)]. A child weighs `ratio` times the one before it.

    Patches and not one tree for the whole image: a Frechet distance sees only mean and covariance, and a few clusters
    leave the share of each, and with it every eigenvalue, to chance. Many patches average that out.

    Raises:
        SpecError: lengths that do not agree, a number out of range, or a patch that does not divide the image.
    """

    shape: tuple[int, ...]
    patch: int
    branching: tuple[int, ...]
    spreads: tuple[float, ...]
    stds: tuple[float, ...]
    ratio: float
    seed: int

    def __post_init__(self) -> None:
        for key in ("shape", "branching", "spreads", "stds"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        dim = math.prod(self.shape)
        whole = len(self.shape) == 3 and min(self.shape) > 0
        require(whole, "shape", list(self.shape), "three whole numbers above 0, C, H and W")
        require(self.patch > 0 and dim % self.patch == 0, "patch", self.patch, f"a divisor of C * H * W = {dim}")
        grows = len(self.branching) > 0 and min(self.branching) > 0 and math.prod(self.branching) <= MOST_COMPONENTS
        allowed = f"whole numbers above 0, of a product up to {MOST_COMPONENTS}"
        require(grows, "branching", list(self.branching), allowed)
        levels = len(self.branching)
        require(len(self.spreads) == levels, "spreads", list(self.spreads), f"{levels} numbers, one a level")
        require(_in_range(self.spreads), "spreads", list(self.spreads), "0 or more")
        require(len(self.stds) > 0 and _in_range(self.stds), "stds", list(self.stds), "at least one, each 0 or more")
        require(0.01 <= self.ratio <= 1, "ratio", self.ratio, "0.01 to 1")
        require(0 <= self.seed < 2**128, "seed", self.seed, "0 to 2**128 - 1")

    @functools.cached_property
    def mixture(self) -> GaussianMixture:
        """The mixture that each patch is drawn from, of shape (1, 1, patch)."""
        weights: tuple[float, ...] = (1.0,)
        means = torch.zeros((1, self.patch), dtype=torch.float64)
        for level, (children, spread) in enumerate(zip(self.branching, self.spreads, strict=True)):
            apart = noise([self.seed], (len(means) * children, self.patch), torch.float64, stream=level)[0]
            means = means.repeat_interleave(children, 0) + spread * apart
            # By multiplication alone: a power may differ in its last bit between machines, and with it the hash.
            shares = [math.prod([self.ratio] * rank) for rank in range(children)]
            weights = tuple(weight * share for weight in weights for share in shares)
        stds = tuple(self.stds[k % len(self.stds)] for k in range(len(means)))
        rows = tuple(tuple(row) for row in means.round(decimals=DECIMALS).tolist())
        return GaussianMixture(weights, rows, stds, (1, 1, self.patch))

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return math.prod(self.shape) // self.patch

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the shape, the size of a patch and every number of its mixture."""
        text = json.dumps({"shape": self.shape, "patch": self.patch, "mixture": self.mixture.hash}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def mean(self) -> Tensor:
        """Mean of an image, float64 (d,)."""
        return self.mixture.mean.repeat(self.patches)

    @property
    def covariance(self) -> Tensor:
        """Covariance of an image, float64 (d, d): the patches' on the diagonal, for they are independent."""
        return torch.kron(torch.eye(self.patches, dtype=torch.float64), self.mixture.covariance)

    def denoiser(self, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Denoiser:
        """D in closed form, computed in `dtype` and handed back in the dtype of x."""
        limit = CPU_LOGITS if torch.device(device).type == "cpu" else DEVICE_LOGITS
        rows = max(1, limit // len(self.mixture.weights))
        return _Denoiser(self.mixture.denoiser(device, dtype), self.patch, rows)

    def draw(self, count: int, seed: int) -> Tensor:
        """Exact samples, float32 (count, C, H, W)."""
        return self.mixture.draw(count * self.patches, seed).reshape(count, *self.shape)


class _Denoiser:
    """D of each patch by itself, `rows` patches at a time: what bounds the memory, whatever the batch."""

    def __init__(self, denoise: Denoiser, patch: int, rows: int) -> None:
        self.denoise, self.patch, self.rows = denoise, patch, rows

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        flat = x.reshape(-1, self.patch)
        denoised = torch.empty_like(flat)
        for start in range(0, len(flat), self.rows):
            denoised[start : start + self.rows] = self.denoise(flat[start : start + self.rows], sigma)
        return denoised.reshape(x.shape)


def _in_range(values: Sequence[float]) -> bool:
    return all(0 <= value < math.inf for value in values)
