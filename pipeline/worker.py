"""What a worker does: the tasks that a driver hands out, and their outcomes.

A task is a pure function of its content, so one that a machine lost is simply run again; a failure that is the plan's
own comes back as a `Failure` and is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from pipeline.benchmarks import Benchmark, load
from pipeline.evidence import TeacherDistance
from pipeline.metrics.distances import Part
from pipeline.metrics.scores import Score
from pipeline.panel import Bench, Panel, Portion
from pipeline.plan import Plan
from pipeline.portrait import Portrait, Sitting
from pipeline.registry import SpecError
from pipeline.teacher import Teacher, compare, teach
from pipeline.trial import NotFiniteError, Prepared, ShardResult, TrialSpec, evaluate, memory_of, prepare


@dataclass(frozen=True)
class Task:
    """Something to do for a trial. Lower `order` goes first: the oldest trial, its first images.

    prepare: place and trace `spec`. teach: solve `seeds` finely by `plan`. compare: the plan's distance to the teacher
    that the pool shares. evaluate: the moments of `seeds`, one for each of the spec's shards, and what `panel` keeps of
    them. measure: the distance of `part`, or the metric of `portion`, which is the `order[1]`th of its trial.
    """

    key: str
    order: tuple[int, int]
    spec: TrialSpec
    plan: Plan | None = None
    seeds: range | None = None
    what: Literal["prepare", "teach", "compare", "evaluate", "measure"] = "prepare"
    part: Part | None = None
    panel: Panel | None = None
    portion: Portion | None = None


@dataclass(frozen=True)
class Taught:
    """A part of the teacher, and the network rows it took."""

    teacher: Teacher
    rows: int


@dataclass(frozen=True)
class Compared:
    """A plan's distance to the teacher, the network rows it took, and what was seen meanwhile."""

    distance: TeacherDistance
    rows: int
    portrait: Portrait | None = None


@dataclass(frozen=True)
class Evaluated:
    """Shards of a trial; with its first images, where nothing showed them before, the plan's portrait."""

    shards: tuple[ShardResult, ...]
    portrait: Portrait | None = None


@dataclass(frozen=True)
class Measured:
    """The distance of a part of a trial's images, and which part it is."""

    index: int
    distance: float


@dataclass(frozen=True)
class MeasuredBeside:
    """The scores of a metric beside FID, and which one of the trial's it is."""

    index: int
    scores: dict[str, Score]


@dataclass(frozen=True)
class Failure:
    """Why a task gave no result. `machine` says whether it was lost with its worker rather than wrong in itself."""

    reason: str
    machine: bool = False


Outcome = Prepared | Taught | Compared | Evaluated | Measured | MeasuredBeside | Failure


class Worker:
    """Holds one benchmark, what was learned on it, and the study's teacher; does tasks on them."""

    def __init__(
        self, benchmark: str | Benchmark, threads: int, memory: Path | None = None, device: str = "cpu"
    ) -> None:
        torch.set_num_threads(threads)
        held = load(benchmark) if isinstance(benchmark, str) else benchmark
        self.benchmark: Benchmark = replace(held, device=device)
        self.memory = memory_of(self.benchmark, memory)
        self.teacher: Teacher | None = None
        self._bench = Bench(self.benchmark)

    def ping(self) -> bool:
        """Answer, which says that the model is loaded."""
        return True

    def hold(self, teacher: Teacher) -> bool:
        """Keep the study's teacher; answers as a ping does."""
        self.teacher = teacher
        return True

    def do(self, task: Task) -> Outcome:
        """Do a task; a trial's own failure is an answer, not an exception."""
        try:
            return self._done(task)
        except (SpecError, NotFiniteError) as error:
            return Failure(str(error))
        except (MemoryError, torch.OutOfMemoryError, OSError) as error:  # another time or elsewhere it may do
            return Failure(f"{type(error).__name__}: {error}".splitlines()[0], machine=True)
        except Exception as error:  # the study goes on; the record shows what happened to this trial
            return Failure(f"{type(error).__name__}: {error}".splitlines()[0])

    def _done(self, task: Task) -> Outcome:
        if task.what == "prepare":
            return prepare(task.spec, self.benchmark, self.memory)
        if task.portion is not None:
            return MeasuredBeside(task.order[1], self._bench.score(task.portion))
        if task.what == "measure":
            assert task.part is not None
            return Measured(task.order[1], task.part.distance(self.benchmark.reference, self.benchmark.device))
        assert task.plan is not None
        if task.what == "compare":
            assert self.teacher is not None
            watching = Sitting()
            return Compared(*compare(task.plan, self.benchmark, self.teacher, watching), watching.portrait)
        assert task.seeds is not None
        if task.what == "teach":
            return Taught(*teach(task.plan, self.benchmark, task.seeds))
        # A teacher's rung has shown the first images before.
        first = task.seeds.start == task.spec.first_seed and self.teacher is None
        sitting = Sitting() if first else None
        begun = task.spec.first_seed
        shards = evaluate(task.plan, self.benchmark, task.seeds, task.spec.shard_images, sitting, task.panel, begun)
        return Evaluated(tuple(shards), sitting.portrait if sitting else None)
