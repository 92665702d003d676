"""Moments of features that add up: over workers, over shards, over rungs. A result on the wire is one of these."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.device import in_float64
from pipeline.registry import SpecError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """n, mean (d,) and scatter (d, d) = sum (f - mean)(f - mean)^T, in float64.

    Merged by the update of Chan, Golub and LeVeque (1979): any grouping agrees to rounding, whatever the mean.
    """

    n: int
    mean: Array
    scatter: Array

    @staticmethod
    def zero(dim: int) -> Moments:
        """The moments of nothing: what a merge starts from."""
        return Moments(0, np.zeros(dim), np.zeros((dim, dim)))

    @staticmethod
    def of(features: Tensor | npt.NDArray[Any]) -> Moments:
        """Moments of features (B, d), summed in float64 where they lie, or on the CPU where their device has none."""
        rows = in_float64(torch.as_tensor(features))
        if rows.ndim != 2:
            raise ValueError(f"features have two axes, (B, d), not {rows.ndim}")
        if not len(rows):
            return Moments.zero(rows.shape[1])
        mean = rows.mean(0)
        centred = rows - mean
        # A product with its own transpose need not come out symmetric to the last bit; halves are the truth here.
        scatter = centred.T @ centred
        return Moments(len(rows), mean.cpu().numpy(), ((scatter + scatter.T) / 2).cpu().numpy())

    @staticmethod
    def merge(parts: Iterable[Moments]) -> Moments:
        """The moments of all parts together.

        Raises:
            ValueError: no parts, or parts of different dimension.
        """
        total: Moments | None = None
        for part in parts:
            total = part if total is None else total._with(part)
        if total is None:
            raise ValueError("there is nothing to merge")
        return total

    def without(self, part: Moments) -> Moments:
        """The moments of what is left when `part`, which was merged in before, is taken out."""
        n = self.n - part.n
        if n < 0:
            raise ValueError(f"{part.n} rows cannot be taken out of {self.n}")
        if n == 0:
            return Moments.zero(len(self.mean))
        mean = self.mean + (self.mean - part.mean) * (part.n / n)
        gap = part.mean - mean
        return Moments(n, mean, self.scatter - part.scatter - np.outer(gap, gap) * (part.n * n / self.n))

    @property
    def dim(self) -> int:
        """d, the number of features."""
        return len(self.mean)

    @property
    def covariance(self) -> Array:
        """Scatter / (n - 1), float64 (d, d).

        Raises:
            ValueError: fewer than two rows.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least 2 images, not {self.n}")
        return self.scatter / (self.n - 1)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: base64 of little-endian float64, the scatter's upper triangle. Every bit survives."""
        upper = self.scatter[np.triu_indices(self.dim)]
        return {"n": self.n, "dim": self.dim, "mean": _encode(self.mean), "scatter": _encode(upper)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Moments:
        """Read moments back.

        Raises:
            SpecError: not moments, or not all of them.
        """
        try:
            n, dim = int(value["n"]), int(value["dim"])
            mean, upper = _decode(value["mean"], dim), _decode(value["scatter"], dim * (dim + 1) // 2)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise SpecError(f"are not moments ({type(error).__name__}: {error})", path="moments") from None
        scatter = np.zeros((dim, dim))
        scatter[np.triu_indices(dim)] = upper
        return Moments(n, mean, scatter + np.triu(scatter, 1).T)

    def _with(self, other: Moments) -> Moments:
        if self.dim != other.dim:
            raise ValueError(f"moments of {self.dim} and of {other.dim} features do not merge")
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        gap = other.mean - self.mean
        spread = np.outer(gap, gap) * (self.n * other.n / n)
        return Moments(n, self.mean + gap * (other.n / n), self.scatter + other.scatter + spread)


def _encode(values: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode("ascii")


def _decode(text: str, count: int) -> Array:
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers where {count} belong")
    return values.astype(np.float64)
