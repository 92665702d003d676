"""Measure every point of a study's space: the table that its searches can be replayed on."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline import agenda
from pipeline.benchmarks import Benchmark
from pipeline.evidence import Evidence
from pipeline.ledger import Suggest
from pipeline.memory import Memory
from pipeline.provenance import git_revision
from pipeline.registry import SpecError
from pipeline.replay.table import Entry, Lesson, Measured, Table, key_of
from pipeline.scoring import MomentScoring
from pipeline.teacher import Teacher, compare, teach
from pipeline.trial import Prepared, TrialSpec, evaluate, memory_of, prepare
from search_spaces import Study

MOST_POINTS = 100_000
# A plan is worth confirming if its FID is within this many times that of the best that costs no more.
NEAR_THE_FRONT = 2.0


def points(draw: Callable[[Suggest], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every point of a space whose parameters all take finitely many values, in order.

    Raises:
        SpecError: a parameter is a range without a step, or there are more than 100,000 points.
    """
    walk = _Walk([])
    for _ in range(MOST_POINTS):
        yield draw(walk.suggest)
        following = walk.after()
        if following is None:
            return
        walk = following
    raise SpecError("has too many points to be measured", path="space", allowed=f"at most {MOST_POINTS}")


class _Walk:
    """One way through a space: takes the values at `ahead`, and the first one of each parameter beyond."""

    def __init__(self, ahead: list[int]) -> None:
        self._ahead = ahead
        self._taken: list[tuple[int, int]] = []

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        held, depth = _values(name, distribution), len(self._taken)
        at = self._ahead[depth] if depth < len(self._ahead) else 0
        self._taken.append((at, len(held)))
        return held[at]

    def after(self) -> _Walk | None:
        """The next way: the last parameter that has another value takes it."""
        taken = list(self._taken)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        return _Walk([*(at for at, _ in taken[:-1]), taken[-1][0] + 1]) if taken else None


def _values(name: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        count = round((distribution.high - distribution.low) / distribution.step)
        return [distribution.low + i * distribution.step for i in range(count + 1)]
    raise SpecError("has no finite number of values", path=f"space.{name}", allowed="choices, values, or a step")


class Builder:
    """Measures specs on one benchmark, each distinct plan once; `folder` keeps what is measured for another run."""

    def __init__(self, study: Study, benchmark: Benchmark, folder: Path | None = None) -> None:
        self.study, self.benchmark = study, benchmark
        self._scoring = MomentScoring(benchmark)
        # What calibration learns is not kept in the folder: it is cheap, and its cost is seen where it is learned.
        self._memory, self._kept = _Recorder(memory_of(benchmark)), memory_of(benchmark, folder)
        floor = prepare(study.floor_spec(), benchmark, self._memory)
        images = range(study.first_seed, study.first_seed + (study.teacher_images or 2))
        self._teacher: Teacher = teach(floor.plan, benchmark, images)[0]
        self._plans: dict[str, tuple[Prepared, Measured]] = {}
        self.entries: dict[str, Entry] = {}

    def specs(self) -> Iterator[TrialSpec]:
        """The floor, the baselines, and every point of the space; those that cannot be built are left out."""
        ends = self.benchmark.sigma_min, self.benchmark.sigma_max
        for job in agenda.measured(self.study, ends, set(), itertools.count()):
            yield job.spec
        for params in points(self.study.draw):
            yield self.study.spec(self.study.parsed_space.assemble(params))

    def add(self, spec: TrialSpec) -> None:
        """Measure one spec.

        Raises:
            SpecError, NotFiniteError: it cannot be prepared or sampled.
        """
        if key_of(spec) in self.entries:
            return
        self._memory.lessons = []
        prepared = prepare(spec, self.benchmark, self._memory)
        lessons = tuple(self._memory.lessons)
        digest = prepared.plan.digest
        if digest not in self._plans:
            self._plans[digest] = prepared, self._measured(spec, prepared)
        self.entries[key_of(spec)] = Entry(spec, self._plans[digest][1], lessons)

    def confirm(self, waiting: Callable[[int, int], None]) -> None:
        """Score what is near the front again on the confirmation's seeds; `waiting` is told how many of how many."""
        plans = [measured for _, measured in self._plans.values()]
        near = [plan for plan in plans if plan.scores[-1].fid <= NEAR_THE_FRONT * _best(plans, plan.nfe)]
        for i, plan in enumerate(near):
            waiting(i, len(near))
            prepared, held = self._plans[plan.digest]
            spec = self.study.confirm_spec(self.study.floor.model_dump())
            if spec is None:
                return
            _, found = self._scored(spec, prepared, [spec.images])
            self._plans[plan.digest] = prepared, replace(held, confirmed=found.scores[0])
        for key, entry in self.entries.items():
            self.entries[key] = Entry(entry.spec, self._plans[entry.plan.digest][1], entry.lessons)

    def table(self) -> Table:
        """The table of all that was added."""
        benchmark = self.benchmark
        about = {
            "benchmark": benchmark.name,
            "benchmark_version": benchmark.version,
            "model": benchmark.model_hash,
            "reference": benchmark.reference_hash,
            "sigma_range": [benchmark.sigma_min, benchmark.sigma_max],
            "revision": git_revision(),
        }
        study = self.study.model_dump(mode="json")
        study |= {name: study[name] or "none" for name in ("rungs", "confirm")}
        return Table(study, about, self.entries.values())

    def _measured(self, spec: TrialSpec, prepared: Prepared) -> Measured:
        seconds, found = self._scored(spec, prepared, self.study.rung_images, self._teacher)
        assert found.teacher is not None
        return Measured(found.digest, found.nfe, seconds, found.teacher, found.scores, None)

    def _scored(
        self, spec: TrialSpec, prepared: Prepared, rungs: list[int], teacher: Teacher | None = None
    ) -> tuple[float, Evidence]:
        """Seconds an image, and the scores at these numbers of images; what an earlier run has found is recalled."""
        plan, benchmark = prepared.plan, self.benchmark
        asked: dict[str, Any] = {"plan": plan.digest, "rungs": rungs, "shard_images": spec.shard_images}
        asked |= {"first_seed": spec.first_seed, "reference": benchmark.reference_hash}
        asked |= {"floor": self.study.floor.model_dump(), "teacher": len(teacher.seeds)} if teacher else {}

        def sample() -> tuple[dict[str, Any], int]:
            distance = compare(plan, benchmark, teacher)[0] if teacher else None
            parts = (evaluate(plan, benchmark, seeds, spec.shard_images) for seeds in spec.batches())
            shards = [shard for part in parts for shard in part]
            scores = tuple(self._scoring.score(plan, shards[: images // spec.shard_images]) for images in rungs)
            seconds = sum(shard.seconds for shard in shards) / spec.images
            found = Evidence(plan.digest, prepared.nfe, teacher=distance, scores=scores)
            return {"seconds": seconds, "evidence": found.to_json()}, sum(shard.rows for shard in shards)

        held = self._kept.recall("replay", asked, sample)
        return held["seconds"], Evidence.from_json(held["evidence"])


class _Recorder(Memory):
    """A memory that says what was asked of it."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory.folder, memory.context)
        self.lessons: list[Lesson] = []
        self._costs: dict[str, tuple[int, float]] = {}

    def recall(self, kind: str, inputs: Mapping[str, Any], learn: Callable[[], tuple[Any, int]]) -> Any:
        key = json.dumps([kind, dict(inputs)], sort_keys=True)
        spent: list[int] = []

        def learned() -> tuple[Any, int]:
            value, rows = learn()
            spent.append(rows)
            return value, rows

        started = time.perf_counter()
        value = super().recall(kind, inputs, learned)
        if spent:
            self._costs[key] = spent[0], time.perf_counter() - started
        rows, seconds = self._costs[key]
        images = inputs["calibration_images"] if "calibration_images" in inputs else inputs["warmup"]
        self.lessons.append(Lesson(hashlib.sha256(key.encode()).hexdigest()[:12], rows, int(images), round(seconds, 6)))
        return value


def _best(plans: list[Measured], nfe: int) -> float:
    return min(plan.scores[-1].fid for plan in plans if plan.nfe <= nfe)
