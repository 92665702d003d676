"""The teacher: the fine solve of fixed seeds, computed once a study, and how far a plan's images end from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.benchmarks import Benchmark
from pipeline.denoiser import Meter
from pipeline.evidence import TeacherDistance
from pipeline.plan import Plan
from pipeline.portrait import Sitting
from pipeline.trial import draw, finite
from pipeline.whole_file import write_whole


@dataclass(frozen=True, eq=False)
class Teacher:
    """The fine solve of `seeds`: samples (B, C, H, W) in data units and their features (B, d), float32."""

    seeds: range
    samples: Tensor
    features: Tensor

    @staticmethod
    def merge(parts: list[Teacher]) -> Teacher:
        """Parts of one seed list, in any order, as one."""
        ordered = sorted(parts, key=lambda part: part.seeds.start)
        seeds = range(ordered[0].seeds.start, ordered[-1].seeds.stop)
        return Teacher(
            seeds, torch.cat([part.samples for part in ordered]), torch.cat([part.features for part in ordered])
        )

    def save(self, file: Path, identity: str) -> None:
        """Keep it; `identity` says of which plan, benchmark and seeds it is. Written whole or not at all."""
        # Features may be the samples' own memory, which safetensors does not take twice.
        tensors = {"samples": self.samples.contiguous(), "features": self.features.contiguous().clone()}
        held = {"identity": identity, "first_seed": str(self.seeds.start)}
        write_whole(file, safetensors.torch.save(tensors, held))

    @staticmethod
    def load(file: Path, identity: str) -> Teacher | None:
        """The teacher of this identity; None where there is none, or it cannot be read."""
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                held = opened.metadata() or {}
                if held.get("identity") != identity:
                    return None
                samples, features = opened.get_tensor("samples"), opened.get_tensor("features")
                first = int(held["first_seed"])
        except (OSError, KeyError, ValueError, safetensors.SafetensorError):
            return None
        return Teacher(range(first, first + len(samples)), samples, features)


def teach(plan: Plan, benchmark: Benchmark, seeds: range) -> tuple[Teacher, int]:
    """The fine solve of these seeds by `plan`, and the network rows it took.

    Raises:
        NotFiniteError: a sample is nan or infinite.
    """
    meter = Meter(benchmark.denoiser(seeds))
    samples = finite(draw(plan, meter, benchmark.shape, seeds, benchmark.device), seeds)
    return Teacher(seeds, samples.float().cpu(), benchmark.features(samples).float().cpu()), meter.rows


def compare(
    plan: Plan, benchmark: Benchmark, teacher: Teacher, sitting: Sitting | None = None
) -> tuple[TeacherDistance, int]:
    """How far each of the plan's images ends from the teacher's of the same noise, and the network rows it took.

    `sitting` is for the plan's portrait and changes nothing.

    Raises:
        NotFiniteError: a sample is nan or infinite.
    """
    meter = Meter(benchmark.denoiser(teacher.seeds))
    denoise = meter if sitting is None else sitting.watch(meter)
    samples = finite(draw(plan, denoise, benchmark.shape, teacher.seeds, benchmark.device), teacher.seeds)
    features = _lengths(benchmark.features(samples).float().cpu() - teacher.features)
    if sitting is not None:
        sitting.end(plan, samples, benchmark)
    return TeacherDistance(features, _lengths(samples.float().cpu() - teacher.samples)), meter.rows


def _lengths(gaps: Tensor) -> tuple[float, ...]:
    """L2 norm of each image's gap. Six digits: more would only make the record longer."""
    norms = torch.linalg.vector_norm(gaps.flatten(1).double(), dim=1).tolist()
    return tuple(float(f"{norm:.6g}") for norm in norms)
