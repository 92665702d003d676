"""A trial's solver and schedule in words that are the same for everybody: read off its spec, not off its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

UNKNOWN = "?"
# Of a switch: what calibration finds, and what it finds it by.
DECIDED, THRESHOLD = "switch_at", "tau_k"


def spec(row: pd.Series[Any], part: str) -> dict[str, str]:
    """The fields of a trial's solver, schedule or churn as MLflow holds them: dotted names, text."""
    prefix = f"params.{part}."
    held = row[[str(name).startswith(prefix) for name in row.index]].dropna()
    return {str(name).removeprefix(prefix): str(value) for name, value in held.items()}


def solver_words(row: pd.Series[Any]) -> str:
    """E.g. "heun", "dpm_solver_pp-3", "euler>heun step"; with what the sampling loop adds."""
    words = _solver(spec(row, "solver"))
    if row.get("params.denoise_to_zero") == "true":
        words += " to 0"
    if row.get("params.afs") == "true":
        words += " afs"
    return words + (" churn" if spec(row, "churn") else "")


def schedule_words(row: pd.Series[Any]) -> str:
    """The schedule's registry name."""
    return spec(row, "schedule").get("name") or UNKNOWN


def moves(row: pd.Series[Any]) -> int | None:
    """The number of moves that its schedule was asked for; None where that was left to the schedule."""
    text = spec(row, "schedule").get("num_steps", "")
    return int(text) if text.isdecimal() else None


def but(fields: Mapping[str, str], *names: str) -> tuple[tuple[str, str], ...]:
    """The other fields, to compare by."""
    return tuple(sorted((name, value) for name, value in fields.items() if name not in names))


def _solver(fields: Mapping[str, str]) -> str:
    name = fields.get("name") or UNKNOWN
    if name != "switch":
        order = fields.get("order")
        return name if order is None else f"{name}-{order}"
    low, high = (
        _solver({"name": default} | {key.removeprefix(prefix): value for key, value in _under(fields, prefix).items()})
        for prefix, default in (("low.", "euler"), ("high.", "heun"))
    )
    return f"{low}>{high} {fields.get('rule', 'step')}"


def _under(fields: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key: value for key, value in fields.items() if key.startswith(prefix)}
