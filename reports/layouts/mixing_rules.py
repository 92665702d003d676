"""How SDM's two solvers are mixed over the steps: at once, linearly, by a cosine (Jo & Choi, 2026, Table 5)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.layouts.comparable import Comparable
from reports.layouts.methods import DECIDED, THRESHOLD, spec
from reports.layouts.table import Cell, Layout, Line, Table, said
from reports.layouts.tau_sweep import setting, title_of
from reports.numbers import count

RULES = ("step", "linear", "cosine")


def make(group: Comparable) -> list[Table]:
    """One table a setting that was measured with several rules."""
    blocks: dict[tuple[Any, ...], list[pd.Series[Any]]] = {}
    for _, row in group.rows.iterrows():
        if spec(row, "solver").get("rule") in RULES:
            blocks.setdefault(setting(row, DECIDED, THRESHOLD, "rule"), []).append(row)
    held = [found for found in blocks.values() if len({spec(row, "solver")["rule"] for row in found}) > 1]
    return [_block(group, found) for found in sorted(held, key=lambda found: str(found[0]["key"]))]


def _block(group: Comparable, found: list[pd.Series[Any]]) -> Table:
    frame = group.rows.loc[[row.name for row in found]]
    rules = pd.Series([spec(row, "solver")["rule"] for _, row in frame.iterrows()], frame.index)
    cells = group.marked([group.best(frame[rules.eq(rule)]) for rule in RULES])
    lines = []
    for rule, cell in zip(RULES, cells, strict=True):
        if cell.row is None:
            lines.append(Line((rule,), (Cell(), Cell(), Cell())))
            continue
        tau = spec(cell.row, "solver").get(THRESHOLD, "") if rule == "step" else ""
        lines.append(Line((rule,), (said(cell.row, tau), said(cell.row, count(cell.row["nfe"])), cell)))
    notes = (
        "step: the first solver up to the switch, the second one behind it. linear, cosine: a mixture of both in every "
        "move, falling from the first to the second, which no tau_k decides. Of several tau_k the lowest FID is shown. "
        "Lowest: of the column, whatever the NFE.",
        group.floor_note,
    )
    pair = str(found[0]["solver"]).rpartition(" ")[0]
    return Table(title_of(found[0], pair), ("Lambda",), ("tau_k", "NFE", "FID"), tuple(lines), notes)


LAYOUT = Layout(
    "mixing-rules", "Ablation of Lambda", "FID and NFE of the three rules by which SDM mixes its two solvers.", make
)
