"""Optuna's storage in a file that one driver has to itself: few commits, and nothing is read twice.

A commit waits for the disk, so what belongs together is written together (`FileStorage.together`). And as nobody else
writes, trials are read once, when the file is opened; from then on this process knows them.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
)
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState

PATIENCE_SECONDS = 60


def together(storage: BaseStorage) -> AbstractContextManager[None]:
    """One commit for all that is written inside, where the storage has such a thing."""
    return storage.together() if isinstance(storage, FileStorage) else contextlib.nullcontext()


@dataclass
class _Unwritten:
    """What has been set of a trial since the last commit, as the database holds it."""

    params: dict[str, tuple[float, str]] = field(default_factory=dict)
    user_attrs: dict[str, str] = field(default_factory=dict)
    system_attrs: dict[str, str] = field(default_factory=dict)


class FileStorage(optuna.storages._CachedStorage):
    """A sqlite file of Optuna's own format. No other process may write it meanwhile."""

    def __init__(self, file: Path) -> None:
        # Whoever reads the file holds up a commit; on a slow disk that may last.
        self._rdb: Any = RDBStorage(f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": PATIENCE_SECONDS}})
        super().__init__(self._rdb)
        self._loaded: set[int] = set()
        self._unwritten: dict[int, _Unwritten] | None = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """All that is written inside is in the file when this ends or, after an error or a kill, none of it.

        Raises:
            optuna.exceptions.StorageInternalError: the file cannot be written.
        """
        if self._unwritten is not None:
            yield
            return
        sessions, self._unwritten = self._rdb.scoped_session, {}
        try:
            with _create_scoped_session(sessions) as session:
                inner = _Inner(session)
                self._rdb.scoped_session = lambda: inner  # what Optuna's own methods write takes part
                yield
                if inner.lost:
                    raise StorageInternalError("a part of what belongs together could not be written")
                self._commit(session, self._unwritten)
        except BaseException:
            self._forget()
            raise
        finally:
            self._rdb.scoped_session, self._unwritten = sessions, None

    @staticmethod
    def _commit(session: Any, unwritten: Mapping[int, _Unwritten]) -> None:
        for trial_id, held in unwritten.items():
            _write(session, trial_id, held)
        session.commit()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Add a trial, that of a template or a running one."""
        self._read_trials_from_remote_storage(study_id)
        with self.together():
            trial_id = super().create_new_trial(study_id, template_trial)
            trial = self._copy(trial_id)
            for attrs in (trial.user_attrs, trial.system_attrs):
                attrs.update(json.loads(json.dumps(attrs)))  # as they would be read
            self._keep(trial)
            return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter; its distribution has to fit those that it had in other trials."""
        with self.together():
            trial = self._copy(trial_id)
            self.check_trial_is_updatable(trial_id, trial.state)
            study = self._studies[self._trial_id_to_study_id_and_number[trial_id][0]]
            check_distribution_compatibility(
                study.param_distribution.setdefault(param_name, distribution), distribution
            )
            trial.params[param_name] = distribution.to_external_repr(param_value_internal)
            trial.distributions[param_name] = distribution
            self._pending(trial_id).params[param_name] = param_value_internal, distribution_to_json(distribution)
            self._keep(trial)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute, plain JSON."""
        with self.together():
            trial = self._copy(trial_id)
            self.check_trial_is_updatable(trial_id, trial.state)
            text = self._pending(trial_id).user_attrs[key] = json.dumps(value)
            trial.user_attrs[key] = json.loads(text)  # as it would be read
            self._keep(trial)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's own, plain JSON."""
        with self.together():
            trial = self._copy(trial_id)
            self.check_trial_is_updatable(trial_id, trial.state)
            text = self._pending(trial_id).system_attrs[key] = json.dumps(value)
            trial.system_attrs[key] = json.loads(text)
            self._keep(trial)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Optuna's own."""
        with self.together():
            if not super().set_trial_state_values(trial_id, state, values):
                return False
            trial, now = self._copy(trial_id), datetime.now()
            trial.state = state
            if values is not None:
                trial.values = list(values)
            if state == TrialState.RUNNING:
                trial.datetime_start = now
            if state.is_finished():
                trial.datetime_complete = now
            self._keep(trial)
            return True

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial, which the caller may change."""
        return self._copy(trial_id)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if study_id in self._loaded:
            return
        super()._read_trials_from_remote_storage(study_id)
        self._loaded.add(study_id)
        study = self._studies[study_id]
        for trial in study.trials.values():
            study.param_distribution = trial.distributions | study.param_distribution

    def _copy(self, trial_id: int) -> FrozenTrial:
        if trial_id not in self._trial_id_to_study_id_and_number:
            for study in self.get_all_studies():
                self._read_trials_from_remote_storage(study._study_id)
        study_id, number = self._trial_id_to_study_id_and_number[trial_id]
        trial = copy.copy(self._studies[study_id].trials[number])
        trial.params, trial.distributions = dict(trial.params), dict(trial.distributions)
        trial.user_attrs, trial.system_attrs = dict(trial.user_attrs), dict(trial.system_attrs)
        return trial

    def _keep(self, trial: FrozenTrial) -> None:
        # In place of the one before, which lists that were handed out may hold.
        study_id, number = self._trial_id_to_study_id_and_number[trial._trial_id]
        self._studies[study_id].trials[number] = trial

    def _pending(self, trial_id: int) -> _Unwritten:
        assert self._unwritten is not None
        return self._unwritten.setdefault(trial_id, _Unwritten())

    def _forget(self) -> None:
        """What this process knows may not be what the file holds."""
        for known in (self._studies, self._trial_id_to_study_id_and_number, self._study_id_and_number_to_trial_id):
            known.clear()
        self._loaded.clear()


def _write(session: Any, trial_id: int, unwritten: _Unwritten) -> None:
    params = [
        {"trial_id": trial_id, "param_name": name, "param_value": value, "distribution_json": distribution}
        for name, (value, distribution) in unwritten.params.items()
    ]
    if params:
        session.execute(models.TrialParamModel.__table__.insert(), params)
    for model, attrs in (
        (models.TrialUserAttributeModel, unwritten.user_attrs),
        (models.TrialSystemAttributeModel, unwritten.system_attrs),
    ):
        if attrs:
            table = model.__table__
            session.execute(table.delete().where(table.c.trial_id == trial_id, table.c.key.in_(list(attrs))))
            rows = [{"trial_id": trial_id, "key": key, "value_json": text} for key, text in attrs.items()]
            session.execute(table.insert(), rows)


class _Inner:
    """A session of which only the outer one is committed and closed."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def commit(self) -> None:
        self._session.flush()

    def rollback(self) -> None:
        self.lost = True
        self._session.rollback()

    def close(self) -> None:
        pass
