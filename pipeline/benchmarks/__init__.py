"""Benchmarks: a model, the features and the reference that its samples are measured with. One YAML card each."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from torch import Tensor

from pipeline.denoiser import BatchDenoiser, Denoiser
from pipeline.metrics import reference_files
from pipeline.metrics.distances import Reference
from pipeline.metrics.features import FEATURES, Extractor, name_of, quantise
from pipeline.metrics.image_files import ROWS
from pipeline.metrics.moments import Moments
from pipeline.metrics.reference_files import ImageReference, StoredReference
from pipeline.models import MODELS, Conditional, Model
from pipeline.registry import SpecError
from pipeline.yaml_file import mistake, read

FOLDER = Path(__file__).parent


class Card(BaseModel):
    """What a benchmark's YAML says. `reference`: moments of the model's data, or its exact ones, or a file's path.

    `features`: an extractor's name, or a mapping with its name and fields. Paths begin at the card's folder.
    `reference_sha256`: that of the reference's file, which must be this one then.
    `published` is free: numbers that papers printed for this network, each with its source.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    title: str
    description: str
    model: dict[str, Any]
    features: str | dict[str, Any]
    quantise: bool
    reference: str
    reference_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    sigma_min: float = Field(gt=0, allow_inf_nan=False)
    sigma_max: float = Field(gt=0, allow_inf_nan=False)
    sigma_source: str
    published: dict[str, Any]

    @field_validator("features", mode="before")
    @classmethod
    def _one_complaint(cls, value: object) -> object:
        if not isinstance(value, str | dict):
            raise SpecError("has the wrong type", given=value, allowed="a name, or a mapping with a name")
        return value


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
    `file` is the reference that the card names by a path.
    """

    spec: Card
    model: Model
    extractor: Extractor
    device: str = "cpu"
    file: StoredReference | ImageReference | None = None

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
        return self.spec.model_dump(mode="json", exclude_unset=True)

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

    @functools.cached_property
    def rows_per_image(self) -> int:
        """Network rows that an evaluation of an image takes: 2 of a guided network. NFE counts them."""
        told = getattr(self.model, "rows_per_image", None)
        return int(getattr(self.model.denoiser("cpu"), "rows_per_image", 1) if told is None else told)

    def denoiser(self, seeds: range, device: str | None = None) -> Denoiser:
        """D(x; sigma) for the images of these seeds, in this order, on `device`, the benchmark's own by default."""
        model, where = self.model, device or self.device
        if not isinstance(model, Conditional):
            return model.denoiser(where)
        return BatchDenoiser(lambda part: model.denoiser_for(part, where), seeds, self.rows_per_image)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """One image as an extractor is shown it: (C, H, W)."""
        shape: tuple[int, ...] = getattr(self.model, "image_shape", self.model.shape)
        return shape

    def images(self, samples: Tensor) -> Tensor:
        """Samples in data units as extractors are shown them, quantised where the card says so."""
        decode = getattr(self.model, "decode", None)  # of a model that samples latents
        images = samples if decode is None else decode(samples)
        return quantise(images) if self.spec.quantise else images

    def features(self, samples: Tensor) -> Tensor:
        """Features of samples in data units (B, C, H, W) -> (B, d)."""
        return self.extractor(self.images(samples))

    @functools.cached_property
    def reference(self) -> Reference:
        """What samples are compared with."""
        if self.file is not None:
            return self.file.reference
        if self.spec.reference == "exact" and isinstance(self.model, _HasMoments):
            return Reference(self.model.mean.numpy(), self.model.covariance.numpy())
        if self.spec.reference == "data" and isinstance(self.model, _HasImages):
            return Reference.of(Moments.of(self.features(self.model.images())))
        raise AssertionError("checked by load")

    @property
    def reference_count(self) -> int:
        """How many images the reference is made of, where they are at hand; 0 where it is moments alone."""
        if isinstance(self.file, ImageReference):
            return len(self.file.images.names)
        return len(self.model.images()) if self.spec.reference == "data" and isinstance(self.model, _HasImages) else 0

    def reference_images(self, count: int | None = None) -> Iterator[Tensor]:
        """Its images in batches on `device`, as extractors are shown them; `count` spread evenly over all of them."""
        if isinstance(self.file, ImageReference):
            files = self.file.images
            yield from (batch.to(self.device) for batch in files.batches(files.chosen(count)))
        elif isinstance(self.model, _HasImages):
            held = self.model.images()
            kept = held if count is None else held[[i * len(held) // count for i in range(count)]]
            yield from (self.images(part.to(self.device)) for part in torch.split(kept, ROWS))

    @property
    def reference_hash(self) -> str:
        """SHA-256 of the reference's float64 bytes, 64 hex digits; the first 16 are enough to show."""
        return self.reference.hash

    @property
    def reference_sha256(self) -> str | None:
        """SHA-256 of the file that the card names as its reference, 64 hex digits; None where it names none."""
        return None if self.file is None else self.file.sha256

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
        return from_card(content, path.parent)
    except SpecError as error:
        raise error.under(file=str(path)) from None


def from_card(content: Any, folder: Path = Path()) -> Benchmark:
    """Build a benchmark from a card's content; relative paths in it begin at `folder`.

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
        model = MODELS.build(_beside(card.model, folder))
    except SpecError as error:
        raise error.under("model") from None
    try:
        extractor = _extractor(card.features, folder)
        extractor.dim(getattr(model, "image_shape", model.shape))
    except SpecError as error:
        path = "features" if error.path in ("name", "") else f"features.{error.path}"
        raise SpecError(error.message, given=error.given, allowed=error.allowed, path=path) from None
    if extractor.needs_pixels and not card.quantise:
        raise SpecError(f"{name_of(extractor)} takes pixels", path="quantise", given=False, allowed="true")
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
        if name_of(extractor) != "identity" or card.quantise:
            raise SpecError("exact moments are those of unquantised samples", path="reference", given="exact",
                            allowed="features: identity with quantise: false")  # fmt: skip
    if card.reference in ("data", "exact"):
        if card.reference_sha256 is not None:
            raise SpecError("is of a file, and the reference is none", path="reference_sha256", given=card.reference)
        return Benchmark(card, model, extractor)
    return Benchmark(card, model, extractor, file=_file(card, folder, extractor, model.shape))


def _beside(model: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A model's spec with its relative paths beginning at `folder`: the fields that its class calls `paths`.

    What may be an id of a hub as well, its `paths_or_ids`, is a path where there is one, or where it begins like one.
    """
    name, spec = model.get("name"), dict(model)
    cls = MODELS.get(name) if isinstance(name, str) and name in MODELS.names() else None
    ids = getattr(cls, "paths_or_ids", ())
    for key in (*getattr(cls, "paths", ()), *ids):
        if isinstance(given := spec.get(key), str):
            joined = folder / Path(given).expanduser()
            spec[key] = str(joined) if key not in ids or given[:1] in (".", "~") or joined.exists() else given
    return spec


def _extractor(features: str | dict[str, Any], folder: Path) -> Extractor:
    spec = {"name": features} if isinstance(features, str) else dict(features)
    if isinstance(spec.get("weights"), str):
        spec["weights"] = str(folder / spec["weights"])
    return FEATURES.build(spec)


def _file(card: Card, folder: Path, extractor: Extractor, shape: tuple[int, ...]) -> StoredReference | ImageReference:
    if not reference_files.is_file(card.reference):
        allowed = ["data", "exact", reference_files.FORMS]
        raise SpecError("is not one of the choices", path="reference", given=card.reference, allowed=allowed)
    try:
        found = reference_files.opened(folder / card.reference, extractor, shape)
    except SpecError as error:
        given = error.given if error.given is not None else card.reference
        raise SpecError(error.message, path="reference", given=given, allowed=error.allowed) from None
    if not card.quantise and not (isinstance(found, StoredReference) and found.features is None):
        raise SpecError("the reference is of pixels", path="quantise", given=False, allowed="true")
    if card.reference_sha256 not in (None, found.sha256):
        raise SpecError(
            "the file is another", path="reference_sha256", given=card.reference_sha256, allowed=found.sha256
        )
    return found


def _short(value: object) -> object:
    text = repr(value)
    return value if len(text) <= 80 else text[:77] + "..."
