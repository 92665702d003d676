"""The last rungs, climbed when the search is over, each by whoever is left by then.

Most of the price of a trial is its last rungs, and a search that goes forward leaves most of its trials behind. So
those that come through the first rungs wait until all are told, and are judged again before every rung that is left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pipeline.climb import Climb
from pipeline.evidence import Evidence
from pipeline.job import Job
from pipeline.ledger import Ledger
from pipeline.result import TrialRecord
from pipeline.sharing import Sharing
from search_spaces import Study


class Finals:
    """Hands out the trials that waited, rung by rung. `numbers` put them in order among all that a pool works on."""

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        climb: Climb,
        numbers: Iterator[int],
        tell: Callable[[TrialRecord], None],
        sharing: Sharing,
    ) -> None:
        self.study, self._ledger, self._climb, self._numbers, self._tell = study, ledger, climb, numbers, tell
        self._sharing = sharing
        self._queue: deque[Job] = deque()
        # Those that other drivers are at, and those that they have brought to this round's goal.
        self._elsewhere: deque[Job] = deque()
        self._brought: list[Job] = []
        self._known: dict[str, tuple[TrialRecord, Evidence]] = {}

    def rounds(self) -> Iterator[int]:
        """One rung after the other, its trials queued; they are to be worked off before the next is asked for."""
        waited = [self._job(record, params) for record, params in self._ledger.waiting()]
        self._pair(waited)
        left: list[Job] = []
        twins: list[Job] = []
        for job in waited:
            (twins if self._known[job.key][0].same_as else left).append(job)
        firsts = {self._known[job.key][1].digest: job for job in left}
        for goal in self.study.rung_images:
            if goal <= self.study.waiting_images:
                continue
            if goal == self.study.images:  # equal plans share what the first of them has come to
                for twin in twins:
                    twin.scores = list(firsts.get(self._known[twin.key][1].digest, twin).scores)
                left += twins
            for job in left:
                job.goal = goal
            self._queue = deque(sorted(left, key=self._cheapest_worst))
            yield goal
            left, self._brought = self._climb.rested() + self._brought, []

    def next(self) -> Job | None:
        """The next trial that goes on; those that are not worth it by now end here."""
        while self._queue:
            job = self._queue.popleft()
            if self._settled(job):
                continue
            if not self._sharing.take(f"final/{self._known[job.key][1].digest}", job.key):
                self._elsewhere.append(job)
                continue
            if self._settled(job):  # by a driver that has left since
                continue
            record, evidence = self._known[job.key][0], self._evidence(job)
            stop = self._climb.overtaken(record.same_as or record.key, evidence)
            if stop is None:
                job.number = next(self._numbers)
                return job
            assert job.final is not None
            ended = self._ledger.finish(
                job.final, evidence, record.constraints, reason=stop.reason, same_as=record.same_as
            )
            self._climb.leave(ended)
            self._tell(ended)
        return None

    def busy(self) -> bool:
        """Whether other drivers have some of this round under way; what has become of theirs is taken up."""
        self._queue, self._elsewhere = deque(job for job in self._elsewhere if not self._settled(job)), deque()
        return bool(self._queue)

    @property
    def rows_left(self) -> int:
        """Network rows if all that are queued went through to their last image."""
        own = [job for job in self._queue if not self._known[job.key][0].same_as]
        return sum(self._known[job.key][1].nfe * (self.study.images - job.paid) for job in own)

    def _settled(self, job: Job) -> bool:
        """Whether another driver has ended a trial, or brought it to the goal."""
        assert job.final is not None
        if self._sharing.ended(job.key):
            return True
        evidence = self._sharing.reached(job.final)
        if evidence is None or evidence.scores[-1].images < job.goal:
            return False
        job.recall(evidence)
        self._climb.compare_with(job.key, evidence)
        self._brought.append(job)
        return True

    def _pair(self, waited: list[Job]) -> None:
        """Of equal plans that two drivers have met at the same time, the first stands for both."""
        firsts: dict[str, str] = {}
        for job in sorted(waited, key=lambda job: job.final or 0):
            record, evidence = self._known[job.key]
            first = firsts.setdefault(evidence.digest, job.key) if not record.same_as else job.key
            if first != job.key:
                self._known[job.key] = replace(record, same_as=first), evidence

    def _job(self, record: TrialRecord, params: dict[str, Any]) -> Job:
        assert record.evidence is not None
        self._known[record.key] = record, record.evidence
        spec = self.study.spec(self.study.parsed_space.assemble(params))
        job = Job(record.key, record.role, spec, 0, final=int(record.key.rpartition("/")[2]))
        job.recall(record.evidence)
        job.prepared = self._climb.prepared(record.key)
        return job

    def _evidence(self, job: Job) -> Evidence:
        return replace(self._known[job.key][1], scores=tuple(job.scores), spent_rows=job.spent_rows)

    def _cheapest_worst(self, job: Job) -> tuple[bool, int, float]:
        """The best of an NFE is judged last; of several drivers each begins with those that it has images of.

        In another order each could be ended for one that is hardly worse, which is ended in its turn, and so on.
        """
        other = self._sharing.several and job.prepared is None
        return other, self._known[job.key][1].nfe, -job.scores[-1].corrected
