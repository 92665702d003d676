"""What MLflow's page of an experiment shows as a study's leaderboard: which runs, which columns, in which order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline import store

# Column and width, in pixels; the first two are pinned by the page itself, which shows them whatever is chosen.
COLUMNS = {
    "attributes.`Run Name`": 300,
    "runDateAndNestInfo": 125,
    "metrics.`nfe`": 60,
    "metrics.`fid`": 95,
    "metrics.`fid_se`": 105,
    f"metrics.`{store.FID_CONFIRMED}`": 120,
    f"tags.`{store.ROLE}`": 130,
    f"tags.`{store.FRONT}`": 130,
    f"tags.`{store.BUDGET}`": 130,
    "metrics.`setup_nfe`": 90,
    f"tags.`{store.METHOD}`": 170,
    "metrics.`images`": 80,
}
PINNED = 2
BESIDE_WIDTH = 150


def leaderboard_view(run_id: str, beside: Iterable[str] = ()) -> dict[str, Any]:
    """The shared view of a study's run, as MLflow's page reads it (3.17.2; undocumented): its scored trials by place.

    Confirmations are left out: their numbers are beside what they confirm, those of the metrics `beside` FID too.
    """
    columns = dict(COLUMNS)
    for name in beside:
        columns[f"metrics.`{name}{store.CONFIRMED}`"] = BESIDE_WIDTH
    conditions = [f"`{store.PARENT}` = '{run_id}'", f"`{store.STATE}` = 'complete'", f"`{store.ROLE}` != 'confirmed'"]
    return {
        "searchFilter": " AND ".join(f"tags.{condition}" for condition in conditions),
        "orderByKey": f"tags.`{store.PLACE}`",
        "orderByAsc": True,
        "lifecycleFilter": "Active",
        "selectedColumns": list(columns)[PINNED:],
        "columnOrder": list(columns),
        "columnWidths": columns,
        "runsHiddenMode": "SHOW_ALL",
        "autoRefreshEnabled": True,
        "groupBy": None,
    }
