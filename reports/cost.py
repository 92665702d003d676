"""What a study cost in network rows, what stopped its trials, and what they would have cost without rungs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from reports.record import complete

SEARCHED = ("published", "searched")
PARTS = {
    "searched": SEARCHED,
    "baselines and floor": ("baseline", "floor"),
    "confirmation": ("confirmed",),
}


@dataclass(frozen=True)
class Cost:
    """Network rows by part of a study, and trials by the rung that stopped them ("plan", "teacher", or its images).

    `full_size`: rows of the searched trials had each been sampled in full, its NFE times all images and the set-up as
    far as it is known. Trials that a budget or a constraint refuses are sampled in no case. Rows are nan where the
    record does not say.
    """

    stopped: dict[str, int]
    rows: dict[str, float]
    trials: int
    full_size: float

    @staticmethod
    def of(frame: pd.DataFrame, last_budget: float) -> Cost:
        """The cost of the study whose record this is."""
        rows = {part: _rows(frame[frame["role"].isin(roles)]) for part, roles in PARTS.items()}
        searched = frame[frame["role"].isin(SEARCHED) & frame["state"].isin(("complete", "pruned"))]
        return Cost(_stopped(searched), rows, len(searched), _full_size(frame, searched, last_budget))

    @property
    def share(self) -> float:
        """What the searched trials cost, of what they would have cost at full size; nan if unknown."""
        return self.rows["searched"] / self.full_size if self.full_size else math.nan


def rung_words(rung: str) -> str:
    """The rung that stopped a trial, in words."""
    return f"{int(rung):,} images" if rung.isdecimal() else rung or "unknown"


def _stopped(searched: pd.DataFrame) -> dict[str, int]:
    """In the order of the rungs."""
    counts = searched.loc[searched["state"].eq("pruned"), "stopped_at"].value_counts()
    named = {"plan": -2.0, "teacher": -1.0}
    order = sorted(
        counts.index, key=lambda rung: (named.get(rung, float(rung) if rung.isdecimal() else math.inf), rung)
    )
    return {str(rung): int(counts[rung]) for rung in order}


def _rows(part: pd.DataFrame) -> float:
    """The sum, 0 of no rows; nan where a scored row does not say what it spent."""
    scored = complete(part)
    return math.nan if scored["spent_rows"].isna().any() else float(part["spent_rows"].sum())


def _full_size(frame: pd.DataFrame, searched: pd.DataFrame, last_budget: float) -> float:
    images = complete(frame, "floor", "baseline", *SEARCHED)["images"].dropna()
    if images.empty:
        return math.nan
    sampled = searched[~(searched["stopped_at"].eq("plan") & ~searched["feasible"]) & (searched["nfe"] <= last_budget)]
    # A trial that is stopped before it is sampled has spent its set-up and nothing else.
    setup = searched["setup_rows"].fillna(searched["spent_rows"].where(searched["stopped_at"].eq("plan"))).sum()
    return float(setup + sampled["nfe"].sum() * int(images.mode().iloc[0]))
