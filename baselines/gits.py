"""GITS: the schedule that costs least along a teacher's trajectory (Chen et al., 2024, arXiv 2405.11326)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.methods import METHODS, Method, Pair
from pipeline.registry import SpecError, require
from pipeline.sampler import Calibrated, integrate
from pipeline.schedules import SCHEDULES, SIGMA_MAX, SIGMA_MIN, Final, check_sigmas
from pipeline.solvers import SOLVERS, Solver

Metric = Literal["dev", "l1", "l2"]
# Bounds the memory of a calibration: 61 states of 32 CIFAR-10 images are 48 MB in float64.
IMAGES_AT_ONCE = 32


def teacher_trajectory(
    denoise: Denoiser, noise: Tensor, sigmas: Sequence[float], solver: Solver
) -> tuple[Tensor, Tensor]:
    """States (T + 1, B, D) at `sigmas`, slopes (T, B, D) at all but the last, float64; `noise` (B, ...) unit normal."""
    states: list[Tensor] = []
    slopes: list[Tensor] = []

    def keep(point: Any) -> None:
        states.append(point.x.flatten(1).double())
        slopes.append(point.slope.flatten(1).double())

    end = integrate(denoise, sigmas[0] * noise, sigmas, solver, observe=keep)
    return torch.stack([*states, end.flatten(1).double()]), torch.stack(slopes)


def chord_distance(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Distance of `x` (..., B, D) to the lines through `start` and `end` (B, D) -> (..., B)."""
    along = (end - start) / (end - start).norm(dim=-1, keepdim=True)
    offset = x - start
    distance: Tensor = torch.linalg.vector_norm(offset - (offset * along).sum(-1, keepdim=True) * along, dim=-1)
    return distance


def trajectory_deviation(states: Tensor) -> Tensor:
    """Mean distance of each inner state to the chord of its trajectory: (T + 1, B, D) -> (T - 1,).

    Chen et al., 2024, arXiv 2405.11326, section 3.1.
    """
    return chord_distance(states[1:-1], states[0], states[-1]).mean(-1)


def cost_matrix(states: Tensor, slopes: Tensor, sigmas: Sequence[float], metric: Metric) -> Tensor:
    """What one Euler move from sigma i to sigma j > i costs, averaged over images: (T + 1, T + 1), 0 where j <= i.

    "l2" and "l1" are the norm of the difference to the teacher's state (Chen et al., 2024, arXiv 2405.11326, section
    5). "dev" is the gain in distance to the teacher's chord, which may be negative: the published code's default.
    """
    grid = torch.tensor(sigmas, dtype=states.dtype, device=states.device)
    cost = torch.zeros(len(sigmas), len(sigmas), dtype=states.dtype, device=states.device)
    truth = chord_distance(states, states[0], states[-1])
    for i, slope in enumerate(slopes):
        reached = states[i] + (grid[i + 1 :] - grid[i])[:, None, None] * slope
        if metric == "dev":
            error = chord_distance(reached, states[0], states[-1]) - truth[i + 1 :]
        else:
            error = (reached - states[i + 1 :]).norm(p=1 if metric == "l1" else 2, dim=-1)
        cost[i, i + 1 :] = error.mean(-1)
    return cost


class ShortestPaths:
    """The cheapest paths from the first node to the last, for every number of moves, from one table of values.

    value[k, j] = min over i > j of cost[j, i] + coeff * value[k - 1, i] is the cost of going on from j in k moves: each
    move costs coeff times more than the one before it (Chen et al., 2024, arXiv 2405.11326; zju-pi/diff-sampler
    gits-main/gits_utils.py:185). Of equally cheap next nodes the first is taken.
    """

    def __init__(self, cost: np.ndarray, coeff: float) -> None:
        nodes = len(cost)
        edges = np.where(np.triu(np.ones((nodes, nodes), dtype=bool), 1), cost, math.inf)
        value = edges[:, -1]
        # following[k - 1][j]: the node after j on the cheapest way that still has k moves.
        self.following = [np.full(nodes, nodes - 1)]
        for _ in range(2, nodes):
            total = edges + coeff * value
            self.following.append(total.argmin(1))
            value = total.min(1)

    def indices(self, num_steps: int) -> list[int]:
        """The `num_steps` + 1 nodes of the cheapest path with exactly `num_steps` moves.

        Raises:
            SpecError: fewer than one move, or more than there are nodes for.
        """
        require(1 <= num_steps <= len(self.following), "num_steps", num_steps, f"1 to {len(self.following)}")
        path = [0]
        for k in range(num_steps, 0, -1):
            path.append(int(self.following[k - 1][path[-1]]))
        return path


def shortest_path(cost: Tensor | np.ndarray, num_steps: int, coeff: float) -> list[int]:
    """The nodes of the cheapest path with exactly `num_steps` moves; for several budgets keep a `ShortestPaths`."""
    return ShortestPaths(np.asarray(cost, dtype=np.float64), coeff).indices(num_steps)


@SCHEDULES.register("gits")
@dataclass(frozen=True)
class GITS:
    """A shortest path over the teacher's grid (Chen et al., 2024, arXiv 2405.11326, section 5).

    The grid is EDM's with `teacher_rho`, `teacher_steps` moves long; `teacher` is the solver that walks it, a spec. The
    defaults are those of the paper's Table 1 and of zju-pi/diff-sampler gits-main/launch.sh. The published schedules
    end at sigma_min; with `final` "zero" one of the `num_steps` moves is the last one to 0.

    Differs from zju-pi/diff-sampler gits-main/gits_utils.py:85: the warm-up noise is given, not drawn unseeded.
    Differs from zju-pi/diff-sampler gits-main/gits_utils.py:110: the teacher never takes an analytical first step.
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

    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(0 < self.sigma_min < self.sigma_max, "sigma_min", self.sigma_min, f"above 0 and below {self.sigma_max}")
        require(self.final in ("sigma_min", "zero"), "final", self.final, "sigma_min, zero")
        require(self.metric in ("dev", "l1", "l2"), "metric", self.metric, "dev, l1, l2")
        require(self.coeff > 0, "coeff", self.coeff, "above 0")
        require(self.teacher_steps >= 1, "teacher_steps", self.teacher_steps, "1 or more")
        require(self.teacher_rho > 0, "teacher_rho", self.teacher_rho, "above 0")
        require(self.warmup >= 1, "warmup", self.warmup, "1 or more")
        extra = int(self.final == "zero")
        require(
            1 <= self.num_steps <= self.teacher_steps + extra,
            "num_steps",
            self.num_steps,
            f"1 to {self.teacher_steps + extra}, the teacher's moves{' and the one to 0' if extra else ''}",
        )
        self._teacher()

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
        """
        sigmas, solver = self.teacher_sigmas(), self._teacher()
        total = torch.zeros(len(sigmas), len(sigmas), dtype=torch.float64)
        for first in range(0, len(noise), IMAGES_AT_ONCE):
            part = noise[first : first + IMAGES_AT_ONCE]
            states, slopes = teacher_trajectory(denoise, part, sigmas, solver)
            total += (len(part) / len(noise)) * cost_matrix(states, slopes, sigmas, self.metric).cpu()
        return total

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """(N + 1,) float64; walks the teacher's trajectory from `noise` (`warmup`, C, H, W) unit normal.

        Raises:
            SpecError: no denoiser or no noise, since this schedule is learned.
        """
        if denoise is None or noise is None or len(noise) == 0:
            raise SpecError("schedule 'gits' is learned and needs a denoiser and warm-up noise")
        grid = self.teacher_sigmas()
        if self.num_steps == 1 and self.final == "zero":
            return check_sigmas(torch.tensor([grid[0], 0.0], dtype=torch.float64), self.registry_name)
        moves = self.num_steps - (self.final == "zero")
        picked = [grid[j] for j in shortest_path(self.cost(denoise, noise), moves, self.coeff)]
        return check_sigmas(
            torch.tensor(picked + [0.0] * (self.final == "zero"), dtype=torch.float64), self.registry_name
        )

    def _teacher(self) -> Solver:
        try:
            solver = SOLVERS.build(self.teacher)
        except SpecError as error:
            raise error.under("teacher") from None
        if isinstance(solver, Calibrated):
            raise SpecError("is a solver that needs calibration itself", path="teacher", given=self.teacher["name"])
        return solver


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
