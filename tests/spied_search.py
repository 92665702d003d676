"""A search of the small study with everything in view: the tasks, the rows at the network, what listeners heard."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import optuna

from pipeline import benchmarks
from pipeline.cluster import InProcessPool, Pool
from pipeline.comparison import Estimate
from pipeline.job import Status
from pipeline.ledger import Ledger
from pipeline.plan import Plan
from pipeline.result import TrialRecord, TrialResult
from pipeline.scoring import Measurement, MomentScoring, Scoring
from pipeline.search import Search
from pipeline.teacher import Teacher
from pipeline.trial import Prepared, ShardResult, TrialSpec
from pipeline.worker import Compared, Outcome, Task
from search_spaces import Study

RUNGS = {"teacher": 32, "images": [40, 100]}
EULERS: dict[str, Any] = {
    "solver": {"name": "euler"},
    "schedule": {"name": "edm", "num_steps": {"low": 2, "high": 7}, "final": "sigma_min"},
}
Spoil = Callable[[Task, Outcome], Outcome]


class Counted:
    """A benchmark whose network counts the rows that reach it."""

    def __init__(self, benchmark: benchmarks.Benchmark) -> None:
        self.rows = 0
        self._benchmark = benchmark

    def __getattr__(self, name: str) -> Any:
        return getattr(self._benchmark, name)

    def denoiser(self, seeds: range, device: str | None = None) -> Callable[..., Any]:
        return self._counted(self._benchmark.denoiser(seeds, device))

    def calibration_denoiser(self, seeds: range) -> Callable[..., Any]:
        return self._counted(self._benchmark.calibration_denoiser(seeds))

    def _counted(self, network: Callable[..., Any]) -> Callable[..., Any]:
        def denoise(x: Any, sigma: Any) -> Any:
            self.rows += len(x)
            return network(x, sigma)

        return denoise


class Spy(InProcessPool):
    """The in-process pool, with a list of what it was given, the rows of each key, and a hook on what it answers."""

    def __init__(self, spoil: Spoil | None = None) -> None:
        super().__init__("gmm")
        self.tasks: list[Task] = []
        self.rows: Counter[str] = Counter()
        self.teachers: list[Teacher] = []
        self.spoil = spoil or (lambda task, outcome: outcome)
        self._worker.benchmark = self._counted = Counted(self._worker.benchmark)

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        super().submit(task)

    def share(self, teacher: Teacher) -> None:
        self.teachers.append(teacher)
        super().share(teacher)

    def next(self, timeout: float) -> tuple[Task, Outcome] | None:
        before = self._counted.rows
        answer = super().next(timeout)
        if answer is None:
            return None
        self.rows[answer[0].key] += self._counted.rows - before
        return answer[0], self.spoil(*answer)

    def of(self, key: str, what: str = "") -> list[Task]:
        """The tasks of a trial, all or those of one kind."""
        return [task for task in self.tasks if task.key == key and what in ("", task.what)]


class Changed(MomentScoring):
    """True scores, but those of the plans of some NFE are changed by a function of each FID."""

    def __init__(self, changes: Mapping[int, Callable[[float], float]]) -> None:
        super().__init__(benchmarks.load("gmm"))
        self.changes = changes

    def _of(self, plan: Plan, score: Estimate) -> Estimate:
        change = self.changes.get(len(plan), lambda fid: fid)
        groups = tuple(change(each) for each in score.leave_one_out)
        return replace(score, fid=change(score.fid), corrected=change(score.corrected), leave_one_out=groups)

    def score(self, plan: Plan, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()) -> Estimate:
        return self._of(plan, super().score(plan, shards, measured))

    def finish(
        self, spec: TrialSpec, prepared: Prepared, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()
    ) -> TrialResult:
        result = super().finish(spec, prepared, shards, measured)
        return replace(result, score=self._of(prepared.plan, result.score))


def fids(values: Mapping[int, float]) -> Changed:
    """Every plan of these NFE has this FID on every rung, without an error."""
    return Changed({nfe: functools.partial(lambda fid, _: fid, fid) for nfe, fid in values.items()})


def far_at(nfe: int, factor: float = 50.0) -> Spoil:
    """Published settings of this NFE are so many times as far from the teacher as they are."""

    def spoil(task: Task, outcome: Outcome) -> Outcome:
        if not isinstance(outcome, Compared) or task.plan is None or len(task.plan) != nfe:
            return outcome
        if not task.key.startswith("published"):
            return outcome
        features = tuple(factor * each for each in outcome.distance.features)
        return replace(outcome, distance=replace(outcome.distance, features=features))

    return spoil


def eulers(*steps: int, **more: Any) -> dict[str, Any]:
    """Changes to the small study: Euler's method at these numbers of steps, in this order, nothing else searched."""
    points = [{"schedule.num_steps": list(steps)}]
    return {"space": EULERS, "published": points, "trials": len(steps), "rungs": RUNGS, "confirm": None} | more


class Heard:
    """A listener that keeps the records."""

    def __init__(self) -> None:
        self.records: list[TrialRecord] = []

    def finished(self, record: TrialRecord, status: Status) -> None:
        self.records.append(record)

    def waiting(self, status: Status) -> None:
        pass


class Ran(NamedTuple):
    """A search that is over."""

    records: list[TrialRecord]
    pool: Any
    heard: Heard
    status: Status
    ledger: Ledger

    def record(self, key: str) -> TrialRecord:
        """The record of this key."""
        return next(record for record in self.records if record.key == key)

    def of(self, *roles: str) -> list[TrialRecord]:
        """The records of these roles, in the order of the ledger."""
        return [record for record in self.records if record.role in roles]


_KEPT: dict[Path, optuna.storages.InMemoryStorage] = {}


def open_ledger(folder: Path | None, study: Study, *, disk: bool = False) -> Ledger:
    """As `run_study` opens it; what was told under the same folder is there again.

    Kept in memory unless `disk` says otherwise: a file costs seconds.
    """
    if folder is not None:
        folder.mkdir(exist_ok=True)
    kept = (
        optuna.storages.InMemoryStorage()
        if folder is None
        else _KEPT.setdefault(folder, optuna.storages.InMemoryStorage())
    )
    optimizer = study.optimizer
    startup = optimizer.startup + len(study.published_points)
    with mock.patch.object(optuna.storages, "InMemoryStorage", return_value=kept):
        return Ledger(
            folder if disk else None,
            study.study,
            study.draw,
            optimizer.name,
            optimizer.seed,
            startup,
            optimizer.stopped,
        )


def run(
    folder: Path | None,
    study: Study,
    spoil: Spoil | None = None,
    *,
    pool: Pool | None = None,
    scoring: Scoring | None = None,
    disk: bool = False,
) -> Ran:
    """Search, or go on with what is kept under `folder`; None keeps nothing."""
    spy, heard, gmm = pool or Spy(spoil), Heard(), benchmarks.load("gmm")
    ledger = open_ledger(folder, study, disk=disk)
    ends = gmm.sigma_min, gmm.sigma_max
    status = Search(study, ledger, lambda: spy, scoring or MomentScoring(gmm), ends, [heard], folder, "gmm 1").run()
    return Ran(ledger.records(), spy, heard, status, ledger)


def values(records: list[TrialRecord]) -> dict[str, Any]:
    """What must not change when a study is run again: key, parameters, plan, state and every score."""
    return {
        record.key: (
            record.state,
            dict(record.params),
            record.reason,
            record.same_as,
            record.evidence and (record.evidence.digest, record.evidence.teacher, record.evidence.scores),
            record.result and (record.result.fid, record.result.nfe, record.result.plan.digest),
        )
        for record in records
    }
