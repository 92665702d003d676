"""Records as data frames without a store: rows by hand, and the rows that MLflow would give of trials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd

from pipeline.entry import Entry
from pipeline.marks import marks
from pipeline.result import TrialRecord
from reports.record import frame_of_told
from tests.synthetic_study import score

EXPERIMENT = "digits-kde"
HOSTILE = r"50%_\{x}~^&#$ <b>|`*_"


def row(key: str, nfe: float, fid: float, se: float = 0.002, **more: Any) -> dict[str, Any]:
    """A scored trial. Its leave-one-out values give `se`; those of one `roll` are of the same noise."""
    made = score(fid, se, roll=more.pop("roll", 0)) if se == se else score(fid, 1.0)
    role = key.split("/")[0]
    held = {"key": key, "role": role, "state": "complete", "method": role, "name": f"trial {key}"}
    held |= {"nfe": nfe, "fid": fid, "fid_se": se, "fid_corrected": made.corrected, "setup_nfe": 0.0}
    held |= {"leave_one_out": made.leave_one_out if se == se else ()}
    held |= {"images": 8000, "first_seed": 0, "shard_images": 400, "terminal": "zero", "benchmark": EXPERIMENT}
    held |= {"benchmark_version": "1", "reference": "feed", "revision": "a1"}
    if role == "baseline":
        held |= {"method": key.split("/")[1], "budget": nfe}
    if role == "confirmed":
        held |= {"confirms": key.removeprefix("confirmed/"), "first_seed": 1_000_000}
    return held | more


def as_recorded(records: Iterable[TrialRecord], front: Iterable[str] = ()) -> pd.DataFrame:
    """What `reports.record.read` gives of these trials, but for the ids of the runs."""
    entries = {item.key: Entry.of(item) for item in records}
    marked = marks(entries, front)
    told = [replace(entry, tags={**entry.tags, **marked[key].tags}) for key, entry in entries.items()]
    frame = frame_of_told(told, EXPERIMENT, "small")
    frame["run_id"] = frame["key"]
    return frame
