"""Who leads at each budget, by how much, and whether that is more than the error: what every table is printed from.

Leaders are chosen by the FIDs of the search's own seeds. How they compare is told by the confirmations, on seeds that
chose nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pipeline import comparison
from pipeline.comparison import Difference
from reports.pareto import best_at
from reports.record import complete, confirmations, estimate, feasible, groups, same_images

PUBLISHED, SEARCHED = "published settings", "searched"
UNCONFIRMED = " (unconfirmed)"
UNKNOWN = Difference(math.nan, math.nan, math.nan, False)


@dataclass(frozen=True)
class Cell:
    """The best of a method within a budget, and its confirmation if there is one.

    `winner`: lowest FID of the baselines and the search at this budget. `tied`: cannot be told from the winner, or, on
    the winner itself, there is a rival that cannot be told from it; both on the search's seeds, and neither where the
    best baseline is at the floor. `at_floor`: cannot be told from the fine solve.
    """

    method: str
    role: str
    budget: int
    row: pd.Series[Any]
    confirmed: pd.Series[Any] | None = None
    winner: bool = False
    tied: bool = False
    at_floor: bool = False


@dataclass(frozen=True)
class Optimism:
    """By how much the search's seeds flatter a row: its FID above the floor when confirmed, less that when searched.

    Corrected FIDs. The floor takes off what other seeds do to every sampler. `error`: half-width of the 95 % interval.
    """

    gap: float = math.nan
    error: float = math.nan


@dataclass(frozen=True)
class Verdict:
    """The best baseline against the search within a budget.

    `word` is of the searched one. `difference`: baseline minus searched, of corrected FIDs. `confirmed`: both are told
    by their confirmations, and not by the search's own seeds.
    """

    budget: int
    baseline: Cell | None
    searched: Cell | None
    word: comparison.Verdict | None = None
    difference: Difference = UNKNOWN
    confirmed: bool = False
    optimism: Optimism = Optimism()

    @property
    def at_floor(self) -> bool:
        """Whether the best baseline cannot be told from the fine solve, so that nothing is ranked."""
        return self.baseline is not None and self.baseline.at_floor

    @property
    def words(self) -> str:
        """The verdict on the searched one; at the floor nobody is better or worse."""
        if self.word is None:
            return "nothing to compare"
        return ("inconclusive; at the floor" if self.at_floor else self.word) + ("" if self.confirmed else UNCONFIRMED)


class Standings:
    """The methods of one group of comparable rows (`reports.record.groups`) at each budget.

    A cell is the method's lowest FID at no more than the budget's evaluations, for a baseline as for the search.
    `confirmed`: confirmations by the key of the row that they confirm.
    """

    def __init__(
        self,
        group: pd.DataFrame,
        budgets: Sequence[int] | None = None,
        confirmed: Mapping[str, pd.Series[Any]] | None = None,
    ) -> None:
        self.group = complete(group)
        self.confirmed = dict(confirmed or {})
        self.budgets = sorted(set(budgets)) if budgets is not None else _budgets(self.group)
        floors = complete(self.group, "floor")
        self.floor: pd.Series[Any] | None = None if floors.empty else floors.iloc[0]
        parts = [(str(name), "baseline", rows) for name, rows in complete(self.group, "baseline").groupby("method")]
        parts.append((PUBLISHED, "published", complete(self.group, "published")))
        parts.append((SEARCHED, "searched", complete(self.group, "published", "searched")))
        self.methods = [(name, role) for name, role, rows in parts if not feasible(rows).empty]
        self.cells: dict[tuple[str, str, int], Cell] = {}
        for budget in self.budgets:
            best = [(name, role, best_at(rows, budget)) for name, role, rows in parts]
            cells = [
                Cell(name, role, budget, row, self.confirmed.get(row["key"]), at_floor=self._at_floor(row))
                for name, role, row in best
                if row is not None
            ]
            self.cells |= {(cell.method, cell.role, budget): cell for cell in _marked(cells)}

    def at(self, budget: int) -> list[Cell]:
        """The cells of a budget, in the order of `methods`."""
        found = (self.cells.get((name, role, budget)) for name, role in self.methods)
        return [cell for cell in found if cell is not None]

    def verdicts(self) -> Iterator[Verdict]:
        """One a budget."""
        for budget in self.budgets:
            baseline = _best_baseline(self.at(budget))
            searched = self.cells.get((SEARCHED, "searched", budget))
            if baseline is None or searched is None:
                yield Verdict(budget, baseline, searched)
                continue
            confirmed = self._confirmations(baseline.row, searched.row)
            theirs, ours = confirmed or (baseline.row, searched.row)
            optimism = self.optimism(searched.row)
            yield Verdict(
                budget, baseline, searched, _word(ours, theirs), _difference(theirs, ours), bool(confirmed), optimism
            )

    def optimism(self, row: pd.Series[Any]) -> Optimism:
        """How much a row's own seeds flatter it; unknown where it or the floor is not confirmed."""
        confirmed = None if self.floor is None else self._confirmations(row, self.floor)
        if confirmed is None or self.floor is None:
            return Optimism()
        again, first = _difference(*confirmed), _difference(row, self.floor)
        return Optimism(again.gap - first.gap, math.hypot(again.error, first.error))

    def _at_floor(self, row: pd.Series[Any]) -> bool:
        if self.floor is None:
            return False
        ours, floor = self._confirmations(row, self.floor) or (row, self.floor)
        return math.isfinite(_difference(ours, floor).error) and _word(ours, floor) != "worse"

    def _confirmations(self, *rows: pd.Series[Any]) -> list[pd.Series[Any]] | None:
        """The confirmations of all these rows; None where one has none."""
        found = [self.confirmed.get(row["key"]) for row in rows]
        held = [row for row in found if row is not None]
        return held if len(held) == len(rows) else None


def standings(frame: pd.DataFrame, budgets: Sequence[int] | None = None) -> list[Standings]:
    """The standings of each group of a record, the largest group first."""
    return [Standings(group, budgets, confirmations(frame, group)) for group in groups(frame)]


def _marked(cells: list[Cell]) -> Iterator[Cell]:
    baseline = _best_baseline(cells)
    rivals = [cell for cell in cells if cell.role in ("baseline", "searched")]
    if not rivals or (baseline is not None and baseline.at_floor):
        yield from cells
        return
    winner = min(rivals, key=_fid)
    close = {c.row["key"] for c in rivals if _word(c.row, winner.row) != "worse"} - {winner.row["key"]}
    for cell in cells:
        leads = cell.row["key"] == winner.row["key"]
        yield replace(cell, winner=leads, tied=bool(close) if leads else cell.row["key"] in close)


def _best_baseline(cells: Sequence[Cell]) -> Cell | None:
    return min((cell for cell in cells if cell.role == "baseline"), key=_fid, default=None)


def _word(ours: pd.Series[Any], theirs: pd.Series[Any]) -> comparison.Verdict:
    return comparison.verdict(estimate(ours), estimate(theirs), paired=same_images(ours, theirs))


def _difference(a: pd.Series[Any], b: pd.Series[Any]) -> Difference:
    return comparison.difference(estimate(a), estimate(b), paired=same_images(a, b))


def _fid(cell: Cell) -> float:
    corrected = float(cell.row["fid_corrected"])
    return float(cell.row["fid"]) if math.isnan(corrected) else corrected


def _budgets(group: pd.DataFrame) -> list[int]:
    """The budgets that baselines were run for, else every NFE, rounded up, that the search reached."""
    asked = complete(group, "baseline")["budget"].dropna()
    if not asked.empty:
        return sorted({int(value) for value in asked})
    return sorted({math.ceil(value) for value in complete(group, "published", "searched")["nfe"]})
