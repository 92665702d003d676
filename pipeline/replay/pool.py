"""A pool whose workers look up what they would have sampled, in virtual time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

import torch

from pipeline.comparison import Estimate
from pipeline.metrics.distances import Part
from pipeline.metrics.moments import Moments
from pipeline.plan import Plan
from pipeline.registry import SpecError
from pipeline.replay.table import Table
from pipeline.result import TrialResult
from pipeline.scoring import Measurement, Scoring
from pipeline.teacher import Teacher
from pipeline.trial import Prepared, ShardResult, TrialSpec
from pipeline.worker import Compared, Evaluated, Failure, Outcome, Task, Taught

NOTHING = Moments.zero(0)  # a replay has no features


class VirtualPool:
    """`size` workers that take as long as the table says, by a clock of their own.

    With `memory` what one trial learned is free for the next, as it is for a real pool.
    """

    def __init__(self, table: Table, size: int, *, memory: bool = True) -> None:
        self.table, self.size, self.clock = table, size, 0.0
        self._memory = memory
        self._learned: set[str] = set()
        self._arrival = itertools.count()
        self._queue: list[tuple[tuple[int, int], int, Task]] = []
        self._running: list[tuple[float, int, Task, Outcome]] = []

    def submit(self, task: Task) -> None:
        """Queue a task."""
        heapq.heappush(self._queue, (task.order, next(self._arrival), task))

    def share(self, teacher: Teacher) -> None:
        """Nothing to give: the table has the distances."""

    def next(self, timeout: float) -> tuple[Task, Outcome] | None:
        """Let the clock run until a task is done."""
        del timeout
        while self._queue and len(self._running) < self.size:
            task = heapq.heappop(self._queue)[2]
            outcome, seconds = self._do(task)
            heapq.heappush(self._running, (self.clock + seconds, next(self._arrival), task, outcome))
        if not self._running:
            return None
        self.clock, _, task, outcome = heapq.heappop(self._running)
        return task, outcome

    def cancel(self, key: str) -> None:
        """Drop the queued tasks of `key`."""
        self._queue = [entry for entry in self._queue if entry[2].key != key]
        heapq.heapify(self._queue)

    def close(self) -> None:
        """Nothing to give back."""

    def _do(self, task: Task) -> tuple[Outcome, float]:
        """The outcome of a task, and the seconds that it takes."""
        try:
            entry = self.table.find(task.spec)
        except SpecError as error:
            return Failure(str(error)), 0.0
        plan = entry.plan
        if task.what == "prepare":
            new = [lesson for lesson in entry.lessons if not (self._memory and lesson.key in self._learned)]
            self._learned |= {lesson.key for lesson in entry.lessons}
            rows = sum(lesson.rows for lesson in entry.lessons)
            each = sum(lesson.rows / lesson.images for lesson in entry.lessons)
            spent, seconds = sum(lesson.rows for lesson in new), sum(lesson.seconds for lesson in new)
            prepared = Prepared(
                self.table.stand_in(entry), dict(task.spec.solver), rows, each, seconds, spent_rows=spent
            )
            return prepared, seconds
        if task.what == "compare":
            count = len(plan.teacher.features)
            return Compared(plan.teacher, count * plan.nfe), count * plan.seconds
        assert task.seeds is not None
        seconds = len(task.seeds) * plan.seconds
        if task.what == "teach":
            return Taught(Teacher(task.seeds, torch.zeros(0), torch.zeros(0)), len(task.seeds) * plan.nfe), seconds
        size = task.spec.shard_images
        shards = [
            ShardResult(task.seeds[at : at + size], NOTHING, size * plan.nfe, size * plan.seconds)
            for at in range(0, len(task.seeds), size)
        ]
        return Evaluated(tuple(shards)), seconds


class TableScoring(Scoring):
    """Scores that were measured before. Seeds other than the search's are those of the confirmation."""

    def __init__(self, table: Table, first_seed: int) -> None:
        self.table, self.first_seed = table, first_seed

    def parts(self, shards: Sequence[ShardResult], *, last: bool) -> list[Part]:
        """Nothing: the table has the scores."""
        del shards, last
        return []

    def score(self, plan: Plan, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()) -> Estimate:
        """The FID on the rung of that many images.

        Raises:
            SpecError: the table has no such rung.
        """
        del measured
        held, images = self.table.measured(plan), sum(len(shard.seeds) for shard in shards)
        if min(shard.seeds.start for shard in shards) != self.first_seed and held.confirmed is not None:
            return held.confirmed
        found = [score for score in held.scores if score.images == images]
        if not found:
            allowed = [score.images for score in held.scores]
            raise SpecError("the table has no such rung", path="rungs.images", given=images, allowed=str(allowed))
        return found[0]

    def finish(
        self, spec: TrialSpec, prepared: Prepared, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()
    ) -> TrialResult:
        """The score on all images."""
        del measured
        about = self.table.about
        return TrialResult(
            spec=spec,
            plan=prepared.plan,
            solver=prepared.solver,
            score=self.score(prepared.plan, shards),
            fid_infinity=None,
            nfe=float(prepared.nfe),
            setup_nfe=prepared.setup_nfe,
            setup_rows=prepared.setup_rows,
            rows=sum(shard.rows for shard in shards),
            seconds=sum(shard.seconds for shard in shards),
            benchmark_version=int(about["benchmark_version"]),
            reference_hash=str(about["reference"]),
            model_hash=str(about["model"]),
            git_revision=str(about["revision"]),
            versions={},
        )
