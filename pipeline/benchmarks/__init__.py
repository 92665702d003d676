"""Benchmarks: a model, the features and the reference that its samples are measured with. One YAML card each."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.metrics.distances import Reference
from pipeline.metrics.features import FEATURES, Extractor, quantise
from pipeline.metrics.moments import Moments
from pipeline.models import MODELS, Model
from pipeline.registry import SpecError
from pipeline.yaml_file import mistake, read

FOLDER = Path(__file__).parent


class Card(BaseModel):
    """What a benchmark's YAML says. `reference`: moments of the model's data, or its exact ones.

    `published` is free: numbers that papers printed for this network, each with its source.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    title: str
    description: str
    model: dict[str, Any]
    features: str
    quantise: bool
    reference: Literal["data", "exact"]
    sigma_min: float = Field(gt=0, allow_inf_nan=False)
    sigma_max: float = Field(gt=0, allow_inf_nan=False)
    sigma_source: str
    published: dict[str, Any]


@runtime_checkable
class _HasImages(Protocol):
    def images(self) -> Tensor: ...


@runtime_checkable
class _HasMoments(Protocol):
    @property
    def mean(self) -> Tensor: ...

    @property
    def covariance(self) -> Tensor: ...


@dataclass(frozen=True)
class Benchmark:
    """A card made real: `model` and `extractor` are built, the reference is computed when it is first asked for.

    `device` is where its images are sampled. What is calibrated is calibrated on the CPU, alike everywhere.
    """

    spec: Card
    model: Model
    extractor: Extractor
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The card's name."""
        return self.spec.name

    @property
    def version(self) -> int:
        """The card's version: results of different versions are not compared."""
        return self.spec.version

    @property
    def card(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        return self.spec.model_dump(mode="json")

    @property
    def shape(self) -> tuple[int, ...]:
        """One image: (C, H, W)."""
        return self.model.shape

    @property
    def sigma_min(self) -> float:
        """The smallest sigma that a schedule uses before 0, in data units."""
        return self.spec.sigma_min

    @property
    def sigma_max(self) -> float:
        """The sigma that sampling starts from, in data units."""
        return self.spec.sigma_max

    def denoiser(self, device: str | None = None) -> Denoiser:
        """D(x; sigma) on `device`, the benchmark's own where none is named."""
        return self.model.denoiser(device or self.device)

    def features(self, samples: Tensor) -> Tensor:
        """Features of samples in data units (B, C, H, W) -> (B, d), quantised first where the card says so."""
        return self.extractor(quantise(samples) if self.spec.quantise else samples)

    @functools.cached_property
    def reference(self) -> Reference:
        """What samples are compared with."""
        if self.spec.reference == "exact" and isinstance(self.model, _HasMoments):
            return Reference(self.model.mean.numpy(), self.model.covariance.numpy())
        if self.spec.reference == "data" and isinstance(self.model, _HasImages):
            return Reference.of(Moments.of(self.features(self.model.images())))
        raise AssertionError("checked by load")

    @property
    def reference_hash(self) -> str:
        """SHA-256 of the reference's float64 bytes, 64 hex digits; the first 16 are enough to show."""
        return self.reference.hash

    @property
    def model_hash(self) -> str:
        """SHA-256 of what decides D, 64 hex digits."""
        return self.model.hash


def names() -> list[str]:
    """The benchmarks that the package ships, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name_or_path: str | Path) -> Benchmark:
    """The benchmark of that name, or of the YAML card at that path.

    Raises:
        SpecError: no such benchmark; a card that cannot be read or does not say what a card must.
    """
    if isinstance(name_or_path, str) and not name_or_path.endswith((".yaml", ".yml")):
        if name_or_path not in names():
            allowed = [*names(), "the path of a .yaml card"]
            raise SpecError("unknown benchmark", given=name_or_path, allowed=allowed)
        return _shipped(name_or_path)
    return _read(Path(name_or_path))


@functools.cache
def _shipped(name: str) -> Benchmark:
    return _read(FOLDER / f"{name}.yaml")


def _read(path: Path) -> Benchmark:
    content = read(path)
    try:
        return from_card(content)
    except SpecError as error:
        raise error.under(file=str(path)) from None


def from_card(content: Any) -> Benchmark:
    """Build a benchmark from a card's content.

    Raises:
        SpecError: the first thing that is wrong with it.
    """
    if not isinstance(content, Mapping):
        raise SpecError("a card is a mapping", given=_short(content), allowed=list(Card.model_fields))
    try:
        card = Card.model_validate(dict(content))
    except ValidationError as error:
        raise mistake(error, Card) from None
    if card.sigma_min >= card.sigma_max:
        raise SpecError("is not below sigma_max", path="sigma_min", given=card.sigma_min, allowed=f"< {card.sigma_max}")
    try:
        model = MODELS.build(card.model)
    except SpecError as error:
        raise error.under("model") from None
    try:
        extractor = FEATURES.build({"name": card.features})
    except SpecError as error:
        raise SpecError(error.message, given=error.given, allowed=error.allowed, path="features") from None
    if extractor.needs_pixels and not card.quantise:
        raise SpecError(f"{card.features} takes pixels", path="quantise", given=False, allowed="true")
    if card.reference == "data" and not isinstance(model, _HasImages):
        raise SpecError("the model has no data", path="reference", given="data", allowed="exact")
    if card.reference == "data" and isinstance(model, _HasImages):
        try:
            model.images()
        except SpecError as error:
            raise error.under("model") from None
    if card.reference == "exact":
        if not isinstance(model, _HasMoments):
            raise SpecError("the model has no exact moments", path="reference", given="exact", allowed="data")
        if card.features != "identity" or card.quantise:
            raise SpecError("exact moments are those of unquantised samples", path="reference", given="exact",
                            allowed="features: identity with quantise: false")  # fmt: skip
    return Benchmark(card, model, extractor)


def _short(value: object) -> object:
    text = repr(value)
    return value if len(text) <= 80 else text[:77] + "..."
