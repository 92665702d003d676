"""Study files: read from a path, or by the name of one that ships."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.registry import SpecError
from pipeline.yaml_file import mistake, read
from search_spaces.study import Study


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read a study file, or a shipped one by name; `overrides` replace top-level keys.

    Raises:
        SpecError: one line that names the file, the key, what was given and what is allowed.
    """
    file = Path(path)
    if not os.path.exists(path) and str(path) in names():  # unlike Path.exists, for a name of any length
        file = Path(str(resources.files(__package__))) / f"{path}.yaml"
    if not os.path.exists(file):
        raise SpecError("no such study file", given=str(path), allowed=[f"{name}.yaml" for name in names()])
    values = read(file) | {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        found = mistake(error, Study)
    except SpecError as error:
        found = error
    raise found if found.file else found.under(file=str(file))  # what is wrong with a card is no mistake of the study


def names() -> list[str]:
    """The study files that ship with the project."""
    return sorted(
        item.name.removesuffix(".yaml")
        for item in resources.files(__package__).iterdir()
        if item.name.endswith(".yaml")
    )
