"""The truth of a search: Optuna's storage in the run directory, written by one driver.

Searched trials are Optuna's own. The floor and the baselines are kept in a second study of the same file, so that they
do not teach the search, and yet are found again: kill anything, run the same command, nothing is lost or done twice.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.registry import SpecError
from pipeline.trial import Role, TrialRecord, TrialResult, describe

DIRECTIONS: list[Literal["minimize"]] = ["minimize", "minimize"]  # FID, NFE
STUDY_FILE, STORAGE_FILE = "study.json", "study.db"


def optuna_sampler(name: str, seed: int, startup: int) -> optuna.samplers.BaseSampler:
    """One of Optuna's samplers by the name a study file gives it; tpe models from the trial after `startup` on."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    if name == "qmc":
        return optuna.samplers.QMCSampler(seed=seed, scramble=True)
    # With constant_liar Optuna reads the storage once a parameter instead of once a trial (13 ms each); the few trials
    # in flight are not worth that.
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=False)


def claim(run_dir: Path, identity: Mapping[str, Any], fingerprint: str, file: str = "") -> IO[str]:
    """Take the run directory for this study and this driver; keep the returned file open for as long as it runs.

    Raises:
        SpecError: the directory holds another study (the first differing key is named), or another driver has it.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / "driver.lock").open("a")
    except OSError as error:
        raise SpecError(f"cannot be written ({error.strerror})", path="--run-dir", given=str(run_dir)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise SpecError("another search is running there", path="--run-dir", given=str(run_dir)) from None
    try:
        _identify(run_dir, json.loads(json.dumps(identity)), fingerprint)
    except SpecError as error:
        lock.close()
        raise error if error.file else error.under(file=file) from None
    except BaseException:
        lock.close()
        raise
    return lock


def _identify(run_dir: Path, mine: dict[str, Any], fingerprint: str) -> None:
    """Write the study's identity into a new run directory, or compare it with the one that is there."""
    file = run_dir / STUDY_FILE
    if not file.exists():
        if (run_dir / STORAGE_FILE).exists():
            raise SpecError(f"holds a {STORAGE_FILE} but no {STUDY_FILE}", path="--run-dir", given=str(run_dir))
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps({"fingerprint": fingerprint, "identity": mine}, indent=1, sort_keys=True))
        os.replace(partial, file)
        return
    try:
        held = dict(json.loads(file.read_text())["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        raise SpecError("is unreadable", file=str(file)) from None
    for key, value in mine.items():
        if held.get(key) != value:
            path, there, here = _first_difference(key, held.get(key), value)
            raise SpecError(
                f"differs from the study in {run_dir}: {path} is {there!r} there; "
                "use another --run-dir, or another name for the study",
                path=path,
                given=here,
            )


def _first_difference(path: str, held: Any, mine: Any) -> tuple[str, Any, Any]:
    if isinstance(held, dict) and isinstance(mine, dict):
        for key in sorted(held.keys() | mine.keys()):
            if held.get(key) != mine.get(key):
                return _first_difference(f"{path}.{key}", held.get(key), mine.get(key))
    return path, held, mine


class Ledger:
    """Ask, tell and read back the trials of one study."""

    def __init__(
        self,
        run_dir: Path,
        study: str,
        distributions: Mapping[str, BaseDistribution],
        optimizer: str,
        seed: int,
        startup: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._distributions = dict(distributions)
        url = f"sqlite:///{run_dir.resolve() / STORAGE_FILE}"
        try:
            storage = optuna.storages.get_storage(url)
            self._searched = optuna.create_study(
                study_name=study, storage=storage, directions=DIRECTIONS, load_if_exists=True
            )
            self._measured = optuna.create_study(
                study_name=f"{study}/baselines", storage=storage, directions=DIRECTIONS, load_if_exists=True
            )
        except Exception as error:  # SQLAlchemy's errors differ by version; what matters is which file
            raise SpecError(
                f"is no readable storage ({type(error).__name__})", file=str(run_dir / STORAGE_FILE)
            ) from None
        # A sampler made again from the same seed would repeat its start-up points, so the count goes into the seed.
        count = len(self._searched.get_trials(deepcopy=False))
        mixed = int(np.random.SeedSequence([seed, count]).generate_state(1)[0])
        self._searched.sampler = optuna_sampler(optimizer, mixed, startup)

    def recover(self) -> int:
        """Queue again what a killed driver left running, and fail it. Returns how many there were.

        Queued first and failed last, each once whatever happens in between: a driver that is killed here loses nothing.
        """
        trials = self._searched.get_trials(deepcopy=False)
        queued = {trial.user_attrs.get("again") for trial in trials}
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        for trial in running:
            if trial.number not in queued:
                attrs = _role_attrs(trial) | {"again": trial.number}
                self._searched.enqueue_trial(trial.params, user_attrs=attrs)
            self._searched._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
            self._searched.tell(trial.number, state=TrialState.FAIL)
        return len(running)

    def enqueue(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Queue published settings, once: points that the study has already are left alone."""
        for point in points:
            self._searched.enqueue_trial(dict(point), user_attrs={"role": "published"}, skip_if_exists=True)

    @property
    def spent(self) -> int:
        """How many searched trials are over, whatever came of them; interrupted ones come again and do not count."""
        over = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        trials = self._searched.get_trials(deepcopy=False, states=over)
        return sum(not trial.user_attrs.get("interrupted") for trial in trials)

    def ask(self) -> Trial:
        """The next searched trial, its parameters drawn."""
        return self._searched.ask(fixed_distributions=self._distributions)

    def tell(self, trial: Trial, result: TrialResult, same_as: str = "") -> TrialRecord:
        """Complete a trial. FID and NFE are finite here: `evaluate` refuses anything else."""
        trial.set_user_attr("result", result.to_json())
        if same_as:
            trial.set_user_attr("same_as", same_as)
        self._searched.tell(trial, values=[result.fid, result.nfe])
        return self._record(self._trial(trial.number))

    def tell_off(self, trial: Trial, reason: str, *, pruned: bool = False) -> TrialRecord:
        """End a trial without values: pruned where its NFE is outside the budgets, failed where it went wrong."""
        trial.set_user_attr("reason", reason)
        self._searched.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        return self._record(self._trial(trial.number))

    def _trial(self, number: int) -> FrozenTrial:
        return self._searched.get_trials(deepcopy=False)[number]

    def add_measured(self, record: TrialRecord) -> None:
        """Keep the floor or a baseline's result, or why it has none."""
        attrs: dict[str, Any] = {"key": record.key, "role": record.role, "method": record.method}
        attrs |= {"budget": record.budget, "reason": record.reason, "same_as": record.same_as}
        if record.result is not None:
            attrs["result"] = record.result.to_json()
            values, state = [record.result.fid, record.result.nfe], TrialState.COMPLETE
        else:
            values, state = None, TrialState.FAIL
        self._measured.add_trial(optuna.trial.create_trial(state=state, values=values, user_attrs=attrs))

    def records(self) -> list[TrialRecord]:
        """Every trial that is over, floor and baselines first."""
        measured = [self._record(trial) for trial in self._measured.get_trials(deepcopy=False)]
        over = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        searched = self._searched.get_trials(deepcopy=False, states=over)
        return measured + [self._record(trial) for trial in searched if not trial.user_attrs.get("interrupted")]

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        attrs = trial.user_attrs
        role: Role = attrs.get("role", "searched")
        result = TrialResult.from_json(attrs["result"]) if "result" in attrs else None
        states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
        return TrialRecord(
            key=attrs.get("key", f"{role}/{trial.number}"),
            role=role,
            state=states.get(trial.state, "failed"),  # type: ignore[arg-type]  # the three values of State
            method=attrs.get("method") or (describe(result) if result is not None else f"trial {trial.number}"),
            result=result,
            budget=attrs.get("budget"),
            params=dict(trial.params),
            reason=attrs.get("reason", ""),
            same_as=attrs.get("same_as", ""),
        )


def _role_attrs(trial: FrozenTrial) -> dict[str, Any]:
    return {"role": trial.user_attrs["role"]} if "role" in trial.user_attrs else {}
