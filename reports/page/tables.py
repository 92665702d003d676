"""The tables of a group: the best baseline against the search, and every method, at each budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.beside import BesideTable
from reports.numbers import conditions, count, floor_sentence, groups_left_out, plain, setup, signed, spent
from reports.page.headline import SYMBOLS, floor_line, kind_of
from reports.standings import Cell, Standings, Verdict
from reports.trial_files import short_name


@dataclass(frozen=True)
class TableCell:
    """A method's lowest FID within a budget. `spent`: the NFE it took, where that is less."""

    text: str
    winner: bool = False
    tied: bool = False
    spent: str = ""


@dataclass(frozen=True)
class MethodRow:
    """A method's line: a cell a budget."""

    name: str
    role: str
    setup: str
    cells: Sequence[TableCell]


@dataclass(frozen=True)
class VerdictRow:
    """The best baseline and the search within one budget."""

    budget: int
    baseline: str
    baseline_scores: tuple[str, str]
    searched: str
    key: str
    nfe: str
    setup: str
    searched_scores: tuple[str, str]
    optimism: str
    gap: str
    kind: str
    symbol: str
    words: str


@dataclass(frozen=True)
class GroupTables:
    """Both tables of one group of comparable rows, and what they rest on."""

    benchmark: str
    conditions: str
    groups: str
    budgets: Sequence[int]
    methods: Sequence[MethodRow]
    at_floor: Sequence[bool]
    verdicts: Sequence[VerdictRow]
    floor: str
    floor_sentence: str
    confirmed: bool
    beside: BesideTable | None
    excluded: int

    @staticmethod
    def of(found: Standings) -> GroupTables:
        """The tables of one group."""
        rows, budgets = [], found.budgets
        if found.floor is not None:
            name = f"floor: {found.floor['method']} ({count(found.floor['nfe'])} NFE)"
            cells = [TableCell(plain(found.floor))] * len(budgets)
            rows.append(MethodRow(name, "floor", count(found.floor["setup_nfe"]), cells))
        for method, role in found.methods:
            held = [found.cells.get((method, role, budget)) for budget in budgets]
            rows.append(MethodRow(method, role, setup(held), [_cell(cell) for cell in held]))
        verdicts = list(found.verdicts())
        return GroupTables(
            str(found.group.iloc[0]["benchmark"]),
            conditions(found.group),
            groups_left_out(row for _, row in found.group.iterrows()),
            budgets,
            rows,
            [verdict.at_floor for verdict in verdicts],
            [_verdict(verdict) for verdict in verdicts],
            floor_line(found),
            floor_sentence(found),
            bool(found.confirmed),
            BesideTable.of(found),
            int((~found.group["feasible"]).sum()),
        )


def _cell(cell: Cell | None) -> TableCell:
    return TableCell("–") if cell is None else TableCell(plain(cell.row), cell.winner, cell.tied, spent(cell).strip())


def _verdict(verdict: Verdict) -> VerdictRow:
    base, ours, kind = verdict.baseline, verdict.searched, kind_of(verdict)
    gap, _, error, paired = verdict.difference
    return VerdictRow(
        budget=verdict.budget,
        baseline="–" if base is None else base.method + spent(base),
        baseline_scores=_scores(base),
        searched="–" if ours is None else short_name(ours.row),
        key="" if ours is None else str(ours.row["key"]),
        nfe="–" if ours is None else count(ours.row["nfe"]),
        setup="–" if ours is None else count(ours.row["setup_nfe"]),
        searched_scores=_scores(ours),
        optimism=signed(verdict.optimism.gap, verdict.optimism.error),
        gap=signed(gap, error) + (" (unpaired)" if math.isfinite(error) and not paired else ""),
        kind=kind,
        symbol=SYMBOLS[kind],
        words=verdict.words,
    )


def _scores(cell: Cell | None) -> tuple[str, str]:
    if cell is None:
        return "–", "–"
    return plain(cell.row), "–" if cell.confirmed is None else plain(cell.confirmed)
