"""Reads a study back from MLflow: one row a run, and nothing from anywhere else.

Columns that are not in the record are empty, so that every other module may rely on them being there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from pipeline import store
from pipeline.registry import SpecError

PAGE = 1000
TEXT = ("key", "role", "state", "method", "plan", "reference", "benchmark_version", "revision", "same_as", "reason")
NUMBERS = ("fid", "fid_se", "fid_corrected", "nfe", "setup_nfe", "images_per_s", "network_rows", "worker_seconds")
COUNTS = ("budget", "images", "first_seed", "shard_images")
COLUMNS = ("benchmark", "study", *TEXT, "front", *NUMBERS, *COUNTS, "terminal", "name", "run_id")
# What makes two FIDs comparable.
CONDITIONS = ("benchmark", "benchmark_version", "reference", "images", "first_seed")


def read(uri: str, experiment: str, study: str | None = None) -> pd.DataFrame:
    """One row a trial of the study, in the order of their keys; params as columns `params.<name>`.

    Without `study` the experiment must hold one only; of several of that name the newest is read. A run of the
    experiment that is no trial is a row with role and state "foreign", a complete trial without a readable FID one with
    state "broken"; neither takes part in any number.

    Raises:
        SpecError: no such store, experiment or study; names the nearest.
    """
    client = store.open_client(uri, create=False)
    held = client.get_experiment_by_name(experiment)
    if held is None or held.lifecycle_stage != "active":
        names = sorted(e.name for e in client.search_experiments())
        raise SpecError("no such experiment in this store", path="experiment", given=experiment, allowed=names)
    runs = list(_runs(client, held.experiment_id))
    tops = [run for run in runs if store.PARENT not in run.data.tags]
    parents = {run.info.run_id: run for run in tops if store.STUDY in run.data.tags}
    parent = _choose(list(parents.values()), experiment, study)
    others = set(parents) - {parent.info.run_id}
    rows = [
        _row(run, experiment, parent.data.tags[store.STUDY], parent.info.run_id)
        for run in runs
        if run.info.run_id not in parents and run.data.tags.get(store.PARENT) not in others
    ]
    return frame_of(rows)


def find_experiment(uri: str, study: str | None = None) -> str:
    """The experiment that holds the study; without a name, the only experiment that holds any.

    Raises:
        SpecError: no such store, no such study, or one of that name in several experiments.
    """
    client = store.open_client(uri, create=False)
    held: dict[str, set[str]] = {}
    for experiment in client.search_experiments():
        for run in _runs(client, experiment.experiment_id, f"tags.`{store.STUDY}` LIKE '%'"):
            held.setdefault(run.data.tags[store.STUDY], set()).add(experiment.name)
    found = sorted(set().union(*held.values()) if study is None else held.get(study, set()))
    if not held:
        raise SpecError("holds no study of sigmasearch", path="MLflow store", given=store.masked(uri))
    if not found:
        raise SpecError("no such study in this store", path="study", given=study, allowed=sorted(held))
    if len(found) > 1:
        raise SpecError(
            "the store holds several experiments with such a study; name one", path="benchmark", allowed=found
        )
    return found[0]


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A record from rows by hand: missing columns are added, types set, rows put in the order of their keys."""
    frame = pd.DataFrame(list(rows))
    frame = frame.reindex(columns=[*COLUMNS, *sorted(set(frame.columns) - set(COLUMNS))])
    for name in NUMBERS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    for name in COUNTS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("Int64")
    for name in ("benchmark", "study", *TEXT, "terminal", "name", "run_id"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype(str)
    frame["front"] = frame["front"].eq(True)
    unread = frame["state"].eq("complete") & ~(frame["fid"].notna() & frame["nfe"].notna())
    frame.loc[unread, "state"] = "broken"
    order = sorted(range(len(frame)), key=lambda i: (natural(frame["key"].iloc[i]), frame["run_id"].iloc[i]))
    return frame.iloc[order].reset_index(drop=True)


def natural(key: str) -> tuple[tuple[int, str], ...]:
    """A sort key that puts searched/9 before searched/10."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key))


def complete(frame: pd.DataFrame, *roles: str) -> pd.DataFrame:
    """The scored rows, of the given roles or of all."""
    kept = frame[frame["state"].eq("complete")]
    return kept[kept["role"].isin(roles)] if roles else kept


def groups(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The scored rows, parted where they cannot be compared (`CONDITIONS`), the largest group first.

    FID is biased by the number of images, so that two numbers of images are two tables.
    """
    kept = complete(frame)
    parts = [part for _, part in kept.groupby(list(CONDITIONS), dropna=False, sort=True)]
    return sorted(parts, key=len, reverse=True)


def _runs(client: Any, experiment_id: str, query: str = "") -> Iterable[Any]:
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], query, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _choose(parents: list[Any], experiment: str, study: str | None) -> Any:
    names = sorted({run.data.tags[store.STUDY] for run in parents})
    if not names:
        raise SpecError("holds no study of sigmasearch", path="experiment", given=experiment)
    if study is None and len(names) > 1:
        raise SpecError("the experiment holds several studies; name one", path="study", allowed=names)
    wanted = names[0] if study is None else study
    found = [run for run in parents if run.data.tags[store.STUDY] == wanted]
    if not found:
        raise SpecError(f"no such study in {experiment}", path="study", given=study, allowed=names)
    return max(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _row(run: Any, experiment: str, study: str, parent: str) -> dict[str, Any]:
    tags, metrics, params = run.data.tags, run.data.metrics, run.data.params
    row: dict[str, Any] = {name: tags.get(f"sigmasearch.{name}", "") for name in TEXT}
    row |= {"benchmark": experiment, "study": study, "name": tags.get(store.RUN_NAME, ""), "run_id": run.info.run_id}
    row |= {f"params.{name}": value for name, value in params.items()}
    row |= {name: metrics.get(name) for name in NUMBERS if math.isfinite(metrics.get(name, math.nan))}
    row |= {name: params.get(name) for name in ("images", "first_seed", "shard_images")}
    row |= {"budget": tags.get(store.BUDGET), "terminal": params.get("terminal", "")}
    row["front"] = tags.get(store.FRONT) == "true"
    if tags.get(store.PARENT) != parent or not row["key"]:
        row |= {"role": "foreign", "state": "foreign", "front": False}
    elif row["state"] not in ("complete", "pruned", "failed") or not row["role"]:
        row |= {"state": "broken", "front": False}
    return row
