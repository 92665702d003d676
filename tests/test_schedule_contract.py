"""What every registered schedule keeps to, and every pair of a solver and a schedule."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.denoiser import Meter
from pipeline.sampler import Sampler, integrate
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from tests.conformance_problem import LATENTS, MIXTURE
from tests.contract_examples import (
    SCHEDULE_EXAMPLES,
    SOLVER_EXAMPLES,
    every_schedule,
    every_solver,
    global_randomness_untouched,
    noise,
    prepare,
    survives,
)


def place(spec: dict[str, Any]) -> Tensor:
    schedule = SCHEDULES.build(spec)
    return schedule.sigmas(MIXTURE, noise(schedule.calibration_images))


@every_schedule
def test_schedule_is_a_schedule(spec):
    schedule, sigmas = SCHEDULES.build(spec), place(spec)
    assert sigmas.dtype == torch.float64
    assert sigmas.ndim == 1
    values = sigmas.tolist()
    assert all(math.isfinite(value) and value >= 0 for value in values)
    assert all(a > b for a, b in itertools.pairwise(values))
    if spec["name"] == "given":
        assert values == spec["values"]
        return
    assert len(values) == schedule.num_steps + 1
    # A closed form says which its ends are: iDDPM's are members of its grid.
    highest, lowest = getattr(schedule, "ends", (schedule.sigma_max, schedule.sigma_min))
    assert schedule.sigma_max >= highest >= lowest >= schedule.sigma_min
    assert values[0] == highest
    assert values[-1] == (lowest if schedule.final == "sigma_min" else 0.0)
    if schedule.final != "sigma_min" and schedule.num_steps > 1:
        assert values[-2] == lowest


@every_schedule
def test_schedule_built_twice_is_the_same_bytes(spec):
    with global_randomness_untouched():
        first = place(spec).numpy().tobytes()
    assert place(spec).numpy().tobytes() == first


@every_schedule
def test_schedule_is_frozen_data(spec):
    survives(SCHEDULES.build(spec), SCHEDULES)


@every_schedule
def test_schedule_samples(spec):
    afs = spec.get("afs_search", False)
    sampler = Sampler(SOLVERS.build({"name": "euler"}), SCHEDULES.build(spec), afs)
    _, plan = sampler.prepare(MIXTURE, noise(sampler.calibration_images))
    assert len(plan) == len(plan.sigmas) - 1 - afs
    assert plan.run(MIXTURE, LATENTS).isfinite().all()


@functools.cache
def placed(name: str) -> Tensor:
    return place(SCHEDULE_EXAMPLES.get(name, [{"name": name, "num_steps": 8}])[0])


@pytest.mark.parametrize("schedule", SCHEDULES.names())
@every_solver
def test_any_solver_takes_any_schedule(spec, schedule):
    """Every pair samples: finite, the plan as the eager loop, every evaluation counted, and nearer than the noise."""
    sigmas = placed(schedule).tolist()
    solver, plan = prepare(spec, sigmas)
    eager, planned = Meter(MIXTURE), Meter(MIXTURE)
    expected = integrate(eager, sigmas[0] * LATENTS, sigmas, solver)
    samples = plan.run(planned, LATENTS)
    assert samples.isfinite().all()
    torch.testing.assert_close(samples, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert planned.rows == eager.rows == len(plan) * len(LATENTS)
    assert float(samples.square().mean()) < (sigmas[0] / 2) ** 2


def test_examples_are_of_registered_names():
    assert set(SOLVER_EXAMPLES) <= set(SOLVERS.names())
    assert set(SCHEDULE_EXAMPLES) <= set(SCHEDULES.names())
