"""A trial: three pure functions of its spec. prepare places and traces, evaluate samples a shard, finish scores.

What runs where is `pipeline.cluster`'s business, what is tried next `pipeline.search`'s. Images never leave `evaluate`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.benchmarks import Benchmark
from pipeline.churn import Churn
from pipeline.denoiser import Denoiser, Meter
from pipeline.metrics.distances import jackknife
from pipeline.metrics.moments import Moments
from pipeline.noise import CALIBRATION_SEEDS, noise
from pipeline.plan import Plan
from pipeline.provenance import git_revision, versions
from pipeline.registry import SpecError, build_dataclass, require, to_spec
from pipeline.sampler import Calibrated, Sampler, trace
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS

Role = Literal["floor", "baseline", "published", "searched"]
State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialSpec:
    """What is measured: a sampler on a benchmark, over images first_seed ... first_seed + images - 1, in shards."""

    benchmark: str
    solver: Mapping[str, Any]
    schedule: Mapping[str, Any]
    afs: bool = False
    denoise_to_zero: bool = False
    churn: Mapping[str, Any] | None = None
    images: int = 8000
    first_seed: int = 0
    shard_images: int = 400

    def __post_init__(self) -> None:
        require(self.images >= 4, "images", self.images, "4 or more")
        last = CALIBRATION_SEEDS - self.images
        require(
            0 <= self.first_seed <= last, "first_seed", self.first_seed, f"0 to {last}: calibration's seeds begin there"
        )
        half = self.images // 2  # two shards at least: with one there is nothing to leave out, and so no error
        require(1 <= self.shard_images <= half, "shard_images", self.shard_images, f"1 to {half}")
        if self.images % self.shard_images:
            # Leave-one-shard-out weighs every shard alike, so a ragged last one would bias its error.
            raise SpecError(
                "does not divide images",
                path="shard_images",
                given=self.shard_images,
                allowed=f"a divisor of {self.images}",
            )

    def sampler(self) -> Sampler:
        """The pair, built and checked; a `SpecError` names what is wrong with it."""
        try:
            solver = SOLVERS.build(self.solver)
        except SpecError as error:
            raise error.under("solver") from None
        try:
            schedule = SCHEDULES.build(self.schedule)
        except SpecError as error:
            raise error.under("schedule") from None
        try:
            churn = None if self.churn is None else build_dataclass(Churn, self.churn)
        except SpecError as error:
            raise error.under("churn") from None
        return Sampler(solver, schedule, self.afs, self.denoise_to_zero, churn)

    def shards(self) -> list[range]:
        """The seeds of each shard, in order."""
        end = self.first_seed + self.images
        return [range(at, at + self.shard_images) for at in range(self.first_seed, end, self.shard_images)]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TrialSpec:
        """Read a spec back; keys of another version and wrong types are an error."""
        return build_dataclass(TrialSpec, value)


@dataclass(frozen=True)
class Prepared:
    """A spec made ready: its plan, and what placing the sigmas and taking the solver's decision cost.

    `setup_rows` counts network rows; `setup_nfe` is rows per calibration image, schedule and solver each by its own
    number of images, the figure to set beside NFE; 0 where nothing was calibrated. `walk` is what the schedule recorded
    of each step it took, one mapping a step (SDM's realised bound); else empty.
    """

    plan: Plan
    solver: Mapping[str, Any]
    setup_rows: int
    setup_nfe: float
    seconds: float
    walk: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class ShardResult:
    """One shard's features as moments, and what it cost. `rows` as counted at the network."""

    seeds: range
    moments: Moments
    rows: int
    seconds: float


@dataclass(frozen=True)
class TrialResult:
    """A scored trial: everything that a report prints about it, and the plan itself.

    `fid` is at `images` images, biased up by about B / images; `fid_se` its leave-one-shard-out standard error and
    `fid_corrected` the value with that bias taken off. `seconds` is worker time, summed over shards.
    """

    spec: TrialSpec
    plan: Plan
    solver: Mapping[str, Any]
    fid: float
    fid_se: float
    fid_corrected: float
    nfe: float
    setup_nfe: float
    setup_rows: int
    rows: int
    seconds: float
    benchmark_version: int
    reference_hash: str
    model_hash: str
    walk: tuple[Mapping[str, Any], ...] = ()
    git_revision: str = field(default_factory=git_revision)
    versions: Mapping[str, str] = field(default_factory=versions)

    @property
    def images_per_second(self) -> float:
        """Images a second of one worker."""
        return self.spec.images / self.seconds if self.seconds else math.nan

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives an equal result."""
        value = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return value | {
            "spec": self.spec.to_json(),
            "plan": self.plan.to_json(),
            "solver": dict(self.solver),
            "walk": [dict(step) for step in self.walk],
            "versions": dict(self.versions),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TrialResult:
        """Read a result back."""
        # Results of earlier versions have no walk.
        held = {name: {"walk": (), **value}[name] for name in TrialResult.__dataclass_fields__}
        held["walk"] = tuple(held["walk"])
        return TrialResult(**held | {"spec": TrialSpec.from_json(value["spec"]), "plan": Plan.from_json(value["plan"])})


@dataclass(frozen=True)
class TrialRecord:
    """One line of a study: what the truth (Optuna's storage) holds of a trial, and all that MLflow is told.

    `key` names it within its study for ever, e.g. "searched/17" or "baseline/ipndm/8". `budget` is the NFE that a
    baseline was run for. A pruned or failed trial has a reason and no result; one whose plan equals an earlier trial's
    shares its result and names it in `same_as`.
    """

    key: str
    role: Role
    state: State
    method: str
    result: TrialResult | None = None
    budget: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    same_as: str = ""


def prepare(spec: TrialSpec, benchmark: Benchmark) -> Prepared:
    """Place the sigmas, take the solver's decision on fixed calibration seeds, and trace."""
    started = time.perf_counter()
    sampler = spec.sampler()
    meter = Meter(benchmark.denoiser())
    seeds = range(CALIBRATION_SEEDS, CALIBRATION_SEEDS + sampler.calibration_images)
    calibration = noise(seeds, benchmark.shape, torch.float64)
    sigmas, walk = sampler.place(meter, calibration)
    placing = meter.rows
    solver = sampler.decide(meter, calibration, sigmas)
    each = placing / max(sampler.schedule.calibration_images, 1)
    if isinstance(sampler.solver, Calibrated):
        each += (meter.rows - placing) / sampler.solver.calibration_images
    plan = trace(solver, sigmas, afs=sampler.afs, churn=sampler.churn)
    return Prepared(plan, to_spec(solver), meter.rows, each, time.perf_counter() - started, walk)


def draw(plan: Plan, denoise: Denoiser, shape: Sequence[int], seeds: range) -> Tensor:
    """The plan's samples from the noise of these seeds, fresh noise included: (len(seeds), *shape)."""
    return plan.run(denoise, noise(seeds, shape), lambda stream: noise(seeds, shape, stream=stream))


class NotFiniteError(ArithmeticError):
    """A plan gave samples that are not finite: the plan's fault, so running it again would not help."""


def evaluate(plan: Plan, benchmark: Benchmark, seeds: range) -> ShardResult:
    """Sample the images of `seeds` and return the moments of their features.

    Raises:
        NotFiniteError: a sample is nan or infinite.
    """
    started = time.perf_counter()
    meter = Meter(benchmark.denoiser())
    samples = draw(plan, meter, benchmark.shape, seeds)
    wrong = int((~torch.isfinite(samples.flatten(1)).all(dim=1)).sum())
    if wrong:
        raise NotFiniteError(f"{wrong} of {len(seeds)} samples are not finite (seeds {seeds.start}-{seeds.stop - 1})")
    moments = Moments.of(benchmark.features(samples))
    return ShardResult(seeds, moments, meter.rows, time.perf_counter() - started)


def finish(spec: TrialSpec, prepared: Prepared, shards: Sequence[ShardResult], benchmark: Benchmark) -> TrialResult:
    """Score the shards, merged in seed order whatever order they ended in."""
    ordered = sorted(shards, key=lambda shard: shard.seeds.start)
    if [shard.seeds for shard in ordered] != spec.shards():
        raise ValueError("the shards are not those of the spec")
    score = jackknife([shard.moments for shard in ordered], benchmark.reference)
    rows = sum(shard.rows for shard in ordered)
    return TrialResult(
        spec=spec,
        plan=prepared.plan,
        solver=prepared.solver,
        fid=score.fid,
        fid_se=score.se,
        fid_corrected=score.corrected,
        nfe=rows / spec.images,
        setup_nfe=prepared.setup_nfe,
        setup_rows=prepared.setup_rows,
        rows=rows,
        seconds=sum(shard.seconds for shard in ordered),
        benchmark_version=benchmark.version,
        reference_hash=benchmark.reference_hash,
        model_hash=benchmark.model_hash,
        walk=prepared.walk,
    )


def describe(spec: TrialSpec | TrialResult) -> str:
    """A method in a few words: solver, where it switches, schedule and its moves, what the loop adds."""
    asked = spec if isinstance(spec, TrialSpec) else spec.spec
    words = _solver_words(spec.solver)
    steps = asked.schedule.get("num_steps")
    name = str(asked.schedule.get("name", "?"))
    words += f" · {name}{'' if steps is None else f' {steps}'}"
    if asked.denoise_to_zero:
        words += " to 0"
    if asked.afs:
        words += " · afs"
    if asked.churn is not None:
        words += f" · churn {asked.churn.get('s_churn', math.nan):.3g}"
    return words


def _solver_words(solver: Mapping[str, Any]) -> str:
    name = str(solver.get("name", "?"))
    if name != "switch":
        order = solver.get("order")
        return f"{name}{'' if order is None else f'-{order}'}"
    low, high = (
        _solver_words(solver.get(key, {"name": default})) for key, default in (("low", "euler"), ("high", "heun"))
    )
    if low == high:
        return low
    rule = solver.get("rule", "step")
    at = solver.get("switch_at")
    return f"{low}>{high}" + (f"@{at}" if rule == "step" and at is not None else "" if rule == "step" else f" {rule}")
