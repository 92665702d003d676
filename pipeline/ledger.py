"""The truth of a search: Optuna's storage in the run directory or on a server, written by drivers alone.

Searched trials are Optuna's own. The floor and the baselines are kept in a second study of the same file, so that they
do not teach the search, and yet are found again: kill anything, run the same command, nothing is lost or done twice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.evidence import Evidence
from pipeline.file_storage import FileStorage, together
from pipeline.optimizers import optuna_sampler
from pipeline.pruning import Stop
from pipeline.registry import SpecError
from pipeline.result import Role, State, TrialRecord, TrialResult, describe
from pipeline.run_folder import STORAGE_FILE

DIRECTIONS: list[Literal["minimize"]] = ["minimize", "minimize"]  # FID, NFE
Suggest = Callable[[str, BaseDistribution], Any]
Stopped = Literal["pruned", "complete", "constraint"]
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
LEAST_EXCESS = 1e-12  # a constraint is exceeded by something
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _one_commit(method: Callable[Concatenate[Ledger, _P], _T]) -> Callable[Concatenate[Ledger, _P], _T]:
    """All that this writes is in the storage when it returns; if the driver is killed meanwhile, none of it is."""

    @functools.wraps(method)
    def whole(ledger: Ledger, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with together(ledger._searched._storage):
            return method(ledger, *args, **kwargs)

    return whole


@dataclass(frozen=True)
class Server:
    """Where a study is kept that is not in its run directory. `place`: the driver's among those that share it.

    `url` is never printed, for it holds a password; `name` is.
    """

    url: str = field(repr=False)
    name: str
    arguments: Mapping[str, Any]
    place: int = 0


class Ledger:
    """Ask, tell and read back the trials of one study.

    `draw` draws a point of the space by asking for each parameter's value. `stopped` says how Optuna is told of a trial
    that a rung stopped: "pruned", without values; "complete", with the FID it may be told with; "constraint", with that
    and as infeasible, by how far it is behind. `run_dir` None keeps everything in memory, `server` on a server.
    """

    def __init__(
        self,
        run_dir: Path | None,
        study: str,
        draw: Callable[[Suggest], dict[str, Any]],
        optimizer: str,
        seed: int,
        startup: int,
        stopped: Stopped = "pruned",
        server: Server | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._draw, self._stopped = draw, stopped
        try:
            storage = _storage(run_dir, server)
            self._searched = optuna.create_study(
                study_name=study, storage=storage, directions=DIRECTIONS, load_if_exists=True
            )
            self._measured = optuna.create_study(
                study_name=f"{study}/baselines", storage=storage, directions=DIRECTIONS, load_if_exists=True
            )
        except Exception as error:  # SQLAlchemy's errors differ by version; what matters is which file
            where = f"{run_dir}/{STORAGE_FILE}" if server is None else server.name
            raise SpecError(f"is no readable storage ({type(error).__name__})", file=where) from None
        # A sampler made again from the same seed would repeat its start-up points, so the count goes into the seed.
        count = len(self._searched.get_trials(deepcopy=False))
        several = [server.place] if server is not None and server.place else []
        mixed = int(np.random.SeedSequence([seed, count, *several]).generate_state(1)[0])
        self._searched.sampler = optuna_sampler(optimizer, mixed, startup)

    def running(self) -> list[FrozenTrial]:
        """What a driver that was killed left under way, in order."""
        return self._searched.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    @_one_commit
    def resume(self, frozen: FrozenTrial) -> tuple[Trial, dict[str, Any]]:
        """Take up a running trial where it was: its number, what was drawn of its parameters, and what was noted."""
        return self._drawn(Trial(self._searched, frozen._trial_id))

    @_one_commit
    def enqueue(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Queue published settings, once: points that the study has already are left alone."""
        for point in points:
            self._searched.enqueue_trial(dict(point), user_attrs={"role": "published"}, skip_if_exists=True)

    def searched_trials(self) -> list[FrozenTrial]:
        """Searched trials that are complete or were stopped, as Optuna keeps them."""
        over = (TrialState.COMPLETE, TrialState.PRUNED)
        return self._searched.get_trials(deepcopy=False, states=over)

    def adopt(self, trial: FrozenTrial, params: Mapping[str, Any], *, keep_teacher: bool) -> bool:
        """Take over a trial of another study, told as it was; False where that was done before.

        `params` are a point of this study's space.
        """
        if trial.number in {held.user_attrs.get("forked") for held in self._searched.get_trials(deepcopy=False)}:
            return False
        distributions: dict[str, BaseDistribution] = {}

        def given(name: str, distribution: BaseDistribution) -> Any:
            distributions[name] = distribution
            return params[name]

        drawn = self._draw(given)
        attrs = dict(trial.user_attrs)
        if not keep_teacher and "evidence" in attrs:
            attrs["evidence"] = attrs["evidence"] | {"teacher": None}
        self._searched.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                values=trial.values,
                params=drawn,
                distributions=distributions,
                user_attrs=attrs | {"forked": trial.number},
                system_attrs=dict(trial.system_attrs),
            )
        )
        return True

    def queue(self, params: Mapping[str, Any], role: str | None) -> None:
        """Queue a point once."""
        attrs = {"role": role} if role else {}
        self._searched.enqueue_trial(dict(params), user_attrs=attrs, skip_if_exists=True)

    @property
    def spent(self) -> int:
        """How many searched trials are over, whatever came of them."""
        return len(self._searched.get_trials(deepcopy=False, states=OVER))

    @_one_commit
    def ask(self) -> tuple[Trial, dict[str, Any]]:
        """The next searched trial, and its parameters as they were drawn."""
        return self._drawn(self._searched.ask())

    def _drawn(self, trial: Trial) -> tuple[Trial, dict[str, Any]]:
        def suggest(name: str, distribution: BaseDistribution) -> Any:
            return trial._suggest(name, distribution)  # what Optuna's own ask does with given distributions

        return trial, self._draw(suggest)

    def note(self, trial: Trial, evidence: Evidence) -> None:
        """Keep what is known of a trial that is under way."""
        trial.set_user_attr("evidence", evidence.to_json())

    @_one_commit
    def tell(
        self,
        trial: Trial,
        result: TrialResult,
        evidence: Evidence,
        constraints: Mapping[str, float],
        same_as: str = "",
    ) -> TrialRecord:
        """Complete a trial with its corrected FID. It is finite here, as is NFE: `evaluate` refuses anything else."""
        trial.set_user_attr("result", result.to_json())
        self._remember(trial, evidence, constraints, same_as)
        self._feasible(trial)
        self._searched.tell(trial, values=[result.score.ranked, result.nfe])
        return self._record(self._trial(trial.number))

    @_one_commit
    def tell_stopped(
        self,
        trial: Trial,
        stop: Stop,
        evidence: Evidence,
        constraints: Mapping[str, float],
        told: float | None,
        method: str,
        same_as: str = "",
    ) -> TrialRecord:
        """End a trial that was stopped before all its images. `told`: the FID that it may be told with, if any."""
        trial.set_user_attr("reason", stop.reason)
        trial.set_user_attr("method", method)
        self._remember(trial, evidence, constraints, same_as)
        if told is None or not math.isfinite(told) or self._stopped == "pruned":
            self._searched.tell(trial, state=TrialState.PRUNED)
        else:
            if self._stopped == "constraint":
                trial.set_constraint("behind", max(stop.excess, LEAST_EXCESS))
            self._searched.tell(trial, values=[told, evidence.nfe])
        return self._record(self._trial(trial.number))

    @_one_commit
    def tell_waiting(
        self,
        trial: Trial,
        evidence: Evidence,
        constraints: Mapping[str, float],
        told: float,
        method: str,
        same_as: str = "",
    ) -> None:
        """Tell a trial that waits for its last rungs: complete for Optuna, with the corrected FID that it has."""
        trial.set_user_attr("waiting", True)
        trial.set_user_attr("method", method)
        self._remember(trial, evidence, constraints, same_as)
        self._feasible(trial)
        self._searched.tell(trial, values=[told, evidence.nfe])

    def waiting(self) -> list[tuple[TrialRecord, dict[str, Any]]]:
        """The trials that wait for their last rungs, each with its parameters."""
        done = self._finals()
        return [
            (self._record(trial), dict(trial.params))
            for trial in self._searched.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.user_attrs.get("waiting") and trial.number not in done
        ]

    def finish(
        self,
        number: int,
        evidence: Evidence | None,
        constraints: Mapping[str, float],
        result: TrialResult | None = None,
        *,
        reason: str = "",
        same_as: str = "",
        failed: bool = False,
    ) -> TrialRecord:
        """End a trial that waited: scored on all images, dominated by now, or failed. Optuna is not told again.

        Without new evidence that which it waited with stands.
        """
        attrs: dict[str, Any] = {"final": number, "reason": reason, "same_as": same_as, "failed": failed}
        attrs["constraints"] = dict(constraints)
        if evidence is not None:
            attrs["evidence"] = evidence.to_json()
        if result is not None:
            attrs["result"] = result.to_json()
        self._measured.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attrs))
        return self._record(self._trial(number), attrs)

    def _finals(self) -> dict[int, dict[str, Any]]:
        """How the trials that waited ended, by Optuna's number."""
        attrs = [trial.user_attrs for trial in self._measured.get_trials(deepcopy=False)]
        return {held["final"]: held for held in reversed(attrs) if "final" in held}

    def reach(self, number: int, evidence: Evidence) -> None:
        """A trial that waited has come to a rung before its last. Nobody else asks: its shards are kept."""

    @_one_commit
    def tell_off(self, trial: Trial, reason: str) -> TrialRecord:
        """End a trial that went wrong."""
        trial.set_user_attr("reason", reason)
        self._searched.tell(trial, state=TrialState.FAIL)
        return self._record(self._trial(trial.number))

    def _feasible(self, trial: Trial) -> None:
        if self._stopped == "constraint":
            trial.set_constraint("behind", 0.0)  # gp wants of every trial the same constraints

    def _remember(self, trial: Trial, evidence: Evidence, constraints: Mapping[str, float], same_as: str) -> None:
        trial.set_user_attr("evidence", evidence.to_json())
        for name, value in constraints.items():
            trial.set_constraint(name, value)
        if same_as:
            trial.set_user_attr("same_as", same_as)

    def _trial(self, number: int) -> FrozenTrial:
        storage = self._searched._storage
        return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(self._searched._study_id, number))

    def add_measured(self, record: TrialRecord) -> None:
        """Keep what the floor, a baseline or a confirmation gave, or why it gave nothing."""
        attrs: dict[str, Any] = {"key": record.key, "role": record.role, "method": record.method}
        attrs |= {"budget": record.budget, "reason": record.reason, "same_as": record.same_as}
        attrs |= {"confirms": record.confirms}
        if record.evidence is not None:
            attrs["evidence"] = record.evidence.to_json()
        if record.result is not None:
            attrs["result"] = record.result.to_json()
            values, state = [record.result.fid, record.result.nfe], TrialState.COMPLETE
        else:
            values, state = None, TrialState.FAIL
        self._measured.add_trial(optuna.trial.create_trial(state=state, values=values, user_attrs=attrs))

    def records(self) -> list[TrialRecord]:
        """Every trial that is over, floor and baselines first."""
        measured = self._measured.get_trials(deepcopy=False)
        beside = [self._record(trial) for trial in _firsts(measured)]
        searched = self._searched.get_trials(deepcopy=False, states=OVER)
        finals = self._finals()
        return beside + [self._record(trial, finals.get(trial.number)) for trial in searched]

    def _record(self, trial: FrozenTrial, final: Mapping[str, Any] | None = None) -> TrialRecord:
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


def _storage(run_dir: Path | None, server: Server | None) -> optuna.storages.BaseStorage:
    if server is not None:
        opened = optuna.storages.RDBStorage(server.url, engine_kwargs=dict(server.arguments))
        return optuna.storages.get_storage(opened)
    if run_dir is None:
        return optuna.storages.InMemoryStorage()
    return FileStorage(run_dir.resolve() / STORAGE_FILE)


def _firsts(measured: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """What was measured, each once: where two drivers have done the same, the one that was faster counts."""
    firsts: dict[str, FrozenTrial] = {}
    for trial in measured:
        if "key" in trial.user_attrs:
            firsts.setdefault(trial.user_attrs["key"], trial)
    return list(firsts.values())
