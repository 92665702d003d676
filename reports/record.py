"""Reads a study back from MLflow: one row a run, and nothing from anywhere else.

Columns that are not in the record are empty, so that every other module may rely on them being there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final, Protocol

import pandas as pd

from pipeline import store
from pipeline.comparison import Estimate
from pipeline.registry import SpecError

PAGE = 1000
TEXT = (
    *("key", "role", "state", "method", "plan", "reference", "benchmark_version", "revision", "same_as", "reason"),
    *("confirms", "stopped_at"),
)
NUMBERS = (
    *("fid", "fid_se", "fid_corrected", "fid_infinity", "nfe", "setup_nfe", "setup_rows", "images_per_s"),
    *("network_rows", "spent_rows", "worker_seconds"),
    *("teacher_distance", "teacher_distance_se", "teacher_distance_pixels"),
)
COUNTS = ("budget", "images", "first_seed", "shard_images")
FLAGS = ("front", "feasible")
COLUMNS = (
    *("benchmark", "study", *TEXT, *FLAGS, *NUMBERS, "leave_one_out", *COUNTS, "terminal", "name", "run_id"),
    "beside",
)
# Between a study's name and the first digits of its fingerprint, where several have that name.
AT: Final = "@"
FEW_DIGITS = 8
# What makes two FIDs comparable; those of a confirmation are of other images and belong to what they confirm.
MEASURE = ("benchmark", "benchmark_version", "reference")
CONDITIONS = (*MEASURE, "images", "first_seed")


class Told(Protocol):
    """A trial as MLflow is told of it."""

    @property
    def tags(self) -> Mapping[str, str]: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...

    @property
    def params(self) -> Mapping[str, str]: ...


def read(uri: str, experiment: str, study: str | None = None) -> pd.DataFrame:
    """One row a trial of the study, in the order of their keys; params as columns `params.<name>`.

    The corrected FID of a rung is a column `fid_at_<images>`.

    Without `study` the experiment must hold one only; of several of one name "name@fingerprint" names one, the first
    digits of the fingerprint are enough. A run of the experiment that is no trial is a row with role and state
    "foreign", a complete trial without a readable FID one with state "broken"; neither takes part in any number.

    Raises:
        SpecError: no such store, experiment or study, or several of that name; names the nearest.
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


def frame_of_told(trials: Iterable[Told], experiment: str, study: str) -> pd.DataFrame:
    """What `read` gives where MLflow holds exactly these trials, but for the ids of the runs."""
    parent = "parent"
    runs = [
        SimpleNamespace(
            data=SimpleNamespace(tags={**trial.tags, store.PARENT: parent}, metrics=trial.metrics, params=trial.params),
            info=SimpleNamespace(run_id=""),
        )
        for trial in trials
    ]
    return frame_of(_row(run, experiment, study, parent) for run in runs)


def find_experiment(uri: str, study: str | None = None) -> str:
    """The experiment that holds the study; without a name, the only experiment that holds any.

    Raises:
        SpecError: no such store, no such study, or one of that name in several experiments.
    """
    client = store.open_client(uri, create=False)
    held: dict[str, set[str]] = {}
    for experiment in client.search_experiments():
        for run in _runs(client, experiment.experiment_id, f"tags.`{store.FINGERPRINT}` LIKE '%'"):
            if store.STUDY in run.data.tags:
                held.setdefault(run.data.tags[store.STUDY], set()).add(experiment.name)
    name = None if study is None else study.partition(AT)[0]
    found = sorted(set().union(*held.values()) if name is None else held.get(name, set()))
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
    for name in (*NUMBERS, *rung_columns(frame)):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    for name in COUNTS:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("Int64")
    for name in ("benchmark", "study", *TEXT, "terminal", "name", "run_id", "beside"):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), "").astype(str)
    frame["front"] = frame["front"].eq(True)
    frame["feasible"] = ~frame["feasible"].isin((False, "false"))
    frame["leave_one_out"] = pd.Series([_groups(held) for held in frame["leave_one_out"]], frame.index, dtype=object)
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


def feasible(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that exceed no constraint."""
    return frame[frame["feasible"]]


def rung_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of FID at a rung, by growing number of images."""
    found = [name for name in frame.columns if re.fullmatch(rf"{store.FID_AT}\d+", str(name))]
    return sorted(found, key=rung_images)


def rung_images(column: str) -> int:
    """The number of images of such a column."""
    return int(column.removeprefix(store.FID_AT))


def estimate(row: pd.Series[Any]) -> Estimate:
    """A row's FID as `pipeline.comparison` judges it; without leave-one-out values it can be told from no other."""
    images = 0 if pd.isna(row["images"]) else int(row["images"])
    return Estimate(images, float(row["fid"]), float(row["fid_se"]), float(row["fid_corrected"]), row["leave_one_out"])


def same_images(a: pd.Series[Any], b: pd.Series[Any]) -> bool:
    """Whether two rows were measured on the same shards of the same seeds, so that they are compared in pairs."""
    names = (*CONDITIONS, "shard_images")
    ours, theirs = ([None if pd.isna(row[name]) else row[name] for name in names] for row in (a, b))
    return ours == theirs


def ranked(frame: pd.DataFrame) -> pd.Series[Any]:
    """What rows are ranked by, as `comparison.Estimate.ranked`: the corrected FID, or FID where there is none."""
    return frame["fid_corrected"].where(frame["fid_corrected"].notna(), frame["fid"])


def groups(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The scored rows, parted where they cannot be compared (`CONDITIONS`), the largest group first.

    FID is biased by the number of images, so that two numbers of images are two tables. Confirmations are left out:
    `confirmations` finds those of a group.
    """
    kept = complete(frame)
    kept = kept[kept["role"].ne("confirmed")]
    parts = [part for _, part in kept.groupby(list(CONDITIONS), dropna=False, sort=True)]
    return sorted(parts, key=len, reverse=True)


def confirmations(frame: pd.DataFrame, group: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """The confirmation of each row of a group, by the row's key: its own, or that of an equal plan."""
    if group.empty:
        return {}
    held = complete(frame, "confirmed")
    for name in MEASURE:
        held = held[held[name].eq(group.iloc[0][name])]
    rows = [row for _, row in held.iterrows()]
    by_key = {row["confirms"]: row for row in rows}
    by_plan = {row["plan"]: row for row in reversed(rows) if row["plan"]}
    found = {key: by_key.get(key, by_plan.get(plan)) for key, plan in zip(group["key"], group["plan"], strict=True)}
    return {key: row for key, row in found.items() if row is not None}


def _groups(held: object) -> tuple[float, ...]:
    """The leave-one-out values of a row; empty where there are none that can be read."""
    try:
        values = json.loads(held) if isinstance(held, str) else held
        found = tuple(map(float, values)) if isinstance(values, list | tuple) else ()
    except (ValueError, TypeError):
        return ()
    return found if all(map(math.isfinite, found)) else ()


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
    wanted, _, digits = (names[0] if study is None else study).partition(AT)
    named = [run for run in parents if run.data.tags[store.STUDY] == wanted]
    found = [run for run in named if run.data.tags.get(store.FINGERPRINT, "").startswith(digits)]
    # Of two runs of one and the same study, which `sync` mends, the first has the trials.
    first = {run.data.tags.get(store.FINGERPRINT, ""): run for run in sorted(found, key=_age, reverse=True)}
    if len(first) > 1:
        which = sorted(f"{wanted}{AT}{digest[:FEW_DIGITS]}" for digest in first)
        raise SpecError("several studies have this name; name one", path="study", given=study, allowed=which)
    if not found:
        prints = [f"{wanted}{AT}{run.data.tags.get(store.FINGERPRINT, '')[:FEW_DIGITS]}" for run in named]
        raise SpecError(f"no such study in {experiment}", path="study", given=study, allowed=sorted(prints) or names)
    return next(iter(first.values()))


def _age(run: Any) -> tuple[int, str]:
    return run.info.start_time, run.info.run_id


def _row(run: Any, experiment: str, study: str, parent: str) -> dict[str, Any]:
    tags, metrics, params = run.data.tags, run.data.metrics, run.data.params
    row: dict[str, Any] = {name: tags.get(f"sigmasearch.{name}", "") for name in TEXT}
    row |= {"benchmark": experiment, "study": study, "name": tags.get(store.RUN_NAME, ""), "run_id": run.info.run_id}
    row |= {f"params.{name}": value for name, value in params.items()}
    numbers = [*NUMBERS, *(name for name in metrics if name.startswith(store.FID_AT))]
    if row["state"] == "pruned":  # its FID is of the images that it came to
        numbers = [name for name in numbers if name not in ("fid", "fid_corrected")]
    row |= {name: metrics.get(name) for name in numbers if math.isfinite(metrics.get(name, math.nan))}
    row |= {name: params.get(name) for name in ("images", "first_seed", "shard_images")}
    asked = tags.get(store.BUDGET) if "baseline/" in row["key"] else None  # others only happen to be within one
    row |= {"budget": asked, "terminal": params.get("terminal", "")}
    row["beside"] = tags.get(store.OTHERS, "")
    row |= {"feasible": tags.get(store.FEASIBLE, ""), "leave_one_out": tags.get(store.LEAVE_ONE_OUT, "")}
    row["front"] = tags.get(store.FRONT) == "true"
    if tags.get(store.PARENT) != parent or not row["key"]:
        row |= {"role": "foreign", "state": "foreign", "front": False}
    elif row["state"] not in ("complete", "pruned", "failed") or not row["role"]:
        row |= {"state": "broken", "front": False}
    return row
