"""The traced table: it is the eager loop, it is exact JSON, and it holds no more than it needs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.denoiser import Meter
from pipeline.plan import Plan, Stage
from pipeline.registry import SpecError
from pipeline.sampler import integrate, trace
from pipeline.schedules import EDM
from pipeline.solvers import SOLVERS, Euler, Heun

SPECS = [
    {"name": "euler"},
    {"name": "heun", "alpha": 0.7},
    {"name": "dpm_solver_pp", "order": 3},
    {"name": "dpm_solver_pp", "order": 2, "variant": "heun"},
    {"name": "unipc", "order": 3, "variant": "bh1"},
    {"name": "ipndm", "order": 4},
    {"name": "ipndm_v", "order": 3, "coefficients": "exact"},
    {"name": "switch", "rule": "cosine"},
    {"name": "switch", "switch_at": 2, "high": {"name": "unipc"}},
]
EDM_8 = EDM(8).sigmas().tolist()


class Bent:
    """Smooth, bounded and far from linear in x; shapes as they come."""

    def __call__(self, x, sigma):
        return torch.tanh(x / (1 + sigma)) + 0.3 * torch.sin(3 * x / (1 + sigma**2) ** 0.5)


BENT = Bent()


def unit_normal(images, seed=0, dtype=torch.float64):
    return torch.randn((images, 2, 3, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@st.composite
def schedules(draw):
    """Strictly decreasing, from 1 to 200 down over ratios of 1.05 to 8; the last may be 0."""
    ratios = draw(st.lists(st.floats(1.05, 8.0), min_size=1, max_size=8))
    start = draw(st.floats(1.0, 200.0))
    sigmas = [start, *(start / total for total in itertools.accumulate(ratios, lambda a, b: a * b))]
    return [*sigmas, 0.0] if draw(st.booleans()) else sigmas


# The eager loop --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(schedules(), st.sampled_from(SPECS), st.booleans(), st.integers(0, 2**31))
def test_running_a_plan_is_the_eager_loop_at_its_nfe(sigmas, spec, afs, seed):
    solver, noise = SOLVERS.build(spec), unit_normal(3, seed)
    kept = noise.clone()
    eager, planned = Meter(BENT), Meter(BENT)
    expected = integrate(eager, sigmas[0] * noise, sigmas, solver, afs=afs)
    plan = trace(solver, sigmas, afs=afs)
    torch.testing.assert_close(plan.run(planned, noise), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(noise, kept)
    assert planned.rows == eager.rows == 3 * len(plan)
    assert [stage.sigma for stage in plan.stages] == sigmas_seen(solver, sigmas, afs)


def sigmas_seen(solver, sigmas, afs):
    seen = []

    def denoise(x, sigma):
        seen.append(sigma)
        return BENT(x, sigma)

    integrate(denoise, sigmas[0] * unit_normal(1), sigmas, solver, afs=afs)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_plan_runs_in_the_dtype_of_its_noise(dtype):
    sigmas = EDM(6, sigma_max=10.0).sigmas().tolist()
    plan = trace(Heun(), sigmas)
    seen = set()

    def answers_in_double(x, sigma):
        seen.add(x.dtype)
        return BENT(x.double(), sigma)

    samples = plan.run(answers_in_double, unit_normal(2, dtype=dtype))
    exact = plan.run(BENT, unit_normal(2))
    assert seen == {dtype}
    assert samples.dtype == dtype
    torch.testing.assert_close(samples.double(), exact, rtol=0, atol=200 * torch.finfo(dtype).eps)


def test_afs_saves_the_evaluation_at_the_top():
    plain, free = trace(Euler(), EDM_8), trace(Euler(), EDM_8, afs=True)
    assert len(free) == len(plain) - 1
    assert [stage.sigma for stage in free.stages] == EDM_8[1:-1]
    assert free.digest != plain.digest
    assert free.sigmas == plain.sigmas


def test_a_plan_without_evaluations_is_its_output():
    plan = Plan((), {"n": 0.5}, (1.0, 0.0))
    noise = unit_normal(2)
    assert len(plan) == 0
    assert torch.equal(plan.run(BENT, noise), 0.5 * noise)


def test_a_factor_beyond_the_dtype_gives_samples_that_are_not_finite():
    plan = dataclasses.replace(trace(Euler(), EDM_8), output={"d7": 1e308})
    assert not plan.run(BENT, unit_normal(2, dtype=torch.float32)).isfinite().any()


# Memory ----------------------------------------------------------------------------------------------------------


class Watching:
    """Counts how many of its former inputs and answers are alive at each call."""

    def __init__(self):
        self.seen = []
        self.most = 0

    def __call__(self, x, sigma):
        self.most = max(self.most, sum(ref() is not None for ref in self.seen))
        answer = BENT(x, sigma)
        self.seen += [weakref.ref(x), weakref.ref(answer)]
        return answer


@pytest.mark.parametrize(
    ("spec", "held"),
    # What is read again later: nothing; the step's first point; two answers; three points; two answers.
    [
        ({"name": "euler"}, 0),
        ({"name": "heun"}, 2),
        ({"name": "dpm_solver_pp", "order": 3}, 2),
        ({"name": "ipndm", "order": 4}, 6),
        ({"name": "unipc", "order": 2}, 2),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_registers_are_freed_once_nothing_reads_them(spec, held):
    watching = Watching()
    plan = trace(SOLVERS.build(spec), EDM(40).sigmas().tolist())
    plan.run(watching, unit_normal(2))
    assert len(watching.seen) == 2 * len(plan) >= 80
    assert watching.most == held


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
def test_rows_stay_short_however_many_steps(spec):
    def width(steps):
        plan = trace(SOLVERS.build(spec), EDM(steps).sigmas().tolist())
        rows = [terms for stage in plan.stages for terms in (*stage.carry.values(), stage.input)]
        return max(map(len, rows))

    assert width(80) == width(20) <= 8


# JSON ------------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(schedules(), st.sampled_from(SPECS))
def test_json_keeps_every_bit(sigmas, spec):
    plan = trace(SOLVERS.build(spec), sigmas)
    again = Plan.from_json(json.loads(json.dumps(plan.to_json(), allow_nan=False)))
    assert again == plan
    assert again.digest == plan.digest
    noise = unit_normal(2)
    assert torch.equal(again.run(BENT, noise), plan.run(BENT, noise))


def content(spec=SPECS[4]):
    return json.loads(json.dumps(trace(SOLVERS.build(spec), EDM_8).to_json()))


def spoilt(*path, value):
    """A plan's JSON with one value, found along `path`, exchanged."""
    whole = place = content()
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return whole


CARRIED = next(k for k, row in enumerate(content()["stages"]) if "carry" in row)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, True, None, "1.0", [1.0], 10**400],
    ids=["nan", "inf", "-inf", "true", "null", "text", "list", "huge"],
)
@pytest.mark.parametrize(
    "path",
    [("sigmas", 2), ("stages", 3, "sigma"), ("stages", 3, "input", "x2"), ("output", "d7")],
    ids=["sigmas", "sigma", "input", "output"],
)
def test_what_is_not_a_finite_number_is_refused(path, value):
    Plan.from_json(content())
    with pytest.raises(SpecError, match=r"finite number|too large"):
        Plan.from_json(spoilt(*path, value=value))


@pytest.mark.parametrize(
    ("path", "value", "register"),
    [
        (("stages", 3, "input", "x3"), 1.0, "x3"),
        (("stages", 3, "input", "d3"), 1.0, "d3"),
        (("stages", 0, "input", "x7"), 1.0, "x7"),
        (("stages", 0, "input", "c0.0"), 1.0, "c0.0"),
        (("output", "d8"), 1.0, "d8"),
        (("output", "D1"), 1.0, "D1"),
    ],
)
def test_a_register_is_written_before_it_is_read(path, value, register):
    with pytest.raises(SpecError, match="read before it is written") as caught:
        Plan.from_json(spoilt(*path, value=value))
    assert caught.value.given == register


@pytest.mark.parametrize("register", ["n", "x0", "d1", f"x{CARRIED}", f"d{CARRIED + 1}"])
def test_a_register_is_written_once(register):
    with pytest.raises(SpecError, match="written twice"):
        Plan.from_json(spoilt("stages", CARRIED, "carry", register, value={"n": 1.0}))


@pytest.mark.parametrize("sigma", [0, 0.0, -1.0])
def test_there_is_no_evaluation_without_noise(sigma):
    with pytest.raises(SpecError, match=r"plan row 3: .*above 0"):
        Plan.from_json(spoilt("stages", 3, "sigma", value=sigma))


@pytest.mark.parametrize(
    "missing", [("sigmas",), ("stages",), ("output",), ("stages", 2, "sigma"), ("stages", 2, "input")]
)
def test_a_missing_part_is_named(missing):
    whole = place = content()
    for key in missing[:-1]:
        place = place[key]
    del place[missing[-1]]
    with pytest.raises(SpecError, match=rf"is not a plan \(KeyError: '{missing[-1]}'\)"):
        Plan.from_json(whole)


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "plan",
        [],
        {},
        spoilt("stages", value={"sigma": 1.0}),
        spoilt("stages", value=5),
        spoilt("stages", 1, value=[1.0]),
        spoilt("stages", 1, "input", value=[["n", 1.0]]),
        spoilt("stages", 1, "carry", value=None),
        spoilt("stages", 1, "carry", value={"c1.0": 3.0}),
        spoilt("output", value=None),
        spoilt("sigmas", value=1.0),
    ],
)
def test_what_is_not_a_plan_is_refused(value):
    with pytest.raises(SpecError, match="plan"):
        Plan.from_json(value)


# The digest ------------------------------------------------------------------------------------------------------


def scaled(plan, factor):
    """The plan with every number multiplied."""

    def terms(held):
        return {key: value * factor for key, value in held.items()}

    stages = tuple(
        Stage(s.sigma * factor, terms(s.input), {key: terms(value) for key, value in s.carry.items()})
        for s in plan.stages
    )
    return Plan(stages, terms(plan.output), plan.sigmas)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
def test_the_digest_does_not_see_the_last_bits(spec):
    plan = trace(SOLVERS.build(spec), EDM_8)
    for factor in (1 - 2**-53, 1 + 2**-52):
        assert scaled(plan, factor) != plan
        assert scaled(plan, factor).digest == plan.digest
    assert scaled(plan, 1 + 1e-9).digest != plan.digest


def test_the_digest_does_not_see_the_order_of_terms():
    plan = trace(SOLVERS.build(SPECS[4]), EDM_8)
    turned = tuple(dataclasses.replace(s, input=dict(reversed(s.input.items()))) for s in plan.stages)
    assert [list(s.input) for s in turned] != [list(s.input) for s in plan.stages]
    assert dataclasses.replace(plan, stages=turned).digest == plan.digest


def test_the_digest_sees_every_number():
    plan = trace(SOLVERS.build(SPECS[4]), EDM_8)
    digests = {plan.digest}
    changed = 0
    for k, stage in enumerate(plan.stages):
        variants = [dataclasses.replace(stage, sigma=stage.sigma * (1 + 1e-8))]
        variants += [dataclasses.replace(stage, input={**stage.input, key: v + 1e-6}) for key, v in stage.input.items()]
        variants += [
            dataclasses.replace(stage, carry={**stage.carry, name: {**terms, key: terms[key] * (1 + 1e-8)}})
            for name, terms in stage.carry.items()
            for key in terms
        ]
        for variant in variants:
            stages = (*plan.stages[:k], variant, *plan.stages[k + 1 :])
            digests.add(dataclasses.replace(plan, stages=stages).digest)
            changed += 1
    for key, value in plan.output.items():
        digests.add(dataclasses.replace(plan, output={**plan.output, key: value * (1 + 1e-8)}).digest)
        changed += 1
    assert len(digests) == changed + 1 > 30


def test_the_digest_names_the_computation_and_not_the_schedule_that_people_read():
    plan = trace(Euler(), EDM_8)
    assert dataclasses.replace(plan, sigmas=(1.0, 0.0)).digest == plan.digest
    assert trace(Euler(), [*EDM_8[:-2], 0.003, 0.0]).digest != plan.digest
    assert len(plan.digest) == 16
