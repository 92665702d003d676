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
import torch

from pipeline.comparison import Estimate
from pipeline.device import has_float64
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


def frechet_distance(moments: Moments, reference: Reference, device: str = "cpu") -> float:
    """|m - m_r|^2 + tr(S + S_r - 2 (R S R)^(1/2)), R = S_r^(1/2) (Heusel et al., 2017, arXiv 1706.08500, eq. 6).

    The eigenvalues are those of a symmetric matrix, and those under max * d * eps are dropped as rounding, so a
    covariance of less than full rank is measured to 1e-12. With fewer images than features a Gram matrix of the images
    would be smaller, but moments carry no images. May come out at minus 1e-13: clamp where it is shown, not where it is
    stored. Moments that are not finite are at distance nan. The eigenvalues are found on `device`.

    Raises:
        ValueError: fewer than two images, or another number of features than the reference has.
    """
    if moments.dim != len(reference.mean):
        raise ValueError(f"{moments.dim} features cannot be compared with {len(reference.mean)}")
    covariance, root = moments.covariance, reference.root
    if not np.isfinite(moments.mean).all() or not np.isfinite(covariance).all():
        return math.nan
    here = device == "cpu" or not has_float64(device)
    values = _eigenvalues(covariance, root) if here else _eigenvalues_on(device, covariance, root)
    overlap = float(np.sqrt(_kept(values)).sum())
    gap = moments.mean - reference.mean
    return float(gap @ gap + np.trace(covariance) + np.trace(reference.covariance)) - 2 * overlap


MOST_GROUPS = 25  # a FID without each of 25 groups of shards costs 26 distances, and more groups tell little more


def groups_of(count: int) -> int:
    """Into how many groups of equal size `count` shards are put: as many as divide them, 25 at most.

    Where no number from 10 to 25 does, each shard is a group of its own.
    """
    best = max(k for k in range(1, MOST_GROUPS + 1) if count % k == 0)
    return best if best >= min(count, 10) else count


class Part(NamedTuple):
    """Some of a trial's images, to be measured: `whole`, without those of `group`.

    They are told apart where they are measured, since with many features each of them is a large matrix.
    """

    whole: Moments
    group: Moments | None = None

    def distance(self, reference: Reference, device: str = "cpu") -> float:
        """Their Frechet distance."""
        moments = self.whole if self.group is None else self.whole.without(self.group)
        return frechet_distance(moments, reference, device)


def left_out(shards: Sequence[Moments]) -> list[Part]:
    """What a `jackknife` measures: all shards together, and all but one group at a time.

    Consecutive shards are grouped by `groups_of`. With fewer than two groups, or one image left, there is only the
    whole.

    Raises:
        ValueError: no shards, or shards that differ in size.
    """
    sizes = {shard.n for shard in shards}
    if len(sizes) > 1:
        raise ValueError(f"leave-one-out needs shards of equal size, not {sorted(sizes)}")
    whole = Moments.merge(shards)
    each = len(shards) // groups_of(len(shards))
    groups = [Moments.merge(shards[at : at + each]) for at in range(0, len(shards), each)]
    if len(groups) < 2 or whole.n - groups[0].n < 2:
        return [Part(whole)]
    return [Part(whole), *(Part(whole, group) for group in groups)]


def jackknife(shards: Sequence[Moments], reference: Reference) -> Estimate:
    """Frechet distance of all shards together, from leaving out one group of shards at a time.

    The estimate without the term in 1/N is what Chong and Forsyth, 2020, arXiv 1911.07023, extrapolate to; a bootstrap
    of images gives neither it nor the error. Where `left_out` has no groups, error and corrected value are nan. Costs
    one `frechet_distance` more than there are groups.

    Raises:
        ValueError: no shards, or shards that differ in size.
    """
    parts = left_out(shards)
    return estimate(parts[0].whole.n, [part.distance(reference) for part in parts])


def estimate(images: int, distances: Sequence[float]) -> Estimate:
    """The estimate that the distances of `left_out` make."""
    return Estimate.of(images, distances[0], tuple(distances[1:]))


def growing(shards: Sequence[Moments]) -> list[Part]:
    """What `fid_infinity` measures: disjoint runs of a fifth of the shards, of two fifths, and so on to all of them.

    None with fewer than five shards, or fewer than two images a feature in a fifth, where the bias is no longer a term
    in 1/N.

    Raises:
        ValueError: no shards, or shards that differ in size.
    """
    if len({shard.n for shard in shards}) > 1:
        raise ValueError("the extrapolation needs shards of equal size")
    fifth = len(shards) // 5
    if fifth == 0 or fifth * shards[0].n < 2 * shards[0].dim:
        return []
    return [
        Part(Moments.merge(shards[at : at + size]))
        for size in (fifth * k for k in range(1, 6))
        for at in range(0, len(shards) - size + 1, size)
    ]


def fid_infinity(shards: Sequence[Moments], reference: Reference) -> float | None:
    """FID at infinitely many images: the intercept of a line through FID against 1/N (arXiv 1911.07023).

    A FID at N is the mean over as many disjoint runs of shards as there are. None where `growing` is empty.

    Raises:
        ValueError: no shards, or shards that differ in size.
    """
    parts = growing(shards)
    return intercept([part.whole.n for part in parts], [part.distance(reference) for part in parts])


def intercept(images: Sequence[int], distances: Sequence[float]) -> float | None:
    """The extrapolation of the distances of `growing`, each of so many images; None of none."""
    if not images:
        return None
    sizes = sorted(set(images))
    means = [float(np.mean([d for n, d in zip(images, distances, strict=True) if n == size])) for size in sizes]
    return float(np.polyfit([1 / size for size in sizes], means, 1)[1])


def _eigenvalues(covariance: Array, root: Array) -> Array:
    product = root @ covariance @ root
    return np.asarray(np.linalg.eigvalsh((product + product.T) / 2))


def _eigenvalues_on(device: str, covariance: Array, root: Array) -> Array:
    """The same by torch, for a worker whose accelerator would wait otherwise."""
    held = torch.from_numpy(root).to(device)
    product = held @ torch.from_numpy(covariance).to(device) @ held
    return np.asarray(torch.linalg.eigvalsh((product + product.T) / 2).cpu().numpy())


def _kept(values: npt.NDArray[Any]) -> Array:
    """Eigenvalues without those that are rounding: under max * d * eps, negative ones included, they become 0."""
    limit = max(0.0, float(values.max())) * len(values) * float(np.finfo(np.float64).eps)
    return np.where(values > limit, values, 0.0)
