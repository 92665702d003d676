"""A front found on one benchmark, measured on another: `sigmasearch transfer`.

What goes over is either the frozen plan, sigmas and coefficients as they are, or the spec, whose sigmas are placed and
whose decisions are taken again on the other benchmark. All are measured on the same seeds there, and so in pairs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

import search_spaces
from pipeline import rerun
from pipeline.acceleration import AS_IS
from pipeline.benchmarks import Benchmark
from pipeline.cluster import Pool, check_address, open_pool
from pipeline.ray_job import lasting
from pipeline.registry import SpecError
from pipeline.result import TrialRecord, TrialResult
from pipeline.run_folder import STORAGE_FILE, STUDY_FILE
from pipeline.schedules import SCHEDULES
from pipeline.scoring import MomentScoring
from pipeline.shared_study import Driver
from pipeline.trial import Prepared, ShardResult, TrialSpec
from pipeline.worker import Evaluated, Failure, Outcome, Task
from search_spaces import Study

Carried = Literal["plan", "spec"]
LOOP = ("solver", "schedule", "afs", "denoise_to_zero", "churn")
WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class Moved:
    """A trial of the study and what it scores on the other benchmark, or the reason why it scores nothing there.

    `home` is its result on the study's own benchmark: the confirmation, on seeds that chose nothing, if there is one.
    """

    record: TrialRecord
    home: TrialResult
    away: TrialResult | Failure


@dataclass(frozen=True)
class Pairing:
    """A plan of the front, and the baseline that is best at home within as many evaluations as the plan makes away."""

    plan: Moved
    baseline: Moved | None


@dataclass(frozen=True)
class Transfer:
    """All that was measured, the front by rising NFE. `asked` has the images and the seeds."""

    study: Study
    carried: Carried
    home: Benchmark
    away: Benchmark
    asked: TrialSpec
    pairings: Sequence[Pairing]


def transfer(
    file: str,
    to: str,
    *,
    carried: str | None,
    images: int | None,
    workers: int | None,
    run_dir: Path | None,
    console: Console,
    begin: Callable[[Path, Benchmark], object] = lambda folder, away: None,
) -> Transfer:
    """Measure a study's front, and the baselines beside it, on the benchmark `to`. The study itself is only read.

    `begin` is called with the run directory and the benchmark when all is checked and nothing measured.

    Raises:
        SpecError: a mistake in an option, no such study, a study without a front, a benchmark that these plans are not
            for.
    """
    study = search_spaces.load(file)
    folder = lasting(run_dir or Path("runs") / study.study)
    home, away = rerun.load_benchmark(study.benchmark, "benchmark"), rerun.load_benchmark(to, "--to")
    way = _way(carried, home, away)
    records = read_records(study, folder, console)
    front = _front(records)
    if not front:
        raise SpecError("has no front yet: no searched trial has a result", path="STUDY", given=study.study)
    asked = _asked(study, to, images)
    count = study.workers if workers is None else workers
    if count:
        check_address()
    given = study.resources
    # The network there is run as the one here was; a closed form is not run at all.
    away = replace(away, device=given.place, acceleration=study.network if away.has_network else AS_IS)
    try:
        away.acceleration.check(away.model, away.device)
    except SpecError as error:
        raise error.under("network", file) from None
    begin(folder, away)
    pool = open_pool(
        to, count, study.threads, cpus=given.cpus, gpus=given.gpus, device=away.device, acceleration=away.acceleration
    )  # fmt: skip
    with closing(pool), console.status(f"{study.study}: measuring on {away.name}"):
        bench = _Bench(pool, MomentScoring(away), way, _Ends(home, away), asked)
        ready = bench.prepare(front)
        rivals = {record.key: _rival(records, ready[record.key]) for record in front}
        beside = list({record.key: record for record in rivals.values() if record is not None}.values())
        ready |= bench.prepare(beside)
        scored = bench.score(ready)
    moved = {r.key: Moved(r, _confirmed(r, records), scored[r.key]) for r in (*front, *beside)}
    pairs = []
    for record in front:
        rival = rivals[record.key]
        pairs.append(Pairing(moved[record.key], None if rival is None else moved[rival.key]))
    return Transfer(study, way, home, away, asked, pairs)


def read_records(study: Study, folder: Path, console: Console) -> list[TrialRecord]:
    """Every trial that is over, from the storage in the run directory.

    Raises:
        SpecError: there is no study, or another one.
    """
    where = {"path": "--run-dir", "given": str(folder)}
    if not (folder / STORAGE_FILE).exists() or not (folder / STUDY_FILE).exists():
        raise SpecError("holds no study", **where, allowed="a run directory of `search`, with its storage in it")
    try:
        held = dict(json.loads((folder / STUDY_FILE).read_text()))
        named = held["identity"]["study"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SpecError("is unreadable", file=str(folder / STUDY_FILE)) from None
    if named != study.study:
        raise SpecError(f"holds another study, {named}", **where)
    driver = Driver(study, None, console)
    with closing(driver):
        return driver.open_ledger(folder).records()


def _front(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The searched trials that no other one beats or equals in both NFE and corrected FID, by rising NFE."""
    kept: list[TrialRecord] = []
    lowest = float("inf")
    for record, result in sorted(_scored(records, "published", "searched"), key=lambda each: _nfe_first(each[1])):
        if result.score.ranked < lowest:
            kept.append(record)
            lowest = result.score.ranked
    return kept


def _rival(records: Iterable[TrialRecord], ready: Prepared | Failure) -> TrialRecord | None:
    """The baseline of lowest corrected FID at home, of those that make no more evaluations than this plan."""
    if isinstance(ready, Failure):
        return None
    within = [each for each in _scored(records, "baseline") if each[1].nfe <= ready.nfe]
    best = min(within, key=lambda each: (each[1].score.ranked, each[1].nfe), default=None)
    return None if best is None else best[0]


def _scored(records: Iterable[TrialRecord], *roles: str) -> Iterator[tuple[TrialRecord, TrialResult]]:
    for record in records:
        if record.role in roles and record.feasible and record.result is not None:
            yield record, record.result


def _nfe_first(result: TrialResult) -> tuple[float, float]:
    return result.nfe, result.score.ranked


def _confirmed(record: TrialRecord, records: Iterable[TrialRecord]) -> TrialResult:
    assert record.result is not None
    digest = record.result.plan.digest
    again = (r.result for r in records if r.role == "confirmed" and r.result is not None)
    return next((result for result in again if result.plan.digest == digest), record.result)


def _way(carried: str | None, home: Benchmark, away: Benchmark) -> Carried:
    """How the front goes over.

    Raises:
        SpecError: no such way, the same benchmark, or a frozen plan between benchmarks of other sigmas.
    """
    if carried not in (None, *get_args(Carried)):
        raise SpecError("is no way to go over", path="--as", given=carried, allowed=get_args(Carried))
    if (home.model_hash, home.reference_hash) == (away.model_hash, away.reference_hash):
        raise SpecError("is the benchmark that the study searched on", path="--to", given=away.name)
    ranges = [(each.sigma_min, each.sigma_max) for each in (home, away)]
    if carried == "spec":
        return "spec"
    if ranges[0] != ranges[1]:
        told = " and ".join(f"{low:g} to {high:g}" for low, high in ranges)
        raise SpecError(
            f"a plan's sigmas are its benchmark's, and {home.name} and {away.name} have {told}",
            path="--as", given=carried, allowed="spec, which places the sigmas and takes the decisions again",
        )  # fmt: skip
    return "plan"


def _asked(study: Study, to: str, images: int | None) -> TrialSpec:
    """The images, seeds and shards on the other benchmark: the study's own where nothing else is asked for."""
    count, shard = study.images if images is None else images, study.shard_images
    if count % shard or count < 2 * shard:
        raise SpecError("does not fit", path="--images", given=count, allowed=f"{2 * shard}, or more {shard}s")
    return replace(study.floor_spec(), benchmark=to, images=count)


@dataclass(frozen=True)
class _Ends:
    """The two benchmarks, between whose smallest and largest sigmas schedules run."""

    home: Benchmark
    away: Benchmark

    def moved(self, schedule: Mapping[str, object]) -> dict[str, object]:
        """The schedule's spec, its ends those of the other benchmark where they are those of the study's."""
        built, ends = SCHEDULES.build(schedule), {}
        for key in ("sigma_min", "sigma_max"):
            if getattr(built, key, None) == getattr(self.home, key):
                ends[key] = getattr(self.away, key)
        return {**schedule, **ends}


class _Bench:
    """Prepares and scores trials of the study on the other benchmark, by a pool; equal plans once."""

    def __init__(self, pool: Pool, scoring: MomentScoring, way: Carried, ends: _Ends, asked: TrialSpec) -> None:
        self._pool, self._scoring, self._way, self._ends, self._asked = pool, scoring, way, ends, asked
        self._specs: dict[str, TrialSpec] = {}

    def prepare(self, records: Sequence[TrialRecord]) -> dict[str, Prepared | Failure]:
        """What each record is there, or why it cannot be, by its key."""
        ready: dict[str, Prepared | Failure] = {}
        tasks = []
        for number, record in enumerate(records):
            result = record.result
            assert result is not None
            spec = replace(self._asked, **{name: getattr(result.spec, name) for name in LOOP})
            if self._way == "plan":
                ready[record.key] = Prepared(
                    result.plan, result.solver, result.setup_rows, result.setup_nfe, 0.0, result.walk,
                    rows_per_image=self._ends.away.rows_per_image,
                )  # fmt: skip
            else:
                spec = replace(spec, schedule=self._ends.moved(spec.schedule))
                tasks.append(Task(record.key, (number, 0), spec))
            self._specs[record.key] = spec
        for task, outcome in self._answers(tasks):
            assert isinstance(outcome, Prepared | Failure)
            ready[task.key] = outcome
        return ready

    def score(self, ready: Mapping[str, Prepared | Failure]) -> dict[str, TrialResult | Failure]:
        """The results, or why there is none, by key."""
        firsts: dict[str, str] = {}
        tasks = []
        for key, each in ready.items():
            if isinstance(each, Failure) or firsts.setdefault(each.plan.digest, key) != key:
                continue
            spec, number = self._specs[key], len(firsts)
            for at, seeds in enumerate(spec.batches()):
                tasks.append(Task(key, (number, at), spec, each.plan, seeds, "evaluate"))
        shards: dict[str, list[ShardResult]] = {}
        failures: dict[str, Failure] = {}
        for task, outcome in self._answers(tasks):
            if isinstance(outcome, Failure):
                failures.setdefault(task.key, outcome)
                continue
            assert isinstance(outcome, Evaluated)
            shards.setdefault(task.key, []).extend(outcome.shards)
        scored: dict[str, TrialResult | Failure] = {}
        for key, each in ready.items():
            if isinstance(each, Failure):
                scored[key] = each
                continue
            first = firsts[each.plan.digest]
            failure = failures.get(first)
            scored[key] = failure or self._scoring.finish(self._specs[key], each, shards[first])
        return scored

    def _answers(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Outcome]]:
        for task in tasks:
            self._pool.submit(task)
        left = len(tasks)
        while left:
            answer = self._pool.next(WAIT_SECONDS)
            if answer is not None:
                left -= 1
                yield answer
