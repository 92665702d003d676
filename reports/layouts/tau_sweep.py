"""FID and NFE against SDM's threshold tau_k, all else equal (Jo & Choi, 2026, Fig. 4)."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from reports import published
from reports.layouts.comparable import Comparable
from reports.layouts.methods import DECIDED, THRESHOLD, but, moves, schedule_words, spec
from reports.layouts.table import PUBLISHED, Cell, Layout, Line, Table, said
from reports.numbers import count


def make(group: Comparable) -> list[Table]:
    """One table a setting that was measured with several tau_k."""
    rows = published.where(group.rows, lambda row: spec(row, "solver").get("rule") == "step")
    sweeps: dict[tuple[Any, ...], list[pd.Series[Any]]] = {}
    for _, row in rows.iterrows():
        sweeps.setdefault(setting(row, DECIDED, THRESHOLD), []).append(row)
    held = [sorted(found, key=_tau) for found in sweeps.values() if len({_tau(row) for row in found} - {math.inf}) > 1]
    return [_sweep(group, found) for found in sorted(held, key=lambda found: (-len(found), found[0]["key"]))]


def setting(row: pd.Series[Any], *but_for: str) -> tuple[Any, ...]:
    """A trial's solver, schedule and loop, but for some of the solver's fields: what is equal when one is varied."""
    loop = [str(row.get(f"params.{name}", "")) for name in ("afs", "denoise_to_zero")]
    solver, schedule, churn = (spec(row, part) for part in ("solver", "schedule", "churn"))
    return but(solver, *but_for), but(schedule), but(churn), *loop


def title_of(row: pd.Series[Any], solver: str) -> str:
    """What a table of such settings is about, e.g. "euler>heun on sdm 18"."""
    number = moves(row)
    return f"{solver} on {schedule_words(row)}" + ("" if number is None else f" {number}")


def _sweep(group: Comparable, found: list[pd.Series[Any]]) -> Table:
    cells = group.marked([Cell(row) for row in found])
    texts = [f"{_tau(row):g}" for row in found]
    printed = [_printed(group, row) for row in found]
    told = any(not cell.empty for cell in printed)
    lines = tuple(
        Line(
            (text,),
            (said(row, spec(row, "solver").get(DECIDED, "")), said(row, count(row["nfe"])), cell)
            + ((paper,) if told else ()),
        )
        for row, text, cell, paper in zip(found, texts, cells, printed, strict=True)
    )
    notes = (
        "The solver switches at the first move, counted from 0, at which kappa reaches tau_k. Lowest: of the column, "
        "whatever the NFE. Settings that were measured with one tau_k only are no sweep and are not here.",
        group.floor_note,
    )
    columns = ("switch at move", "NFE", "FID", *([f"FID {PUBLISHED}"] if told else []))
    return Table(title_of(found[0], found[0]["solver"].removesuffix(" step")), ("tau_k",), columns, lines, notes)


def _tau(row: pd.Series[Any]) -> float:
    try:
        return float(spec(row, "solver").get(THRESHOLD, "inf"))
    except ValueError:
        return math.inf


def _printed(group: Comparable, row: pd.Series[Any]) -> Cell:
    number = moves(row)
    held = published.lookup(group.benchmark, row["solver"], row["schedule"], num_steps=number)
    taus = published.rows(group.benchmark, THRESHOLD)
    known = taus["solver"].eq(row["solver"]) & taus["number"].eq(_tau(row))
    return group.printed(held) if bool(known.any()) else Cell()


LAYOUT = Layout(
    "tau-sweep", "Sweep of tau_k", "FID and NFE of the adaptive solver against the threshold of its switch.", make
)
