"""A search with many workers on a virtual Ray: the real search, pool and storage, and made-up answers.

`python -m tests.performance.scale --workers 1000 --trials 10000` takes some minutes of one core. A worker's seconds are
the rows of a task times `--row-ms`. What the driver takes is real: it asks, judges, scores, keeps shards and tells as
it does in any search, on a sqlite file, and the virtual workers wait for it meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from pipeline import benchmarks
from pipeline.comparison import Estimate
from pipeline.evidence import TeacherDistance
from pipeline.file_storage import FileStorage
from pipeline.ledger import Ledger
from pipeline.metrics.moments import Moments
from pipeline.plan import Plan
from pipeline.pruning import Field
from pipeline.ray_pool import RayPool
from pipeline.result import TrialResult
from pipeline.scoring import Measurement, MomentScoring
from pipeline.search import Search
from pipeline.shard_store import ShardStore
from pipeline.teacher import Teacher
from pipeline.tpe import OneRankingTPE
from pipeline.trial import Prepared, ShardResult, TrialSpec, prepare
from pipeline.worker import Compared, Evaluated, Outcome, Task, Taught
from search_spaces import Study
from tests.performance.virtual_ray import VirtualRay

# Six parameters, none of which takes a network to place the sigmas.
SPACE: dict[str, Any] = {
    "solver": {
        "choices": {
            "dpm_solver_pp-2": {"name": "dpm_solver_pp", "order": 2},
            "unipc-2": {"name": "unipc", "order": 2},
            "ipndm-4": {"name": "ipndm", "order": 4},
        }
    },
    "schedule": {
        "name": "edm",
        "num_steps": {"low": 3, "high": 20, "log": True},
        "rho": {"low": 3.0, "high": 11.0},
        "sigma_max": {"low": 20.0, "high": 80.0, "log": True},
        "sigma_min": {"low": 0.001, "high": 0.02, "log": True},
        "final": {"choices": ["sigma_min", "zero"]},
    },
}
STUDY: dict[str, Any] = {
    "study": "scale",
    "benchmark": "digits-kde",
    "budgets": [3, 4, 5, 6, 8, 10, 15, 20, 30],
    "images": 8000,
    "shard_images": 80,
    "rungs": {"teacher": 128, "images": [800, 1600, 4000]},
    "confirm": {"first_seed": 1_000_000},
    "optimizer": {"name": "tpe", "seed": 0, "startup": 30},
    "baselines": ["ddim", "ipndm", "unipc_2"],
    "floor": {"solver": {"name": "heun"}, "schedule": {"name": "edm", "num_steps": 40}},
    "space": SPACE,
}
FLOOR, BIAS = 0.07, 80.0  # the fine solve's FID, and what a FID has of it for each image less
SET_UP_SECONDS = 0.05


def study(workers: int, trials: int) -> Study:
    """The study that is simulated."""
    return Study.model_validate(STUDY | {"workers": workers, "trials": trials})


class MadeUp:
    """Answers of the right shape. How good a plan is follows from its settings, and from luck that plans share."""

    def __init__(self, row_seconds: float) -> None:
        self._row_seconds = row_seconds
        self._benchmark = benchmarks.load(STUDY["benchmark"])
        self._far: dict[str, float] = {}
        rng = np.random.default_rng(0)
        self._luck = rng.normal(size=128)
        dim = len(self._benchmark.reference.mean)
        self._moments = Moments(80, np.zeros(dim), 80.0 * np.eye(dim))

    def __call__(self, task: Task) -> tuple[Outcome, float]:
        """What comes of a task, and the seconds that it takes."""
        if task.what == "prepare":
            prepared = prepare(task.spec, self._benchmark)
            self._far[prepared.plan.digest] = _far(task.spec, len(prepared.plan))
            return prepared, SET_UP_SECONDS + prepared.spent_rows * self._row_seconds
        assert task.plan is not None
        if task.what == "compare":
            return self._compared(task.plan), 128 * len(task.plan) * self._row_seconds
        assert task.seeds is not None
        seconds = len(task.seeds) * len(task.plan) * self._row_seconds
        if task.what == "teach":
            nothing = torch.zeros(len(task.seeds), 1)
            return Taught(Teacher(task.seeds, nothing, nothing), len(task.seeds) * len(task.plan)), seconds
        size = task.spec.shard_images
        shards = tuple(
            ShardResult(task.seeds[at : at + size], self._moments, size * len(task.plan), seconds / len(task.seeds))
            for at in range(0, len(task.seeds), size)
        )
        return Evaluated(shards), seconds

    def _compared(self, plan: Plan) -> Compared:
        own = _rng(plan).normal(size=128)
        each = math.sqrt(self._far[plan.digest]) * (1 + 0.1 * self._luck + 0.02 * own)
        return Compared(TeacherDistance(tuple(each.tolist()), tuple(each.tolist())), 128 * len(plan))

    def estimate(self, plan: Plan, images: int, groups: int) -> Estimate:
        """The FID of a plan at so many images."""
        fid = FLOOR + self._far[plan.digest]
        shared = np.random.default_rng(images).normal(size=groups)
        each = fid * (1 + 0.3 / math.sqrt(images) * (shared + 0.3 * _rng(plan).normal(size=groups)))
        return Estimate.of(images, fid + BIAS / images, tuple((each + BIAS / images).tolist()))


class MadeUpScoring(MomentScoring):
    """Scores as `MomentScoring` does, for the time it takes, and then says what was made up."""

    def __init__(self, answers: MadeUp) -> None:
        super().__init__(benchmarks.load(STUDY["benchmark"]))
        self._answers = answers

    def score(self, plan: Plan, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()) -> Estimate:
        """The made-up FID."""
        held = super().score(plan, shards, measured)
        return self._answers.estimate(plan, held.images, len(held.leave_one_out))

    def finish(
        self, spec: TrialSpec, prepared: Prepared, shards: Sequence[ShardResult], measured: Sequence[Measurement] = ()
    ) -> TrialResult:
        """The made-up result."""
        held = super().finish(spec, prepared, shards, measured)
        return replace(held, score=self.score(prepared.plan, shards), fid_infinity=None)


def _far(spec: TrialSpec, nfe: int) -> float:
    asked = spec.schedule
    solver = {"heun": 1.5, "euler": 3.0, "dpm_solver_pp": 1.0, "unipc": 0.8, "ipndm": 0.7}[spec.solver["name"]]
    shape = 1 + ((asked.get("rho", 7.0) - 6.0) / 4.0) ** 2 + math.log(80.0 / asked.get("sigma_max", 80.0)) ** 2
    end = 1 + math.log(asked.get("sigma_min", 0.002) / 0.002) ** 2 / 4
    return 20.0 * solver * shape * end / nfe**2.5


def _rng(plan: Plan) -> np.random.Generator:
    return np.random.default_rng(int(plan.digest[:12], 16))


@dataclass
class Stopwatch:
    """Seconds of the driver by what it did; what is inside something else counts there alone."""

    clock: Any
    seconds: Counter[str]
    calls: Counter[str]
    busy: str = ""

    def __call__(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.busy:
                return function(*args, **kwargs)
            started, self.busy = self.clock.driver, name
            try:
                return function(*args, **kwargs)
            finally:
                self.busy = ""
                self.seconds[name] += self.clock.driver - started
                self.calls[name] += 1

        return timed


PARTS: dict[str, tuple[tuple[type, str], ...]] = {
    "proposing": ((OneRankingTPE, "sample_independent"),),
    "judging": ((Field, "judge"), (Field, "saturated"), (Field, "add"), (Field, "predicted")),
    "scoring": ((MadeUpScoring, "score"), (MadeUpScoring, "finish")),
    "keeping shards": ((ShardStore, "keep"), (ShardStore, "take"), (ShardStore, "drop")),
    "pool": ((RayPool, "submit"), (RayPool, "next")),
    "counting rows": ((Search, "_rows_left"),),
    "storage": tuple(
        (FileStorage, name)
        for name in (
            "create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_system_attr",
            "set_trial_state_values", "get_trial", "get_all_trials", "_commit",
        )
    ),
}  # fmt: skip


@contextlib.contextmanager
def timed(clock: Any) -> Iterator[Stopwatch]:
    """Count the driver's seconds by part."""
    watch = Stopwatch(clock, Counter(), Counter())
    with contextlib.ExitStack() as patches:
        for part, methods in PARTS.items():
            for owner, name in methods:
                method = getattr(owner, name)
                whole = watch(part, method)
                static = isinstance(owner.__dict__.get(name), staticmethod)
                patches.enter_context(mock.patch.object(owner, name, staticmethod(whole) if static else whole))
        yield watch


@dataclass(frozen=True)
class Simulated:
    """What a search with virtual workers took. Seconds of the driver are real, `makespan` and `busy` are virtual."""

    workers: int
    trials: int
    makespan: float
    busy: float
    driver: float
    processor: float
    seconds: dict[str, float]
    memory_mib: float
    stopped: int
    real: float

    @property
    def utilisation(self) -> float:
        """The share of the workers' time in which they had work."""
        return self.busy / (self.workers * self.makespan)

    def lines(self) -> list[str]:
        """The result in words."""
        parts = ", ".join(f"{name} {1e3 * took / self.trials:.1f}" for name, took in self.seconds.items())
        return [
            f"{self.workers:,} workers, {self.trials:,} trials ({self.stopped:,} stopped), "
            f"{self.busy / self.trials:.1f} worker seconds a trial: {self.makespan:,.0f} s, "
            f"utilisation {self.utilisation:.1%}",
            f"driver {1e3 * self.driver / self.trials:.1f} ms a trial ({1e3 * self.processor / self.trials:.1f} of a "
            f"processor), {self.driver / self.makespan:.1%} of the time: "
            f"{parts} ms",
            f"memory {self.memory_mib:,.0f} MiB more at the end than at the start; simulated in {self.real:.0f} s "
            f"(load {os.getloadavg()[0]:.1f})",
        ]


def simulate(workers: int, trials: int, row_seconds: float, folder: Path) -> Simulated:
    """Search once."""
    started, before = time.perf_counter(), _resident()
    torch.set_num_threads(1)
    asked, answers = study(workers, trials), MadeUp(row_seconds)
    scoring = MadeUpScoring(answers)
    ray = VirtualRay(answers)
    with ray.installed(), timed(ray.clock) as watch:
        ledger = Ledger(folder, asked.study, asked.draw, "tpe", 0, asked.optimizer.startup, asked.optimizer.stopped)
        pool = RayPool(asked.benchmark, workers)
        status = Search(asked, ledger, lambda: pool, scoring, (0.002, 80.0), (), folder, "scale").run()
        makespan, driver, processor = ray.clock.monotonic(), ray.clock.driver, ray.clock.processor
    seconds = dict(watch.seconds.most_common())
    seconds["the rest"] = driver - sum(seconds.values())
    return Simulated(
        workers, trials, makespan, ray.busy, driver, processor, seconds, _resident() - before, status.stopped,
        time.perf_counter() - started,
    )  # fmt: skip


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Simulate, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--row-ms", type=float, default=1.0, help="one image through the network once")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(simulate(given.workers, given.trials, given.row_ms / 1e3, Path(folder)).lines()))


if __name__ == "__main__":
    main()
