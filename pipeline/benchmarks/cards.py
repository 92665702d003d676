"""Cards of benchmarks as they are written: found and checked without anything of what they name being opened."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.models.shorthand import absolute, expanded, shorthands
from pipeline.registry import SpecError
from pipeline.yaml_file import mistake, read

FOLDER = Path(__file__).parent
VARIABLE = "SIGMASEARCH_DATA"


class Card(BaseModel):
    """What a benchmark's YAML says. `reference`: moments of the model's data, or its exact ones, or a file's path.

    `model`: a mapping with its name and fields, or one word (`edm:network.pkl`). `features`: an extractor's name, or
    such a mapping. Paths begin at the card's folder; those of a shipped card at `data_folder()`.
    `reference_sha256`: that of the reference's file, which must be this one then.
    `fetch`: where the model's file and the reference can be had.
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
    fetch: dict[Literal["model", "reference"], str] = {}
    sigma_min: float = Field(gt=0, allow_inf_nan=False)
    sigma_max: float = Field(gt=0, allow_inf_nan=False)
    sigma_source: str
    published: dict[str, Any]

    @field_validator("model", mode="before")
    @classmethod
    def _expanded(cls, value: object) -> object:
        return expanded(value) if isinstance(value, str) else value

    @field_validator("features", mode="before")
    @classmethod
    def _one_complaint(cls, value: object) -> object:
        if not isinstance(value, str | dict):
            raise SpecError("has the wrong type", given=value, allowed="a name, or a mapping with a name")
        return value


@dataclass(frozen=True)
class FoundCard:
    """A card's content, and the folder in which its relative paths begin. `file` is the YAML it was read from.

    `shipped`: it is one of the package's. `model`: the word that takes the place of its model, if one does.
    """

    content: dict[str, Any]
    folder: Path
    file: Path
    shipped: bool
    model: str | None = None


@dataclass(frozen=True)
class MissingFile:
    """A file that a card names and that is not here: the card's key, the path it is to have, where it can be had."""

    key: str
    path: Path
    url: str

    def mistake(self) -> SpecError:
        """What to do about it, in one line."""
        return SpecError(
            f"there is no such file: fetch {self.url} and put it there", path=self.key, given=str(self.path)
        )


def names() -> list[str]:
    """The benchmarks that the package ships, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def data_folder() -> Path:
    """Where the files of shipped cards lie: SIGMASEARCH_DATA, or `sigmasearch` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(VARIABLE) or Path(cache, "sigmasearch")).expanduser().absolute()


def parted(benchmark: str) -> tuple[str, str | None]:
    """A benchmark's name or path, and the model that takes the place of its card's: `cifar10-vp@edm:network.pkl`."""
    kinds = "|".join(map(re.escape, shorthands()))
    found = re.fullmatch(rf"(.+?)@((?:{kinds}):.*)", benchmark, flags=re.DOTALL)
    return (found[1], found[2]) if found else (benchmark, None)


def with_model(benchmark: str, model: str | None) -> str:
    """The benchmark with another model in its card's place, KIND:WHAT from the current folder; itself without one.

    Raises:
        SpecError: that is no model.
    """
    return benchmark if model is None else f"{parted(benchmark)[0]}@{absolute(model)}"


def find(benchmark: str | Path) -> FoundCard:
    """The card of that name, or at that path.

    Raises:
        SpecError: no such benchmark, or its file is no YAML that can be read.
    """
    name, model = parted(str(benchmark))
    if isinstance(benchmark, Path) or name.endswith((".yaml", ".yml")):
        file = Path(name)
    elif name in names():
        file = FOLDER / f"{name}.yaml"
    else:
        raise SpecError("unknown benchmark", given=name, allowed=[*names(), "the path of a .yaml card"])
    content: dict[str, Any] = read(file)
    if model is not None:
        content |= {"model": model}
        if isinstance(content.get("fetch"), Mapping):
            content["fetch"] = {key: url for key, url in content["fetch"].items() if key != "model"}
    shipped = file.parent.absolute() == FOLDER
    return FoundCard(content, data_folder() if shipped else file.parent, file, shipped, model)


def card_of(benchmark: str | Path) -> Card:
    """What that benchmark's card says, whether or not the files that it names are here.

    Raises:
        SpecError: as `find`, or the card does not say what a card must.
    """
    found = find(benchmark)
    try:
        return checked(found.content)
    except SpecError as error:
        raise error.under(file=str(found.file)) from None


def checked(content: Any) -> Card:
    """A card's content, checked as far as that goes without its files.

    Raises:
        SpecError: the first thing that is wrong with it.
    """
    if not isinstance(content, Mapping):
        text = repr(content)
        given = content if len(text) <= 80 else text[:77] + "..."
        raise SpecError("a card is a mapping", given=given, allowed=list(Card.model_fields))
    try:
        made = Card.model_validate(dict(content))
    except ValidationError as error:
        raise mistake(error, Card) from None
    if made.sigma_min >= made.sigma_max:
        raise SpecError("is not below sigma_max", path="sigma_min", given=made.sigma_min, allowed=f"< {made.sigma_max}")
    return made


def named_files(held: Card, folder: Path) -> dict[str, tuple[Path, str]]:
    """By the card's key, the path and the address of each file that can be fetched."""
    field = shorthands().get(str(held.model.get("name")), "")
    said = {"model": (f"model.{field}", held.model.get(field)), "reference": ("reference", held.reference)}
    return {
        key: (folder / Path(given).expanduser(), held.fetch[role])
        for role, (key, given) in said.items()
        if role in held.fetch and isinstance(given, str)
    }


def missing(held: Card, folder: Path) -> list[MissingFile]:
    """The files that can be fetched and are not here."""
    return [MissingFile(key, path, url) for key, (path, url) in named_files(held, folder).items() if not path.exists()]
