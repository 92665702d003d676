"""The fewest evaluations that a point of a space can make, told from its parts without a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pipeline.sampler import Sampler, trace
from pipeline.schedules import EDM, Given, Schedule
from pipeline.sdm import Switch
from pipeline.solvers import Solver


def fewest_evaluations(samplers: Iterable[Sampler]) -> int | None:
    """The least NFE of any solver here on any schedule here; None where only a walk would tell the number of moves.

    It depends on the solver, the number of moves and whether the last one goes to 0; fewer moves never cost more, and
    an analytical first step neither.
    """
    solvers: dict[str, Solver] = {}
    moves: dict[bool, int] = {}
    afs = False
    for sampler in samplers:
        made = _moves(sampler.schedule)
        if made is None:
            return None
        made += sampler.denoise_to_zero
        to_zero = sampler.denoise_to_zero or _goes_to_zero(sampler.schedule)
        moves[to_zero] = min(made, moves.get(to_zero, made))
        solvers[repr(sampler.solver)] = sampler.solver
        afs |= sampler.afs
    return min(
        len(trace(end, EDM(made, final="zero" if to_zero else "sigma_min").sigmas().tolist(), afs=afs))
        for to_zero, made in moves.items()
        for end in {repr(end): end for solver in solvers.values() for end in _ends_of(solver, made)}.values()
    )


def _moves(schedule: Schedule) -> int | None:
    if isinstance(schedule, Given):
        return len(schedule.values) - 1
    moves: int | None = getattr(schedule, "num_steps", None)
    return moves


def _goes_to_zero(schedule: Schedule) -> bool:
    if isinstance(schedule, Given):
        return schedule.values[-1] == 0
    return getattr(schedule, "final", "zero") != "sigma_min"


def _ends_of(solver: Solver, moves: int) -> Iterator[Solver]:
    """The solver, a switch that is to be calibrated at the first and past the last step."""
    if isinstance(solver, Switch) and solver.rule == "step" and solver.switch_at is None:
        for at in (0, moves):
            yield replace(solver, switch_at=at, tau_k=0.0)
    else:
        yield solver
