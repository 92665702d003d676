"""The local error eta of each step, a schedule a column (Jo & Choi, 2026, Fig. 3), and what SDM's walk was allowed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from reports.layouts.comparable import Comparable
from reports.layouts.methods import spec
from reports.layouts.table import Cell, Layout, Line, Table, said
from reports.numbers import count

SOLVER = "euler"
WALKED = ("sigma", "step", "secant", "eta", "allowed")
FIELDS = ("base_steps", "eta_min", "eta_max", "eta_p", "mover", "enforce_bound")


def make(group: Comparable) -> list[Table]:
    """One table an NFE of Euler's, then one a walk; trials that are resampled from one walk share it."""
    rows = group.rows[group.rows["solver"].eq(SOLVER)]
    found = [_at(group, rows[rows["nfe"].eq(nfe)], nfe) for nfe in sorted(rows["nfe"].unique())]
    return [table for table in found if table.lines] + _walks(group)


def _at(group: Comparable, rows: pd.DataFrame, nfe: float) -> Table:
    columns: list[str] = []
    cells: list[list[Cell]] = []
    for schedule in sorted(rows["schedule"].unique()):
        row = group.best(rows[rows["schedule"].eq(schedule)]).row
        assert row is not None
        steps = group.steps(row)
        for name in ("sigma", "eta"):
            columns.append(f"{schedule} {name}")
            cells.append([said(row, _short(text)) for text in steps.get(name, ())])
    number = max(map(len, cells), default=0)
    padded = [column + [Cell()] * (number - len(column)) for column in cells]
    lines = tuple(Line((str(i + 1),), values) for i, values in enumerate(zip(*padded, strict=True)))
    notes = (
        "eta: half the step times the change of the slope, mean image L2 norm of a trial's first images; it is known "
        "at the end of a step, so the first evaluation has none. Of several trials the one of the lowest FID.",
    )
    return Table(f"Euler, {count(nfe)} evaluations", ("evaluation",), tuple(columns), lines, notes)


def _walks(group: Comparable) -> list[Table]:
    leading = group.leading()
    found: dict[str, tuple[Mapping[str, Sequence[Any]], list[pd.Series[Any]]]] = {}
    for _, row in leading[leading["schedule"].eq("sdm")].iterrows():
        walk = _walk(group.card(row).get("walk"))
        if walk:
            found.setdefault(json.dumps(walk, sort_keys=True), (walk, []))[1].append(row)
    return [_walk_table(walk, rows) for walk, rows in found.values()]


def _walk(held: object) -> Mapping[str, Sequence[Any]]:
    """The walk of a card as columns of one length; empty where it has none that can be read."""
    if not isinstance(held, Mapping):
        return {}
    walk = {name: held.get(name) for name in (*WALKED, "kept")}
    lists = {name: values for name, values in walk.items() if isinstance(values, list)}
    return lists if len(lists) == len(walk) and len({len(values) for values in lists.values()}) == 1 else {}


def _walk_table(walk: Mapping[str, Sequence[Any]], rows: list[pd.Series[Any]]) -> Table:
    first = rows[0]
    lines = [
        Line(
            (str(i),),
            (*(said(first, _short(walk[name][i])) for name in WALKED), said(first, "yes" if walk["kept"][i] else "no")),
        )
        for i in range(len(walk["sigma"]))
    ]
    given = spec(first, "schedule")
    asked = ", ".join(f"{name} {given[name]}" for name in FIELDS if name in given) or "the schedule's own settings"
    names = ", ".join(dict.fromkeys(f"{row['solver']} ({count(row['nfe'])} NFE)" for row in rows))
    notes = (
        f"The walk behind {names}, with {asked}. eta and what it is allowed: image L2 norm, mean of the calibration "
        "images. What is resampled to a number of moves has other sigmas than its walk. Of the searched trials, those "
        "on the front.",
    )
    return Table(f"SDM's walk of {first['key']}", ("move",), (*WALKED, "kept"), tuple(lines), notes)


def _short(value: object) -> str:
    try:
        return f"{float(value):.4g}"  # type: ignore[arg-type]  # what is no number is caught
    except (TypeError, ValueError):
        return ""


LAYOUT = Layout(
    "eta-steps", "eta of each step", "What each step does wrong by SDM's measure, and what its walk allowed.", make
)
