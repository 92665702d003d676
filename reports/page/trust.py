"""What the search cost, whether its rungs could be trusted, and what gave no number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.cost import Cost, rung_words
from reports.rank_check import LEAST_IN_BAND, LEAST_PLANS, TRUSTED, RankCheck, RankCorrelation, band_words

FAILURES = 50


@dataclass(frozen=True)
class CostTable:
    """What the study spent, in network rows, and where its trials stopped."""

    rows: Sequence[tuple[str, str]]
    stopped: Sequence[tuple[str, int]]
    trials: int
    full_size: str
    share: str

    @staticmethod
    def of(frame: pd.DataFrame, budgets: Sequence[int]) -> CostTable | None:
        """The cost; None where the record does not say."""
        if not frame["spent_rows"].notna().any():
            return None
        cost = Cost.of(frame, budgets[-1] if budgets else math.inf)
        share = f"{100 * cost.share:.3g} %" if math.isfinite(cost.share) else ""
        return CostTable(
            [(part, _rows(rows)) for part, rows in cost.rows.items()],
            [(rung_words(rung), number) for rung, number in cost.stopped.items()],
            cost.trials,
            _rows(cost.full_size),
            share,
        )


def _rows(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else "unknown"


@dataclass(frozen=True)
class RankTable:
    """How well each rung ranks plans as all images do."""

    whole: str
    bands: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, bool]]]]
    warnings: Sequence[str]
    least: tuple[int, int]
    trusted: str

    @staticmethod
    def of(frame: pd.DataFrame) -> RankTable | None:
        """The check; None where the record has no rungs."""
        check = RankCheck(frame)
        if not check.climbed:
            return None
        rows = []
        for rung in check.rungs:
            following = check.correlation(rung, check.following(rung))
            whole = [check.correlation(rung, check.last, band) for band in (None, *check.bands)]
            rows.append((check.words(rung), [_rho(found) for found in (following, *whole)]))
        return RankTable(
            check.words(check.last),
            [f"NFE {band_words(band)}" for band in check.bands],
            rows,
            [check.told(found) for found in check.doubtful()],
            (LEAST_PLANS, LEAST_IN_BAND),
            f"{TRUSTED:g}",
        )


def _rho(found: RankCorrelation) -> tuple[str, bool]:
    """Its text, and whether it is doubtful."""
    if not math.isfinite(found.rho):
        return f"– ({found.n})", False
    return f"{found.rho:.2f} ({found.n})", found.rho < TRUSTED


def failures(frame: pd.DataFrame) -> tuple[list[tuple[str, str, str]], int]:
    """Key or run, state and reason of what has failed or is no trial; and how many more there are."""
    held = frame[frame["state"].isin(("failed", "broken", "foreign"))]
    why = {"broken": "complete, but without an FID that can be read", "foreign": "not a trial of this study"}
    rows = [
        (
            str(row["key"] or row["name"] or "a run without a name"),
            str(row["state"]),
            str(row["reason"] or why.get(row["state"], "")),
        )
        for _, row in held.head(FAILURES).iterrows()
    ]
    return rows, max(0, len(held) - FAILURES)
