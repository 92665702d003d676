"""A model in one word, KIND:WHAT, for the command line and for a card: `edm:network.pkl`."""

from __future__ import annotations

import os
from typing import Any

from pipeline.models import MODELS
from pipeline.registry import SpecError


def expanded(given: str) -> dict[str, Any]:
    """The mapping that the word stands for: `edm:PATH` is {name: edm, path: PATH}.

    A kind of model takes part by naming, in `shorthand`, the field that follows the colon.

    Raises:
        SpecError: no such kind, or nothing after the colon.
    """
    kinds = shorthands()
    kind, colon, what = given.partition(":")
    if not colon or not what:
        raise SpecError(
            "is no model", given=given, allowed=[f"{name}:{field.upper()}" for name, field in kinds.items()]
        )
    if kind not in kinds:
        raise SpecError("unknown kind of model", given=kind, allowed=kinds)
    return {"name": kind, kinds[kind]: what}


def shorthands() -> dict[str, str]:
    """The field behind the colon of every kind of model that has one."""
    fields = {name: getattr(MODELS.get(name), "shorthand", None) for name in MODELS.names()}
    return {name: field for name, field in fields.items() if field is not None}


def absolute(given: str) -> str:
    """The same model from any folder: what is a file or a folder here is named from the root.

    Raises:
        SpecError: as `expanded`.
    """
    expanded(given)
    kind, what = given.split(":", 1)
    cls, field = MODELS.get(kind), shorthands()[kind]
    there = os.path.expanduser(what)
    is_path = field in getattr(cls, "paths", ())
    may_be = field in getattr(cls, "paths_or_ids", ()) and (what[:1] in (".", "~") or os.path.exists(there))
    return f"{kind}:{os.path.abspath(there)}" if is_path or may_be else given
