"""Where the numbers come from: what was measured, by which code, on which seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports.numbers import conditions, groups_left_out
from reports.standings import Standings
from reports.trial_files import Card


def provenance(frame: pd.DataFrame, found: Standings | None, cards: Sequence[Card]) -> list[tuple[str, str]]:
    """What the numbers were made from and by, name and value; nothing of the machine or of the hour."""
    group = frame if found is None else found.group
    confirmed = [] if found is None else list(found.confirmed.values())
    versions: dict[str, set[str]] = {}
    for card in cards:
        for name, version in card.versions.items():
            versions.setdefault(name, set()).add(version)
    told = {
        "study": _distinct(frame, "study"),
        "benchmark": f"{_distinct(group, 'benchmark')}, version {_distinct(group, 'benchmark_version')}",
        "reference (hash of its moments)": _distinct(group, "reference"),
        "network (hash)": ", ".join(sorted({card.model_hash for card in cards if card.model_hash})),
        "scored on": "" if found is None else conditions(group),
        "confirmed on": ", ".join(sorted({_seeds(row) for row in confirmed})),
        "images a shard": _distinct(group, "shard_images"),
        "groups left out for the errors": "" if found is None else groups_left_out(row for _, row in group.iterrows()),
        "schedules end at sigma =": _distinct(group, "terminal").replace("zero", "0"),
        "code revision": _distinct(group, "revision"),
        "versions": ", ".join(f"{name} {' or '.join(sorted(held))}" for name, held in sorted(versions.items())),
    }
    return [(name, value or "unknown") for name, value in told.items()]


def _distinct(frame: pd.DataFrame, column: str) -> str:
    return ", ".join(sorted({str(value) for value in frame[column].dropna() if str(value)})) or "unknown"


def _seeds(row: pd.Series[Any]) -> str:
    first, images = int(row["first_seed"]), int(row["images"])
    return f"{images:,} images, seeds {first}-{first + images - 1}"
