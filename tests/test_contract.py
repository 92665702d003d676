"""What every registered solver, schedule and method keeps to. A new file in `baselines` is tested by existing."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.denoiser import Meter
from pipeline.methods import METHODS, Method
from pipeline.plan import Plan
from pipeline.registry import SpecError, to_spec
from pipeline.sampler import Calibrated, Sampler, integrate, trace
from pipeline.schedules import EDM, SCHEDULES, Given, LogSNR
from pipeline.solvers import SOLVERS, Point, Solver
from tests.conformance_problem import CALIBRATION_LATENTS, LATENTS, MIXTURE

# More than the defaults, for what has more to test, and what cannot be built from a name alone. A name that is neither
# here nor buildable from its name fails.
SOLVER_EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "heun": [{"name": "heun"}, {"name": "heun", "alpha": 0.5}],
    "dpm_solver_pp": [
        *({"name": "dpm_solver_pp", "order": k, "predict_x0": x0} for k in (1, 2, 3) for x0 in (True, False)),
        {"name": "dpm_solver_pp", "order": 3, "lower_order_final": False},
        {"name": "dpm_solver_pp", "order": 2, "variant": "heun"},
        {"name": "dpm_solver_pp", "order": 2, "variant": "heun", "predict_x0": False},
        *({"name": "dpm_solver_pp", "order": 3, "third_order": "exact", "predict_x0": x0} for x0 in (True, False)),
    ],
    "dpm_solver_2": [{"name": "dpm_solver_2", "r": r} for r in (0.3, 0.5, 1.0)],
    "dpm_solver_pp_singlestep": [
        *(
            {"name": "dpm_solver_pp_singlestep", "order": k, "predict_x0": x0, "variant": variant}
            for k in (1, 2, 3)
            for x0 in (True, False)
            for variant in ("midpoint", "heun")
        ),
        {"name": "dpm_solver_pp_singlestep", "order": 2, "r1": 1.0},
        {"name": "dpm_solver_pp_singlestep", "order": 3, "variant": "heun", "r1": 0.5},
        {"name": "dpm_solver_pp_singlestep", "order": 3, "final_orders": [3, 2, 1]},
    ],
    "deis": [{"name": "deis", "order": k, "mode": mode} for k in (1, 2, 3) for mode in ("tab", "rhoab", "logrho")],
    "lms": [{"name": "lms", "order": k} for k in (1, 2, 3, 4)],
    "unipc": [
        *({"name": "unipc", "order": k, "predict_x0": x0} for k in (1, 2, 3) for x0 in (True, False)),
        {"name": "unipc", "order": 3, "variant": "bh1", "lower_order_final": False},
        {"name": "unipc", "order": 2, "disable_corrector": [0, 3]},
    ],
    "ipndm": [{"name": "ipndm", "order": k} for k in (1, 2, 3, 4)],
    "ipndm_v": [{"name": "ipndm_v", "order": k, "coefficients": c} for k in (2, 3, 4) for c in ("published", "exact")],
    "switch": [
        {"name": "switch"},
        {"name": "switch", "tau_k": 0.2},
        {"name": "switch", "rule": "linear"},
        {
            "name": "switch",
            "low": {"name": "dpm_solver_pp", "order": 1},
            "high": {"name": "dpm_solver_pp", "order": 2, "lower_order_final": False},
        },
        {
            "name": "switch",
            "low": {"name": "dpm_solver_pp", "order": 1},
            "high": {"name": "dpm_solver_pp", "order": 2, "lower_order_final": False},
            "rule": "cosine",
        },
        {"name": "switch", "low": {"name": "heun"}, "high": {"name": "unipc"}, "tau_k": 0.2, "curvature": "absolute"},
    ],
}
SCHEDULE_EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "ays": [
        {"name": "ays"},
        {"name": "ays", "table": "sdxl", "num_steps": 7, "final": "zero"},
        {"name": "ays", "table": "svd", "num_steps": 1},
        {"name": "ays", "table": "deepfloyd_if", "final": "zero_in_place"},
    ],
    "cos": [
        {"name": "cos", "num_steps": 8},
        {"name": "cos", "num_steps": 8, "final": "sigma_min", "probe_steps": 30, "knots": "all"},
        {"name": "cos", "num_steps": 1},
    ],
    "edm": [{"name": "edm", "num_steps": n, "final": end} for n in (1, 7) for end in ("zero", "sigma_min")],
    "given": [{"name": "given", "values": [80.0, 3.0, 0.5, 0.0]}, {"name": "given", "values": [10, 0.1]}],
    "gits": [
        {"name": "gits", "num_steps": 6},
        {"name": "gits", "num_steps": 6, "final": "zero", "metric": "l2", "teacher": {"name": "heun"}, "warmup": 40},
        {"name": "gits", "num_steps": 6, "teacher": {"name": "switch"}, "teacher_steps": 20, "warmup": 40},
        {"name": "gits", "num_steps": 6, "final": "zero", "afs_search": True, "teacher_steps": 20, "warmup": 40},
    ],
    "iddpm": [{"name": "iddpm", "num_steps": n, "final": end} for n in (1, 7) for end in ("zero", "sigma_min")],
    "sdm": [
        {"name": "sdm", "num_steps": 8},
        {"name": "sdm", "num_steps": 8, "final": "sigma_min"},
        {"name": "sdm", "num_steps": 8, "enforce_bound": True, "mover": "heun"},
    ],
}
SIGMAS: dict[str, list[float]] = {
    "edm-to-zero": EDM(8).sigmas().tolist(),
    "logsnr-to-sigma-min": LogSNR(7, final="sigma_min").sigmas().tolist(),
    "irregular": [80.0, 11.0, 9.0, 2.0, 0.3, 0.22, 0.05, 0.0],
    "two-moves": [80.0, 1.5, 0.0],
    "one-move": [80.0, 0.0],
    "one-move-to-sigma-min": [80.0, 0.002],
}
# As published these fall short of their name, and so they do here: by (name, order), the order that they have.
FULL_ORDER = {
    ("dpm_solver_pp", 3): 2,  # half the second difference that third order needs: baselines/dpm_solver.py
    ("ipndm_v", 4): 3,  # three slips in the published coefficients: baselines/ipndm.py
}


def examples(names: Sequence[str], held: dict[str, list[dict[str, Any]]], **fallback: Any) -> list[Any]:
    specs = [spec for name in names for spec in held.get(name, [{"name": name, **fallback}])]
    return [pytest.param(spec, id=",".join(f"{k}={v}" for k, v in spec.items())[5:]) for spec in specs]


every_solver = pytest.mark.parametrize("spec", examples(SOLVERS.names(), SOLVER_EXAMPLES))
every_schedule = pytest.mark.parametrize("spec", examples(SCHEDULES.names(), SCHEDULE_EXAMPLES, num_steps=8))
every_list = pytest.mark.parametrize("sigmas", SIGMAS.values(), ids=SIGMAS.keys())
every_method = pytest.mark.parametrize("method", list(METHODS), ids=METHODS.names())


def noise(images: int) -> Tensor:
    """As much fixed calibration noise as is wanted."""
    rounds = math.ceil(images / len(CALIBRATION_LATENTS))
    return torch.cat([CALIBRATION_LATENTS.roll(k, 1) for k in range(max(rounds, 1))])[:images]


def prepare(spec: dict[str, Any], sigmas: Sequence[float], denoise: Any = MIXTURE) -> tuple[Solver, Plan]:
    """The solver, calibrated on these sigmas if it is of that kind, and its plan."""
    sampler = Sampler(SOLVERS.build(spec), Given(tuple(sigmas)))
    ready, plan = sampler.prepare(denoise, noise(sampler.calibration_images))
    return ready.solver, plan


@contextmanager
def global_randomness_untouched() -> Iterator[None]:
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002  # the global generator is what must not be touched
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state()) == str(before[1])  # noqa: NPY002  # the global generator is what must not be touched
    assert random.getstate() == before[2]


def survives(instance: Any, registry: Any) -> None:
    """Frozen; the same after pickling and after JSON."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.order = 1
    assert pickle.loads(pickle.dumps(instance)) == instance
    assert registry.build(json.loads(json.dumps(to_spec(instance)))) == instance


# Solvers ---------------------------------------------------------------------------------------------------------


@every_list
@every_solver
def test_solver_last_move_to_0_returns_the_denoised(spec, sigmas):
    if sigmas[-1] != 0:
        sigmas = [*sigmas, 0.0]
    solver, _ = prepare(spec, sigmas)
    points: list[Point] = []
    end = integrate(MIXTURE, sigmas[0] * LATENTS, sigmas, solver, observe=points.append)
    assert points[-1].sigma == sigmas[-2]
    assert torch.equal(end, points[-1].denoised)


@every_list
@every_solver
def test_solver_plan_is_the_eager_result_at_its_nfe(spec, sigmas):
    solver, plan = prepare(spec, sigmas)
    eager, planned = Meter(MIXTURE), Meter(MIXTURE)
    expected = integrate(eager, sigmas[0] * LATENTS, sigmas, solver)
    assert expected.dtype == torch.float64
    assert torch.allclose(plan.run(planned, LATENTS), expected, rtol=1e-12, atol=1e-12)
    assert planned.rows == eager.rows == len(plan) * len(LATENTS)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@every_solver
def test_solver_plan_with_an_analytical_first_step(spec):
    sigmas = SIGMAS["edm-to-zero"]
    solver, plain = prepare(spec, sigmas)
    plan = trace(solver, sigmas, afs=True)
    expected = integrate(MIXTURE, sigmas[0] * LATENTS, sigmas, solver, afs=True)
    assert torch.allclose(plan.run(MIXTURE, LATENTS), expected, rtol=1e-12, atol=1e-12)
    assert len(plan) == len(plain) - 1


@every_solver
def test_solver_does_not_care_how_images_are_batched(spec):
    solver, plan = prepare(spec, SIGMAS["edm-to-zero"])
    whole = plan.run(MIXTURE, LATENTS)
    halves = torch.cat([plan.run(MIXTURE, part) for part in (LATENTS[:5], LATENTS[5:])])
    assert torch.allclose(halves, whole, rtol=0, atol=1e-12)
    assert trace(solver, SIGMAS["edm-to-zero"]).digest == plan.digest


@every_solver
def test_solver_uses_no_global_randomness(spec):
    with global_randomness_untouched():
        _, plan = prepare(spec, SIGMAS["irregular"])
        first = plan.run(MIXTURE, LATENTS)
    assert torch.equal(prepare(spec, SIGMAS["irregular"])[1].run(MIXTURE, LATENTS), first)


@every_solver
def test_solver_is_frozen_data(spec):
    survives(SOLVERS.build(spec), SOLVERS)
    survives(prepare(spec, SIGMAS["edm-to-zero"])[0], SOLVERS)


class GaussianFlow:
    """Data N(0, v): D(x; s) = x v / (s^2 + v) and x(t) = x(s) sqrt((t^2 + v) / (s^2 + v)); a v for each channel.

    Several, since the error in one of them may change sign between two step counts and tell nothing about the order.
    """

    variance = torch.tensor([0.05, 0.5, 3.0], dtype=torch.float64).reshape(3, 1, 1)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return x * (self.variance / (sigma**2 + self.variance))

    def exact(self, sigma: float) -> Tensor:
        """The state at `sigma` of the path that is 1 at sigma 10: (1, 3, 1, 1)."""
        return ((sigma**2 + self.variance) / (10.0**2 + self.variance)).sqrt()[None]

    def error(self, x: Tensor, sigma: float) -> float:
        return float((x - self.exact(sigma)).norm())


FLOW = GaussianFlow()


@every_solver
def test_solver_order_from_a_cold_start(spec):
    """Global order min(order, 2): the first move is of first order, made once. Few steps would not show it yet."""
    errors = []
    for num_steps in (256, 512):
        sigmas = EDM(num_steps, sigma_min=0.1, sigma_max=10.0, final="sigma_min").sigmas().tolist()
        solver, _ = prepare(spec, sigmas, FLOW)
        errors.append(FLOW.error(integrate(FLOW, FLOW.exact(10.0), sigmas, solver), 0.1))
    assert math.log2(errors[0] / errors[1]) >= min(solver.order, 2) - 0.25


@every_solver
def test_full_order_from_exact_starting_points(spec):
    """With exact points for its history, on equal steps and without lower-order moves, a solver has its order."""
    fields = SOLVERS.get(spec["name"]).__dataclass_fields__
    spec = {**spec, **{key: off for key, off in (("lower_order_final", False), ("final_orders", [])) if key in fields}}
    errors = []
    for num_steps in (48, 96):
        sigmas = np.linspace(10.0, 7.0, num_steps + 1).tolist()
        solver, _ = prepare(spec, sigmas, FLOW)
        points: list[Point] = []
        x, state = FLOW.exact(10.0), None
        for i, sigma in enumerate(sigmas[:-1]):
            if i < solver.order:
                x = FLOW.exact(sigma)
            points = [*points, Point(sigma, x, FLOW(x, sigma))][-4:]
            x, state = solver.step(FLOW, points, sigmas, i, state)
        errors.append(FLOW.error(x, 7.0))
    exact = "exact" in (spec.get("coefficients"), spec.get("third_order"))
    order = solver.order if exact else FULL_ORDER.get((spec["name"], solver.order), solver.order)
    assert math.log2(errors[0] / errors[1]) >= order - 0.25


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ({"name": "dpm_solver_pp", "order": 4}, "order"),
        ({"name": "unipc", "variant": "bh3"}, "variant"),
        ({"name": "unipc", "disable_corrector": [-1]}, "disable_corrector"),
        ({"name": "ipndm", "order": 5}, "order"),
        ({"name": "ipndm_v", "coefficients": "right"}, "coefficients"),
        ({"name": "dpm_solver_pp", "third_order": "mended"}, "third_order"),
        ({"name": "unipc", "order": 4}, "order"),
        ({"name": "dpm_solver_2", "r": 0.0}, "r: .* above 0, at most 1"),
        ({"name": "dpm_solver_2", "r": 1.5}, "r: .* above 0, at most 1"),
        ({"name": "dpm_solver_pp_singlestep", "order": 4}, "order"),
        ({"name": "dpm_solver_pp_singlestep", "variant": "taylor"}, "variant"),
        ({"name": "dpm_solver_pp_singlestep", "r1": 0.0}, "r1: .* above 0, at most 1"),
        ({"name": "dpm_solver_pp_singlestep", "order": 2, "r1": 1.1}, "r1: .* above 0, at most 1"),
        ({"name": "dpm_solver_pp_singlestep", "order": 3, "r1": 0.7}, r"r2: .* above r1 \(0.7\)"),
        ({"name": "dpm_solver_pp_singlestep", "order": 3, "r2": 0.3}, r"r2: .* above r1 \(0.333\)"),
        ({"name": "dpm_solver_pp_singlestep", "order": 1, "r2": 2.0}, "r2: .* at most 1"),
        ({"name": "dpm_solver_pp_singlestep", "order": 2, "final_orders": [3]}, "final_orders: .* 1 to 2"),
        ({"name": "dpm_solver_pp_singlestep", "final_orders": [2, 0]}, "final_orders: .* 1 to 3"),
        ({"name": "deis", "order": 4}, "order"),
        ({"name": "deis", "mode": "rab"}, "mode"),
        ({"name": "deis", "sigma_min": 80.0}, "sigma_min: .* below 80"),
        ({"name": "deis", "sigma_max": 1e200}, r"sigma_max: .* at most 1e\+30"),
        ({"name": "deis", "epsilon_s": 1.0}, "epsilon_s: .* below 1"),
        ({"name": "deis", "sigma_min": 0.1}, "epsilon_s: .* above 0.00114"),
        ({"name": "lms", "order": 5}, "order"),
    ],
)
def test_solver_mistakes_name_the_key(spec, key):
    with pytest.raises(SpecError, match=key):
        SOLVERS.build(spec)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in spec.items() if name != "name"}
    with pytest.raises(SpecError, match=key):
        SOLVERS.get(spec["name"])(**values)


# Schedules -------------------------------------------------------------------------------------------------------


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
@pytest.mark.parametrize("spec", examples(SOLVERS.names(), SOLVER_EXAMPLES))
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


# Methods ---------------------------------------------------------------------------------------------------------


@every_method
def test_method_spends_exactly_its_nfe(method):
    possible = 0
    for nfe in range(1, 21):
        pair = method.pair(nfe)
        if pair is None:
            continue
        possible += 1
        solver, schedule = SOLVERS.build(pair[0]), SCHEDULES.build(pair[1])
        if isinstance(solver, Calibrated) or schedule.calibration_images:
            if nfe in (1, 7, 20):
                sampler = Sampler(solver, schedule)
                assert len(sampler.prepare(MIXTURE, noise(sampler.calibration_images))[1]) == nfe
        else:
            assert len(trace(solver, schedule.sigmas().tolist())) == nfe
    assert possible


@every_method
def test_method_is_told(method):
    assert METHODS.get(method.name) is method
    assert method.name == method.name.lower()
    assert method.title
    assert "arXiv" in method.source
    assert method.pair(0) is None
    nfe = next(nfe for nfe in range(1, 21) if method.pair(nfe))
    assert method.pair(nfe) is not method.pair(nfe), "specs are the caller's own"


def test_method_names():
    assert len(METHODS) == len(METHODS.names()) == len(set(METHODS.names()))
    assert "ddim" in METHODS
    with pytest.raises(SpecError, match=r"unknown method.*did you mean 'unipc_3'"):
        METHODS.get("unipc3")
    with pytest.raises(ValueError, match="two methods are called 'ddim'"):
        METHODS.register(Method("ddim", "Another", "", lambda nfe: None))


def test_examples_are_of_registered_names():
    assert set(SOLVER_EXAMPLES) <= set(SOLVERS.names())
    assert set(SCHEDULE_EXAMPLES) <= set(SCHEDULES.names())
