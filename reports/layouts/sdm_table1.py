"""SDM's ablation: Euler, Heun and the adaptive solver on EDM's, COS' and SDM's sigmas (Jo & Choi, 2026, Table 1)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports import published
from reports.layouts.comparable import Comparable
from reports.layouts.methods import moves
from reports.layouts.table import PUBLISHED, Cell, Layout, Line, Table, number_columns, with_nfe

SOLVERS = {"Euler": "euler", "Heun": "heun", "adaptive (Euler, then Heun)": "euler>heun step"}
SCHEDULES = ("edm", "cos", "sdm")
ENDS = {"zero": "the last to 0", "sigma_min": "ending at sigma_min"}


def make(group: Comparable) -> list[Table]:
    """One table a number of moves and an end, where there are two FIDs or more to set side by side."""
    rows = group.rows[group.rows["solver"].isin(SOLVERS.values()) & group.rows["schedule"].isin(SCHEDULES)]
    rows = rows.assign(moves=pd.Series([moves(row) for _, row in rows.iterrows()], rows.index, dtype="Int64"))
    held = published.rows(group.benchmark)
    held = held[held["solver"].isin(SOLVERS.values()) & held["schedule"].isin(SCHEDULES)]
    held = held.assign(moves=[published.settings(row).get("num_steps", "") for _, row in held.iterrows()])
    held = held[held["moves"].ne("")]
    kept = rows[rows["moves"].notna()]
    blocks = {(int(n), str(end)) for n, end in zip(kept["moves"], kept["terminal"], strict=True)}
    blocks |= {(int(n), "zero") for n in held["moves"]}
    found = []
    for number, end in sorted(blocks):
        ours = kept[kept["moves"].eq(number) & kept["terminal"].eq(end)]
        theirs = held[held["moves"].eq(str(number))] if end == "zero" else held[:0]
        if len({*zip(ours["solver"], ours["schedule"], strict=True)}) + len(theirs) > 1:
            found.append(_block(group, ours, theirs, f"{number} moves, {ENDS.get(end, end or 'end unknown')}"))
    return found


def _block(group: Comparable, rows: pd.DataFrame, held: pd.DataFrame, title: str) -> Table:
    told = {name: True for name in SCHEDULES if held["schedule"].eq(name).any()}
    best = group.pairs(rows)
    lines = []
    for label, solver in SOLVERS.items():
        cells = group.marked([best.get((solver, name), Cell()) for name in SCHEDULES])
        line: list[Cell] = []
        for name, cell in zip(SCHEDULES, cells, strict=True):
            line.append(with_nfe(cell))
            if name in told:
                printed = held[held["solver"].eq(solver) & held["schedule"].eq(name)]
                line.append(group.printed(printed.assign(value=[_with_nfe(row) for _, row in printed.iterrows()])))
        lines.append(Line((label,), tuple(line)))
    notes = (
        "In brackets the NFE. Lowest: of the row. Where several trials are of one solver and schedule (several tau_k, "
        "several eta), the lowest is shown. A number of moves with one FID only is left to the other tables.",
        group.floor_note,
        f'A column "{PUBLISHED}" has the numbers as printed for as many moves.' if told else "",
    )
    return Table(title, ("solver",), number_columns(SCHEDULES, told), tuple(lines), notes)


def _with_nfe(row: pd.Series[Any]) -> str:
    return str(row["value"]) + (f" ({row['nfe']})" if row["nfe"] else "")


LAYOUT = Layout(
    "sdm-table-1",
    "SDM's table 1: solver by schedule at a fixed number of moves",
    "FID of Euler, Heun and SDM's adaptive solver on the schedules of EDM, COS and SDM.",
    make,
)
