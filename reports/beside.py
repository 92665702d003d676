"""What was measured beside FID of the images of confirmations, and how a table prints it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.store import BESIDE

if TYPE_CHECKING:
    import pandas as pd

    from reports.standings import Standings

TITLES = {"kid": "KID", "precision": "precision", "recall": "recall", "fd_dinov2": "FD-DINOv2"}
KINDS = {
    "spread": "± the standard deviation over its random subsets, which is no standard error",
    "se": "± its leave-one-out standard error",
    "none": "without an error",
}
HEADING = "Beside FID"
INTRODUCTION = "Measured on the same images as the confirmed FID. Lower is better but for precision and recall."


@dataclass(frozen=True)
class Other:
    """A number beside FID, and in words what it was measured on."""

    value: float
    error: float | None
    conditions: str

    @property
    def text(self) -> str:
        """The value with its error, to the error's second digit; to four digits where there is none."""
        if self.error is None or not self.error > 0:
            return f"{self.value:.4g}"
        places = 1 - math.floor(math.log10(self.error))
        shown = max(0, places)
        return f"{round(self.value, places):.{shown}f} ± {round(self.error, places):.{shown}f}"


@dataclass(frozen=True)
class BesideRow:
    """What a confirmation gave: of which method, at how many evaluations, and a cell a metric."""

    role: str
    name: str
    key: str
    nfe: float
    cells: Sequence[str]


@dataclass(frozen=True)
class BesideTable:
    """The confirmations of one group that were measured beside FID: the floor, the search, the baselines."""

    names: Sequence[str]
    rows: Sequence[BesideRow]
    notes: Sequence[str]

    @staticmethod
    def of(found: Standings) -> BesideTable | None:
        """The table of a group; None where nothing was measured beside FID."""
        held = list(_confirmed(found))
        names = [name for name in BESIDE if any(name in others for _, others in held)]
        if not names:
            return None
        rows = [
            BesideRow(
                str(row["role"]),
                str(row["method"] if row["role"] in ("floor", "baseline") else row["name"]),
                str(row["key"]),
                float(row["nfe"]),
                [others[name].text if name in others else "–" for name in names],
            )
            for row, others in held
        ]
        notes = []
        for name in names:
            conditions = dict.fromkeys(others[name].conditions for _, others in held if name in others)
            notes.append(f"{TITLES[name]}: {' or '.join(conditions)}.")
        return BesideTable([TITLES[name] for name in names], rows, notes)


def others_of(held: object) -> dict[str, Other]:
    """The numbers of a trial's tag, by name in the order of `store.BESIDE`; without those that cannot be read."""
    try:
        told = json.loads(held) if isinstance(held, str) else {}
    except (ValueError, RecursionError):
        return {}
    found = {}
    for name in BESIDE:
        other = _other(told.get(name)) if isinstance(told, Mapping) else None
        if other is not None:
            found[name] = other
    return found


def _other(held: object) -> Other | None:
    if not isinstance(held, Mapping):
        return None
    try:
        value = float(held["value"])
        error = None if held["error"] is None else float(held["error"])
        if not math.isfinite(value) or not (error is None or math.isfinite(error)):
            return None
        count = held["reference_images"]
        against = "a reference that does not say how many" if count is None else f"{int(count):,} of the reference"
        settings = ", ".join(
            f"{name.replace('_', ' ')} {_short(held)}" for name, held in sorted(held["settings"].items())
        )
        hashes = f"reference {str(held['reference'])[:16]}, extractor {str(held['extractor'])[:16]}"
        words = [f"{int(held['images']):,} images against {against}", settings, KINDS[held["error_kind"]], hashes]
        return Other(value, error, ", ".join(filter(None, words)))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:40]


def _confirmed(found: Standings) -> Iterator[tuple[pd.Series[Any], dict[str, Other]]]:
    """Each confirmed row with what was measured: the floor, the search by NFE, the baselines by NFE."""
    order = {"floor": 0, "published": 1, "searched": 1, "baseline": 2}
    rows = [row for _, row in found.group.iterrows() if row["key"] in found.confirmed]
    for row in sorted(rows, key=lambda row: (order.get(row["role"], 3), row["nfe"])):
        again = found.confirmed[row["key"]]
        if again["confirms"] == row["key"]:  # and not another trial with the same plan
            yield row, others_of(again["beside"])
