"""From shards to scores: the FID of a prefix of a trial's images, and the result of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.benchmarks import Benchmark
from pipeline.comparison import Estimate
from pipeline.metrics.distances import Part, estimate, growing, intercept, left_out
from pipeline.panel import Panel, Portion
from pipeline.plan import Plan
from pipeline.result import TrialResult
from pipeline.trial import Prepared, ShardResult, TrialSpec

# With so many features, and fewer, the driver measures a trial's distances in the time that it takes to ask another.
DRIVER_FEATURES = 256
Measurement = tuple[Part, float]  # a part, and its distance


class Scoring(Protocol):
    """What a search needs to know of shards. A replay answers from a table."""

    def parts(self, shards: Sequence[ShardResult], *, last: bool) -> list[Part]:
        """What workers are to measure for the score, or where it is the `last` for the result; may be nothing."""
        ...

    def score(self, plan: Plan, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()) -> Estimate:
        """The FID of these shards together, whatever order they come in; `measured` are their `parts`."""
        ...

    def finish(
        self, spec: TrialSpec, prepared: Prepared, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()
    ) -> TrialResult:
        """The result of all shards of the spec."""
        ...


class MomentScoring:
    """Scores by the moments that the shards carry. A Frechet distance takes d^3: with large d it is the workers'."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark

    def parts(self, shards: Sequence[ShardResult], *, last: bool) -> list[Part]:
        """The parts that the score is made of, where their distances are not the driver's."""
        return [] if shards[0].moments.dim <= DRIVER_FEATURES else _parts(shards, last)

    def score(self, plan: Plan, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()) -> Estimate:
        """The FID of these shards together, merged in seed order."""
        del plan
        return _estimate(measured or _measure(_parts(shards, last=False), self.benchmark))

    def finish(
        self, spec: TrialSpec, prepared: Prepared, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()
    ) -> TrialResult:
        """The result of all shards of the spec; see `finish`."""
        return finish(spec, prepared, shards, self.benchmark, measured)


def _parts(shards: Sequence[ShardResult], last: bool) -> list[Part]:
    moments = [shard.moments for shard in _ordered(shards)]
    return left_out(moments) + (growing(moments) if last else [])


def _measure(parts: Sequence[Part], benchmark: Benchmark) -> list[Measurement]:
    return [(part, part.distance(benchmark.reference)) for part in parts]


def _estimate(measured: Sequence[Measurement]) -> Estimate:
    whole, distance = measured[0]
    return estimate(whole.whole.n, [distance, *(value for part, value in measured[1:] if part.group is not None)])


def _extrapolation(measured: Sequence[Measurement]) -> float | None:
    runs = [(part.whole.n, value) for part, value in measured[1:] if part.group is None]
    return intercept([images for images, _ in runs], [value for _, value in runs])


def finish(
    spec: TrialSpec,
    prepared: Prepared,
    shards: Sequence[ShardResult],
    benchmark: Benchmark,
    measured: Sequence[Measurement] = (),
) -> TrialResult:
    """Score the shards, merged in seed order whatever order they ended in.

    `measured` are the score's parts and the extrapolation's, where workers have measured them.

    Raises:
        ValueError: they are not the shards of the spec.
    """
    ordered = _ordered(shards)
    if [shard.seeds for shard in ordered] != spec.shards():
        raise ValueError("the shards are not those of the spec")
    found = measured or _measure(_parts(ordered, last=True), benchmark)
    rows = sum(shard.rows for shard in ordered)
    return TrialResult(
        spec=spec,
        plan=prepared.plan,
        solver=prepared.solver,
        score=_estimate(found),
        fid_infinity=_extrapolation(found),
        nfe=rows / spec.images,
        setup_nfe=prepared.setup_nfe,
        setup_rows=prepared.setup_rows,
        rows=rows,
        seconds=sum(shard.seconds for shard in ordered),
        benchmark_version=benchmark.version,
        reference_hash=benchmark.reference_hash,
        model_hash=benchmark.model_hash,
        walk=prepared.walk,
        network=benchmark.acceleration.to_json(),
    )


def portions(panel: Panel, shards: Sequence[ShardResult]) -> list[Portion]:
    """What each metric of the panel is measured on, of shards that it has kept something of."""
    return panel.portions([shard.kept for shard in _ordered(shards) if shard.kept is not None])


def _ordered(shards: Sequence[ShardResult]) -> list[ShardResult]:
    return sorted(shards, key=lambda shard: shard.seeds.start)
