"""The truth of a search: Optuna's storage in the run directory or on a server, written by drivers alone.

Searched trials are Optuna's own. The floor and the baselines are kept in a second study of the same file, so that they
do not teach the search, and yet are found again: kill anything, run the same command, nothing is lost or done twice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.evidence import Evidence
from pipeline.file_storage import together
from pipeline.optimizers import optuna_sampler
from pipeline.pruning import Stop
from pipeline.registry import SpecError
from pipeline.result import TrialRecord, TrialResult
from pipeline.run_folder import STORAGE_FILE
from pipeline.study_storage import Server, open_storage
from pipeline.told import firsts_of, read_back

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


def _told(method: Callable[Concatenate[Ledger, _P], _T]) -> Callable[Concatenate[Ledger, _P], _T]:
    """What came of a trial: in one commit, and by nobody who may not tell any more."""

    @functools.wraps(method)
    def alive(ledger: Ledger, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        trial = args[0] if args and isinstance(args[0], Trial) else None
        with ledger.telling(trial), together(ledger._searched._storage):
            return method(ledger, *args, **kwargs)

    return alive


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
            storage = open_storage(run_dir, server)
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

    def telling(self, trial: Trial | None) -> AbstractContextManager[None]:
        """Around everything that is told, of a searched `trial` or of another. This driver is alone with its file."""
        del trial
        return nullcontext()

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

    @_told
    def note(self, trial: Trial, evidence: Evidence) -> None:
        """Keep what is known of a trial that is under way."""
        trial.set_user_attr("evidence", evidence.to_json())

    @_told
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
        return read_back(self._trial(trial.number))

    @_told
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
        return read_back(self._trial(trial.number))

    @_told
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
            (read_back(trial), dict(trial.params))
            for trial in self._searched.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.user_attrs.get("waiting") and trial.number not in done
        ]

    @_told
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
        return read_back(self._trial(number), attrs)

    def _finals(self) -> dict[int, dict[str, Any]]:
        """How the trials that waited ended, by Optuna's number."""
        attrs = [trial.user_attrs for trial in self._measured.get_trials(deepcopy=False)]
        return {held["final"]: held for held in reversed(attrs) if "final" in held}

    def reach(self, number: int, evidence: Evidence) -> None:
        """A trial that waited has come to a rung before its last. Nobody else asks: its shards are kept."""

    @_told
    def tell_off(self, trial: Trial, reason: str) -> TrialRecord:
        """End a trial that went wrong."""
        trial.set_user_attr("reason", reason)
        self._searched.tell(trial, state=TrialState.FAIL)
        return read_back(self._trial(trial.number))

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

    @_told
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
        beside = [read_back(trial) for trial in firsts_of(measured)]
        searched = self._searched.get_trials(deepcopy=False, states=OVER)
        finals = self._finals()
        return beside + [read_back(trial, finals.get(trial.number)) for trial in searched]
