"""What can be named: every registered thing with one line about it."""

from __future__ import annotations

import dataclasses
from typing import Any

import search_spaces
from pipeline import benchmarks
from pipeline.methods import METHODS
from pipeline.registry import Registry
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS


def entries(kind: str) -> list[tuple[str, str]]:
    """Name and one line, for benchmarks, solvers, schedules, spaces or baselines."""
    if kind == "benchmarks":
        return [(name, _benchmark(name)) for name in benchmarks.names()]
    if kind == "solvers":
        return _registered(SOLVERS)
    if kind == "schedules":
        return _registered(SCHEDULES)
    if kind == "baselines":
        return [(name, f"{METHODS.get(name).title}: {METHODS.get(name).source}") for name in METHODS.names()]
    return [(name, _study(name)) for name in search_spaces.names()]


def _registered(registry: Registry[Any]) -> list[tuple[str, str]]:
    return [(name, f"{_first_line(registry.get(name))} ({_fields(registry.get(name))})") for name in registry.names()]


def _first_line(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")


def _fields(cls: type[Any]) -> str:
    return ", ".join(field.name for field in dataclasses.fields(cls) if field.init) or "no fields"


def _benchmark(name: str) -> str:
    card, folder = benchmarks.card_of(name), benchmarks.find(name).folder
    lacking = [str(file.path.relative_to(folder)) for file in benchmarks.missing(card, folder)]
    return card.title + (f" (not in {folder}: {', '.join(lacking)})" if lacking else "")


def _study(name: str) -> str:
    study = search_spaces.load(name)
    budgets = ", ".join(str(budget) for budget in study.budgets)
    return (
        f"{study.trials} trials of {len(study.parsed_space.leaves)} parameters on {study.benchmark}, budgets {budgets}"
    )
