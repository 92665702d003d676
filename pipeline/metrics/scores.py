"""What is said of a trial's images beside FID: the metrics by name, and their numbers with what they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from pipeline.metrics.distances import Reference
from pipeline.metrics.features import Extractor
from pipeline.metrics.moments import Moments
from pipeline.registry import Registry

# "spread": over random subsets; "se": the leave-one-out standard error; "none": there is no error.
ErrorKind = Literal["spread", "se", "none"]


@dataclass(frozen=True)
class Score:
    """A number beside FID. `error` is of the kind `error_kind` says, None where there is none.

    `images`: of the trial, its first; `reference_images`: of the reference, None where a file does not tell.
    `reference`, `extractor`: SHA-256 of what they were compared with and by. `settings`: the metric's, seeds included.
    """

    value: float
    error: float | None
    error_kind: ErrorKind
    images: int
    reference_images: int | None
    reference: str
    extractor: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Score:
        """Read a score back."""
        return Score(**value)


@dataclass(frozen=True)
class Number:
    """A metric's number before it is said what it was measured on."""

    value: float
    error: float | None = None
    error_kind: ErrorKind = "none"
    settings: Mapping[str, Any] = field(default_factory=dict)


class FeatureMetric(Protocol):
    """Compares features of single images, those that FID's own extractor gives. At most `images` of them are kept."""

    keeps: ClassVar[Literal["features"]]
    gives: ClassVar[tuple[str, ...]]

    @property
    def images(self) -> int:
        """How many images' features are kept at the most, of a trial and of the reference."""
        ...

    def check(self, images: int, reference_images: int) -> None:
        """Refuse what cannot be measured on so many.

        Raises:
            SpecError: there are too few.
        """
        ...

    def compare(self, features: Tensor, reference: Tensor) -> dict[str, Number]:
        """The numbers by name, of features (n, d) and (m, d) in float64. Same features, same numbers."""
        ...


class MomentMetric(Protocol):
    """Compares moments of an extractor of its own; `reference` is a file of them, or empty: the card's images."""

    keeps: ClassVar[Literal["moments"]]
    gives: ClassVar[tuple[str, ...]]

    @property
    def extractor(self) -> Extractor:
        """What makes the features."""
        ...

    @property
    def reference(self) -> str:
        """The path of its reference."""
        ...

    def compare(self, shards: list[Moments], reference: Reference) -> dict[str, Number]:
        """The numbers by name, of the moments of the trial's shards in seed order."""
        ...


Metric = FeatureMetric | MomentMetric
METRICS: Registry[Metric] = Registry(
    "metric", ("pipeline.metrics.kid", "pipeline.metrics.precision_recall", "pipeline.metrics.fd_dinov2")
)


def name_of_metric(metric: Metric) -> str:
    """The name that a metric is registered under."""
    return str(metric.registry_name)  # type: ignore[union-attr]  # the registry sets it
