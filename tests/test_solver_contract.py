"""What every registered solver keeps to. A new file in `baselines` is tested by existing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.denoiser import Meter
from pipeline.plan import Plan
from pipeline.registry import SpecError
from pipeline.sampler import integrate, trace
from pipeline.schedules import EDM, LogSNR
from pipeline.solvers import SOLVERS, Point
from tests.conformance_problem import LATENTS, MIXTURE
from tests.contract_examples import every_solver, global_randomness_untouched, prepare, survives

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

every_list = pytest.mark.parametrize("sigmas", SIGMAS.values(), ids=SIGMAS.keys())


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
