"""`sigmasearch plan --verify`: the true local error of each step beside SDM's estimate and its bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.benchmarks import Benchmark
from pipeline.denoiser import Meter
from pipeline.local_error import StepError, Verdict, local_errors, verify_walk
from pipeline.noise import CALIBRATION_SEEDS, noise
from pipeline.plan import Plan
from pipeline.registry import require
from pipeline.schedules import Schedule
from pipeline.sdm import CALIBRATION_IMAGES, SDM

STYLES: Mapping[Verdict, str] = {"kept": "green", "broken": "bold red", "inconclusive": "yellow", "not verified": "dim"}


@dataclass(frozen=True)
class Verification:
    """Euler's error on each step of the plan's sigmas, and on the walk that they were resampled from, if there is one.

    From the states of an Euler walk, which SDM's bound is about, whatever the plan's solver, AFS or churn.
    """

    steps: Sequence[StepError]
    walk: Sequence[StepError]
    images: int
    rows: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "images": self.images,
            "first_seed": CALIBRATION_SEEDS,
            "rows_per_image": self.rows / self.images,
            "steps": [_told(step) for step in self.steps],
            "walk": [_told(step) for step in self.walk],
        }


def verify(schedule: Schedule, plan: Plan, benchmark: Benchmark) -> Verification:
    """Measure the local errors on the schedule's own calibration noise; the default number of images if it has none."""
    images = schedule.calibration_images or CALIBRATION_IMAGES
    key = "warmup" if hasattr(schedule, "warmup") else "calibration_images"
    require(images >= 2, f"schedule.{key}", images, "2 or more with --verify: one image has no standard error")
    seeds = range(CALIBRATION_SEEDS, CALIBRATION_SEEDS + images)
    meter, start = Meter(benchmark.calibration_denoiser(seeds)), noise(seeds, benchmark.shape, torch.float64)
    bounded = schedule if isinstance(schedule, SDM) else None
    steps = local_errors(meter, start, plan.sigmas, allowed=bounded.walk.allowed if bounded else None)
    # Without num_steps the schedule is the walk itself, unless Heun made it, whose states are not Euler's.
    walk: list[StepError] = []
    if bounded is not None and (bounded.num_steps is not None or bounded.mover != "euler"):
        walk = verify_walk(bounded, meter, start)
    return Verification(steps, walk, images, meter.rows)


def show(verification: Verification, console: Console) -> None:
    """Print a row a step, and what the walk behind the schedule kept of its promise."""
    bounded = any(step.allowed is not None for step in verification.steps)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("sigma", "to", "eta", "true", "± se", "sup", *(("allowed", "verdict") if bounded else ())):
        table.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=True)
    for step in verification.steps:
        row = [f"{step.sigma:.4g}", f"{step.target:.4g}"]
        # A move to 0 has no eta, and what lies below sigma_min no truth.
        eta = None if step.target == 0 else step.eta
        row += [_number(value) for value in (eta, step.error, step.standard_error, step.supremum_bound)]
        if bounded:
            row += [_number(step.allowed), f"[{STYLES[step.verdict]}]{step.verdict}[/]"]
        table.add_row(*row)
    console.print(
        "local error of Euler steps on these sigmas, image L2 norm, mean over the calibration images", highlight=False
    )
    console.print(table)
    if bounded:
        told = "the schedule's own steps, beside eta(sigma): "
        console.print(told + _promise(verification.steps), highlight=False)
    if verification.walk:
        console.print("the walk it was placed by: " + _promise(verification.walk), highlight=False)
    seeds = f"{CALIBRATION_SEEDS}-{CALIBRATION_SEEDS + verification.images - 1}"
    console.print(
        "eta: mean |x_Heun - x_Euler|; true: against a fine solve from the same states; "
        "sup: Theorem 3.2's bound, "
        "its supremum taken on the true path",
        highlight=False,
    )
    console.print(
        f"{verification.images} images, seeds {seeds}, {verification.rows / verification.images:g} network rows each",
        highlight=False,
    )


def _promise(steps: Sequence[StepError]) -> str:
    counts = Counter(step.verdict for step in steps)
    words = ", ".join(f"{counts[name]} {name}" for name in STYLES if counts[name])
    shares = {step.error / step.allowed: step for step in steps if step.error is not None and step.allowed}
    if not shares:
        return words
    worst = max(shares)
    return f"{words}; the worst has {worst:.3g} times its bound (sigma {shares[worst].sigma:.4g})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _told(step: StepError) -> Mapping[str, Any]:
    return {**step._asdict(), "verdict": step.verdict}
