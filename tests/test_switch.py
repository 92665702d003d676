"""SDM's curvature and the switch that it decides. Its published samples: test_conformance_sdm.py."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.denoiser import Meter
from pipeline.registry import SpecError, to_spec
from pipeline.sampler import integrate, trace
from pipeline.schedules import EDM
from pipeline.sdm import Switch, curvature_profile, switch_index
from pipeline.solvers import SOLVERS, Point
from tests.conformance_problem import CALIBRATION_LATENTS, MIXTURE
from tests.exact_flows import BATCH, SIGMAS, Gaussian, OnePoint, euler_points, norms

# Curvature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [True, False])
def test_the_way_to_a_single_image_is_straight(relative):
    kappas = curvature_profile(euler_points(OnePoint()), relative=relative)
    assert len(kappas) == len(SIGMAS) - 1
    assert max(kappas) < 1e-9


@pytest.mark.parametrize("variance", [0.01, 1.0, 30.0])
def test_the_curvature_of_a_gaussians_exact_paths(variance):
    """The slope on the path c sqrt(s^2 + v) is c s / sqrt(s^2 + v), so kappa is a formula in s alone."""
    flow = Gaussian(variance)
    points = [flow.point(sigma, BATCH) for sigma in SIGMAS]
    slopes = [sigma / math.sqrt(sigma**2 + variance) for sigma in SIGMAS]
    bends = [(a - b) / (s - t) for (a, b), (s, t) in zip(*map(itertools.pairwise, (slopes, SIGMAS)), strict=True)]
    relative = [bend / slope for bend, slope in zip(bends, slopes[:-1], strict=True)]
    size = float(norms(BATCH).mean())
    assert curvature_profile(points) == pytest.approx([0.0, *relative], rel=1e-9, abs=1e-13)
    assert curvature_profile(points, relative=False) == pytest.approx([0.0, *(size * b for b in bends)], rel=1e-9)


def test_kappa_is_a_mean_over_images_and_not_a_ratio_of_means():
    here = [Point(s, torch.tensor(rows).reshape(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)) for s, rows in
            ((2.0, [2.0, 20.0]), (1.0, [2.0, 10.0]))]  # fmt: skip
    # Slopes 1 -> 2 and 10 -> 10: relative bends 1 and 0, absolute ones 1 and 0.
    assert curvature_profile(here) == [0.0, 0.5]
    assert curvature_profile(here, relative=False) == [0.0, 0.5]
    here[0] = here[0]._replace(x=torch.tensor([2.0, 40.0]).reshape(2, 1, 1, 1))
    assert curvature_profile(here) == [0.0, pytest.approx((1 + 0.5) / 2)]
    assert curvature_profile(here, relative=False) == [0.0, pytest.approx((1 + 10) / 2)]


# The switch ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tau_k", "index"),
    [(0.0, 0), (0.05, 1), (0.1, 1), (0.100001, 3), (0.3, 3), (0.31, 5)],
)
def test_the_switch_is_the_first_step_that_reaches_tau_k_and_none_is_the_end(tau_k, index):
    assert switch_index([0.0, 0.1, 0.05, 0.3, 0.2], tau_k) == index


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_tau_k_never_switches_earlier(kappas, a, b):
    assert switch_index(kappas, min(a, b)) <= switch_index(kappas, max(a, b))


@pytest.mark.parametrize(("steps", "switch_at", "nfe"), [(18, 4, 31), (40, 13, 66), (18, 0, 35), (18, 18, 18)])
def test_a_step_switch_costs_a_step_each_and_heun_one_more(steps, switch_at, nfe):
    """31 and 66 are the paper's, which gives no switch; 4 and 13 are the only ones that fit."""
    assert len(trace(Switch(switch_at=switch_at), EDM(steps).sigmas().tolist())) == nfe


@pytest.mark.parametrize("rule", ["linear", "cosine"])
def test_a_blend_runs_both_solvers_except_at_its_ends(rule):
    for steps in (2, 5, 18):
        assert len(trace(Switch(rule=rule), EDM(steps).sigmas().tolist())) == 2 * steps - 2


def test_the_weights_of_the_three_rules():
    assert [Switch(rule="linear").weight(i, 5) for i in range(5)] == [1, 0.75, 0.5, 0.25, 0]
    half = math.sqrt(0.5) / 2
    expected = [1, 0.5 + half, 0.5, 0.5 - half, 0]
    assert [Switch(rule="cosine").weight(i, 5) for i in range(5)] == pytest.approx(expected)
    assert [Switch(switch_at=2).weight(i, 5) for i in range(5)] == [1, 1, 0, 0, 0]
    assert Switch(rule="linear").weight(0, 1) == 1


def test_a_step_switch_does_not_sample_before_it_is_calibrated():
    with pytest.raises(ValueError, match="must be calibrated"):
        trace(Switch(), EDM(4).sigmas().tolist())


def test_calibration_is_one_euler_pass_that_finds_the_index_of_every_tau_k():
    sigmas = EDM(12).sigmas().tolist()
    kappas = curvature_profile(euler_points(MIXTURE, sigmas))
    found = set()
    for tau_k in (0.001, 0.01, 0.1, 1.0, 1e9):
        meter = Meter(MIXTURE)
        decided = Switch(tau_k=tau_k).calibrate(meter, BATCH, sigmas)
        assert decided.switch_at == switch_index(kappas, tau_k)
        assert meter.calls == 12
        found.add(decided.switch_at)
    assert len(found) >= 4


def test_what_is_decided_stays_decided():
    meter = Meter(MIXTURE)
    for solver in (Switch(switch_at=3), Switch(rule="linear"), Switch(rule="cosine")):
        assert solver.calibrate(meter, BATCH, SIGMAS) is solver
    assert meter.calls == 0


def test_a_frozen_switch_does_not_depend_on_the_batch_it_samples():
    solver = Switch(tau_k=0.05, calibration_images=32).calibrate(MIXTURE, BATCH, SIGMAS)
    plan = trace(solver, SIGMAS)
    whole = plan.run(MIXTURE, CALIBRATION_LATENTS[:9])
    single = torch.cat([plan.run(MIXTURE, CALIBRATION_LATENTS[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-12)


def test_a_switch_survives_json_with_its_decision_and_its_pair():
    spec = {
        "name": "switch",
        "low": {"name": "dpm_solver_pp", "order": 1},
        "high": {"name": "heun", "alpha": 0.5},
        "tau_k": 0.01,
        "curvature": "absolute",
        "calibration_images": 16,
        "switch_at": 3,
        "rule": "step",
    }
    solver = SOLVERS.build(json.loads(json.dumps(spec)))
    assert to_spec(solver) == spec
    again = SOLVERS.build(json.loads(json.dumps(to_spec(solver))))
    assert again == solver
    assert trace(again, SIGMAS).digest == trace(solver, SIGMAS).digest


def test_a_switch_inside_a_switch_is_decided():
    inner = {"name": "switch", "switch_at": 6, "high": {"name": "heun"}}
    plan = trace(Switch(low={"name": "euler"}, high=inner, switch_at=2), SIGMAS)
    assert plan.digest == trace(Switch(switch_at=6), SIGMAS).digest
    with pytest.raises(SpecError, match="high: is a step switch that is not decided"):
        Switch(high={"name": "switch"})


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tau_k": -1e-9}, "tau_k"),
        ({"tau_k": math.nan}, "tau_k"),
        ({"tau_k": math.inf}, "tau_k"),
        ({"calibration_images": 0}, "calibration_images"),
        ({"switch_at": -1}, "switch_at"),
        ({"switch_at": 1.5}, "switch_at"),
        ({"rule": "steps"}, "rule"),
        ({"curvature": "none"}, "curvature"),
        ({"low": "euler"}, "low"),
        ({"low": {"name": "heum"}}, "low.name"),
        ({"high": {"name": "heun", "alpha": 2.0}}, "high.alpha"),
        ({"high": {"name": "heun", "alhpa": 1.0}}, "high.alhpa"),
        ({"high": {}}, "high.name"),
    ],
)
def test_a_mistake_in_a_switch_names_its_key(fields, path):
    with pytest.raises(SpecError) as caught:
        SOLVERS.build({"name": "switch", **fields})
    assert caught.value.path == path


def test_a_switch_is_one_step_where_both_its_solvers_are():
    assert Switch().one_step
    assert Switch(low={"name": "heun"}, high={"name": "switch", "switch_at": 2}).one_step
    assert not Switch(low={"name": "ipndm"}).one_step
    assert not Switch(high={"name": "dpm_solver_pp"}).one_step


@pytest.mark.parametrize("rule", ["step", "linear", "cosine"])
@pytest.mark.parametrize("low", ["euler", "heun", "dpm_solver_pp", "unipc", "ipndm", "ipndm_v"])
def test_any_pair_is_planned_as_it_is_run(low, rule):
    """Whatever a solver carries on: history, a corrected state, evaluations of its own."""
    for high in ("euler", "heun", "dpm_solver_pp", "unipc", "ipndm", "ipndm_v"):
        for sigmas in (SIGMAS, [*SIGMAS[::2], 0.0]):
            solver = Switch(low={"name": low}, high={"name": high}, rule=rule, tau_k=0.05)
            solver = solver.calibrate(MIXTURE, BATCH, sigmas)
            plan, eager, planned = trace(solver, sigmas), Meter(MIXTURE), Meter(MIXTURE)
            points = []
            end = integrate(eager, sigmas[0] * BATCH[:4], sigmas, solver, observe=points.append)
            torch.testing.assert_close(plan.run(planned, BATCH[:4]), end, rtol=1e-11, atol=1e-11)
            assert eager.calls == planned.calls == len(plan)
            if sigmas[-1] == 0:
                assert torch.equal(end, points[-1].denoised)


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize(
    ("low", "high"),
    [("ipndm", "heun"), ("euler", "unipc"), ("unipc", "euler"), ("heun", "ipndm"), ("dpm_solver_pp", "unipc")],
)
def test_before_a_step_switch_the_path_is_the_low_solvers_alone_and_history_goes_on(low, high, at):
    solvers = [SOLVERS.build({"name": name}) for name in (low, high)]
    switched, x, points = Switch(low={"name": low}, high={"name": high}, switch_at=at), SIGMAS[0] * BATCH[:4], []
    states = [None, None]
    for i, sigma in enumerate(SIGMAS[:-1]):
        points = [*points, Point(sigma, x, MIXTURE(x, sigma))][-4:]
        which = int(i >= at)
        x, states[which] = solvers[which].step(MIXTURE, points, SIGMAS, i, states[which])
    end = integrate(MIXTURE, SIGMAS[0] * BATCH[:4], SIGMAS, switched)
    torch.testing.assert_close(end, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ["linear", "cosine"])
@pytest.mark.parametrize("to_0", [True, False])
def test_a_blend_of_1m_and_2m_is_1m_with_a_share_of_the_difference(rule, to_0):
    """2M is 1M plus (1 - e^-h) (D_0 - D_1) / (2 r), of which the blend takes 1 - Lambda."""
    sigmas = [*SIGMAS, 0.0] if to_0 else SIGMAS
    low, high = {"name": "dpm_solver_pp", "order": 1}, {"name": "dpm_solver_pp", "order": 2, "lower_order_final": False}
    solver = Switch(low, high, rule)
    end = integrate(MIXTURE, sigmas[0] * BATCH, sigmas, solver)
    x, before = sigmas[0] * BATCH, None
    for i, (sigma, target) in enumerate(itertools.pairwise(sigmas)):
        denoised = MIXTURE(x, sigma)
        moved = denoised + target / sigma * (x - denoised)
        if before is not None and target > 0:
            r = math.log(sigmas[i - 1] / sigma) / math.log(sigma / target)
            share = 1 - solver.weight(i, len(sigmas) - 1)
            moved = moved + share * (1 - target / sigma) / (2 * r) * (denoised - before)
        x, before = moved, denoised
    torch.testing.assert_close(end, x, rtol=1e-11, atol=1e-11)
    assert len(trace(solver, sigmas)) == len(sigmas) - 1


@pytest.mark.parametrize(("tau_k", "alone"), [(0.0, 2), (1e9, 1)])
def test_a_1m_2m_switch_is_one_of_them_alone_at_the_ends_of_tau_k(tau_k, alone):
    """At tau_k 0 the first step is 1M all the same: 2M has no history yet."""
    spec = {"name": "dpm_solver_pp", "lower_order_final": False}
    solver = Switch({**spec, "order": 1}, {**spec, "order": 2}, tau_k=tau_k).calibrate(MIXTURE, BATCH, SIGMAS)
    assert trace(solver, SIGMAS).digest == trace(SOLVERS.build({**spec, "order": alone}), SIGMAS).digest


@pytest.mark.parametrize(("wrong_below", "sigma"), [(100.0, "80"), (1.0, "0.7")])
def test_a_curvature_that_is_not_finite_names_the_option_and_the_first_sigma(wrong_below, sigma):
    def denoise(x, at):
        return x * (math.nan if at < wrong_below else 0.5)

    with pytest.raises(SpecError) as caught:
        Switch().calibrate(denoise, BATCH, SIGMAS)
    assert caught.value.path == "tau_k"
    told = str(caught.value)
    # The first sigma has no curvature of its own: a nan there shows at the second.
    expected = "30" if sigma == "80" else sigma
    assert f"curvature along the calibration path is not finite at sigma {expected}, given nan" in told
    assert len(told) < 250
