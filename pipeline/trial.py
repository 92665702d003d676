"""A trial: pure functions of its spec. prepare places and traces, evaluate samples shards; `pipeline.scoring` scores.

What runs where is `pipeline.cluster`'s business, what is tried next `pipeline.search`'s. Images never leave `evaluate`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.benchmarks import Benchmark
from pipeline.churn import Churn
from pipeline.denoiser import Denoiser, Meter
from pipeline.memory import Memory
from pipeline.metrics.moments import Moments
from pipeline.models import Stepped
from pipeline.noise import CALIBRATION_SEEDS, noise
from pipeline.panel import Kept, Panel
from pipeline.plan import Plan
from pipeline.portrait import Sitting
from pipeline.registry import SpecError, build_dataclass, require, to_spec
from pipeline.sampler import Calibrated, Sampler, trace
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS

# Images that are sampled at once, where that many are of whole shards: large enough to keep a processor busy, small
# enough that the last batch of a trial does not leave other workers waiting.
BATCH_IMAGES = 512


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

    def batches(self, start: int = 0, stop: int | None = None) -> list[range]:
        """The seeds of images start ... stop - 1 in runs of whole shards, each to be sampled at once."""
        size = max(1, BATCH_IMAGES // self.shard_images) * self.shard_images
        end = self.images if stop is None else stop
        return [range(self.first_seed + at, self.first_seed + min(at + size, end)) for at in range(start, end, size)]

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
    number of images, the figure to set beside NFE; 0 where nothing was calibrated. Both are the method's own, whether
    it was learned now or recalled; `spent_rows` are those of now. `walk` is what the schedule recorded of each step it
    took, one mapping a step (SDM's realised bound); else empty. `rows_per_image`: those of one evaluation.
    """

    plan: Plan
    solver: Mapping[str, Any]
    setup_rows: int
    setup_nfe: float
    seconds: float
    walk: tuple[Mapping[str, Any], ...] = ()
    spent_rows: int = 0
    rows_per_image: int = 1

    @property
    def nfe(self) -> int:
        """Network rows that an image takes."""
        return len(self.plan) * self.rows_per_image


@dataclass(frozen=True)
class ShardResult:
    """One shard's features as moments, and what it cost. `rows` as counted at the network.

    `kept`: what metrics beside FID keep of it, where there are any.
    """

    seeds: range
    moments: Moments
    rows: int
    seconds: float
    kept: Kept | None = None


def memory_of(benchmark: Benchmark, folder: Path | None = None) -> Memory:
    """A memory of what is learned on this benchmark from the calibration seeds; `folder` keeps it for good."""
    context = {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "model": benchmark.model_hash,
        "shape": list(benchmark.shape),
        "first_seed": CALIBRATION_SEEDS,
    }
    if benchmark.calibration_device != "cpu":
        context["device"] = torch.device(benchmark.calibration_device).type  # whose last bits are others
    return Memory(folder, context)


def prepare(spec: TrialSpec, benchmark: Benchmark, memory: Memory | None = None) -> Prepared:
    """Place the sigmas, take the solver's decision on fixed calibration seeds, and trace.

    What `memory` knows is not learned again.
    """
    started = time.perf_counter()
    sampler = spec.sampler()
    known = memory or Memory()
    seeds, saved = range(CALIBRATION_SEEDS, CALIBRATION_SEEDS + sampler.calibration_images), known.rows_saved
    meter = Meter(benchmark.calibration_denoiser(seeds))
    calibration = noise(seeds, benchmark.shape, torch.float64)
    placed, walk = sampler.place(meter, calibration, known)
    sigmas = _on_steps(placed, benchmark)
    placing = meter.rows + known.rows_saved - saved
    solver = sampler.decide(meter, calibration, sigmas, known)
    rows = meter.rows + known.rows_saved - saved
    each = placing / max(sampler.schedule.calibration_images, 1)
    if isinstance(sampler.solver, Calibrated):
        each += (rows - placing) / sampler.solver.calibration_images
    plan = trace(solver, sigmas, afs=sampler.afs, churn=sampler.churn)
    return Prepared(
        plan, to_spec(solver), rows, each, time.perf_counter() - started, walk, meter.rows, benchmark.rows_per_image
    )  # fmt: skip


def _on_steps(sigmas: list[float], benchmark: Benchmark) -> list[float]:
    """The trained sigmas nearest to these, as NVlabs/edm generate.py:37 takes them; D is defined at any.

    Differs from NVlabs/edm generate.py:46: what churn lifts is not rounded again.
    """
    if not isinstance(benchmark.model, Stepped):
        return sigmas
    rounded = [benchmark.model.round_sigma(sigma) for sigma in sigmas]
    for i, (before, after) in enumerate(itertools.pairwise(rounded)):
        if after >= before:
            message = "puts two sigmas on one step that the network was trained for"
            raise SpecError(
                message,
                path="schedule",
                given=sigmas[i : i + 2],
                allowed="fewer, sigmas further apart, or a sigma_min of its first step",
            )
    return rounded


def draw(
    plan: Plan,
    denoise: Denoiser,
    shape: Sequence[int],
    seeds: range,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The plan's samples from the noise of these seeds, fresh noise included: (len(seeds), *shape) on `device`.

    The noise is drawn on the CPU, so that an image is the same one wherever it is sampled. `dtype` is the state's.
    """

    def unit(stream: int) -> Tensor:
        return noise(seeds, shape, dtype, stream=stream).to(device)

    return plan.run(denoise, unit(0), unit)


def sampled(plan: Plan, denoise: Denoiser, benchmark: Benchmark, seeds: range) -> Tensor:
    """The images of these seeds (B, C, H, W), where and in the dtype that the benchmark's are sampled.

    Raises:
        NotFiniteError: one of them is nan or infinite.
    """
    dtype = benchmark.acceleration.state_dtype
    return finite(draw(plan, denoise, benchmark.shape, seeds, benchmark.device, dtype), seeds)


class NotFiniteError(ArithmeticError):
    """A plan gave samples that are not finite: the plan's fault, so running it again would not help."""


def finite(samples: Tensor, seeds: range) -> Tensor:
    """The samples, unless one of them is nan or infinite.

    Raises:
        NotFiniteError: says how many, and of which seeds.
    """
    wrong = int((~torch.isfinite(samples.flatten(1)).all(dim=1)).sum())
    if wrong:
        raise NotFiniteError(f"{wrong} of {len(seeds)} samples are not finite (seeds {seeds.start}-{seeds.stop - 1})")
    return samples


def evaluate(
    plan: Plan,
    benchmark: Benchmark,
    seeds: range,
    shard_images: int | None = None,
    sitting: Sitting | None = None,
    panel: Panel | None = None,
    first_seed: int = 0,
) -> list[ShardResult]:
    """Sample the images of `seeds` in one batch; the moments of their features, one for each shard.

    `shard_images` divides the number of seeds; by default they are one shard. `sitting` is for the plan's portrait and
    changes nothing. `panel`: metrics beside FID, which are shown the same images, of a trial that begins at
    `first_seed`.

    Raises:
        NotFiniteError: a sample is nan or infinite.
    """
    started = time.perf_counter()
    meter = Meter(benchmark.denoiser(seeds))
    denoise = meter if sitting is None else sitting.watch(meter)
    samples = sampled(plan, denoise, benchmark, seeds)
    images = benchmark.images(samples)
    features = benchmark.extracted(images)
    size = shard_images or len(seeds)
    moments = [Moments.of(part) for part in torch.split(features, size)]
    # Every image takes as many rows, and is taken to take as long. Watching is no cost of the plan, nor is the panel.
    share, seconds = len(moments), time.perf_counter() - started - (sitting.seconds if sitting else 0.0)
    if sitting is not None:
        sitting.end(plan, samples, benchmark)
    kept = [None] * share if panel is None else panel.keep(benchmark, images, features, seeds, first_seed, size)
    return [
        ShardResult(seeds[i * size : (i + 1) * size], part, meter.rows // share, seconds / share, kept[i])
        for i, part in enumerate(moments)
    ]
