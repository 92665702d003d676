"""Trials read back from Optuna's storage, as the records that all others know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pipeline.evidence import Evidence
from pipeline.result import Role, State, TrialRecord, TrialResult, describe


def read_back(trial: FrozenTrial, final: Mapping[str, Any] | None = None) -> TrialRecord:
    """The record of a trial; `final` is how one that waited has ended, where it has."""
    attrs = trial.user_attrs | dict(final or {})
    waiting = bool(attrs.get("waiting")) and final is None
    role: Role = attrs.get("role", "searched")
    result = TrialResult.from_json(attrs["result"]) if "result" in attrs else None
    evidence = Evidence.from_json(attrs["evidence"]) if "evidence" in attrs else None
    limits = attrs["constraints"] if final is not None else trial.constraints
    # A stopped trial may be complete for Optuna; only one with a result is for us.
    failed = attrs.get("failed") or trial.state == TrialState.FAIL
    state: State = "failed" if failed else "pruned" if result is None else "complete"
    return TrialRecord(
        key=attrs.get("key", f"{role}/{trial.number}"),
        role=role,
        state=state,
        method=attrs.get("method") or (describe(result) if result is not None else f"trial {trial.number}"),
        result=result,
        budget=attrs.get("budget"),
        params=dict(trial.params),
        reason="waits for its last rungs" if waiting else attrs.get("reason", ""),
        same_as=attrs.get("same_as", ""),
        evidence=evidence,
        constraints={name: value for name, value in limits.items() if name != "behind"},
        confirms=attrs.get("confirms", ""),
        waiting=waiting,
    )


def firsts_of(measured: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """What was measured, each once: where two drivers have done the same, the one that was faster counts."""
    firsts: dict[str, FrozenTrial] = {}
    for trial in measured:
        if "key" in trial.user_attrs:
            firsts.setdefault(trial.user_attrs["key"], trial)
    return list(firsts.values())
