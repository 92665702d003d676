"""Frechet distance of moments to a reference, its standard error, and its value without the bias of a finite N."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.metrics.moments import Array, Moments


@dataclass(frozen=True, eq=False)
class Reference:
    """What samples are compared with: mean (d,), covariance (d, d), and of how many images (None: exact moments)."""

    mean: Array
    covariance: Array
    n: int | None = None

    @staticmethod
    def of(moments: Moments) -> Reference:
        """The reference made of a data set's moments."""
        return Reference(moments.mean, moments.covariance, moments.n)

    @functools.cached_property
    def root(self) -> Array:
        """The symmetric square root of the covariance; made once, then used for every trial."""
        values, vectors = np.linalg.eigh(self.covariance)
        return np.asarray((vectors * np.sqrt(_kept(values))) @ vectors.T)

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the float64 bytes, 64 hex digits. Exact: a library that rounds otherwise gives another."""
        digest = hashlib.sha256()
        for part in (self.mean, self.covariance):
            digest.update(np.ascontiguousarray(part, dtype="<f8").tobytes())
        return digest.hexdigest()


def frechet_distance(moments: Moments, reference: Reference) -> float:
    """|m - m_r|^2 + tr(S + S_r - 2 (R S R)^(1/2)), R = S_r^(1/2) (Heusel et al., 2017, arXiv 1706.08500, eq. 6).

    The eigenvalues are those of a symmetric matrix, and those under max * d * eps are dropped as rounding, so a
    covariance of less than full rank is measured to 1e-12. With fewer images than features a Gram matrix of the images
    would be smaller, but moments carry no images. May come out at minus 1e-13: clamp where it is shown, not where it is
    stored. Moments that are not finite are at distance nan.

    Raises:
        ValueError: fewer than two images, or another number of features than the reference has.
    """
    if moments.dim != len(reference.mean):
        raise ValueError(f"{moments.dim} features cannot be compared with {len(reference.mean)}")
    covariance, root = moments.covariance, reference.root
    if not np.isfinite(moments.mean).all() or not np.isfinite(covariance).all():
        return math.nan
    product = root @ covariance @ root
    overlap = float(np.sqrt(_kept(np.linalg.eigvalsh((product + product.T) / 2))).sum())
    gap = moments.mean - reference.mean
    return float(gap @ gap + np.trace(covariance) + np.trace(reference.covariance)) - 2 * overlap


class Estimate(NamedTuple):
    """A Frechet distance with its standard error, and what it would be at infinite N to first order."""

    fid: float
    se: float
    corrected: float


def jackknife(shards: Sequence[Moments], reference: Reference) -> Estimate:
    """Frechet distance of all shards together, from leaving out one shard at a time (Quenouille, 1956; Tukey, 1958).

    se = sqrt((K - 1) / K * sum (F_k - mean F)^2), corrected = K F - (K - 1) mean F, which removes the term in 1/N (the
    bias that Chong and Forsyth, 2020, arXiv 1911.07023, extrapolate away). A bootstrap of images does neither. With
    fewer than two shards, or one image a shard left, both are nan. Costs K + 1 times `frechet_distance`.

    Raises:
        ValueError: no shards, or shards that differ in size.
    """
    sizes = {shard.n for shard in shards}
    if len(sizes) > 1:
        raise ValueError(f"leave-one-out needs shards of equal size, not {sorted(sizes)}")
    whole = Moments.merge(shards)
    fid, count = frechet_distance(whole, reference), len(shards)
    if count < 2 or whole.n - shards[0].n < 2:
        return Estimate(fid, math.nan, math.nan)
    each = np.array([frechet_distance(whole.without(shard), reference) for shard in shards])
    se = math.sqrt((count - 1) / count * float(np.square(each - each.mean()).sum()))
    return Estimate(fid, se, count * fid - (count - 1) * float(each.mean()))


def _kept(values: npt.NDArray[Any]) -> Array:
    """Eigenvalues without those that are rounding: under max * d * eps, negative ones included, they become 0."""
    limit = max(0.0, float(values.max())) * len(values) * float(np.finfo(np.float64).eps)
    return np.where(values > limit, values, 0.0)
