"""A method is a pair, solver x schedule, and this is the only sampling loop there is.

The loop owns the first evaluation of every step, the history of points, the analytical first step, the churn and the
last denoising, so that a solver is only its formula and none of these exists twice.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline.churn import Churn
from pipeline.denoiser import Denoiser, Meter, part_of
from pipeline.memory import Memory
from pipeline.plan import Plan, Tape
from pipeline.registry import SpecError, to_spec
from pipeline.schedules import Schedule
from pipeline.solvers import HISTORY, Evaluate, Point, Solver


class Lesson(NamedTuple):
    """Something to be learned from the network, and all that decides it beside the network and the noise.

    `learn` takes the denoiser and the calibration noise, (B, C, H, W) unit normal, and gives plain JSON, decided by
    `inputs`, plain JSON too. `inputs` leaves out what only makes use of it, so that one lesson serves many specs.
    """

    kind: str
    inputs: Mapping[str, Any]
    learn: Callable[[Denoiser, Tensor], Any]

    def known(self, denoise: Denoiser, noise: Tensor, memory: Memory | None) -> Any:
        """What the lesson gives: recalled, or learned now. The rows that it costs are counted here."""

        def learn() -> tuple[Any, int]:
            meter = Meter(denoise)
            return self.learn(meter, noise), meter.rows

        return learn()[0] if memory is None else memory.recall(self.kind, self.inputs, learn)


@runtime_checkable
class Calibrated(Protocol):
    """A solver that decides something from the data: once, on fixed noise, and then frozen (SDM's switch)."""

    @property
    def calibration_images(self) -> int: ...

    def lesson(self, sigmas: Sequence[float]) -> Lesson | None:
        """What there is to learn on these sigmas before the decision; None where it is taken already."""
        ...

    def decided(self, learned: Any) -> Solver:
        """The same solver with the decision that follows from what the lesson gave."""
        ...

    def calibrate(self, denoise: Denoiser, noise: Tensor, sigmas: Sequence[float]) -> Solver:
        """The same solver with its decision taken. `noise`: (B, C, H, W) unit normal."""
        ...


def integrate(
    denoise: Evaluate,
    x: Any,
    sigmas: Sequence[float],
    solver: Solver,
    *,
    afs: bool = False,
    churn: Churn | None = None,
    fresh: Callable[[int], Any] | None = None,
    observe: Callable[[Point], object] | None = None,
    carry: Callable[[Any], Any] | None = None,
) -> Any:
    """Move `x` from sigmas[0] to sigmas[-1].

    Args:
        denoise: D(x; sigma) over tensors or formal vectors.
        x: noise times sigmas[0], (B, C, H, W) or formal.
        sigmas: (N + 1,) strictly decreasing.
        solver: moves x, one step of the schedule at a time.
        afs: take the first point from the closed form D = x - sigma x / sqrt(1 + sigma^2) instead of the network
            (analytical first step; Dockhorn et al., 2022, arXiv 2210.05475).
        churn: lift x by fresh noise before each evaluation of the schedule; for solvers of one step.
        fresh: the unit-normal noise of step i, asked for as i + 1 since stream 0 is what x started from; with `churn`.
        observe: called with each evaluated point of the schedule.
        carry: called with the solver's state after each step; the tape uses it.
    """
    if churn is not None:
        churn.require_one_step(solver)
    points: deque[Point] = deque(maxlen=HISTORY)
    state: Any = None
    for i, node in enumerate(sigmas[:-1]):
        sigma = node if churn is None else churn.lifted(node, len(sigmas) - 1)
        if churn is not None and sigma > node:
            if fresh is None:
                raise ValueError("churn needs fresh noise: give `fresh`")
            x = x + (churn.s_noise * math.sqrt(sigma**2 - node**2)) * fresh(i + 1)
        free = afs and i == 0
        denoised = (1 - sigma / math.sqrt(1 + sigma**2)) * x if free else denoise(x, sigma)
        points.append(Point(sigma, x, denoised))
        if observe is not None:
            observe(points[-1])
        x, state = solver.step(denoise, points, sigmas, i, state)
        if carry is not None:
            state = carry(state)
    return x


def trace(solver: Solver, sigmas: Sequence[float], *, afs: bool = False, churn: Churn | None = None) -> Plan:
    """Write the sampler down as a `Plan`; no network is needed, since only the sigmas decide the coefficients."""
    tape = Tape()
    values = tuple(float(sigma) for sigma in sigmas)
    start = values[0] * tape.noise()
    end = integrate(tape.denoise, start, values, solver, afs=afs, churn=churn, fresh=tape.noise, carry=tape.carry)
    return tape.plan(end, values)


class Step(Protocol):
    """A step that a schedule took, as plain JSON values."""

    def to_json(self) -> dict[str, Any]: ...


@runtime_checkable
class Learned(Protocol):
    """A schedule that says what it learns, apart from where it places the sigmas by it.

    A schedule of another kind that wants calibration noise learns its sigmas, decided by all of its fields.
    """

    def lesson(self) -> Lesson | None:
        """What there is to learn; None where these fields leave nothing."""
        ...

    def placed(self, learned: Any) -> tuple[Tensor, Sequence[Step]]:
        """What `sigmas` gives, and what it has to tell of each step it took (SDM's realised bound), if anything.

        `learned`: what the lesson gave, None without one.
        """
        ...


@dataclass(frozen=True)
class Sampler:
    """A solver on a schedule. `prepare` learns, calibrates and traces; the result no longer depends on any batch.

    `afs` and `churn` are the loop's (see `integrate`). `denoise_to_zero` goes on to 0 where the schedule stops at
    sigma_min, for one more evaluation (zju-pi/diff-sampler's option of that name). `walk` is what a schedule recorded
    while it placed the sigmas; `prepare` fills it in.
    """

    solver: Solver
    schedule: Schedule
    afs: bool = False
    denoise_to_zero: bool = False
    churn: Churn | None = None
    walk: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.churn is not None:
            self.churn.require_one_step(self.solver)
        if self.denoise_to_zero and getattr(self.schedule, "final", "sigma_min") != "sigma_min":
            raise _already_at_zero()
        if getattr(self.schedule, "afs_search", False) and not self.afs:
            raise SpecError(
                "places sigmas for an analytical first step, which this sampler does not take",
                path="schedule.afs_search",
                given=True,
                allowed="false, or afs: true with it",
            )

    @property
    def calibration_images(self) -> int:
        """How many unit-normal images `prepare` wants: the larger of what the two parts want, 0 if neither does."""
        solver = self.solver.calibration_images if isinstance(self.solver, Calibrated) else 0
        return max(self.schedule.calibration_images, solver)

    def prepare(self, denoise: Denoiser, noise: Tensor, memory: Memory | None = None) -> tuple[Sampler, Plan]:
        """Place the sigmas, take the solver's decision, trace. `noise`: (`calibration_images`, C, H, W) unit normal.

        The decision is taken on the deterministic path, without churn. What `memory` knows is not learned again; it is
        of this denoiser and this noise.
        """
        sigmas, walk = self.place(denoise, noise, memory)
        solver = self.decide(denoise, noise, sigmas, memory)
        return replace(self, solver=solver, walk=walk), trace(solver, sigmas, afs=self.afs, churn=self.churn)

    def place(
        self, denoise: Denoiser, noise: Tensor, memory: Memory | None = None
    ) -> tuple[list[float], tuple[Mapping[str, Any], ...]]:
        """The schedule's sigmas, going on to 0 if asked for, and what it recorded of its steps."""
        schedule, walk = self.schedule, self.walk
        some = schedule.calibration_images
        network, calibration = part_of(denoise, 0, some), noise[:some]
        with _about("schedule"):
            if isinstance(schedule, Learned):
                lesson = schedule.lesson()
                learned = None if lesson is None else lesson.known(network, calibration, memory)
                placed, steps = schedule.placed(learned)
                walk = tuple(step.to_json() for step in steps)
            elif schedule.calibration_images:
                placed = torch.tensor(_whole(schedule).known(network, calibration, memory), dtype=torch.float64)
            else:
                placed = schedule.sigmas(network, calibration)
        if self.denoise_to_zero:
            if placed[-1] == 0:
                raise _already_at_zero()
            placed = torch.cat([placed, placed.new_zeros(1)])
        return placed.tolist(), walk

    def decide(self, denoise: Denoiser, noise: Tensor, sigmas: Sequence[float], memory: Memory | None = None) -> Solver:
        """The solver with its decision taken on these sigmas, if it is one that decides."""
        solver = self.solver
        if not isinstance(solver, Calibrated):
            return solver
        with _about("solver"):
            lesson = solver.lesson(sigmas)
            if lesson is None:
                return solver
            some = solver.calibration_images
            return solver.decided(lesson.known(part_of(denoise, 0, some), noise[:some], memory))


def _whole(schedule: Schedule) -> Lesson:
    """The lesson of a schedule that has none of its own: its sigmas."""
    spec = to_spec(schedule)
    return Lesson(f"{spec['name']} sigmas", spec, lambda denoise, noise: schedule.sigmas(denoise, noise).tolist())


@contextlib.contextmanager
def _about(part: str) -> Iterator[None]:
    """A mistake that shows only while the sampler is made ready is told under its own part of the spec."""
    try:
        yield
    except SpecError as error:
        raise error.under(part) from None


def _already_at_zero() -> SpecError:
    return SpecError(
        "is for a schedule that stops at sigma_min",
        path="denoise_to_zero",
        given=True,
        allowed="false, or final: sigma_min in the schedule",
    )
