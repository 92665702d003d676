"""What a study will cost, told before anything is spent: images, network rows and hours, by part.

Nothing of the model is needed. Where a plan is calibrated, a closed form takes the network's place:
its plans are others, what they cost is nearly the same.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

import search_spaces
from pipeline import agenda, benchmarks
from pipeline.benchmarks import Benchmark
from pipeline.denoiser import Denoiser
from pipeline.metrics.features import Identity
from pipeline.registry import SpecError
from pipeline.schedules import SCHEDULES
from pipeline.speed import Speed, speed
from pipeline.trial import Prepared, TrialSpec, memory_of, prepare
from search_spaces import Study

# 10 searches of 200 trials on digits-kde took 1/10.1 of what the same trials would have at full size (1/7.4 to 1/13.4).
SHARE = 1 / 10.1
SHARE_SOURCE = "1/10.1 of full size, as 10 searches of 200 trials on digits-kde took (1/7.4 to 1/13.4): README"
POINTS = 32  # of the space, drawn at random
PIXELS = 16  # of the stand-in: its plans cost what those of as many as the images have do
SIGMA_DATA = 0.5  # EDM's, Karras et al., 2022, arXiv 2206.00364, table 1


@dataclass(frozen=True)
class Part:
    """A part of a study: how many samplers, the images they take together, and their network rows.

    `most`: with every trial at full size. `estimate`: what it is likely to be.
    """

    name: str
    count: int
    images: int
    most: int
    estimate: int


@dataclass(frozen=True)
class Forecast:
    """All parts of a study, how fast its rows are, and what is not here yet. `notes` say how it was estimated."""

    study: str
    benchmark: str
    workers: int
    parts: tuple[Part, ...]
    speed: Speed
    missing: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def most(self) -> int:
        """Network rows of all parts, at full size."""
        return sum(part.most for part in self.parts)

    @property
    def estimate(self) -> int:
        """Network rows of all parts, as estimated."""
        return sum(part.estimate for part in self.parts)

    def hours(self, rows: int) -> float | None:
        """Hours of one worker; None where its rate is not known."""
        rate = self.speed.rows_per_second
        return None if rate is None else rows / rate / 3600

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "study": self.study,
            "benchmark": self.benchmark,
            "parts": [vars(part) for part in self.parts],
            "network_rows": {"full_size": self.most, "estimate": self.estimate},
            "hours": {
                "of": self.speed.hours_of,
                "full_size": self.hours(self.most),
                "estimate": self.hours(self.estimate),
            },
            "workers": self.workers,
            "rows_per_second": self.speed.rows_per_second,
            "rate": self.speed.told,
            "missing": list(self.missing),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Gaussian:
    """The exact denoiser of independent Gaussian pixels, in place of a network: it costs nothing to ask."""

    shape: tuple[int, ...]
    rows_per_image: int = 1
    hash: str = "gaussian"

    def denoiser(self, device: str = "cpu") -> Denoiser:
        """D(x; sigma) = x s^2 / (s^2 + sigma^2)."""
        del device
        return _Shrunk(self.rows_per_image)

    def draw(self, count: int, seed: int) -> Tensor:
        """It is not drawn from."""
        raise NotImplementedError("a stand-in has no samples")


class _Shrunk:
    def __init__(self, rows_per_image: int) -> None:
        self.rows_per_image = rows_per_image

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return x * (SIGMA_DATA**2 / (SIGMA_DATA**2 + sigma**2))


def dry_run(file: str, overrides: Mapping[str, Any], tflops: float | None = None) -> Forecast:
    """The forecast of a study file with these keys replaced; `tflops` is what a GPU comes to, where not measured.

    Raises:
        SpecError: a mistake in the file, in the benchmark's card, or in an option.
    """
    study = search_spaces.load(file, overrides)
    typical = study.budgets[len(study.budgets) // 2]
    given = study.resources
    return forecast(study, speed(study.benchmark, given.gpus, study.threads, typical, tflops))


def forecast(study: Study, rate: Speed) -> Forecast:
    """What the whole study costs, of which nothing has been done."""
    card = benchmarks.card_of(study.benchmark)
    folder = benchmarks.find(study.benchmark).folder
    model = benchmarks.model_of(study.benchmark)
    rows = study.rows_per_image
    held = Benchmark(card, Gaussian((1, 1, PIXELS), rows), Identity())
    memory = memory_of(held)

    def ready(spec: TrialSpec) -> Prepared:
        return prepare(of_fewer_pixels(spec, math.prod(model.shape)), held, memory)

    ends = (card.sigma_min, card.sigma_max)
    jobs = list(agenda.measured(study, ends, set(), itertools.count()))
    plans = {job.key: ready(job.spec) for job in jobs}
    floor = plans.pop("floor")
    floor_rows, taught = floor.nfe, study.teacher_images
    beside = taught + study.images  # a plan's distance to the teacher is taken on images of its own
    baselines = [made.nfe for made in plans.values()]
    distinct = {made.plan.digest: made.nfe for made in plans.values()}
    distinct.pop(floor.plan.digest, None)
    calibrated = [made for made in (floor, *plans.values()) if made.setup_rows]
    settings = study.published_points[: study.trials]  # they are tried first
    published = list(_made(study, settings, ready))
    others = study.trials - len(settings)
    drawn = list(_made(study, _points(study), ready)) if others else []
    # What is above the last budget is never sampled.
    sampled = [[made.nfe if made.nfe <= study.budgets[-1] else 0 for made in each] for each in (published, drawn)]
    share = SHARE if study.rungs is not None else 1.0
    parts = [
        Part("floor", 1, beside, beside * floor_rows, beside * floor_rows),
        Part("baselines", len(baselines), len(baselines) * beside, beside * sum(baselines),
             beside * sum(distinct.values())),
        Part("published", len(published), len(published) * beside, beside * sum(sampled[0]),
             round(study.images * sum(sampled[0]) * share)),
        Part("searched", others, others * beside, others * beside * study.budgets[-1],
             round(others * study.images * _mean(sampled[1]) * share)),
        *_confirmations(study, floor_rows),
        Part("set-up: teacher", 1 if taught else 0, taught, taught * floor_rows, taught * floor_rows),
        Part("set-up: baselines", len(calibrated), 0, sum(made.setup_rows for made in calibrated),
             sum(made.spent_rows for made in calibrated)),
        Part("set-up: published", len(published), 0, sum(made.setup_rows for made in published),
             sum(made.spent_rows for made in published)),
        Part("set-up: searched", others, 0, others * max((made.setup_rows for made in drawn), default=0),
             round(others * _mean([made.spent_rows for made in drawn]))),
    ]  # fmt: skip
    notes = [
        f"full size: every trial at {study.budgets[-1]} NFE on all images, each set-up as if nothing were remembered",
        "baselines, estimate: equal plans are sampled once",
        "set-up: counted on Gaussian data in place of the network's",
    ]
    if study.rungs is not None and study.trials:
        notes.append(f"published and searched, estimate: {SHARE_SOURCE}")
    if drawn:
        points = f"the mean of {len(drawn)} random points of the space (seed 0)"
        notes.append(f"searched, estimate: {_mean(sampled[1]):.1f} NFE, {points}")
    if study.confirm is not None:
        notes.append("confirmations: at most one plan of each NFE; estimate: the front and a baseline at each budget")
    lacking = tuple(str(file.path) for file in benchmarks.missing(card, folder))
    return Forecast(study.study, study.benchmark, max(study.workers, 1), tuple(p for p in parts if p.count), rate,
                    lacking, tuple(notes))  # fmt: skip


def of_fewer_pixels(spec: TrialSpec, pixels: int) -> TrialSpec:
    """The same trial for `PIXELS`: SDM's eta is an L2 norm, which goes with the root of their number."""
    schedule = SCHEDULES.build(spec.schedule)
    ratio = math.sqrt(PIXELS / pixels)
    held = {key: ratio * getattr(schedule, key) for key in ("eta_min", "eta_max") if hasattr(schedule, key)}
    return replace(spec, schedule={**spec.schedule, **held})


def _confirmations(study: Study, floor_rows: int) -> Iterator[Part]:
    spec = study.confirm_spec(study.floor.model_dump())
    if spec is None:
        return
    budgets = study.budgets
    front = [*range(1, budgets[-1] + 1)] if study.trials else []
    count = 1 + len(front) + len(budgets)
    most = floor_rows + sum(front) + sum(budgets)
    likely = floor_rows + (2 if study.trials else 1) * sum(budgets)
    yield Part("confirmations", count, count * spec.images, most * spec.images, likely * spec.images)


def _mean(counts: list[int]) -> float:
    return sum(counts) / len(counts) if counts else 0.0


def _made(
    study: Study, points: Iterable[Mapping[str, Any]], ready: Callable[[TrialSpec], Prepared]
) -> Iterator[Prepared]:
    """The plans of these points; a point that a search would refuse is none."""
    for params in points:
        with contextlib.suppress(SpecError):
            yield ready(study.spec(study.parsed_space.assemble(params)))


def _points(study: Study) -> Iterator[Mapping[str, Any]]:
    """Points of the space drawn at random, always the same ones."""
    generator = np.random.default_rng(0)

    def drawn(name: str, distribution: BaseDistribution) -> Any:
        del name
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[int(generator.integers(len(distribution.choices)))]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high = float(distribution.low), float(distribution.high)
        share = generator.random()
        value = low * (high / low) ** share if distribution.log else low + (high - low) * share
        if distribution.step:
            value = low + distribution.step * round((value - low) / distribution.step)
        return round(value) if isinstance(distribution, IntDistribution) else value

    for _ in range(POINTS):
        yield study.draw(drawn)


def show(told: Forecast, console: Console) -> None:
    """Print the table and how it was made; fits 80 columns."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("part", no_wrap=True)
    for name in ("samplers", "images", "rows at full size", "estimate"):
        table.add_column(name, justify="right", no_wrap=True)
    for part in told.parts:
        table.add_row(part.name, *(f"{n:,}" for n in (part.count, part.images, part.most, part.estimate)))
    images = sum(part.images for part in told.parts)
    table.add_row("all", "", f"{images:,}", f"{told.most:,}", f"{told.estimate:,}", style="bold")

    def line(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    line(f"{told.study} on {told.benchmark}: nothing is sampled; NFE and rows count guidance")
    console.print(table, highlight=False)
    rate = told.speed.rows_per_second
    if rate is not None:
        most, likely = (rows / rate / 3600 for rows in (told.most, told.estimate))
        workers = f"{told.workers} worker{'s' * (told.workers > 1)}"
        line(
            f"{told.speed.hours_of} hours: {most:,.3g} at full size, {likely:,.3g} estimated, at {rate:,.4g} rows a "
            f"second; with {workers} {likely / told.workers:,.3g} h"
        )
    line(f"rate: {told.speed.told}")
    for note in told.notes:
        line(note)
    for path in told.missing:
        line(f"not here: {path}")
