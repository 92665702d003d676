"""The numbers that the published implementations gave, case by case. `SIGMASEARCH_CONFORMANCE` names another file.

The kinds `sdm_adaptive_*`, `sdm_wasserstein_schedule`, `sdm_eta` and `sdm_resample` are in test_conformance_sdm.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from baselines.gits import GITS
from pipeline.denoiser import Meter
from pipeline.sampler import integrate, trace
from pipeline.schedules import SCHEDULES
from pipeline.shortest_path import ShortestPaths
from pipeline.solvers import SOLVERS
from pipeline.trajectory import record_trajectory, trajectory_deviation
from tests.conformance_problem import ASKED

MIXTURE, LATENTS, CALIBRATION_LATENTS, CASES = ASKED

ELSEWHERE = {"sdm_adaptive_solver", "sdm_adaptive_dpmsolver", "sdm_wasserstein_schedule", "sdm_eta", "sdm_resample"}
TOLERANCE = {
    "denoiser": 1e-10,
    "schedule": 1e-6,
    "solver": 1e-8,
    "deis": 2e-3,  # its source integrates by a sum over 10,000 points
    "sdm_base": 1e-8,
    "gits": 1e-8,
    "trajectory_deviation": 1e-8,
}
# Names of the sources, where ours differ.
SCHEDULE_NAMES = {"polynomial": "edm"}


def collect(*kinds: str) -> list[Any]:
    """The cases of these kinds."""
    cases = []
    for number, case in enumerate(CASES):
        if case["kind"] in kinds:
            names = [case["params"].get(key, "") for key in ("solver", "schedule", "discretization", "teacher")]
            label = next(filter(None, names), case["kind"])
            cases.append(pytest.param(case, id=f"{number}-{case['source']}-{label}"))
    return cases


def close(got: Any, expected: Any, tolerance: float) -> None:
    got, expected = (torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in (got, expected))
    assert got.shape == expected.shape
    error = (got - expected).abs() / expected.abs().clamp(min=1.0)
    assert error.max().item() <= tolerance


def solver_spec(params: Mapping[str, Any]) -> dict[str, Any]:
    """Our solver for the published name and options."""
    name = params["solver"]
    order = {"order": params["max_order"]} if "max_order" in params else {}
    options = {key: params[key] for key in ("predict_x0", "lower_order_final", "variant") if key in params}
    if name == "dpm_pp":
        return {"name": "dpm_solver_pp", **order, **options}
    if name in ("unipc", "ipndm", "ipndm_v"):
        return {"name": name, **order, **options}
    if name == "dpm_2":
        return {"name": "dpm_solver_2", **({"r": params["r"]} if "r" in params else {})}
    if name == "deis":  # max_order counts the points, ours is the degree of the polynomial through them
        points = params.get("max_order", 4)
        deis = {"name": "deis", "order": points - 1, "mode": params.get("deis_mode", "tab")}
        return deis if points > 1 else {"name": "euler"}
    if name == "lms":
        order = {"order": params["order"]} if "order" in params else order
        return {"name": "lms", **order, "extrapolate_to_zero": True}
    if name == "dpmpp_2m":  # second order as far as sigma_min, which the move to 0 follows
        return {"name": "dpm_solver_pp", "order": 2, "lower_order_final": False}
    return {"name": name}


def rho(schedule: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The case's rho, where the schedule has one."""
    return {"rho": params["rho"]} if "rho" in SCHEDULES.get(schedule).__dataclass_fields__ else {}


def base_spec(params: Mapping[str, Any]) -> dict[str, Any]:
    """Our solver for a base solver of the sdm repository."""
    if params["solver"] == "dpmsolver":
        return {"name": "dpm_solver_pp", "order": 2, "lower_order_final": False}
    if params["solver"] == "unipc":  # its first two steps correct nothing: step 0 has no move behind it, step 1 move 0
        return {"name": "unipc", "order": 2, "variant": "bh2", "lower_order_final": False, "disable_corrector": [0]}
    if params["solver"] == "heun":
        return {"name": "heun", "alpha": params["alpha"]}
    return {"name": params["solver"]}


def check_samples(
    spec: dict[str, Any], sigmas: Sequence[float], expected: Any, kind: str, *, afs: bool = False
) -> None:
    """Eager and planned samples match, and the network is called as often as the published code called it."""
    solver, start = SOLVERS.build(spec), LATENTS[: len(expected["samples"])]
    eager = Meter(MIXTURE)
    close(integrate(eager, sigmas[0] * start, sigmas, solver, afs=afs), expected["samples"], TOLERANCE[kind])
    assert eager.calls == expected["nfe"]
    plan, planned = trace(solver, sigmas, afs=afs), Meter(MIXTURE)
    close(plan.run(planned, start), expected["samples"], TOLERANCE[kind])
    assert planned.calls == len(plan) == expected["nfe"]


def test_every_case_is_somewhere():
    known = {*TOLERANCE, *ELSEWHERE}
    assert {case["kind"] for case in CASES} <= known


@pytest.mark.parametrize("case", collect("denoiser"))
def test_denoiser(case):
    x = torch.tensor(case["params"]["x"], dtype=torch.float64).reshape(-1, *LATENTS.shape[1:])
    close(MIXTURE(x, case["params"]["sigma"]), case["expected"]["denoised"], TOLERANCE["denoiser"])


@pytest.mark.parametrize("case", collect("schedule"))
def test_schedule(case):
    params, expected = case["params"], torch.tensor(case["expected"]["sigmas"], dtype=torch.float64)
    name = SCHEDULE_NAMES.get(params["schedule"], params["schedule"])
    spec = {
        "name": name,
        "num_steps": params["num_sigmas"] - 1,
        "sigma_min": params["sigma_min"],
        "sigma_max": params["sigma_max"],
        "final": "sigma_min",
        **rho(name, params),
    }
    sigmas = SCHEDULES.build(spec).sigmas()
    assert sigmas.shape == expected.shape
    assert ((sigmas - expected).abs() / expected).max().item() <= TOLERANCE["schedule"]


@pytest.mark.parametrize("case", collect("solver"))
def test_solver(case):
    params = case["params"]
    sigmas = [*params["sigmas"], *([0.0] if params.get("denoise_to_zero") else [])]
    kind = "deis" if params["solver"] == "deis" else "solver"
    check_samples(solver_spec(params), sigmas, case["expected"], kind, afs=params.get("afs", False))


@pytest.mark.parametrize("case", collect("sdm_base"))
def test_sdm_base(case):
    params = case["params"]
    name = SCHEDULE_NAMES.get(params["discretization"], params["discretization"])
    spec = {
        "name": name,
        "num_steps": params["num_steps"],
        **rho(name, params),
        "sigma_min": params["sigma_min"],
        "sigma_max": params["sigma_max"],
    }
    check_samples(base_spec(params), SCHEDULES.build(spec).sigmas().tolist(), case["expected"], "sdm_base")


def gits(params: Mapping[str, Any], sigmas: int) -> GITS:
    # gits-main has shorter names for its teachers, and an order of its own where nothing is said.
    teacher = {"dpm": "dpm_2", "dpmpp": "dpm_pp"}.get(params["teacher"], params["teacher"])
    order = {"max_order": 3} if teacher == "dpm_pp" else {}
    ends = {key: params[key] for key in ("sigma_min", "sigma_max") if key in params}
    return GITS(
        num_steps=1,
        **ends,
        metric=params.get("metric", "dev"),
        teacher=solver_spec({**order, **params, "solver": teacher}),
        teacher_steps=sigmas - 1,
        teacher_rho=float(params.get("teacher_rho", 7)),
        warmup=len(CALIBRATION_LATENTS),
    )


@pytest.mark.parametrize("case", collect("gits"))
def test_gits(case):
    expected, count = case["expected"], case["params"]["num_teacher_sigmas"]
    schedule, meter = gits(case["params"], count), Meter(MIXTURE)
    cost = schedule.cost(meter, CALIBRATION_LATENTS)
    teacher = trace(SOLVERS.build(schedule.teacher), schedule.teacher_sigmas())
    assert meter.rows == len(teacher) * len(CALIBRATION_LATENTS)
    close(cost[0], expected["cost_row0"], TOLERANCE["gits"])
    close(cost[count // 2], expected["cost_row_mid"], TOLERANCE["gits"])
    for key, indices in expected["indices"].items():
        coeff, num_sigmas = key.split("/")
        assert ShortestPaths(cost.numpy(), float(coeff)).indices(int(num_sigmas) - 1) == indices, key


@pytest.mark.parametrize("case", collect("trajectory_deviation"))
def test_trajectory_deviation(case):
    params = case["params"]
    schedule = gits(params, params["num_sigmas"])
    solver = SOLVERS.build(schedule.teacher)
    states, _ = record_trajectory(MIXTURE, CALIBRATION_LATENTS, schedule.teacher_sigmas(), solver)
    close(trajectory_deviation(states), case["expected"]["deviation"], TOLERANCE["trajectory_deviation"])
