"""From shards to scores: the FID of a prefix of a trial's images, and the result of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.benchmarks import Benchmark
from pipeline.comparison import Estimate
from pipeline.metrics.distances import fid_infinity, jackknife
from pipeline.plan import Plan
from pipeline.result import TrialResult
from pipeline.trial import Prepared, ShardResult, TrialSpec


class Scoring(Protocol):
    """What a search needs to know of shards. A replay answers from a table."""

    def score(self, plan: Plan, shards: Sequence[ShardResult]) -> Estimate:
        """The FID of these shards together, whatever order they come in."""
        ...

    def finish(self, spec: TrialSpec, prepared: Prepared, shards: Sequence[ShardResult]) -> TrialResult:
        """The result of all shards of the spec."""
        ...


class MomentScoring:
    """Scores by the moments that the shards carry."""

    def __init__(self, benchmark: Benchmark) -> None:
        self.benchmark = benchmark

    def score(self, plan: Plan, shards: Sequence[ShardResult]) -> Estimate:
        """The FID of these shards together, merged in seed order."""
        del plan
        return jackknife([shard.moments for shard in _ordered(shards)], self.benchmark.reference)

    def finish(self, spec: TrialSpec, prepared: Prepared, shards: Sequence[ShardResult]) -> TrialResult:
        """The result of all shards of the spec; see `finish`."""
        return finish(spec, prepared, shards, self.benchmark)


def finish(spec: TrialSpec, prepared: Prepared, shards: Sequence[ShardResult], benchmark: Benchmark) -> TrialResult:
    """Score the shards, merged in seed order whatever order they ended in.

    Raises:
        ValueError: they are not the shards of the spec.
    """
    ordered = _ordered(shards)
    if [shard.seeds for shard in ordered] != spec.shards():
        raise ValueError("the shards are not those of the spec")
    moments = [shard.moments for shard in ordered]
    rows = sum(shard.rows for shard in ordered)
    return TrialResult(
        spec=spec,
        plan=prepared.plan,
        solver=prepared.solver,
        score=jackknife(moments, benchmark.reference),
        fid_infinity=fid_infinity(moments, benchmark.reference),
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


def _ordered(shards: Sequence[ShardResult]) -> list[ShardResult]:
    return sorted(shards, key=lambda shard: shard.seeds.start)
