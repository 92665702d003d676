"""Which solver made each step of a plan, and with how many evaluations: what a card tells of a frozen switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline.plan import Plan, Tape
from pipeline.registry import to_spec
from pipeline.sampler import integrate
from pipeline.sdm import Switch
from pipeline.solvers import SOLVERS, Solver
from pipeline.trial import TrialSpec


class Step(NamedTuple):
    """A move of the schedule; `solver` in words, `evaluations` those that it made itself (0 for a free first step)."""

    sigma: float
    to: float
    solver: str
    evaluations: int


def steps(spec: TrialSpec, solver: Mapping[str, Any], plan: Plan) -> list[Step]:
    """The steps of a plan that this solver, its decision taken, made on the plan's sigmas.

    Empty where the solver is not known here, or gives another plan, as it may where its code is newer than the plan.
    """
    sigmas, tape = plan.sigmas, Tape()
    seen: list[int] = []
    try:
        sampler = replace(spec, solver=solver).sampler()
        end = integrate(
            tape.denoise, sigmas[0] * tape.noise(), sigmas, sampler.solver,
            afs=sampler.afs, churn=sampler.churn, fresh=tape.noise, carry=tape.carry,
            observe=lambda point: seen.append(len(tape.stages)),
        )  # fmt: skip
        same = tape.plan(end, sigmas).digest == plan.digest
    except ValueError:  # a SpecError, or a switch without its decision
        same = False
    if not same:
        return []
    # A step's first evaluation has been made when it is observed, its others not yet.
    firsts = [0 if sampler.afs and i == 0 else 1 for i in range(len(seen))]
    starts = [count - first for count, first in zip(seen, firsts, strict=True)]
    return [
        Step(sigma, target, _words(sampler.solver, i, sigmas), stop - start)
        for i, (sigma, target, start, stop) in enumerate(
            zip(sigmas[:-1], sigmas[1:], starts, [*starts[1:], len(plan)], strict=True)
        )
    ]


def _words(solver: Solver, i: int, sigmas: tuple[float, ...]) -> str:
    if not isinstance(solver, Switch):
        spec = to_spec(solver)
        return str(spec["name"]) + (f"-{spec['order']}" if "order" in spec else "")
    low, high = (_words(SOLVERS.build(spec), i, sigmas) for spec in (solver.low, solver.high))
    share = 1.0 if sigmas[i + 1] == 0 else solver.weight(i, len(sigmas) - 1)
    if share in (0, 1) or low == high:
        return low if share else high
    return f"{share:.3g} {low} + {1 - share:.3g} {high}"
