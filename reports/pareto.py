"""The front of FID against NFE, the best within a budget, and the area a front dominates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from reports.record import complete, feasible, natural, ranked


def front(frame: pd.DataFrame) -> pd.DataFrame:
    """The scored rows that no other beats or equals in both NFE and corrected FID, by rising NFE; of equals the first.

    Rows that exceed a constraint take no part. The rest is taken as it comes: keep the floor, confirmations, and what
    was measured otherwise (`reports.record.groups`) out of it.
    """
    held = feasible(complete(frame))
    kept: list[int] = []
    lowest = math.inf
    for at, fid in _ordered(held.assign(ranked=ranked(held)), "nfe", "ranked"):
        if fid < lowest:
            kept.append(at)
            lowest = fid
    return held.iloc[kept]


def best_at(frame: pd.DataFrame, budget: float) -> pd.Series[Any] | None:
    """The scored row of lowest corrected FID within `budget` evaluations; of equal ones the cheaper, then by key.

    Rows that exceed a constraint take no part.
    """
    held = feasible(complete(frame))
    affordable = held[held["nfe"] <= budget]
    if affordable.empty:
        return None
    return affordable.iloc[_ordered(affordable.assign(ranked=ranked(affordable)), "ranked", "nfe")[0][0]]


def hypervolume(points: Iterable[tuple[float, float]], reference_point: tuple[float, float]) -> float:
    """The area that `points` dominate below `reference_point`, both to be minimised; points beyond it add nothing."""
    right, top = reference_point
    area, level = 0.0, top
    for x, y in sorted(points):
        if x >= right:
            break
        if y < level:
            area += (right - x) * (level - y)
            level = y
    return area


def _ordered(frame: pd.DataFrame, first: str, second: str) -> list[tuple[int, float]]:
    """Positions and values of `second`, by `first`, then `second`, then key."""
    keys = [natural(key) for key in frame["key"]]
    values = list(zip(frame[first].tolist(), frame[second].tolist(), keys, strict=True))
    return [(at, values[at][1]) for at in sorted(range(len(values)), key=values.__getitem__)]
