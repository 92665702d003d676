"""Solvers: how x moves from one sigma to the next. Euler and Heun here, a published family a file in `baselines`.

A solver is the paper's formula over the last evaluated points. It never knows whether x is a tensor or a formal vector
of `pipeline.plan`, which is why tracing needs no second description of any method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

from pipeline.registry import Registry, require


class Vector(Protocol):
    """Anything that adds and scales: a tensor of images, or the formal vector of a trace."""

    def __add__(self, other: Self, /) -> Self: ...
    def __sub__(self, other: Self, /) -> Self: ...
    def __rmul__(self, scalar: float, /) -> Self: ...


# D(x; sigma) over either kind of vector.
Evaluate = Callable[[Any, float], Any]
# What a solver carries from step to step beside the points: nothing, a vector, or a tuple of such.
State = Any


class Point(NamedTuple):
    """One evaluated point of the path: x at sigma, and the network's answer there."""

    sigma: float
    x: Any
    denoised: Any

    @property
    def slope(self) -> Any:
        """dx/dsigma = (x - D) / sigma (Karras et al., 2022, arXiv 2206.00364, eq. 3)."""
        return (1 / self.sigma) * (self.x - self.denoised)


@runtime_checkable
class Solver(Protocol):
    """Moves x from sigmas[i] to sigmas[i + 1].

    `points` are the last evaluated points, at most `HISTORY`, the current one last and already paid for. `denoise`
    makes further evaluations. Linear in x and in every denoised; deterministic; frozen. `one_step` says that neither
    earlier points nor a state are read, so that x may be moved between steps (churn).
    """

    @property
    def order(self) -> int: ...

    @property
    def one_step(self) -> bool: ...

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """X at sigmas[i + 1], and the state to hand to the next step. A move to 0 returns the denoised."""
        ...


HISTORY = 4


SOLVERS: Registry[Solver] = Registry("solver", ("pipeline.sdm", "baselines"))


def euler_move(point: Point, target: float) -> Any:
    """Move along the slope: x + (target - sigma) * slope, written so that target 0 gives exactly the denoised."""
    if target == 0:
        return point.denoised
    ratio = target / point.sigma
    return ratio * point.x + (1 - ratio) * point.denoised


def along_slopes(points: Sequence[Point], weights: Sequence[float]) -> Any:
    """The newest point's x plus the weighted slopes, the newest first; `points` are in order of evaluation."""
    moved = points[-1].x
    for weight, point in zip(weights, reversed(points), strict=False):
        moved = moved + weight * point.slope
    return moved


def _two_stages(denoise: Evaluate, here: Point, target: float, middle: float, weight: float) -> Any:
    """Move to `target` along both slopes, the one at `middle` weighed by `weight`; a move to 0 takes one evaluation."""
    if target == 0:
        return here.denoised
    x = euler_move(here, middle)
    there = Point(middle, x, denoise(x, middle))
    move = target - here.sigma
    return here.x + (move * (1 - weight)) * here.slope + (move * weight) * there.slope


@SOLVERS.register("euler")
@dataclass(frozen=True)
class Euler:
    """Euler's rule; DDIM in these coordinates (Song et al., 2021, arXiv 2010.02502)."""

    order: ClassVar[int] = 1
    one_step: ClassVar[bool] = True
    registry_name: ClassVar[str]

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """One evaluation, the loop's."""
        del denoise, state
        return euler_move(points[-1], sigmas[i + 1]), None


@SOLVERS.register("heun")
@dataclass(frozen=True)
class Heun:
    """Second-order two-stage rule with the second point at alpha of the step (Karras et al., 2022, Algorithm 3).

    alpha = 1 is Heun's, 1/2 the midpoint. The move to 0 is Euler's, so N moves cost 2N - 1 evaluations there, 2N else.
    """

    alpha: float = 1.0

    order: ClassVar[int] = 2
    one_step: ClassVar[bool] = True
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(0 < self.alpha <= 1, "alpha", self.alpha, "above 0, at most 1")

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """Two evaluations: the loop's, and one at sigma + alpha * (next - sigma)."""
        del state
        here, target = points[-1], sigmas[i + 1]
        middle = target if self.alpha == 1 else here.sigma + self.alpha * (target - here.sigma)
        return _two_stages(denoise, here, target, middle, 1 / (2 * self.alpha)), None


@SOLVERS.register("dpm_solver_2")
@dataclass(frozen=True)
class DPMSolver2:
    """DPM-Solver-2: two stages, the second at r of the step in log sigma (Lu et al., 2022, arXiv 2206.00927).

    r = 1/2 is the paper's Algorithm 1, r = 1 Heun's rule. The move to 0 returns the denoised, for one evaluation.
    """

    r: float = 0.5

    order: ClassVar[int] = 2
    one_step: ClassVar[bool] = True
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(0 < self.r <= 1, "r", self.r, "above 0, at most 1")

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """Two evaluations: the loop's, and one at sigma^(1 - r) * next^r."""
        del state
        here, target = points[-1], sigmas[i + 1]
        middle = target if self.r == 1 else here.sigma ** (1 - self.r) * target**self.r
        return _two_stages(denoise, here, target, middle, 1 / (2 * self.r)), None
