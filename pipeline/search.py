"""The search: one driver asks Optuna, spreads prepare and shards over a pool, tells, and logs.

Order of work: the floor and the teacher, the baselines, then searched trials, published settings first. A searched
trial climbs the study's rungs and is stopped where it is dominated. Those that come through wait before the last rung
until the search is over; who is not dominated by then is scored on all images. Last, what leads is confirmed.
Trials overlap so that no worker waits: the oldest trial's images go first. Equal plans are evaluated once.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pipeline import agenda
from pipeline.cluster import Pool
from pipeline.evidence import Evidence
from pipeline.job import Fate, Job, Status
from pipeline.ledger import Ledger
from pipeline.pruning import Field, Stop
from pipeline.registry import SpecError
from pipeline.result import Role, TrialRecord, TrialResult, describe
from pipeline.scoring import Scoring
from pipeline.teaching import teach_pool
from pipeline.trial import Prepared
from pipeline.worker import Compared, Evaluated, Failure, Outcome, Task
from search_spaces import Study
from search_spaces.protocol import Rungs


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

    `sigma_range` is the benchmark's (sigma_min, sigma_max), where baselines run. `teacher_file` keeps the teacher for
    the next run; `identity` says what it is the teacher of.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        open_pool: Callable[[], Pool],
        scoring: Scoring,
        sigma_range: tuple[float, float],
        listeners: Iterable[Listener] = (),
        teacher_file: Path | None = None,
        identity: str = "",
    ) -> None:
        self.study, self.ledger, self.scoring = study, ledger, scoring
        self.listeners = list(listeners)
        self._open_pool = open_pool
        self._sigma_range = sigma_range
        self._teacher_file, self._identity = teacher_file, identity
        rungs = study.rungs or Rungs()
        self._field = Field(rungs.slack, rungs.confidence)
        self._numbers = itertools.count(1)
        self._jobs: dict[str, Job] = {}
        self._measured: deque[Job] = deque()
        # By a plan's digest: what became of it, who is at it, and who waits for that.
        self._fates: dict[str, Fate] = {}
        self._owners: dict[str, str] = {}
        self._waiting: dict[str, list[Job]] = {}
        # Trials before their last rung: by the plan's digest what is known of it, by key the shards that they have.
        self._parked: dict[str, Fate] = {}
        self._kept: dict[str, Job] = {}
        self._finalists: deque[tuple[TrialRecord, dict[str, Any]]] = deque()
        self._left = self._asked = self._ended = self._ended_rows = 0

    def run(self) -> Status:
        """Do what is left of the study: unmeasured baselines, searched trials up to its number, and confirmations."""
        self.ledger.recover()
        records = self.ledger.records()
        for record in records:
            self._recall(record)
        known = {record.key for record in records}
        self._measured = deque(agenda.measured(self.study, self._sigma_range, known, self._numbers))
        self._left = max(0, self.study.trials - self.ledger.spent)
        self.status = Status(total=len(self._measured) + self._left + len(self.ledger.waiting()))
        if self._left:
            self.ledger.enqueue(self.study.published_points)
        if self.status.total or any(agenda.confirmations(self.study, records, self._numbers)):
            self.pool = self._open_pool()
            try:
                self._search()
                self._confirm()
            finally:
                self.pool.close()
        return self.status

    def _recall(self, record: TrialRecord) -> None:
        """Take up what an earlier run of the study has found out."""
        evidence = record.evidence
        if evidence is None or record.role == "confirmed" or record.same_as:
            return
        if record.result is not None:
            self._fates[evidence.digest] = Fate(record.key, evidence, record.result)
        elif record.waiting:
            self._parked[evidence.digest] = Fate(record.key, evidence)
        elif evidence.teacher is None and not evidence.scores:
            return  # refused before it was sampled: for its own set-up, or for what others will be asked again
        elif record.state == "pruned":  # what failed at its last rung keeps what it scored before, and is no fate
            self._fates.setdefault(evidence.digest, Fate(record.key, evidence, stop=Stop("", record.reason, 0.0)))
            if not evidence.scores:
                return
            # The measure that stopped it was not held against others then, and is not now.
            evidence = replace(evidence, scores=evidence.scores[:-1])
        if record.role == "floor":
            self._field.set_floor(evidence)
        else:
            self._field.add(record.key, evidence)

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
        self._finish()

    def _finish(self) -> None:
        """Score on all images whoever came through the rungs and is not dominated by now."""
        self._finalists = deque(self.ledger.waiting())
        self._parked.clear()
        self._work()
        self._kept.clear()

    def _finalist(self) -> Job | None:
        """The next trial that goes on to its last rung; those that are dominated by now end here."""
        while self._finalists:
            record, params = self._finalists.popleft()
            evidence, number = record.evidence, int(record.key.rpartition("/")[2])
            assert evidence is not None
            stop = self._overtaken(record.same_as or record.key, evidence)
            if stop is not None:
                ended = self.ledger.finish(
                    number, evidence, record.constraints, reason=stop.reason, same_as=record.same_as
                )
                self._recall(ended)
                self._tell(ended)
                continue
            job = self._kept.pop(record.key, None)
            if job is None:  # an earlier run of the study began it: its images are drawn again
                spec = self.study.spec(self.study.parsed_space.assemble(params))
                job = Job(record.key, record.role, spec, 0, scores=list(evidence.scores), teacher=evidence.teacher)
                job.spent_rows = evidence.spent_rows
            job.trial, job.final, job.number = None, number, next(self._numbers)
            return job
        return None

    def _overtaken(self, first: str, evidence: Evidence) -> Stop | None:
        """Why a plan that has waited, met in the trial `first`, is not scored on all images; None where it is."""
        fate = self._fates.get(evidence.digest)
        if fate is not None and fate.result is not None:
            return None  # it has been by now, and is shared
        return self._field.judge(first, evidence, evidence.scores[-1].images) or self._field.saturated(
            evidence.nfe, first
        )

    def _confirm(self) -> None:
        self._measured = deque(agenda.confirmations(self.study, self.ledger.records(), self._numbers))
        self.status.total += len(self._measured)
        self._work()

    def _wait(self) -> None:
        for listener in self.listeners:
            listener.waiting(self.status)

    def _work(self) -> None:
        """Keep one trial more under way than there are workers, so that one is prepared while others' images run."""
        while True:
            while len(self._jobs) <= self.pool.size and (job := self._next()) is not None:
                self._start(job)
            if not self._jobs:
                return
            self.status.running = len(self._jobs)
            self.status.rows_left = self._rows_left()
            answer = self.pool.next(timeout=1.0)
            if answer is None:
                self._wait()
                continue
            task, outcome = answer
            job = self._jobs.get(task.key)
            if job is not None:
                self._advance(job, outcome)

    def _next(self) -> Job | None:
        """The next trial to start: what is measured first, then what is searched; None if all have been started."""
        return self._measured.popleft() if self._measured else self._ask() or self._finalist()

    def _ask(self) -> Job | None:
        if self._asked >= self._left:
            return None
        self._asked += 1
        trial, params = self.ledger.ask()
        role: Role = trial.user_attrs.get("role", "searched")
        key = f"{role}/{trial.number}"
        try:
            spec = self.study.spec(self.study.parsed_space.assemble(params))
        except SpecError as error:
            self._tell(self.ledger.tell_off(trial, str(error)))
            return self._ask()
        return Job(key, role, spec, next(self._numbers), trial=trial)

    def _start(self, job: Job) -> None:
        self._jobs[job.key] = job
        if job.prepared is None:
            self.pool.submit(Task(job.key, (job.number, 0), job.spec))
        elif job.role == "confirmed":
            self._sample(job, job.spec.images)
        else:
            self._place(job)

    def _advance(self, job: Job, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._fail(job, outcome.reason)
        elif isinstance(outcome, Prepared):
            job.prepared = outcome
            self._spend(job, outcome.spent_rows)
            self._place(job)
        elif isinstance(outcome, Compared):
            job.teacher = outcome.distance
            self._spend(job, outcome.rows)
            self._climb(job)
        elif isinstance(outcome, Evaluated):
            job.shards += outcome.shards
            self._spend(job, sum(shard.rows for shard in outcome.shards))
            if len(job.shards) * job.spec.shard_images == job.rung:
                self._reach(job)

    def _spend(self, job: Job, rows: int) -> None:
        job.spent_rows += rows
        self.status.rows += rows

    def _place(self, job: Job) -> None:
        """The plan is known, and with it the NFE: refuse, share, or climb."""
        digest, fate = job.plan.digest, self._fates.get(job.plan.digest)
        stop = self._refusal(job) if job.searched else None
        if stop is not None:
            self._end(job, Fate(job.key, job.evidence, stop=stop))
        elif fate is not None and (fate.result is not None or job.searched):
            self._share(job, fate)
        elif digest in self._owners:
            self._waiting.setdefault(digest, []).append(job)
        elif job.searched and digest in self._parked:
            first = self._parked[digest]
            job.teacher, job.scores = first.evidence.teacher, list(first.evidence.scores)
            self._park(job, first.key)
        elif job.searched and self.study.rungs is not None and (stop := self._field.saturated(len(job.plan))):
            self._end(job, Fate(job.key, job.evidence, stop=stop))
        else:
            self._owners[digest] = job.key
            if job.final is not None:
                self._sample(job, job.spec.images)
            elif self.study.teacher_images:
                self.pool.submit(Task(job.key, (job.number, 0), job.spec, job.plan, what="compare"))
            else:
                self._climb(job)

    def _refusal(self, job: Job) -> Stop | None:
        """Why a plan is not sampled at all, whatever its quality."""
        nfe, most = len(job.plan), self.study.budgets[-1]
        if nfe > most:
            return Stop("", f"NFE {nfe} is above the last budget, {most}", 0.0)
        setup, limit = job.evidence.setup_nfe, self.study.constraints.setup_nfe
        if limit is not None and setup > limit:
            return Stop("", f"set-up NFE {setup:g} is above the constraint, {limit:g}", 0.0)
        return None

    def _climb(self, job: Job) -> None:
        """Judge the trial by what it has, and send it to its next rung."""
        stop = self._field.judge(job.key, job.evidence, job.rung) if job.searched and self.study.rungs else None
        if stop is not None:
            self._end(job, Fate(job.key, job.evidence, stop=stop))
            return
        self._enter(job)
        following = next(rung for rung in self.study.rung_images if rung > (job.rung or 0))
        if job.searched and job.rung is not None and following == job.spec.images:
            self._park(job)
            return
        # Baselines climb the same rungs and are never stopped: which of them leads must not hang on a search.
        self._sample(job, following)

    def _park(self, job: Job, same_as: str = "") -> None:
        """Tell Optuna what is known before the last rung, which is for those that nobody dominates in the end.

        Most of the price of a trial is its last rung, and a search that goes forward leaves most of its trials behind.
        """
        assert job.trial is not None
        evidence, digest = job.evidence, job.plan.digest
        told = evidence.scores[-1].corrected
        self.ledger.tell_waiting(job.trial, evidence, self._constraints(job, None), told, self._words(job), same_as)
        self._ended, self._ended_rows = self._ended + 1, self._ended_rows + job.spent_rows
        del self._jobs[job.key]
        self._kept[job.key] = job
        self._parked.setdefault(digest, Fate(job.key, evidence))
        if self._owners.get(digest) == job.key:
            del self._owners[digest]
            for other in self._waiting.pop(digest, []):
                self._place(other)

    def _enter(self, job: Job) -> None:
        if job.role == "floor":
            if job.evidence.score(job.spec.images) is not None:  # on few images anything may equal it
                self._field.set_floor(job.evidence)
        elif job.role != "confirmed":
            self._field.add(job.key, job.evidence)

    def _sample(self, job: Job, rung: int) -> None:
        """Ask for the images up to `rung`, beyond those that are there."""
        start, job.rung = job.rung or 0, rung
        for seeds in job.spec.batches(start, rung):
            order = (job.number, 1 + seeds.start - job.spec.first_seed)
            self.pool.submit(Task(job.key, order, job.spec, job.plan, seeds, "evaluate"))

    def _reach(self, job: Job) -> None:
        """All images of a rung are there: score them, and go on if it is not the last."""
        assert job.prepared is not None
        if job.rung != job.spec.images:
            job.scores.append(self.scoring.score(job.plan, job.shards))
            self._climb(job)
            return
        result = self.scoring.finish(job.spec, job.prepared, job.shards)
        job.scores.append(result.score)
        self._enter(job)
        self._end(job, Fate(job.key, job.evidence, result))

    def _end(self, job: Job, fate: Fate) -> None:
        """A trial's own end; those that wait for its plan share it."""
        self._close(job, fate, "")
        digest = fate.evidence.digest
        if self._owners.get(digest) == job.key:
            del self._owners[digest]
            if job.role != "confirmed":
                self._fates[digest] = fate
            for other in self._waiting.pop(digest, []):
                self._place(other)

    def _share(self, job: Job, fate: Fate) -> None:
        """Give a job what became of the equal plan, with its own spec and set-up cost."""
        assert job.prepared is not None
        setup_nfe = job.prepared.setup_nfe
        evidence = replace(fate.evidence, spent_rows=job.spent_rows, setup_nfe=setup_nfe)
        result = fate.result and replace(
            fate.result,
            spec=job.spec,
            solver=job.prepared.solver,
            setup_rows=job.prepared.setup_rows,
            setup_nfe=setup_nfe,
            walk=job.prepared.walk,
        )
        self._close(job, fate._replace(evidence=evidence, result=result), fate.key)

    def _close(self, job: Job, fate: Fate, same_as: str) -> None:
        """Tell the truth: a result, or why there is none."""
        if job.final is not None:
            constraints = self._constraints(job, fate.result)
            record = self.ledger.finish(job.final, fate.evidence, constraints, fate.result, same_as=same_as)
        elif job.trial is None:
            record = TrialRecord(
                job.key, job.role, "complete", job.method, fate.result, job.budget,
                same_as=same_as, evidence=fate.evidence, confirms=job.confirms,
            )  # fmt: skip
            self.ledger.add_measured(record)
        else:
            self._ended, self._ended_rows = self._ended + 1, self._ended_rows + job.spent_rows
            constraints = self._constraints(job, fate.result)
            if fate.result is not None:
                record = self.ledger.tell(job.trial, fate.result, fate.evidence, constraints, same_as)
            else:
                assert fate.stop is not None
                told = self._told(fate.evidence)
                record = self.ledger.tell_stopped(
                    job.trial, fate.stop, fate.evidence, constraints, told, self._words(job), same_as
                )
        del self._jobs[job.key]
        self._tell(record)

    @staticmethod
    def _words(job: Job) -> str:
        return describe(replace(job.spec, solver=job.prepared.solver) if job.prepared else job.spec)

    def _told(self, evidence: Evidence) -> float | None:
        """The FID that a stopped trial may be told with: corrected, or what its distance to the teacher predicts."""
        if evidence.scores:
            return evidence.scores[-1].corrected
        return None if evidence.teacher is None else self._field.predicted(evidence.teacher)

    def _constraints(self, job: Job, result: TrialResult | None) -> dict[str, float]:
        """By how much each constraint of the study is exceeded, 0 and less where it is kept; those that are known."""
        limits, latency = self.study.constraints, job.latency_ms
        if latency is None and result is not None and result.images_per_second > 0:
            latency = 1000 / result.images_per_second
        held = {"setup_nfe": (job.evidence.setup_nfe, limits.setup_nfe), "latency_ms": (latency, limits.latency_ms)}
        return {
            name: 0.0 if value is None else value - limit  # not exceeded, as far as is known
            for name, (value, limit) in held.items()
            if limit is not None
        }

    def _fail(self, job: Job, reason: str) -> None:
        self.pool.cancel(job.key)
        if job.trial is not None:
            record = self.ledger.tell_off(job.trial, reason)
        elif job.final is not None:
            evidence = job.evidence if job.prepared is not None else None
            record = self.ledger.finish(job.final, evidence, {}, reason=reason, failed=True)
        else:
            record = TrialRecord(
                job.key, job.role, "failed", job.method, None, job.budget, reason=reason, confirms=job.confirms
            )
            self.ledger.add_measured(record)
        del self._jobs[job.key]
        self._tell(record)
        digest = job.plan.digest if job.prepared is not None else ""
        if self._owners.get(digest) == job.key:
            del self._owners[digest]
            for other in self._waiting.pop(digest, []):
                self._fail(other, reason)

    def _tell(self, record: TrialRecord) -> None:
        self.status.done += 1
        self.status.failed += record.state == "failed"
        self.status.stopped += record.state == "pruned"
        self.status.running = len(self._jobs)
        for listener in self.listeners:
            listener.finished(record, self.status)

    def _rows_left(self) -> float:
        """Network rows to come. A searched trial counts as the mean of those ended, or as the middle budget."""
        images, budgets = self.study.images, self.study.budgets
        typical = budgets[len(budgets) // 2]
        running = sum(
            (len(job.plan) if job.prepared else job.budget or typical)
            * ((job.rung or job.spec.images) - len(job.shards) * job.spec.shard_images)
            for job in self._jobs.values()
        )
        measured = sum(job.budget or budgets[-1] for job in self._measured)
        each = self._ended_rows / self._ended if self._ended else typical * images
        return running + images * measured + each * (self._left - self._asked)
