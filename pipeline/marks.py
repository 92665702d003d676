"""What a trial's run says of its place among the others: the front, its rank on the leaderboard, its confirmation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline import store

FID = (store.FID_CONFIRMED, store.FID_CONFIRMED_SE)
METRICS = (*FID, *(f"{name}{store.CONFIRMED}" for name in store.BESIDE))


class Held(Protocol):
    """A trial as it is told, or as MLflow has it."""

    @property
    def tags(self) -> Mapping[str, str]: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Mark:
    """Tags and metrics that depend on other trials too."""

    tags: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)


def marks(trials: Mapping[str, Held], front: Iterable[str] = (), budgets: Sequence[int] = ()) -> dict[str, Mark]:
    """The mark of each trial, by its key. `front`: the keys of those on it.

    The place tag orders the leaderboard: the front by NFE, the floor, the best baseline of each NFE, the other scored
    trials, those that were stopped.

    Raises:
        KeyError: a key of the front is no trial.
    """
    leading = set(front)
    unknown = sorted(leading - set(trials))
    if unknown:
        raise KeyError(f"not in the record: {', '.join(unknown)}")
    best: dict[float, tuple[float, str]] = {}
    by_key: dict[str, Held] = {}
    by_plan: dict[str, Held] = {}
    for key, held in trials.items():
        if not _scored(held):
            continue
        if held.tags.get(store.ROLE) == "baseline":
            nfe = held.metrics["nfe"]
            best[nfe] = min(best.get(nfe, (math.inf, "")), (held.metrics["fid"], key))
        if held.tags.get(store.ROLE) == "confirmed":
            by_key[held.tags.get(store.CONFIRMS, "")] = held
            by_plan.setdefault(held.tags.get(store.PLAN, ""), held)
    winners = {key for _, key in best.values()} if len(trials) > 1 else set()  # alone it is not the best of any
    found = {}
    for key, held in trials.items():
        role = held.tags.get(store.ROLE)
        group = "1" if key in leading else "2" if role == "floor" else "3" if key in winners else "4"
        tags = {store.FRONT: str(key in leading).lower(), store.PLACE: _place(held, group if _scored(held) else "5")}
        if role in ("searched", "published") and "nfe" in held.metrics:
            within = [budget for budget in budgets if held.metrics["nfe"] <= budget]
            tags |= {store.BUDGET: str(min(within))} if within else {}
        again = by_key.get(key, by_plan.get(held.tags.get(store.PLAN, "none")))
        metrics = {}
        if again is not None and role != "confirmed" and _scored(held):
            metrics = dict(zip(FID, (again.metrics["fid"], again.metrics["fid_se"]), strict=True))
            told = {name: again.metrics[name] for name in store.BESIDE if name in again.metrics}
            metrics |= {f"{name}{store.CONFIRMED}": value for name, value in told.items()}
        found[key] = Mark(tags, metrics)
    return found


def _scored(held: Held) -> bool:
    return held.tags.get(store.STATE) == "complete" and {"fid", "fid_se", "nfe"} <= set(held.metrics)


def _place(held: Held, group: str) -> str:
    """A text that sorts as the leaderboard should: group, then NFE, then FID."""
    nfe, fid = held.metrics.get("nfe", 9999.0), held.metrics.get("fid", 9999.0)
    return f"{group} {nfe:08.3f} {max(fid, 0.0):014.7f}"
