"""The mixture of isotropic Gaussians: denoiser, mean and covariance in closed form, so every error is the sampler's."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.models import MODELS
from pipeline.registry import require


@MODELS.register("gmm")
@dataclass(frozen=True)
class GaussianMixture:
    """sum_k weights[k] N(means[k], stds[k]^2 I): weights (K,), means (K, d), stds (K,), d = C * H * W.

    Tensors, arrays and lists are taken as well as tuples. Weights are relative: they are divided by their sum.

    Raises:
        SpecError: lengths that do not agree, a weight that is not positive, a negative standard deviation.
    """

    weights: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    stds: tuple[float, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        count, dim = len(self.weights), math.prod(self.shape)
        require(count > 0, "weights", list(self.weights), "at least one component")
        require(all(w > 0 and math.isfinite(w) for w in self.weights), "weights", list(self.weights), "above 0")
        require(all(s >= 0 and math.isfinite(s) for s in self.stds), "stds", list(self.stds), "at least 0")
        require(len(self.stds) == count, "stds", len(self.stds), f"{count} numbers, one a weight")
        require(len(self.means) == count, "means", len(self.means), f"{count} rows, one a weight")
        require(len(self.shape) == 3 and dim > 0, "shape", list(self.shape), "three whole numbers, C, H and W")
        for k, row in enumerate(self.means):
            require(len(row) == dim, f"means[{k}]", len(row), f"{dim} numbers, C * H * W")

    @property
    def hash(self) -> str:
        """SHA-256 of the four fields, as JSON."""
        text = json.dumps({field.name: getattr(self, field.name) for field in fields(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture, float64 (d,)."""
        weights, means, _ = self._tensors()
        return weights @ means

    @property
    def covariance(self) -> Tensor:
        """Covariance of the mixture, float64 (d, d)."""
        weights, means, stds = self._tensors()
        centred = means - weights @ means
        within = (weights * stds**2).sum() * torch.eye(means.shape[1], dtype=torch.float64)
        return (weights[:, None] * centred).T @ centred + within

    def denoiser(self, device: str = "cpu", dtype: torch.dtype = torch.float64) -> Denoiser:
        """D in closed form, computed in `dtype` and handed back in the dtype of x."""
        weights, means, stds = (t.to(device, dtype) for t in self._tensors())
        return _Denoiser(weights.log(), means, stds**2)

    def draw(self, count: int, seed: int) -> Tensor:
        """Exact samples, float32 (count, C, H, W)."""
        generator = torch.Generator().manual_seed(seed)
        weights, means, stds = self._tensors()
        k = torch.multinomial(weights, count, replacement=True, generator=generator)
        unit = torch.randn((count, means.shape[1]), generator=generator, dtype=torch.float64)
        return (means[k] + stds[k, None] * unit).float().reshape(count, *self.shape)

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        weights = torch.tensor(self.weights, dtype=torch.float64)
        means = torch.tensor(self.means, dtype=torch.float64)
        return weights / weights.sum(), means, torch.tensor(self.stds, dtype=torch.float64)


class _Denoiser:
    """D = sum_k r_k (sigma^2 mu_k + s_k^2 x) / v_k, v_k = s_k^2 + sigma^2, r_k the posterior of component k.

    Float64 makes the expanded |x - mu|^2 safe: its rounding over 2 v stays under 1e-9 down to sigma = 0.002.
    """

    def __init__(self, log_weights: Tensor, means: Tensor, variances: Tensor) -> None:
        self.log_weights, self.means, self.variances = log_weights, means, variances

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        flat = x.flatten(1).to(self.means.dtype)
        v = self.variances + sigma**2
        distance = flat.square().sum(1, keepdim=True) - 2 * flat @ self.means.T + self.means.square().sum(1)
        logits = self.log_weights - flat.shape[1] / 2 * v.log() - distance / (2 * v)
        posterior = logits.softmax(1)
        shrunk = (posterior * (sigma**2 / v)) @ self.means
        denoised = torch.addcmul(shrunk, posterior @ (self.variances / v).unsqueeze(1), flat)
        return denoised.to(x.dtype).reshape(x.shape)


def _plain(value: object) -> object:
    """Tensors and lists to nested tuples, so that the mixture is hashable and its fields are JSON."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return tuple(_plain(item) for item in value) if isinstance(value, Sequence) else value
