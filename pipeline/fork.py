"""Begin a study from another one's trials, as far as they still hold."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from pipeline.ledger import Ledger
from pipeline.registry import SpecError
from pipeline.result import TrialRecord
from pipeline.run_folder import STORAGE_FILE, STUDY_FILE
from search_spaces import Study
from search_spaces.space import Space

# What a number depends on: where one of these differs, a setting is worth trying again, but its score says nothing.
CONDITIONS = ("benchmark", "benchmark_version", "model", "features", "images", "shard_images", "first_seed", "network")
# These touch no score, but by how much a trial exceeds them is kept with it.
LIMITS = ("constraints",)


@dataclass
class Forked:
    """How many trials were taken over with their results, are tried again, and were left behind."""

    taken: int = 0
    measured: int = 0
    again: int = 0
    left: int = 0
    why_again: str = ""

    def __str__(self) -> str:
        parts = [f"{self.taken} searched trials and {self.measured} measured ones taken over"]
        if self.again:
            parts.append(f"{self.again} are tried again ({self.why_again})")
        if self.left:
            parts.append(f"{self.left} left behind, outside the new space")
        return "; ".join(parts)


def old_identity(folder: Path) -> dict[str, Any]:
    """What the study in a run directory is.

    Raises:
        SpecError: there is none, or it cannot be read.
    """
    file = folder / STUDY_FILE
    if not file.exists() or not (folder / STORAGE_FILE).exists():
        raise SpecError("holds no study to fork", path="--run-dir", given=str(folder))
    try:
        held = dict(json.loads(file.read_text())["identity"])
        return held | {name: held[name] for name in ("study", "space", "budgets")}
    except (OSError, ValueError, KeyError, TypeError):
        raise SpecError("is unreadable", file=str(file)) from None


def fork(folder: Path, study: Study, identity: Mapping[str, Any], ledger: Ledger) -> Forked:
    """Fill the new study's empty ledger from the study in `folder`.

    A searched trial is taken over where its parameters mean the same in the new space and its score was made under the
    same conditions; where only these differ it is queued to be tried again, and so is one that was refused unsampled
    where the last budget differs. The floor, baselines and their confirmations are taken over where they are the same.

    Raises:
        SpecError: no study there, or one that cannot be read.
    """
    held = old_identity(folder)
    old_space = Space(held["space"])
    done = Forked()
    differing = [key for key in CONDITIONS if held.get(key) != identity.get(key)]
    limits = [key for key in LIMITS if held.get(key) != identity.get(key)]
    budgets = ["budgets"] if held["budgets"][-1] != study.budgets[-1] else []
    same_floor = held.get("floor") == identity.get("floor")
    source = Ledger(folder, str(held["study"]), study.draw, "random", 0, 0)
    space, keys = study.parsed_space, dict[str, str]()
    # Whoever shares a plan comes after the one that it is shared with, which has another name here.
    for trial in sorted(source.searched_trials(), key=lambda trial: "same_as" in trial.user_attrs):
        params = dict(trial.params)
        why = differing or limits or (budgets if _refused(trial) else [])
        if not (space.contains(params) and space.assemble(params) == old_space.assemble(params)):
            done.left += 1
        elif why:
            ledger.queue(params, trial.user_attrs.get("role"))
            done.again += 1
            done.why_again = f"{why[0]} was {held.get(why[0])!r} and is {identity.get(why[0])!r}"
        else:
            if "same_as" in trial.user_attrs:
                keys = keys or _new_keys(ledger)
                trial = _renamed(trial, keys)
            done.taken += ledger.adopt(trial, params, keep_teacher=same_floor)
    known = {record.key for record in ledger.records()}
    for record in [] if differing else source.records():
        if record.key not in known and _still_holds(record, study, same_floor):
            ledger.add_measured(record if same_floor else _without_teacher(record))
            done.measured += 1
    _finish(source, ledger, same_floor)
    return done


def _refused(trial: FrozenTrial) -> bool:
    """Whether not one image was sampled for it."""
    evidence = trial.user_attrs.get("evidence", {})
    return not evidence.get("teacher") and not evidence.get("scores")


def _new_keys(ledger: Ledger) -> dict[str, str]:
    """The keys of the trials that were taken over, by what they were."""
    return {
        f"{_role(trial)}/{trial.user_attrs['forked']}": f"{_role(trial)}/{trial.number}"
        for trial in ledger.searched_trials()
        if "forked" in trial.user_attrs
    }


def _role(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("role", "searched"))


def _renamed(trial: FrozenTrial, keys: Mapping[str, str]) -> FrozenTrial:
    """The trial with the new name of the one whose plan it shares."""
    named = copy.copy(trial)
    named.user_attrs = trial.user_attrs | {"same_as": _new_key(trial.user_attrs["same_as"], keys)}
    return named


def _new_key(same_as: str, keys: Mapping[str, str]) -> str:
    """The new name; none where that trial was left behind. What is not searched keeps its name."""
    return keys.get(same_as, "" if same_as.startswith(("searched/", "published/")) else same_as)


def _finish(source: Ledger, ledger: Ledger, same_floor: bool) -> None:
    """What waited for its last rungs there, and came to an end, waits no longer here."""
    ended, keys = {record.key: record for record in source.records()}, _new_keys(ledger)
    waiting = {record.key for record, _ in ledger.waiting()}
    for old, new in keys.items():
        record = ended[old]
        if new not in waiting or record.waiting or record.evidence is None:
            continue
        ledger.finish(
            int(new.rpartition("/")[2]),
            record.evidence if same_floor else replace(record.evidence, teacher=None),
            record.constraints,
            record.result,
            reason=record.reason,
            same_as=_new_key(record.same_as, keys),
            failed=record.state == "failed",
        )


def _without_teacher(record: TrialRecord) -> TrialRecord:
    """The record without its distance to another teacher."""
    return replace(record, evidence=record.evidence and replace(record.evidence, teacher=None))


def _still_holds(record: TrialRecord, study: Study, same_floor: bool) -> bool:
    """Whether a measured trial is one of the new study's. What was confirmed of the search is confirmed anew."""
    if record.state != "complete" or record.result is None:
        return False
    if record.role == "confirmed":
        asked, spec = study.confirm_spec(study.floor.model_dump()), record.result.spec
        if asked is None or (asked.first_seed, asked.images) != (spec.first_seed, spec.images):
            return False
    role, *named = (record.confirms or record.key).split("/")
    if role == "floor":
        return same_floor
    return role == "baseline" and named[0] in study.baseline_names and record.budget in study.budgets
