"""GITS: the schedule that costs least along a teacher's trajectory (Chen et al., 2024, arXiv 2405.11326)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.denoiser import Denoiser, in_parts, part_of
from pipeline.methods import METHODS, Method, Pair
from pipeline.plan import Plan
from pipeline.registry import SpecError, require, to_spec
from pipeline.sampler import Calibrated, Lesson, Sampler
from pipeline.schedules import (
    LARGEST_SIGMA,
    MOST_STEPS,
    SCHEDULES,
    SIGMA_MAX,
    SIGMA_MIN,
    Final,
    Given,
    check_calibration_images,
    check_sigmas,
)
from pipeline.shortest_path import ShortestPaths
from pipeline.solvers import SOLVERS, Solver
from pipeline.trajectory import Metric, cost_matrix, record_trajectory

# Bounds the memory of a walk: 61 states of 32 CIFAR-10 images are 48 MB in float64.
IMAGES_AT_ONCE = 32


def state_at_sigma_min(plan: Plan, denoise: Denoiser, noise: Tensor) -> Tensor:
    """Where a plan that ends with the move to 0 stands before that move, for one evaluation less.

    The move to 0 returns what its evaluation answers, and here that is the state itself.
    """
    calls = itertools.count(1)
    return plan.run(lambda x, sigma: x if next(calls) == len(plan) else denoise(x, sigma), noise)


class TeacherWalk(NamedTuple):
    """What is kept of the teacher's walk: the cost of every move, the paths, where each batch ended, (b, D)."""

    cost: Tensor
    paths: ShortestPaths
    ends: tuple[Tensor, ...]


@SCHEDULES.register("gits")
@dataclass(frozen=True)
class GITS:
    """A shortest path over the teacher's grid (Chen et al., 2024, arXiv 2405.11326, section 5).

    The grid is EDM's with `teacher_rho`, `teacher_steps` moves long; `teacher` is the solver that walks it, a spec. One
    that needs calibration is calibrated on that grid, on as many of the warm-up images as it asks for. The defaults are
    those of the paper's Table 1 and of zju-pi/diff-sampler gits-main/launch.sh. The published schedules end at
    sigma_min; with `final` "zero" one of the `num_steps` moves is the last one to 0.

    `afs_search` places sigmas for a sampler with `afs`: true, whose first move is analytical and costs nothing; that
    flag is the sampler's, and is not set here. The shortest path with one move less gets an extra first stop, the node
    between its first two from which `student` (a spec) ends nearest to the teacher, in mean L2 over the warm-up images.
    Both are compared at sigma_min whatever `final` says: the move to 0 is one more evaluation of each and no part of
    the path. Where there is no node to try, the result is the shortest path with `num_steps` moves, the first of them
    as free; for as many evaluations.

    As published: section 5 of the paper has the cost "l2" and no `coeff`; "dev" and 1.15 are its code's defaults.

    Differs from zju-pi/diff-sampler gits-main/gits_utils.py:85: the warm-up noise is given, not drawn unseeded.
    Differs from zju-pi/diff-sampler gits-main/gits_utils.py:82: the costs of all warm-up images count, where that sets
    them to zero before each round and so keeps the last round's.
    Differs from zju-pi/diff-sampler gits-main/gits_utils.py:110: the teacher never takes an analytical first step.
    Differs from zju-pi/diff-sampler gits-main/gits_utils.py:160: with no node to try, a path of as many moves as asked.
    Differs from zju-pi/diff-sampler gits-main/gits_utils.py:173: the search sees all warm-up images, not one batch.
    Differs from zju-pi/diff-sampler gits-main/gits_utils.py:198: follows stored choices, not equal floats.
    """

    num_steps: int
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    final: Final = "sigma_min"
    metric: Metric = "dev"
    coeff: float = 1.15
    teacher: Mapping[str, Any] = field(default_factory=lambda: {"name": "ipndm", "order": 4}, hash=False)
    teacher_steps: int = 60
    teacher_rho: float = 7.0
    warmup: int = 256
    afs_search: bool = False
    student: Mapping[str, Any] = field(default_factory=lambda: {"name": "ipndm", "order": 4}, hash=False)

    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(0 < self.sigma_max <= LARGEST_SIGMA, "sigma_max", self.sigma_max, f"above 0, at most {LARGEST_SIGMA:g}")
        require(0 < self.sigma_min < self.sigma_max, "sigma_min", self.sigma_min, f"above 0 and below {self.sigma_max}")
        require(self.final in ("sigma_min", "zero"), "final", self.final, "sigma_min, zero")
        require(self.metric in ("dev", "l1", "l2"), "metric", self.metric, "dev, l1, l2")
        require(0 < self.coeff <= 1e3, "coeff", self.coeff, "above 0, at most 1000")
        require(1 <= self.teacher_steps <= MOST_STEPS, "teacher_steps", self.teacher_steps, f"1 to {MOST_STEPS}")
        require(0.1 <= self.teacher_rho <= 1e6, "teacher_rho", self.teacher_rho, "0.1 to 1e6")
        check_calibration_images(self.warmup, "warmup")
        least, most = 1 + self.afs_search, self.teacher_steps + len(self._last)
        allowed = f"{least} to {most}, the teacher's moves{' and the one to 0' if self._last else ''}"
        require(least <= self.num_steps <= most, "num_steps", self.num_steps, allowed)
        self._solver("teacher")
        self._solver("student")

    @property
    def calibration_images(self) -> int:
        """The warm-up images."""
        return self.warmup

    def teacher_sigmas(self) -> list[float]:
        """The fine grid, `teacher_steps` + 1 sigmas."""
        spec = {
            "name": "edm",
            "num_steps": self.teacher_steps,
            "rho": self.teacher_rho,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "final": "sigma_min",
        }
        return list(map(float, SCHEDULES.build(spec).sigmas()))

    def cost(self, denoise: Denoiser, noise: Tensor) -> Tensor:
        """The cost matrix of the teacher's grid on the warm-up `noise` (B, C, H, W), on the CPU.

        It does not depend on `num_steps`: one matrix serves every budget. Costs `teacher_steps` evaluations an image
        with a teacher of one stage.

        Raises:
            SpecError: the teacher's trajectory is not finite.
        """
        return self._walk(denoise, noise).cost

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """(N + 1,) float64; walks the teacher's trajectory from `noise` (`warmup`, C, H, W) unit normal.

        Raises:
            SpecError: no denoiser or no noise, since this schedule is learned; a trajectory that is not finite.
        """
        return self.schedules(denoise, noise, [self.num_steps])[self.num_steps]

    def schedules(self, denoise: Denoiser | None, noise: Tensor | None, budgets: Iterable[int]) -> dict[int, Tensor]:
        """For each of `budgets`, numbers of moves, what `sigmas` gives with it as `num_steps`; one walk serves all.

        `afs_search` runs the student for each budget: its evaluations on every warm-up image, times the nodes to try.

        Raises:
            SpecError: as `sigmas`; a budget that could not be `num_steps`.
        """
        if denoise is None or noise is None or len(noise) == 0:
            raise SpecError("schedule 'gits' is learned and needs a denoiser and warm-up noise")
        asked = {budget: replace(self, num_steps=budget) for budget in budgets}
        placed = {}
        walk: TeacherWalk | None = None
        for budget, schedule in asked.items():
            path = [0]
            if schedule._moves:
                walk = walk or self._walk(denoise, noise)
                path = schedule._path(denoise, noise, walk)
            placed[budget] = schedule._along(path)
        return placed

    def lesson(self) -> Lesson | None:
        """The cost matrix, which serves every budget and every `coeff`; the path itself where a student decides it too.

        None where the move to 0 is the only one.
        """
        if not self._moves:
            return None
        teacher = to_spec(self._solver("teacher"))
        if self._searches:
            spec = {**to_spec(self), "teacher": teacher, "student": to_spec(self._solver("student"))}
            return Lesson(
                "gits path", spec, lambda denoise, noise: self._path(denoise, noise, self._walk(denoise, noise))
            )
        names = ("sigma_min", "sigma_max", "metric", "teacher_steps", "teacher_rho", "warmup")
        inputs = {"teacher": teacher, **{name: getattr(self, name) for name in names}}
        return Lesson("gits cost", inputs, lambda denoise, noise: self.cost(denoise, noise).tolist())

    def placed(self, learned: Any) -> tuple[Tensor, tuple[()]]:
        """What `sigmas` gives, of a cost matrix or a path that is known."""
        if learned is None:
            return self._along([0]), ()
        path = learned if self._searches else self._paths(np.asarray(learned)).indices(self._moves)
        return self._along(path), ()

    @property
    def _last(self) -> tuple[float, ...]:
        """What follows the path over the teacher's grid."""
        return (0.0,) if self.final == "zero" else ()

    @property
    def _moves(self) -> int:
        """Moves over the teacher's grid; with none there is nothing to learn."""
        return self.num_steps - len(self._last)

    @property
    def _searches(self) -> bool:
        """Whether the student has a say; with one move there is nowhere to put an extra stop."""
        return self.afs_search and self._moves > 1

    def _along(self, path: Sequence[int]) -> Tensor:
        """The sigmas of a path over the teacher's grid."""
        grid = self.teacher_sigmas()
        values = torch.tensor([*(grid[node] for node in path), *self._last], dtype=torch.float64)
        return check_sigmas(values, self.registry_name)

    def _paths(self, cost: np.ndarray) -> ShortestPaths:
        try:
            return ShortestPaths(cost, self.coeff)
        except SpecError as error:
            raise error.under("teacher") from None

    def _walk(self, denoise: Denoiser, noise: Tensor) -> TeacherWalk:
        sigmas, teacher = self.teacher_sigmas(), self._solver("teacher")
        if isinstance(teacher, Calibrated):
            try:
                some = teacher.calibration_images
                teacher = teacher.calibrate(part_of(denoise, 0, some), noise[:some], sigmas)
            except SpecError as error:
                raise error.under("teacher") from None
        cost = torch.zeros(len(sigmas), len(sigmas), dtype=torch.float64)
        ends = []
        for network, part in in_parts(denoise, noise, IMAGES_AT_ONCE):
            states, slopes = record_trajectory(network, part, sigmas, teacher)
            self._check_finite(states, slopes, sigmas)
            cost += (len(part) / len(noise)) * cost_matrix(states, slopes, sigmas, self.metric).cpu()
            ends.append(states[-1].clone())
        return TeacherWalk(cost, self._paths(cost.numpy()), tuple(ends))

    def _check_finite(self, states: Tensor, slopes: Tensor, sigmas: Sequence[float]) -> None:
        finite = states.isfinite().flatten(1).all(1)
        finite[:-1] &= slopes.isfinite().flatten(1).all(1)
        if not finite.all():
            sigma = sigmas[finite.tolist().index(False)]
            raise SpecError(
                f"its trajectory is not finite from sigma {sigma:.6g} on", path="teacher", given=self.teacher["name"]
            )

    def _path(self, denoise: Denoiser, noise: Tensor, walk: TeacherWalk) -> list[int]:
        if self._searches:
            start, *rest = walk.paths.indices(self._moves - 1)
            tried = [[start, node, *rest] for node in range(start + 1, rest[0])]
            if len(tried) > 1:
                return min(tried, key=lambda path: self._student_miss(denoise, noise, walk, path))
            if tried:
                return tried[0]
        return walk.paths.indices(self._moves)

    def _student_miss(self, denoise: Denoiser, noise: Tensor, walk: TeacherWalk, path: Sequence[int]) -> float:
        """Mean L2 distance at sigma_min between the student on this path, first move free, and the teacher."""
        grid = self.teacher_sigmas()
        sigmas = Given((*(grid[node] for node in path), *self._last))
        try:
            _, plan = Sampler(self._solver("student"), sigmas, afs=True).prepare(denoise, noise)
        except SpecError as error:
            raise error.under("student") from None
        total = 0.0
        for (network, part), end in zip(in_parts(denoise, noise, IMAGES_AT_ONCE), walk.ends, strict=True):
            reached = state_at_sigma_min(plan, network, part) if self._last else plan.run(network, part)
            total += float((reached.flatten(1).double() - end).norm(dim=-1).sum())
        if not math.isfinite(total):
            raise SpecError("ends in values that are not finite", path="student", given=self.student["name"])
        return total / len(noise)

    def _solver(self, key: str) -> Solver:
        """The solver that the field `key` describes; what is wrong with it is told under that key."""
        try:
            return SOLVERS.build(getattr(self, key))
        except SpecError as error:
            raise error.under(key) from None


def _on_gits(solver: dict[str, Any]) -> Callable[[int], Pair | None]:
    def pair(nfe: int) -> Pair | None:
        if not 1 <= nfe <= 60:
            return None
        return dict(solver), {"name": "gits", "num_steps": nfe}

    return pair


for _name, _title, _solver in (
    ("ddim_gits", "DDIM + GITS", {"name": "euler"}),
    ("ipndm_gits", "iPNDM + GITS", {"name": "ipndm", "order": 4}),
):
    METHODS.register(
        Method(
            name=_name,
            title=_title,
            source="Chen et al., 2024, arXiv 2405.11326, Table 1",
            pair=_on_gits(_solver),
        )
    )
