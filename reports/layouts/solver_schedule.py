"""Every solver on every schedule with equally many evaluations: the cross table that no paper prints."""

from __future__ import annotations

import itertools

import pandas as pd

from reports import published
from reports.layouts.comparable import Comparable
from reports.layouts.table import PUBLISHED, UNSTATED, Cell, Layout, Line, Table
from reports.numbers import count


def make(group: Comparable) -> list[Table]:
    """One table an NFE."""
    rows = group.rows
    return [_at(group, rows[rows["nfe"].eq(nfe)], nfe) for nfe in sorted(rows["nfe"].unique())]


def _at(group: Comparable, rows: pd.DataFrame, nfe: float) -> Table:
    held = published.rows(group.benchmark)
    held = held[held["nfe"].eq(count(nfe))]
    solvers, told = sorted({*rows["solver"], *held["solver"]}), set(held["schedule"])
    schedules = sorted({*rows["schedule"], *told})
    pairs, best = list(itertools.product(solvers, schedules)), group.pairs(rows)
    found = dict(zip(pairs, group.marked([best.get(pair, Cell()) for pair in pairs]), strict=True))
    columns: dict[str, list[Cell]] = {}
    for schedule in schedules:
        if schedule:
            columns[schedule] = [found[solver, schedule] for solver in solvers]
        if schedule in told:
            theirs = held[held["schedule"].eq(schedule)]
            printed = [group.printed(theirs[theirs["solver"].eq(solver)]) for solver in solvers]
            columns[f"{schedule or UNSTATED} {PUBLISHED}"] = printed
    lines = [Line((solver,), tuple(cells)) for solver, *cells in zip(solvers, *columns.values(), strict=True)]
    notes = (
        "Lowest: of the whole table. Where several trials are of one solver and schedule, the lowest is shown.",
        group.floor_note,
        f'A column "{PUBLISHED}" has the numbers of that schedule as printed, at the NFE as printed.' if told else "",
    )
    return Table(f"{count(nfe)} evaluations", ("solver",), tuple(columns), tuple(lines), notes)


LAYOUT = Layout(
    "solver-schedule",
    "Solver by schedule at a fixed NFE",
    "FID of each solver on each schedule, at the same number of network evaluations.",
    make,
)
