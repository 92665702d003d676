"""FID against 3 to 10 evaluations, a method a row: the table of the few-step papers (Chen et al., 2024, Table 1)."""

from __future__ import annotations

from reports import published
from reports.layouts.comparable import Comparable
from reports.layouts.table import PUBLISHED, UNSTATED, Cell, Layout, Line, Table, number_columns

NFES = tuple(range(3, 11))


def make(group: Comparable) -> list[Table]:
    """One table, of every pair that was measured or published there."""
    rows, held = group.rows[group.rows["nfe"].isin(NFES)], published.rows(group.benchmark)
    held = held[held["nfe"].isin([str(nfe) for nfe in NFES])]
    pairs = sorted(
        {*zip(rows["solver"], rows["schedule"], strict=True), *zip(held["solver"], held["schedule"], strict=True)}
    )
    told = {str(nfe): True for nfe in NFES if held["nfe"].eq(str(nfe)).any()}
    theirs = {(str(a), str(b), str(nfe)): part for (a, b, nfe), part in held.groupby(["solver", "schedule", "nfe"])}
    by_nfe: dict[int, list[Cell]] = {}
    for nfe in NFES:
        best = group.pairs(rows[rows["nfe"].eq(nfe)])
        by_nfe[nfe] = group.marked([best.get(pair, Cell()) for pair in pairs])
    lines = []
    for number, (solver, schedule) in enumerate(pairs):
        line: list[Cell] = []
        for nfe in NFES:
            line.append(by_nfe[nfe][number])
            if str(nfe) in told:
                line.append(group.printed(theirs.get((solver, schedule, str(nfe)), held[:0])))
        lines.append(Line((solver, schedule or UNSTATED), tuple(line)))
    notes = (
        "Columns: NFE, exactly. Lowest: of the column. Where several trials are of one pair, the lowest is shown.",
        group.floor_note,
        f'A column "{PUBLISHED}" has the numbers as printed, at the NFE as printed.' if told else "",
    )
    columns = number_columns(map(str, NFES), told)
    return [Table("3 to 10 evaluations", ("solver", "schedule"), columns, tuple(lines), notes)] if pairs else []


LAYOUT = Layout(
    "few-steps", "FID against NFE 3-10", "FID of each solver on its schedule, at 3 to 10 network evaluations.", make
)
