"""The metrics beside FID that a study asks for: what they keep while images are sampled, and their scores in the end.

The images of a trial are sampled, decoded and quantised once. What FID's extractor gives is kept for the metrics that
compare it; another extractor is shown the same pixels. Images stay with the worker, as they do for FID.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.benchmarks import Benchmark
from pipeline.metrics import reference_files
from pipeline.metrics.distances import Reference
from pipeline.metrics.moments import Moments
from pipeline.metrics.scores import METRICS, FeatureMetric, Metric, MomentMetric, Number, Score, name_of_metric
from pipeline.registry import SpecError


@dataclass(frozen=True, eq=False)
class Kept:
    """What the metrics keep of a shard. `panel`: the digest of what decided that.

    `features`: FID's own, (k, d) float32, of those of its images that are among the trial's first so many; None where
    no metric compares them. `moments`: those of another extractor's features, by the metric's name.
    """

    panel: str
    features: NDArray[np.float32] | None = None
    moments: Mapping[str, Moments] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Portion:
    """What one metric is measured on: features in seed order, (n, d) float32, or the moments of the shards."""

    metric: Metric
    features: NDArray[np.float32] | None = None
    moments: tuple[Moments, ...] = ()


@dataclass(frozen=True)
class Panel:
    """Metrics beside FID, none of them twice."""

    metrics: tuple[Metric, ...] = ()

    @staticmethod
    def of(specs: Sequence[Any]) -> Panel:
        """The panel of metrics by name, or as mappings with a name and options.

        Raises:
            SpecError: its path begins with the metric's place, as in "[0].images".
        """
        metrics: list[Metric] = []
        for i, spec in enumerate(specs):
            if not isinstance(spec, str | Mapping):
                allowed = "a metric's name, or a mapping with its name and options"
                raise SpecError("has the wrong type", path=f"[{i}]", given=spec, allowed=allowed)
            try:
                metric = METRICS.build({"name": spec} if isinstance(spec, str) else spec)
            except SpecError as error:
                raise _at(i, error, plain=isinstance(spec, str)) from None
            if name_of_metric(metric) in map(name_of_metric, metrics):
                raise SpecError("is given twice", path=f"[{i}]", given=name_of_metric(metric))
            metrics.append(metric)
        return Panel(tuple(metrics))

    @property
    def digest(self) -> str:
        """Sixteen hex digits of what decides what is kept of an image."""
        decided = {"images": self._images} | {name: metric.extractor.hash for name, metric in self._of_moments()}
        return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]

    def check(self, benchmark: Benchmark, images: int) -> None:
        """Refuse what cannot be measured on this benchmark with so many images of a trial.

        Raises:
            SpecError: the reference has no images, the extractor takes no such images, or there are too few.
        """
        for i, metric in enumerate(self.metrics):
            try:
                _check(metric, benchmark, images)
            except SpecError as error:
                raise _at(i, error) from None

    def keep(
        self, benchmark: Benchmark, images: Tensor, features: Tensor, seeds: range, first_seed: int, shard_images: int
    ) -> list[Kept]:
        """What is kept of a batch, for each of its shards.

        `images` are what FID's extractor was shown, `features` what it gave; the trial begins at `first_seed`.
        """
        digest, most = self.digest, max(0, min(len(seeds), first_seed + self._images - seeds.start))
        held = features[:most].float().cpu().numpy() if self._images else None
        others = {
            name: [
                Moments.of(part) for part in torch.split(benchmark.extracted(images, metric.extractor), shard_images)
            ]
            for name, metric in self._of_moments()
        }
        return [
            Kept(
                digest,
                None if held is None else held[at : at + shard_images].copy(),
                {name: moments[at // shard_images] for name, moments in others.items()},
            )
            for at in range(0, len(seeds), shard_images)
        ]

    def portions(self, kept: Sequence[Kept]) -> list[Portion]:
        """What each metric is measured on, from what the shards have kept, in seed order."""
        rows = [part.features for part in kept if part.features is not None]
        features = np.concatenate(rows) if rows else None
        return [
            Portion(metric, moments=tuple(part.moments[name_of_metric(metric)] for part in kept))
            if metric.keeps == "moments"
            else Portion(metric, None if features is None else features[: metric.images])
            for metric in self.metrics
        ]

    @property
    def _images(self) -> int:
        return max((metric.images for metric in self.metrics if metric.keeps == "features"), default=0)

    def _of_moments(self) -> list[tuple[str, MomentMetric]]:
        return [(name_of_metric(metric), metric) for metric in self.metrics if metric.keeps == "moments"]


class Bench:
    """Measures portions of trials on a benchmark. What they are compared with is read once."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._benchmark = benchmark
        self._features: dict[int, Tensor] = {}
        self._references: dict[MomentMetric, Reference] = {}

    def score(self, portion: Portion) -> dict[str, Score]:
        """The metric's scores by name."""
        metric = portion.metric
        if metric.keeps == "moments":
            reference = self._reference(metric)
            numbers = metric.compare(list(portion.moments), reference)
            images = sum(moments.n for moments in portion.moments)
            return _told(numbers, images, reference.n, reference.hash, metric.extractor.hash)
        assert portion.features is not None
        theirs = self._reference_features(metric)
        numbers = metric.compare(torch.from_numpy(portion.features).double(), theirs)
        hashes = self._benchmark.reference_hash, self._benchmark.extractor.hash
        return _told(numbers, len(portion.features), len(theirs), *hashes)

    def _reference_features(self, metric: FeatureMetric) -> Tensor:
        held = self._benchmark
        count = min(metric.images, held.reference_count)
        if count not in self._features:
            batches = held.reference_images(count)
            self._features[count] = torch.cat([held.extracted(batch).float().cpu() for batch in batches]).double()
        return self._features[count]

    def _reference(self, metric: MomentMetric) -> Reference:
        if metric not in self._references:
            held, extractor = self._benchmark, metric.extractor
            if metric.reference:
                found = reference_files.opened(Path(metric.reference), extractor, held.image_shape).reference
            else:
                found = Reference.of(reference_files.moments_of(held.reference_images(), extractor))
            self._references[metric] = found
        return self._references[metric]


def _told(
    numbers: Mapping[str, Number], images: int, reference_images: int | None, reference: str, extractor: str
) -> dict[str, Score]:
    return {
        name: Score(
            number.value, number.error, number.error_kind, images, reference_images, reference, extractor,
            dict(number.settings),
        )
        for name, number in numbers.items()
    }  # fmt: skip


def _check(metric: Metric, benchmark: Benchmark, images: int) -> None:
    name = name_of_metric(metric)
    lacking = f"{name} needs images of the reference, and {benchmark.name}'s has none"
    forms = "a card whose reference is a folder or a zip of images, or data"
    if metric.keeps == "features":
        if not benchmark.reference_count:
            raise SpecError(lacking, given=benchmark.spec.reference, allowed=forms)
        metric.check(min(images, metric.images), min(benchmark.reference_count, metric.images))
        return
    if metric.extractor.needs_pixels and not benchmark.spec.quantise:
        raise SpecError(f"{name} takes pixels, and {benchmark.name} has none", allowed="a card with quantise: true")
    metric.extractor.dim(benchmark.image_shape)
    if metric.reference:
        try:
            reference_files.opened(Path(metric.reference), metric.extractor, benchmark.image_shape)
        except SpecError as error:
            given = metric.reference if error.given is None else error.given
            raise SpecError(error.message, path="reference", given=given, allowed=error.allowed) from None
    elif not benchmark.reference_count:
        allowed = f"{forms}; or reference: a file of {name}'s own"
        raise SpecError(lacking, given=benchmark.spec.reference, allowed=allowed)


def _at(i: int, error: SpecError, *, plain: bool = False) -> SpecError:
    """The mistake of the metric at this place; of a plain name the name is not a key of its own."""
    path = error.path if error.path and not (plain and error.path == "name") else ""
    return SpecError(
        error.message, given=error.given, allowed=error.allowed, path=f"[{i}]" + (f".{path}" if path else "")
    )
