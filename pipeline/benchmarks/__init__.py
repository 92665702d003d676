"""Benchmarks: a model, the features and the reference that its samples are measured with. One YAML card each."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.benchmarks.benchmark import Benchmark, Decodes, HasImages, HasMoments, rows_per_image
from pipeline.benchmarks.cards import (
    FOLDER,
    Card,
    FoundCard,
    card_of,
    checked,
    data_folder,
    find,
    missing,
    named_files,
    names,
    parted,
    with_model,
)
from pipeline.metrics import reference_files
from pipeline.metrics.features import FEATURES, Extractor, name_of
from pipeline.metrics.reference_files import ImageReference, StoredReference
from pipeline.models import MODELS, Model
from pipeline.registry import SpecError

__all__ = [
    "FOLDER", "Benchmark", "Card", "card_of", "data_folder", "find", "from_card", "load", "missing", "model_of",
    "names", "parted", "rows_per_image", "with_model",
]  # fmt: skip


def load(benchmark: str | Path) -> Benchmark:
    """The benchmark of that name, or of the YAML card at that path; `@KIND:WHAT` behind it replaces its model.

    Raises:
        SpecError: no such benchmark; a card that cannot be read or does not say what a card must; a file that is not
            here.
    """
    found = find(benchmark)
    return _kept(str(benchmark), found.folder, _stamps(found)) if found.shipped else _made(found)


@functools.lru_cache(maxsize=8)
def _kept(benchmark: str, *unchanged: object) -> Benchmark:
    return _made(find(benchmark))


def _stamps(found: FoundCard) -> tuple[tuple[str, int], ...]:
    """The files that it would read, and when they were changed."""
    try:
        card = checked(found.content)
    except SpecError:
        return ()
    paths = [str(path) for path, _ in named_files(card, found.folder).values()]
    paths += [value for value in _beside(card.model, found.folder).values() if isinstance(value, str)]
    return tuple((path, os.stat(path).st_mtime_ns) for path in paths if os.path.isfile(path))


def _made(found: FoundCard) -> Benchmark:
    try:
        return replace(from_card(found.content, found.folder), own_model=found.model is None)
    except SpecError as error:
        raise error.under(file=str(found.file)) from None


def from_card(content: Any, folder: Path = Path()) -> Benchmark:
    """Build a benchmark from a card's content; relative paths in it begin at `folder`.

    Raises:
        SpecError: the first thing that is wrong with it, or a file that is not here.
    """
    card = checked(content)
    for lacking in missing(card, folder):
        raise lacking.mistake()
    try:
        model = MODELS.build(_beside(card.model, folder))
    except SpecError as error:
        raise error.under("model") from None
    try:
        extractor = _extractor(card.features, folder)
        shape = model.image_shape if isinstance(model, Decodes) else model.shape
        extractor.dim(shape)
    except SpecError as error:
        path = "features" if error.path in ("name", "") else f"features.{error.path}"
        raise SpecError(error.message, given=error.given, allowed=error.allowed, path=path) from None
    if extractor.needs_pixels and not card.quantise:
        raise SpecError(f"{name_of(extractor)} takes pixels", path="quantise", given=False, allowed="true")
    if card.reference == "data" and not isinstance(model, HasImages):
        raise SpecError("the model has no data", path="reference", given="data", allowed="exact")
    if card.reference == "data" and isinstance(model, HasImages):
        try:
            model.images()
        except SpecError as error:
            raise error.under("model") from None
    if card.reference == "exact":
        if not isinstance(model, HasMoments):
            raise SpecError("the model has no exact moments", path="reference", given="exact", allowed="data")
        if name_of(extractor) != "identity" or card.quantise:
            raise SpecError("exact moments are those of unquantised samples", path="reference", given="exact",
                            allowed="features: identity with quantise: false")  # fmt: skip
    if card.reference in ("data", "exact"):
        if card.reference_sha256 is not None:
            raise SpecError("is of a file, and the reference is none", path="reference_sha256", given=card.reference)
        return Benchmark(card, model, extractor)
    return Benchmark(card, model, extractor, file=_file(card, folder, extractor, shape))


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


def model_of(benchmark: str | Path) -> Model:
    """The model of that benchmark's card; where its file is not here, what the card tells of it.

    Raises:
        SpecError: no such card, a mistake in it, or it does not tell.
    """
    card, found = card_of(benchmark), find(benchmark)
    try:
        return MODELS.build(_beside(card.model, found.folder))
    except SpecError as error:
        raise error.under("model", str(found.file)) from None


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
