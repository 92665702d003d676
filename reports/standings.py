"""Who leads at each budget, by how much, and whether that is more than the error: what every table is printed from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.pareto import best_at
from reports.record import complete

PUBLISHED, SEARCHED = "published settings", "searched"


@dataclass(frozen=True)
class Cell:
    """The best of a method within a budget.

    `winner`: lowest FID of the baselines and the search at this budget. `tied`: cannot be told from the winner, or, on
    the winner itself, there is a rival that cannot be told from it. `at_floor`: cannot be told from the fine solve.
    """

    method: str
    role: str
    budget: int
    row: pd.Series[Any]
    winner: bool = False
    tied: bool = False
    at_floor: bool = False


@dataclass(frozen=True)
class Verdict:
    """The best baseline against the search within a budget; `gap` is baseline minus searched, `error` its error."""

    budget: int
    baseline: Cell | None
    searched: Cell | None
    gap: float
    error: float
    at_floor: bool

    @property
    def words(self) -> str:
        """The verdict; a difference within its error is never called better."""
        if self.baseline is None or self.searched is None:
            return "nothing to compare"
        if not abs(self.gap) > self.error:
            text = "inconclusive"
        else:
            text = "searched is lower" if self.gap > 0 else "baseline is lower"
        return text + ("; baseline at the floor" if self.at_floor else "")


class Standings:
    """The methods of one group of comparable rows (`reports.record.groups`) at each budget.

    A cell is the method's lowest FID at no more than the budget's evaluations, for a baseline as for the search.
    """

    def __init__(self, group: pd.DataFrame, budgets: Sequence[int] | None = None) -> None:
        self.group = complete(group)
        self.budgets = sorted(set(budgets)) if budgets is not None else _budgets(self.group)
        floors = complete(self.group, "floor")
        self.floor: pd.Series[Any] | None = None if floors.empty else floors.iloc[0]
        parts = [(str(name), "baseline", rows) for name, rows in complete(self.group, "baseline").groupby("method")]
        parts.append((PUBLISHED, "published", complete(self.group, "published")))
        parts.append((SEARCHED, "searched", complete(self.group, "published", "searched")))
        self.methods = [(name, role) for name, role, rows in parts if not rows.empty]
        self.cells: dict[tuple[str, str, int], Cell] = {}
        for budget in self.budgets:
            best = [(name, role, best_at(rows, budget)) for name, role, rows in parts]
            cells = [Cell(name, role, budget, row) for name, role, row in best if row is not None]
            self.cells |= {(cell.method, cell.role, budget): cell for cell in self._judged(cells)}

    def at(self, budget: int) -> list[Cell]:
        """The cells of a budget, in the order of `methods`."""
        found = (self.cells.get((name, role, budget)) for name, role in self.methods)
        return [cell for cell in found if cell is not None]

    def verdicts(self) -> Iterator[Verdict]:
        """One a budget."""
        for budget in self.budgets:
            cells = self.at(budget)
            baseline = min((c for c in cells if c.role == "baseline"), key=_fid, default=None)
            searched = next((c for c in cells if c.role == "searched"), None)
            gap = error = math.nan
            if baseline is not None and searched is not None:
                gap = _fid(baseline) - _fid(searched)
                error = error_of_difference(baseline.row, searched.row)
            yield Verdict(budget, baseline, searched, gap, error, baseline is not None and baseline.at_floor)

    def _judged(self, cells: list[Cell]) -> Iterator[Cell]:
        rivals = [cell for cell in cells if cell.role in ("baseline", "searched")]
        if not rivals:
            yield from cells
            return
        winner = min(rivals, key=_fid)
        close = [c for c in rivals if c.row["key"] != winner.row["key"] and not differ(c.row, winner.row)]
        for cell in cells:
            leads = cell.row["key"] == winner.row["key"]
            tied = bool(close) if leads else cell in close
            at_floor = self.floor is not None and not differ(cell.row, self.floor)
            yield Cell(cell.method, cell.role, cell.budget, cell.row, leads, tied, at_floor)


def error_of_difference(a: pd.Series[Any], b: pd.Series[Any]) -> float:
    """sqrt(se_a^2 + se_b^2); nan where an error is unknown.

    Trials of one study share their seeds, which correlates them, so that this is rather too large than too small.
    """
    return math.hypot(float(a["fid_se"]), float(b["fid_se"]))


def differ(a: pd.Series[Any], b: pd.Series[Any]) -> bool:
    """Whether two FIDs are further apart than their error; never where an error is unknown."""
    return abs(float(a["fid"]) - float(b["fid"])) > error_of_difference(a, b)


def _fid(cell: Cell) -> float:
    return float(cell.row["fid"])


def _budgets(group: pd.DataFrame) -> list[int]:
    """The budgets that baselines were run for, else every NFE, rounded up, that the search reached."""
    asked = complete(group, "baseline")["budget"].dropna()
    if not asked.empty:
        return sorted({int(value) for value in asked})
    return sorted({math.ceil(value) for value in complete(group, "published", "searched")["nfe"]})
