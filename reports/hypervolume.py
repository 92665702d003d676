"""How the front grew with what the search spent: the area it dominates, against network rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.cost import SEARCHED
from reports.pareto import hypervolume
from reports.record import complete, feasible
from reports.standings import Standings

SMALLEST = 1e-9  # a logarithm is taken


@dataclass(frozen=True)
class Growth:
    """The hypervolume of (log NFE, log FID) after each searched trial, in the order of their numbers.

    `rows`: network rows spent up to and with each trial, stopped ones included. `area`: that of the front so far, FID
    at all images of the search's own seeds, one below the floor's counting as the floor's. `baselines`: that of all
    baselines together, nan where there is none. `corner`: NFE and FID that the area is seen from: one evaluation beyond
    the last budget, and the worst baseline within the first one. `unknown`: trials that do not say what they spent.
    """

    rows: tuple[float, ...]
    area: tuple[float, ...]
    baselines: float
    corner: tuple[float, float]
    unknown: int = 0

    @staticmethod
    def of(frame: pd.DataFrame, standings: Standings) -> Growth | None:
        """The growth of a study's front; None where no searched trial is scored or nothing says what one spent."""
        group = standings.group
        searched = frame[frame["role"].isin(SEARCHED) & frame["state"].isin(("complete", "pruned"))]
        scored = feasible(complete(group, *SEARCHED))
        if scored.empty or not standings.budgets or searched["spent_rows"].isna().all():
            return None
        corner = _corner(group, standings.budgets)
        floor = SMALLEST if standings.floor is None else max(float(standings.floor["fid"]), SMALLEST)
        known = {
            key: _point(nfe, fid, floor) for key, nfe, fid in zip(*map(scored.get, ("key", "nfe", "fid")), strict=True)
        }
        held: list[tuple[float, float]] = []
        rows, areas = [], []
        spent = area = 0.0
        for key, cost in zip(searched["key"], searched["spent_rows"], strict=True):
            spent += 0.0 if pd.isna(cost) else float(cost)
            if key in known:
                held.append(known[key])
                area = _area(held, corner)
            rows.append(spent)
            areas.append(area)
        baselines = feasible(complete(group, "baseline"))
        theirs = [_point(nfe, fid, floor) for nfe, fid in zip(baselines["nfe"], baselines["fid"], strict=True)]
        unknown = int(searched["spent_rows"].isna().sum())
        return Growth(tuple(rows), tuple(areas), _area(theirs, corner) if theirs else math.nan, corner, unknown)

    @property
    def shares(self) -> list[tuple[float, float]]:
        """Rows spent and the share of the last area then, where it has changed, and at the end."""
        last = self.area[-1]
        steps = [(rows, area) for k, (rows, area) in enumerate(zip(self.rows, self.area, strict=True))
                 if area > (self.area[k - 1] if k else 0.0) or k == len(self.rows) - 1]  # fmt: skip
        return [(rows, area / last) for rows, area in steps] if last > 0 else []

    @property
    def baselines_share(self) -> float:
        """The area of all baselines together, as a share of the last one of the search."""
        return self.baselines / self.area[-1] if self.area[-1] > 0 else math.nan

    @property
    def passed(self) -> float:
        """Rows spent when the search first dominated more than all baselines together; nan where it never did."""
        return next((rows for rows, area in zip(self.rows, self.area, strict=True) if area > self.baselines), math.nan)


def _corner(group: pd.DataFrame, budgets: Sequence[int]) -> tuple[float, float]:
    baselines = complete(group, "baseline")
    rows = baselines if not baselines.empty else complete(group, *SEARCHED)
    within = rows.loc[rows["nfe"] <= budgets[0], "fid"]
    fids = within if not within.empty else rows["fid"]
    return budgets[-1] + 1.0, max(float(fids.max()), SMALLEST)


def _point(nfe: float, fid: float, floor: float) -> tuple[float, float]:
    return math.log(nfe), math.log(max(fid, floor))


def _area(points: list[tuple[float, float]], corner: tuple[float, float]) -> float:
    return hypervolume(points, (math.log(corner[0]), math.log(corner[1])))
