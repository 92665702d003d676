"""The search: one driver asks Optuna, spreads prepare and shards over a pool, tells, and logs.

Order of work: the floor and the teacher, the baselines, then searched trials, published settings first. A searched
trial climbs the study's rungs and is stopped where it is dominated (`pipeline.climb`). Those that come through wait
until the search is over; each rung after that is for those who are left (`pipeline.finals`). Last, what leads is
confirmed. Trials overlap so that no worker waits: the oldest trial's images go first.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from pipeline import agenda
from pipeline.climb import Climb
from pipeline.cluster import Pool
from pipeline.evidence import Evidence
from pipeline.finals import Finals
from pipeline.job import Job, Status
from pipeline.ledger import Ledger
from pipeline.registry import SpecError
from pipeline.result import Role, TrialRecord
from pipeline.scoring import Scoring
from pipeline.shard_store import ShardStore
from pipeline.sharing import Alone, Sharing
from pipeline.teaching import teach_pool
from search_spaces import Study

TEACHER_FILE, SHARDS_FOLDER = "teacher.safetensors", "shards"
PAUSE_SECONDS = 0.5  # between two looks at what other drivers do


class Listener(Protocol):
    """Whoever wants to know: the screen, MLflow."""

    def finished(self, record: TrialRecord, status: Status) -> None:
        """A trial is over."""
        ...

    def waiting(self, status: Status) -> None:
        """Nothing is over yet; called about once a second."""
        ...


class Search:
    """One run of a study: continues whatever its ledger holds.

    `sigma_range` is the benchmark's (sigma_min, sigma_max), where baselines run. `run_dir` keeps the teacher and the
    shards of trials that are not over for the next run; `identity` says what they are of. `sharing` speaks with the
    other drivers of the study, where there may be some.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        open_pool: Callable[[], Pool],
        scoring: Scoring,
        sigma_range: tuple[float, float],
        listeners: Iterable[Listener] = (),
        run_dir: Path | None = None,
        identity: str = "",
        sharing: Sharing | None = None,
    ) -> None:
        self.study, self.ledger = study, ledger
        self._sharing = sharing or Alone(ledger, study.trials)
        self.listeners = list(listeners)
        self._open_pool = open_pool
        self._sigma_range = sigma_range
        self._teacher_file, self._identity = run_dir and run_dir / TEACHER_FILE, identity
        self._shards = ShardStore(run_dir and run_dir / SHARDS_FOLDER, identity)
        self._numbers = itertools.count(1)
        self.status = Status(total=0)
        self._climb = Climb(study, ledger, scoring, self._shards, self.status, self._tell)
        self._finals = Finals(study, ledger, self._climb, self._numbers, self._tell, self._sharing)
        self._measured: deque[Job] = deque()

    def run(self) -> Status:
        """Do what is left of the study: unmeasured baselines, searched trials up to its number, and confirmations."""
        self._sharing.begin(self.study.published_points)
        records = self.ledger.records()
        for record in records:
            self._climb.recall(record)
        known = {record.key for record in records}
        self._measured = deque(agenda.measured(self.study, self._sigma_range, known, self._numbers))
        self.status.total = len(self._measured) + self._sharing.left + len(self.ledger.waiting())
        if self.status.total or any(agenda.confirmations(self.study, records, self._numbers)):
            self.pool = self._climb.pool = self._open_pool()
            try:
                self._search()
                self._confirm()
                self._shards.clear()
            finally:
                self.pool.close()
        return self.status

    def _search(self) -> None:
        if not self.status.total:
            return
        if self.study.teacher_images:
            self.status.rows += teach_pool(
                self.pool,
                self.study.floor_spec(),
                self.study.teacher_images,
                self._teacher_file,
                self._identity,
                self._wait,
            )
        self._work()
        self._climb.end_waiting()
        for _ in self._finals.rounds():
            self._work()

    def _confirm(self) -> None:
        self._measured = deque(agenda.confirmations(self.study, self.ledger.records(), self._numbers))
        self.status.total += len(self._measured)
        self._work()

    def _wait(self) -> None:
        self.status.rows_left = self._rows_left()
        for listener in self.listeners:
            listener.waiting(self.status)

    def _work(self) -> None:
        """Keep one trial more under way than there are workers, so that one is prepared while others' images run."""
        jobs = self._climb.jobs
        while True:
            self._catch_up()
            while len(jobs) <= self.pool.size and (job := self._next()) is not None:
                self._climb.start(job)
            if not jobs:
                if not self._others_are_busy():
                    return
                self.pool.next(timeout=0)
                self._wait()
                time.sleep(PAUSE_SECONDS)
                continue
            self.status.running = len(jobs)
            answer = self.pool.next(timeout=1.0)
            if answer is None:
                self._wait()
                continue
            task, outcome = answer
            self._climb.advance(task.key, outcome)

    def _next(self) -> Job | None:
        """The next trial to start: what is measured first, then what is searched; None if all have been started."""
        return self._measure() or self._ask() or self._finals.next()

    def _measure(self) -> Job | None:
        for _ in range(len(self._measured)):
            job = self._measured.popleft()
            if self._sharing.take(job.key):
                return job
            self._measured.append(job)  # another driver is at it, and may not come to its end
        return None

    def _others_are_busy(self) -> bool:
        """Whether what this driver has nothing to do with is still under way."""
        searching = self._sharing.searching()
        self._catch_up()
        return searching or bool(self._measured) or self._finals.busy()

    def _catch_up(self) -> None:
        """Take up what other drivers have found out."""
        news = self._sharing.news()
        for record in news:
            self._climb.recall(record)
            if not record.waiting:
                self._count(record)
        over = {record.key for record in news}
        if over:
            self._measured = deque(job for job in self._measured if job.key not in over)

    def _ask(self) -> Job | None:
        asked = self._sharing.ask()
        if asked is None:
            return None
        trial, params = asked
        role: Role = trial.user_attrs.get("role", "searched")
        key = f"{role}/{trial.number}"
        try:
            spec = self.study.spec(self.study.parsed_space.assemble(params))
        except SpecError as error:
            self._tell(self.ledger.tell_off(trial, str(error)))
            return self._ask()
        job = Job(key, role, spec, next(self._numbers), trial=trial)
        if "evidence" in trial.user_attrs:
            job.recall(Evidence.from_json(trial.user_attrs["evidence"]))
        return job

    def _tell(self, record: TrialRecord) -> None:
        self._sharing.told(record)
        self._count(record)
        self.status.running, self.status.rows_left = len(self._climb.jobs), self._rows_left()
        for listener in self.listeners:
            listener.finished(record, self.status)

    def _count(self, record: TrialRecord) -> None:
        self.status.done += 1
        self.status.failed += record.state == "failed"
        self.status.stopped += record.state == "pruned"

    def _rows_left(self) -> float:
        """Network rows to come. A searched trial counts as the mean of those ended, or as the middle budget.

        Of those that wait for their last rungs each counts as if it went on, once the search is over.
        """
        images, budgets = self.study.images, self.study.budgets
        typical = budgets[len(budgets) // 2]
        running = sum(
            (job.nfe if job.prepared else job.budget or typical)
            * ((job.rung or job.spec.images) - len(job.shards) * job.spec.shard_images)
            for job in self._climb.jobs.values()
        )
        measured = sum(job.budget or budgets[-1] for job in self._measured)
        asked = self._climb.mean_rows(otherwise=typical * images) * self._sharing.left
        return running + images * measured + asked + self._finals.rows_left
