"""What becomes of a trial at each rung: it shares, climbs, is stopped, waits, or is scored on all its images.

Equal plans are evaluated once. Those that come through the first rungs wait there until the search is over,
see `pipeline.finals`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from pipeline.closing import Closing
from pipeline.cluster import Pool
from pipeline.equal_plans import EqualPlans
from pipeline.evidence import Evidence
from pipeline.job import Fate, Job, Status
from pipeline.ledger import Ledger
from pipeline.pruning import Field, Stop
from pipeline.result import TrialRecord
from pipeline.scoring import Scoring, portions
from pipeline.shard_store import ShardStore
from pipeline.trial import Prepared
from pipeline.worker import Compared, Evaluated, Failure, Measured, MeasuredBeside, Outcome, Task
from search_spaces import Study
from search_spaces.protocol import Rungs


class Climb:
    """The trials that are under way, and what is known of those before them.

    `tell` is called with the record of each that ends. `status` counts the rows.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        scoring: Scoring,
        shards: ShardStore,
        status: Status,
        tell: Callable[[TrialRecord], None],
    ) -> None:
        self.study, self.scoring, self.status, self._tell = study, scoring, status, tell
        self._ledger, self._shards = ledger, shards
        self.pool: Pool
        rungs = study.rungs or Rungs()
        self._field = Field(rungs.slack, rungs.confidence)
        self._closing = Closing(ledger, self._field, study.constraints)
        self.jobs: dict[str, Job] = {}
        self._plans = EqualPlans()
        self._rested: list[Job] = []
        # Searched trials that have ended or wait, and their rows: what the next one may cost.
        self._ended = self._ended_rows = 0

    def recall(self, record: TrialRecord) -> None:
        """Take up what is known of a trial that is over, or waits."""
        evidence = record.evidence
        if evidence is None or record.role == "confirmed" or record.same_as:
            return
        if record.result is not None:
            self._plans.fates[evidence.digest] = Fate(record.key, evidence, record.result)
        elif record.waiting:
            self._plans.parked[evidence.digest] = Fate(record.key, evidence)
        elif evidence.teacher is None and not evidence.scores:
            return  # refused before it was sampled: for its own set-up, or for what others will be asked again
        elif record.state == "pruned":  # what failed at its last rung keeps what it scored before, and is no fate
            self._plans.fates.setdefault(evidence.digest, Fate(record.key, evidence, stop=Stop("", record.reason, 0.0)))
            if not evidence.scores:
                return
            # The measure that stopped it was not held against others then, and is not now.
            evidence = replace(evidence, scores=evidence.scores[:-1])
        if record.role == "floor":
            self._field.set_floor(evidence)
        else:
            self._field.add(record.key, evidence)

    def start(self, job: Job) -> None:
        """Set a trial on its way, from its set-up or, where it has a plan, from where it is."""
        self.jobs[job.key] = job
        if job.prepared is None:
            self.pool.submit(Task(job.key, (job.number, 0), job.spec))
        elif job.role == "confirmed":
            self._sample(job, job.spec.images)
        else:
            self._place(job)

    def advance(self, key: str, outcome: Outcome) -> None:
        """Take what a worker did for the trial `key`; one that is over already needs it no more."""
        job = self.jobs.get(key)
        if job is None:
            return
        if isinstance(outcome, Failure):
            self._fail(job, outcome.reason)
        elif isinstance(outcome, Prepared):
            job.prepared = outcome
            self._spend(job, outcome.spent_rows)
            if outcome.spent_rows:
                self._note(job)
            self._place(job)
        elif isinstance(outcome, Compared):
            job.teacher = outcome.distance
            self._spend(job, outcome.rows)
            self._climb(job)
        elif isinstance(outcome, Evaluated):
            self._shards.keep(job.plan.digest, outcome.shards)
            job.shards += outcome.shards
            self._spend(job, sum(shard.rows for shard in outcome.shards))
            self._reach(job)
        elif isinstance(outcome, Measured):
            job.distances[outcome.index] = outcome.distance
            if job.measured:
                self._score(job)
        elif isinstance(outcome, MeasuredBeside):
            job.beside[outcome.index] = outcome.scores
            if job.measured:
                self._score(job)

    def end_waiting(self) -> None:
        """Nobody waits any more: who comes now goes on, and is judged by `overtaken`."""
        self._plans.parked.clear()

    def rested(self) -> list[Job]:
        """The trials that have reached their goal since this was asked, and have more rungs before them."""
        rested, self._rested = self._rested, []
        return rested

    def mean_rows(self, otherwise: float) -> float:
        """What a searched trial has cost before it ended or waited."""
        return self._ended_rows / self._ended if self._ended else otherwise

    def prepared(self, key: str) -> Prepared | None:
        """The plan of a trial that waited; None where it did so in an earlier run of the study."""
        return self._plans.prepared(key)

    def compare_with(self, key: str, evidence: Evidence) -> None:
        """Take up what a trial has come to in another driver's hands."""
        self._field.add(key, evidence)

    def leave(self, record: TrialRecord) -> None:
        """A trial that waited ends without its last rung."""
        self.recall(record)
        if record.evidence is not None and not record.same_as:
            self._shards.drop(record.evidence.digest)

    def overtaken(self, first: str, evidence: Evidence) -> Stop | None:
        """Why a plan that has waited, met in the trial `first`, does not go on; None where it does."""
        fate = self._plans.fates.get(evidence.digest)
        if fate is not None:
            return fate.stop  # None where it was scored by now, and is shared
        stop = self._field.judge(first, evidence, evidence.scores[-1].images)
        return stop or self._field.saturated(evidence.nfe, first)

    def _spend(self, job: Job, rows: int) -> None:
        job.spent_rows += rows
        self.status.rows += rows

    def _place(self, job: Job) -> None:
        """The plan is known, and with it the NFE: refuse, share, or climb."""
        digest, fate = job.plan.digest, self._plans.fates.get(job.plan.digest)
        stop = self._refusal(job) if job.searched else None
        if stop is not None:
            self._end(job, Fate(job.key, job.evidence, stop=stop))
        elif fate is not None and (fate.result is not None or job.searched):
            self._share(job, fate)
        elif self._plans.waits(job):
            return
        elif job.searched and digest in self._plans.parked:
            self._park_beside(job, self._plans.parked[digest])
        elif job.searched and self.study.rungs is not None and (stop := self._field.saturated(job.nfe)):
            self._end(job, Fate(job.key, job.evidence, stop=stop))
        else:
            self._plans.own(job)
            if job.final is not None:
                self._sample(job, job.goal)
            elif self.study.teacher_images and job.teacher is None:
                self.pool.submit(Task(job.key, (job.number, 0), job.spec, job.plan, what="compare"))
            else:
                self._climb(job)

    def _refusal(self, job: Job) -> Stop | None:
        """Why a plan is not sampled at all, whatever its quality."""
        nfe, most = job.nfe, self.study.budgets[-1]
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
        if job.searched and job.rung is not None and following > self.study.waiting_images:
            self._park(job)
            return
        self._note(job)
        # Baselines climb the same rungs and are never stopped: which of them leads must not hang on a search.
        self._sample(job, following)

    def _park(self, job: Job, same_as: str = "") -> None:
        """Let the trial wait before its last rung, and let those go on that wait for its plan."""
        self._closing.park(job, same_as, self._plans.park(job))
        self._count(job)
        del self.jobs[job.key]
        for other in self._plans.release(job):
            self._place(other)

    def _park_beside(self, job: Job, first: Fate) -> None:
        """Let the trial wait with what is known of its plan."""
        job.teacher, job.scores = first.evidence.teacher, list(first.evidence.scores)
        self._park(job, first.key)

    def _note(self, job: Job) -> None:
        """Put what is known of a searched trial into the storage, before more is found out."""
        if job.trial is not None:
            self._ledger.note(job.trial, job.evidence)

    def _enter(self, job: Job) -> None:
        if job.role == "floor":
            if job.evidence.score(job.spec.images) is not None:  # on few images anything may equal it
                self._field.set_floor(job.evidence)
        elif job.role != "confirmed":
            self._field.add(job.key, job.evidence)

    def _sample(self, job: Job, rung: int) -> None:
        """See that the images up to `rung` are there: those that are kept, the others from the pool."""
        start, job.rung = job.rung or 0, rung
        missing = []
        for seeds in self._batches(job, start, rung):
            shards = self._shards.take(job.plan.digest, seeds, job.spec.shard_images, job.panel)
            if shards is None:
                missing.append(seeds)
                continue
            job.shards += shards
            if seeds.stop - job.spec.first_seed > job.paid:  # sampled after the last note before the driver was killed
                job.spent_rows += sum(shard.rows for shard in shards)
        for seeds in missing:
            order = (job.number, 1 + seeds.start - job.spec.first_seed)
            self.pool.submit(Task(job.key, order, job.spec, job.plan, seeds, "evaluate", panel=job.panel))
        self._reach(job)

    def _batches(self, job: Job, start: int, stop: int) -> list[range]:
        """The batches of images start ... stop - 1, the same whether a trial rests on the rungs between or not.

        What another batch samples of the same seeds may differ in its last bits.
        """
        rungs = [stop] if job.role == "confirmed" else [rung for rung in self.study.rung_images if rung <= stop]
        ends = [start, *(rung for rung in rungs if rung > start)]
        return [seeds for low, high in itertools.pairwise(ends) for seeds in job.spec.batches(low, high)]

    def _reach(self, job: Job) -> None:
        """Once all images of a rung are there: see to their score."""
        if len(job.shards) * job.spec.shard_images != job.rung:
            return
        last = job.rung == job.spec.images
        if last or job.evidence.score(job.rung) is None:
            job.parts, job.distances = self.scoring.parts(job.shards, last=last), {}
        if last and job.panel is not None:
            job.portions, job.beside = portions(job.panel, job.shards), {}
        if job.measured:
            self._score(job)
        for i, part in enumerate(job.parts):
            self.pool.submit(Task(job.key, (job.number, i), job.spec, what="measure", part=part))
        for i, portion in enumerate(job.portions):
            self.pool.submit(Task(job.key, (job.number, i), job.spec, what="measure", portion=portion))

    def _score(self, job: Job) -> None:
        """Score the images of a rung, and go on if it is not the last."""
        assert job.prepared is not None
        measured = [(part, job.distances[i]) for i, part in enumerate(job.parts)]
        job.parts, job.distances = [], {}
        if job.rung != job.spec.images:
            known = job.evidence.score(job.rung or 0)  # from before the driver was killed
            if known is None:
                job.scores.append(self.scoring.score(job.plan, job.shards, measured))
            if job.final is None:
                self._climb(job)
            else:
                self._rest(job)
            return
        result = self.scoring.finish(job.spec, job.prepared, job.shards, measured)
        if job.portions:
            result = replace(result, metrics={n: s for i in sorted(job.beside) for n, s in job.beside[i].items()})
        job.scores.append(result.score)
        self._enter(job)
        self._end(job, Fate(job.key, job.evidence, result))

    def _rest(self, job: Job) -> None:
        """Its goal is reached, and the next rung is for the next round."""
        self._enter(job)
        if job.final is not None:
            self._ledger.reach(job.final, job.evidence)
        del self.jobs[job.key]
        job.paid, job.shards, job.rung = job.rung or 0, [], None
        self._rested.append(job)
        for other in self._plans.release(job):
            self._place(other)

    def _end(self, job: Job, fate: Fate) -> None:
        """A trial's own end; those that wait for its plan share it."""
        owned = self._plans.owns(job.key, fate.evidence.digest)
        if owned and job.role != "confirmed":
            self._plans.fates[fate.evidence.digest] = fate
        self._close(job, fate, "")
        if owned or job.role == "confirmed":
            self._shards.drop(fate.evidence.digest)
        for other in self._plans.release(job):
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
        record = self._closing.close(job, fate, same_as)
        if job.searched:
            self._count(job)
        del self.jobs[job.key]
        self._tell(record)

    def _fail(self, job: Job, reason: str) -> None:
        self.pool.cancel(job.key)
        record = self._closing.fail(job, reason)
        if job.prepared is not None:
            self._shards.drop(job.plan.digest)
        del self.jobs[job.key]
        self._tell(record)
        for other in self._plans.release(job):
            self._fail(other, reason)

    def _count(self, job: Job) -> None:
        self._ended, self._ended_rows = self._ended + 1, self._ended_rows + job.spent_rows
