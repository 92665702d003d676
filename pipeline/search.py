"""The search: one driver asks Optuna, spreads prepare and shards over a pool, tells, and logs.

Order of work: the floor, the baselines, then searched trials, published settings first. Trials overlap so that no
worker waits: the oldest trial's shards go first. Equal plans are evaluated once, whoever asks for them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from optuna.trial import Trial

from pipeline.benchmarks import Benchmark
from pipeline.cluster import Failure, Pool, Task
from pipeline.ledger import Ledger
from pipeline.methods import METHODS
from pipeline.registry import SpecError
from pipeline.trial import Prepared, Role, ShardResult, TrialRecord, TrialResult, TrialSpec, describe, finish
from search_spaces import Study


class Listener(Protocol):
    """Whoever wants to know: the screen, MLflow."""

    def finished(self, record: TrialRecord, status: Status) -> None:
        """A trial is over."""
        ...

    def waiting(self, status: Status) -> None:
        """Nothing is over yet; called about once a second."""
        ...


@dataclass
class Status:
    """Where the search stands. `total` counts searched trials and measured baselines alike."""

    total: int
    done: int = 0
    running: int = 0
    failed: int = 0
    rows: int = 0
    rows_left: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """From the rate of network rows so far; None while there is no rate."""
        return self.rows_left * self.seconds / self.rows if self.rows else None


@dataclass
class _Job:
    """A trial on its way: its spec, what it has so far, and for a searched one Optuna's handle."""

    key: str
    role: Role
    spec: TrialSpec
    number: int
    method: str = ""
    budget: int | None = None
    trial: Trial | None = None
    prepared: Prepared | None = None
    shards: list[ShardResult] = field(default_factory=list)


class Search:
    """One run of a study: continues whatever its ledger holds."""

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        open_pool: Callable[[], Pool],
        benchmark: Benchmark,
        listeners: list[Listener],
    ) -> None:
        self.study, self.ledger, self.benchmark = study, ledger, benchmark
        self.listeners = listeners
        self._open_pool = open_pool
        self._jobs: dict[str, _Job] = {}
        self._scored: dict[str, tuple[str, TrialResult]] = {}
        self._followers: dict[str, list[_Job]] = {}
        self._leaders: dict[str, str] = {}
        self._measured: deque[_Job] = deque()
        self._count = self._left = self._asked = 0
        self._searched = self._searched_nfe = 0

    def run(self) -> Status:
        """Do what is left of the study: unmeasured baselines, and searched trials up to the study's number."""
        self.ledger.recover()
        records = self.ledger.records()
        for record in records:
            if record.result is not None and not record.same_as:
                self._scored[record.result.plan.digest] = (record.key, record.result)
        self._measured = deque(self._measured_jobs({record.key for record in records}))
        self._left = max(0, self.study.trials - self.ledger.spent)
        self.status = Status(total=len(self._measured) + self._left)
        if self._left:
            self.ledger.enqueue(self.study.published_points)
        if self.status.total:
            self.pool = self._open_pool()
            try:
                self._work()
            finally:
                self.pool.close()
        return self.status

    def _work(self) -> None:
        """Keep one trial more under way than there are workers, so that one is prepared while others' shards run."""
        self.status.started = time.monotonic()
        while True:
            while len(self._jobs) <= self.pool.size and (job := self._next()) is not None:
                self._start(job)
            if not self._jobs:
                return
            self.status.running = len(self._jobs)
            self.status.rows_left = self._rows_left()
            answer = self.pool.next(timeout=1.0)
            if answer is None:
                for listener in self.listeners:
                    listener.waiting(self.status)
                continue
            task, outcome = answer
            job = self._jobs.get(task.key)
            if job is not None:
                self._advance(job, outcome)

    def _measured_jobs(self, known: set[str]) -> Iterator[_Job]:
        floor = self.study.floor_spec()
        if "floor" not in known:
            yield self._job("floor", "floor", floor, f"fine solve ({describe(floor)})")
        for budget in self.study.budgets:
            for name in self.study.baseline_names:
                pair = METHODS.get(name).pair(budget)
                key = f"baseline/{name}/{budget}"
                if pair is None or key in known:
                    continue
                solver, schedule = pair
                schedule = {"sigma_min": self.benchmark.sigma_min, "sigma_max": self.benchmark.sigma_max} | dict(
                    schedule
                )
                spec = self.study.spec({"solver": solver, "schedule": schedule})
                yield self._job(key, "baseline", spec, METHODS.get(name).title, budget)

    def _job(self, key: str, role: Role, spec: TrialSpec, method: str = "", budget: int | None = None) -> _Job:
        self._count += 1
        return _Job(key, role, spec, self._count, method, budget)

    def _next(self) -> _Job | None:
        """The next trial to start: what is measured first, then what is searched; None if all have been started."""
        return self._measured.popleft() if self._measured else self._ask()

    def _ask(self) -> _Job | None:
        if self._asked >= self._left:
            return None
        self._asked += 1
        trial = self.ledger.ask()
        role: Role = trial.user_attrs.get("role", "searched")
        key = f"{role}/{trial.number}"
        try:
            job = self._job(key, role, self.study.spec(self.study.parsed_space.assemble(trial.params)))
        except SpecError as error:
            self._tell(self.ledger.tell_off(trial, str(error)))
            return self._ask()
        job.trial = trial
        return job

    def _start(self, job: _Job) -> None:
        self._jobs[job.key] = job
        self.pool.submit(Task(job.key, (job.number, 0), job.spec))

    def _advance(self, job: _Job, outcome: Prepared | ShardResult | Failure) -> None:
        if isinstance(outcome, Failure):
            self._fail(job, outcome.reason)
        elif isinstance(outcome, Prepared):
            self._place(job, outcome)
        else:
            job.shards.append(outcome)
            self.status.rows += outcome.rows
            if job.prepared is not None and len(job.shards) == len(job.spec.shards()):
                self._score(job, finish(job.spec, job.prepared, job.shards, self.benchmark))

    def _place(self, job: _Job, prepared: Prepared) -> None:
        """The plan is known, and with it the NFE: refuse, share, or evaluate."""
        job.prepared = prepared
        plan = prepared.plan
        if job.trial is not None:
            self._searched, self._searched_nfe = self._searched + 1, self._searched_nfe + len(plan)
        most = self.study.budgets[-1]
        if job.trial is not None and len(plan) > most:
            self._close(
                job, self.ledger.tell_off(job.trial, f"NFE {len(plan)} is above the last budget, {most}", pruned=True)
            )
        elif plan.digest in self._scored:
            self._share(job)
        elif plan.digest in self._leaders:
            self._followers.setdefault(plan.digest, []).append(job)
        else:
            self._leaders[plan.digest] = job.key
            for i, seeds in enumerate(job.spec.shards()):
                self.pool.submit(Task(job.key, (job.number, i), job.spec, plan, seeds))

    def _score(self, job: _Job, result: TrialResult) -> None:
        digest = result.plan.digest
        self._scored[digest] = (job.key, result)
        self._leaders.pop(digest, None)
        self._complete(job, result, "")
        for follower in self._followers.pop(digest, []):
            self._share(follower)

    def _share(self, job: _Job) -> None:
        """Give a job the result of the equal plan that was evaluated, with its own spec and set-up cost."""
        assert job.prepared is not None
        key, result = self._scored[job.prepared.plan.digest]
        own = replace(
            result,
            spec=job.spec,
            solver=job.prepared.solver,
            setup_nfe=job.prepared.setup_nfe,
            setup_rows=job.prepared.setup_rows,
        )
        self._complete(job, own, key)

    def _complete(self, job: _Job, result: TrialResult, same_as: str) -> None:
        if job.trial is not None:
            self._close(job, self.ledger.tell(job.trial, result, same_as))
            return
        record = TrialRecord(job.key, job.role, "complete", job.method, result, job.budget, same_as=same_as)
        self.ledger.add_measured(record)
        self._close(job, record)

    def _fail(self, job: _Job, reason: str) -> None:
        self.pool.cancel(job.key)
        digest = job.prepared.plan.digest if job.prepared is not None else ""
        if job.trial is not None:
            record = self.ledger.tell_off(job.trial, reason)
        else:
            record = TrialRecord(job.key, job.role, "failed", job.method, None, job.budget, reason=reason)
            self.ledger.add_measured(record)
        self._close(job, record)
        if self._leaders.get(digest) == job.key:
            del self._leaders[digest]
            for follower in self._followers.pop(digest, []):
                self._fail(follower, reason)

    def _close(self, job: _Job, record: TrialRecord) -> None:
        del self._jobs[job.key]
        self._tell(record)

    def _tell(self, record: TrialRecord) -> None:
        self.status.done += 1
        self.status.failed += record.state == "failed"
        self.status.running = len(self._jobs)
        for listener in self.listeners:
            listener.finished(record, self.status)

    def _rows_left(self) -> float:
        """Network rows to come. An unseen searched trial counts as the mean of those seen, or as the middle budget."""
        images, budgets = self.study.images, self.study.budgets
        typical = self._searched_nfe / self._searched if self._searched else budgets[len(budgets) // 2]
        running = sum(
            (len(job.prepared.plan) if job.prepared else job.budget or typical)
            * (images - len(job.shards) * self.study.shard_images)
            for job in self._jobs.values()
        )
        measured = sum(job.budget or budgets[-1] for job in self._measured)
        return running + images * (measured + typical * (self._left - self._asked))
