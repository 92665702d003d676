"""Our solvers and schedules against crowsonkb/k-diffusion's, in double precision throughout."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch

from pipeline.churn import Churn
from pipeline.denoiser import Meter
from pipeline.methods import METHODS
from pipeline.noise import noise
from pipeline.schedules import EDM, SCHEDULES, VP, LogSNR
from tests.conformance_problem import LATENTS, MIXTURE
from tests.peers.comparison import TO_SIGMA_MIN, TO_ZERO, Replaced, check, error, ours

# The order of the additions is all that is left: 2e-13 at most is seen, where x is 80 times the samples.
TOLERANCE = 1e-12

SINGLE = {"name": "dpm_solver_pp_singlestep", "order": 2}
MULTI = {"name": "dpm_solver_pp", "lower_order_final": False}
CASES = [
    ("sample_euler", {}, {"name": "euler"}),
    ("sample_euler_ancestral", {"eta": 0.0}, {"name": "euler"}),
    ("sample_heun", {}, {"name": "heun"}),
    ("sample_dpm_2", {}, {"name": "dpm_solver_2"}),
    ("sample_dpm_2_ancestral", {"eta": 0.0}, {"name": "dpm_solver_2"}),
    *(("sample_lms", {"order": k}, {"name": "lms", "order": k, "extrapolate_to_zero": True}) for k in (1, 2, 3, 4)),
    ("sample_dpmpp_2s_ancestral", {"eta": 0.0}, SINGLE),
    ("sample_dpmpp_sde", {"eta": 0.0}, SINGLE),
    ("sample_dpmpp_sde", {"eta": 0.0, "r": 0.3}, SINGLE | {"r1": 0.3}),
    ("sample_dpmpp_2m", {}, MULTI),
    ("sample_dpmpp_2m_sde", {"eta": 0.0}, MULTI),
    ("sample_dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}, MULTI | {"variant": "heun"}),
    # Its second move, of order 2, weighs the difference by phi_2: our variant "heun".
    ("sample_dpmpp_3m_sde", {"eta": 0.0}, MULTI | {"order": 3, "variant": "heun"}),
]
CHURNS = [Churn(40.0, 0.05, 50.0, 1.003), Churn(3.0), Churn(1.0, s_min=1.0)]


def counted():
    """The mixture as k-diffusion calls a model, with a sigma for each image, and its meter."""
    meter = Meter(MIXTURE)

    def model(x, sigma):
        assert x.dtype == sigma.dtype == torch.float64
        assert sigma.shape == x.shape[:1]
        return meter(x, float(sigma[0]))

    return model, meter


def theirs(module, name, sigmas, **options):
    model, meter = counted()
    if "eta" in options:
        options["noise_sampler"] = lambda *sigmas: 0.0  # with eta 0 they draw noise and multiply it by 0
    levels = torch.tensor(sigmas, dtype=torch.float64)
    return getattr(module, name)(model, sigmas[0] * LATENTS, levels, disable=True, **options), meter.calls


every_list = pytest.mark.parametrize(
    "sigmas", [*TO_ZERO.values(), *TO_SIGMA_MIN.values()], ids=[*TO_ZERO, *TO_SIGMA_MIN]
)


@every_list
@pytest.mark.parametrize(
    ("name", "options", "spec"), CASES, ids=[",".join([name[7:], *map(str, o.values())]) for name, o, _ in CASES]
)
def test_sampler(k_diffusion, name, options, spec, sigmas):
    check(ours(spec, sigmas), theirs(k_diffusion, name, sigmas, **options), TOLERANCE)


def test_the_comparison_tells_the_solvers_apart():
    specs = {str(spec): spec for *_, spec in CASES if spec.get("order") != 1}
    assert len(specs) == 11
    for one, other in itertools.combinations(specs.values(), 2):
        assert error(ours(one, TO_ZERO["edm-6"])[0], ours(other, TO_ZERO["edm-6"])[0]) > 1e-3, (one, other)


@every_list
@pytest.mark.parametrize("churn", CHURNS, ids=str)
@pytest.mark.parametrize(("name", "spec"), [("euler", "euler"), ("heun", "heun"), ("dpm_2", "dpm_solver_2")])
def test_churn(k_diffusion, monkeypatch, name, spec, churn, sigmas):
    """They draw at every step, also where they then add nothing; we give both the same noise by the step."""

    def fresh(stream):
        return noise(range(len(LATENTS)), LATENTS.shape[1:], torch.float64, stream=stream)

    streams = itertools.count(1)
    monkeypatch.setattr(k_diffusion, "torch", Replaced(torch, randn_like=lambda x: fresh(next(streams))))
    options = {"s_churn": churn.s_churn, "s_tmin": churn.s_min, "s_noise": churn.s_noise}
    if churn.s_max is not None:
        options["s_tmax"] = churn.s_max
    expected = theirs(k_diffusion, f"sample_{name}", sigmas, **options)
    check(ours({"name": spec}, sigmas, churn, fresh), expected, TOLERANCE)
    assert next(streams) == len(sigmas)


@pytest.mark.parametrize("sigmas", TO_ZERO.values(), ids=TO_ZERO.keys())
def test_lms_here_differs_in_the_move_to_0_alone(k_diffusion, sigmas):
    seen = []
    theirs(k_diffusion, "sample_lms", sigmas, callback=seen.append)
    samples, calls = ours({"name": "lms"}, sigmas)
    assert calls == len(seen)
    assert error(samples, seen[-1]["denoised"]) <= TOLERANCE


# DPM-Solver in noise prediction ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigmas", TO_SIGMA_MIN.values(), ids=TO_SIGMA_MIN.keys())
@pytest.mark.parametrize(
    ("order", "ratios"), [(1, {}), (2, {}), (2, {"r1": 0.3}), (2, {"r1": 1.0}), (3, {}), (3, {"r1": 0.4, "r2": 0.9})]
)
def test_dpm_solver_step(k_diffusion, order, ratios, sigmas):
    model, meter = counted()
    solver, x = k_diffusion.DPMSolver(model), sigmas[0] * LATENTS
    for start, end in itertools.pairwise(solver.t(torch.tensor(sigmas, dtype=torch.float64))):
        x, _ = getattr(solver, f"dpm_solver_{order}_step")(x, start, end, **ratios)
    spec = SINGLE | {"order": order, "predict_x0": False} | ratios
    check(ours(spec, sigmas), (x, meter.calls), TOLERANCE)


@pytest.mark.parametrize("nfe", range(3, 12))
def test_dpm_solver_fast(k_diffusion, monkeypatch, nfe):
    """The same split of a budget into moves of order 3, 2 and 1, on the same sigmas, as our method of order 3."""
    in_double(k_diffusion, monkeypatch)
    model, meter = counted()
    solver = k_diffusion.DPMSolver(model)
    ends = (solver.t(torch.tensor(sigma, dtype=torch.float64)) for sigma in (80.0, 0.002))
    samples = solver.dpm_solver_fast(80 * LATENTS, *ends, nfe, noise_sampler=lambda *sigmas: 0.0)
    assert meter.calls == nfe
    spec, schedule = METHODS.get("dpm_solver_pp_3s").pair(nfe)
    sigmas = SCHEDULES.build(schedule).sigmas().tolist()
    check(ours(spec | {"predict_x0": False}, sigmas), (samples, nfe), TOLERANCE)


# Schedules -----------------------------------------------------------------------------------------------------


def in_double(module, monkeypatch):
    """They place sigmas in torch's default precision."""
    linspace = functools.partial(torch.linspace, dtype=torch.float64)
    monkeypatch.setattr(module, "torch", Replaced(torch, linspace=linspace))


def same_sigmas(found, expected):
    torch.testing.assert_close(found.sigmas(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("num_steps", [1, 2, 9, 40])
def test_schedules(k_diffusion, monkeypatch, num_steps):
    in_double(k_diffusion, monkeypatch)
    for rho in (1.0, 5.0, 7.0):
        karras = k_diffusion.get_sigmas_karras(num_steps, 0.01, 60.0, rho)
        same_sigmas(EDM(num_steps, sigma_min=0.01, sigma_max=60.0, rho=rho), karras)
    same_sigmas(LogSNR(num_steps), k_diffusion.get_sigmas_exponential(num_steps, 0.002, 80.0))
    # beta_d 19.9 and beta_min 0.1 are theirs; ours take the sigmas at both ends instead.
    low, high = (math.sqrt(math.expm1(19.9 * t**2 / 2 + 0.1 * t)) for t in (1e-3, 1.0))
    same_sigmas(VP(num_steps, low, high), k_diffusion.get_sigmas_vp(num_steps))
