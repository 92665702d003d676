"""SDM against the numbers that its published code gave: see test_conformance.py."""

import itertools

import pytest
import torch

from pipeline.denoiser import Meter
from pipeline.resampling import resample
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.sdm import Switch
from pipeline.wasserstein import Walk, measured_eta
from tests.conformance_problem import ASKED

MIXTURE, LATENTS, CALIBRATION_LATENTS, _ = ASKED
CASES = [case for case in ASKED.cases if case["kind"].startswith("sdm_")]


def of_kind(*kinds):
    chosen = [case for case in CASES if case["kind"] in kinds]
    ids = [f"{i}-{case['kind']}" for i, case in enumerate(chosen)]
    return pytest.mark.parametrize("case", chosen, ids=ids)


@pytest.fixture
def meter():
    return Meter(MIXTURE)


@of_kind("sdm_adaptive_solver", "sdm_adaptive_dpmsolver")
def test_adaptive_solver_gives_the_published_samples(case, meter):
    p = case["params"]
    pair = {}
    if case["kind"] == "sdm_adaptive_dpmsolver":
        pair = {
            "low": {"name": "dpm_solver_pp", "order": 1},
            "high": {"name": "dpm_solver_pp", "order": 2, "lower_order_final": False},
        }
    sigmas = EDM(p["num_steps"], p["sigma_min"], p["sigma_max"], rho=p.get("rho", 7.0)).sigmas().tolist()
    curvature = "relative" if p["relative"] else "absolute"
    solver = Switch(**pair, rule=p["lambda_schedule"], tau_k=p["tau_k"], curvature=curvature)
    plan = trace(solver.calibrate(meter, CALIBRATION_LATENTS, sigmas), sigmas)
    noise = CALIBRATION_LATENTS[:16]
    samples = plan.run(meter, noise).reshape(16, -1)
    expected = torch.tensor(case["expected"]["samples"], dtype=torch.float64)
    assert len(plan) == case["expected"]["nfe"]
    assert ((samples - expected).abs() / expected.abs().clamp(min=1)).max() <= 1e-6


@of_kind("sdm_wasserstein_schedule")
def test_walk_takes_the_published_path_for_no_more_calls(case, meter):
    p = case["params"]
    walk = Walk(
        eta_min=p["eta_min"], eta_max=p["eta_max"], eta_p=p["eta_p"], base_steps=p["num_steps"], mover=p["solver"],
        rho=p.get("rho", 7.0),
        sigma_min=p["sigma_min"], sigma_max=p["sigma_max"], grid_snap=p["grid_snap"], gamma_step=p["gamma_step"],
        c_shrink=p["c_shrink"], max_expand_bins=p["max_expand_bins"], max_shrink_iters=p["max_shrink_iters"],
    )  # fmt: skip
    # The published walk does not measure its last step.
    steps = walk.path(meter, CALIBRATION_LATENTS, measure_end=False)
    path = [step.sigma for step in steps] + [p["sigma_min"], 0.0]
    # Within rounding of sigma_min the published walk takes one more step, of no width.
    published = itertools.pairwise([*case["expected"]["sigmas"], -1.0])
    assert path == pytest.approx([sigma for sigma, after in published if sigma - after > 1e-9 * sigma], rel=1e-5)
    assert meter.calls <= case["expected"]["nfe"]


@of_kind("sdm_eta")
def test_measured_eta_is_the_published_one(case, meter):
    eta, secants = measured_eta(meter, CALIBRATION_LATENTS, case["params"]["sigmas"])
    assert eta == pytest.approx(case["expected"]["eta"], rel=1e-5, abs=1e-12)
    assert secants == pytest.approx(case["expected"]["s_hat"], rel=1e-5, abs=1e-12)


@of_kind("sdm_resample")
def test_resampling_places_the_published_sigmas(case):
    p = case["params"]
    placed = resample(p["sigmas"], p["eta"], p["num_steps"], power=p["power"], q=p["q"], rho=p["rho"])
    assert [*placed, 0.0] == pytest.approx(case["expected"]["sigmas"], rel=1e-8)
