"""SDM where the answer is known in closed form, and what it refuses. Its published numbers: test_conformance_sdm.py."""

from __future__ import annotations

import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.denoiser import Meter
from pipeline.noise import noise
from pipeline.registry import SpecError, to_spec
from pipeline.sampler import Sampler, integrate, trace
from pipeline.schedules import EDM, SCHEDULES
from pipeline.sdm import SDM, Switch, curvature_profile, switch_index
from pipeline.solvers import SOLVERS, Euler, Point
from pipeline.wasserstein import Walk, measured_eta, resample
from tests.conformance_problem import CALIBRATION_LATENTS, MIXTURE

BATCH = CALIBRATION_LATENTS[:32]
SIGMAS = [80.0, 30.0, 12.0, 5.0, 2.0, 0.7, 0.2, 0.05, 0.01]


def norms(x):
    return x.flatten(1).norm(dim=1)


class OnePoint:
    """All data at one image: D is that image everywhere, and every path is a straight line into it."""

    def __init__(self):
        self.image = noise([99], BATCH.shape[1:], torch.float64)

    def __call__(self, x, sigma):
        return self.image.expand_as(x)


class Gaussian:
    """Data N(0, v): D = x v / (s^2 + v), and a path keeps x / sqrt(s^2 + v)."""

    def __init__(self, variance):
        self.variance = variance

    def __call__(self, x, sigma):
        return x * (self.variance / (sigma**2 + self.variance))

    def point(self, sigma, scale):
        x = scale * math.sqrt(sigma**2 + self.variance)
        return Point(sigma, x, self(x, sigma))


def euler_points(denoise, sigmas=SIGMAS, batch=BATCH):
    points = []
    integrate(denoise, sigmas[0] * batch, sigmas, Euler(), observe=points.append)
    return points


# Curvature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [True, False])
def test_the_way_to_a_single_image_is_straight(relative):
    kappas = curvature_profile(euler_points(OnePoint()), relative=relative)
    assert len(kappas) == len(SIGMAS) - 1
    assert max(kappas) < 1e-9
    eta, secants = measured_eta(OnePoint(), BATCH, SIGMAS)
    assert max(eta) < 1e-11
    assert max(secants) < 1e-9


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


def test_kappa_and_eta_are_speeds_of_the_denoised_along_euler_steps():
    """v' - v = (D - D') / s', so kappa = |D - D'| / (s' ds |v|) and eta = ds |D' - D| / (2 s')."""
    points = euler_points(MIXTURE)
    kappas, etas = [0.0], []
    for before, here in itertools.pairwise(points):
        moved, width = norms(here.denoised - before.denoised), before.sigma - here.sigma
        kappas.append(float((moved / norms(before.slope)).mean()) / (here.sigma * width))
        etas.append(0.5 * width / here.sigma * float(moved.mean()))
    assert curvature_profile(points) == pytest.approx(kappas, rel=1e-9)
    assert measured_eta(MIXTURE, BATCH, SIGMAS)[0][:-1] == pytest.approx(etas, rel=1e-9)


def test_kappa_is_a_mean_over_images_and_not_a_ratio_of_means():
    here = [Point(s, torch.tensor(rows).reshape(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)) for s, rows in
            ((2.0, [2.0, 20.0]), (1.0, [2.0, 10.0]))]  # fmt: skip
    # Slopes 1 -> 2 and 10 -> 10: relative bends 1 and 0, absolute ones 1 and 0.
    assert curvature_profile(here) == [0.0, 0.5]
    assert curvature_profile(here, relative=False) == [0.0, 0.5]
    here[0] = here[0]._replace(x=torch.tensor([2.0, 40.0]).reshape(2, 1, 1, 1))
    assert curvature_profile(here) == [0.0, pytest.approx((1 + 0.5) / 2)]
    assert curvature_profile(here, relative=False) == [0.0, pytest.approx((1 + 10) / 2)]


def test_eta_falls_with_the_square_of_a_step_and_grows_with_the_image():
    flow = Gaussian(1.0)
    etas = [measured_eta(flow, BATCH, [5.0, 5.0 - h, 0.0])[0][0] for h in (0.02, 0.01)]
    assert etas[0] / etas[1] == pytest.approx(4, rel=0.01)
    assert measured_eta(flow, 3 * BATCH, SIGMAS)[0] == pytest.approx(
        [3 * e for e in measured_eta(flow, BATCH, SIGMAS)[0]]
    )


def test_a_move_to_0_has_no_eta_and_one_to_sigma_min_has():
    meter = Meter(MIXTURE)
    eta, secants = measured_eta(meter, BATCH, [80.0, 1.0, 0.1, 0.0])
    assert (len(eta), eta[-1], secants[-1]) == (3, 0.0, 0.0)
    assert meter.calls == 3
    longer, _ = measured_eta(meter, BATCH, [80.0, 1.0, 0.1])
    assert meter.calls == 6
    assert longer == eta[:-1]
    assert min(longer) > 0


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


def test_a_calibration_that_is_not_finite_is_told():
    with pytest.raises(SpecError, match="curvature along the calibration path is not finite"):
        Switch().calibrate(lambda x, sigma: x * math.nan, BATCH, SIGMAS)
    with pytest.raises(SpecError, match="slope along the calibration path is not finite"):
        measured_eta(lambda x, sigma: x * math.inf, BATCH, SIGMAS)
    with pytest.raises(SpecError, match="slope along the calibration path is not finite"):
        Walk(0.01, 0.1).path(lambda x, sigma: x * math.nan, BATCH)


# The walk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mover", ["euler", "heun"])
def test_a_walk_goes_from_end_to_end_without_a_gap(mover):
    steps = Walk(1e-4, 2e-3, mover=mover).path(MIXTURE, BATCH)
    assert len(steps) > 10
    assert steps[0].sigma == 80.0
    for before, here in itertools.pairwise(steps):
        assert before.sigma - before.step == pytest.approx(here.sigma, rel=1e-12)
        assert before.step > 0
    assert steps[-1].sigma - steps[-1].step == pytest.approx(0.002, rel=1e-9)
    assert all(step.allowed == pytest.approx(1e-4 + 1.9e-3 * step.sigma / 80) for step in steps)


def test_a_wider_bound_takes_fewer_steps():
    counts = [len(Walk(eta / 10, eta).path(MIXTURE, BATCH)) for eta in (1e-4, 3e-4, 1e-3, 2e-3)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 1.3 * counts[-1] > 13


def test_eta_p_decides_how_soon_the_bound_falls():
    walk = Walk(0.1, 0.5, eta_p=2.0)
    assert walk.allowed(80.0) == 0.5
    assert walk.allowed(40.0) == pytest.approx(0.1 + 0.4 / 4)
    assert walk.allowed(0.0) == 0.1
    assert Walk(0.1, 0.5, eta_p=0.0).allowed(0.002) == 0.5


def test_a_snapped_walk_stays_on_the_base_grid():
    grid = EDM(18).sigmas().tolist()
    steps = Walk(1e-4, 2e-3, grid_snap=True, max_shrink_iters=0).path(MIXTURE, BATCH)
    assert all(min(abs(step.sigma - node) for node in grid) < 1e-9 for step in steps)
    free = Walk(1e-4, 2e-3, max_shrink_iters=0).path(MIXTURE, BATCH)
    assert len(steps) > 5
    assert not all(min(abs(step.sigma - node) for node in grid) < 1e-9 for step in free)


def test_a_straight_way_is_walked_in_one_step():
    assert len(Walk(1e-4, 2e-3).path(OnePoint(), BATCH)) == 1


# Resampling ------------------------------------------------------------------------------------------------------


@st.composite
def walks(draw):
    ratios = draw(st.lists(st.floats(1.05, 6.0), min_size=2, max_size=15))
    sigmas = [80.0, *(80.0 / total for total in itertools.accumulate(ratios, lambda a, b: a * b))]
    eta = draw(st.lists(st.floats(1e-6, 10.0), min_size=len(ratios), max_size=len(ratios)))
    return sigmas, eta


@settings(max_examples=150, deadline=None)
@given(walks(), st.integers(2, 30), st.floats(0.0, 1.0), st.floats(-0.5, 0.5), st.booleans())
def test_resampling_gives_as_many_sigmas_as_asked_strictly_decreasing_between_the_same_ends(
    walk, nodes, power, q, to_0
):
    sigmas, eta = walk
    placed = resample([*sigmas, 0.0] if to_0 else sigmas, [*eta, 0.0] if to_0 else eta, nodes, power=power, q=q)
    assert len(placed) == nodes
    assert (placed[0], placed[-1]) == (sigmas[0], sigmas[-1])
    assert all(a > b > 0 for a, b in itertools.pairwise(placed))


@settings(max_examples=50, deadline=None)
@given(walks(), st.floats(1e-3, 1e3), st.integers(3, 12))
def test_only_the_ratios_of_eta_count(walk, factor, nodes):
    sigmas, eta = walk
    scaled = resample(sigmas, [factor * e for e in eta], nodes)
    assert scaled == pytest.approx(resample(sigmas, eta, nodes), rel=1e-6)


def test_without_weights_resampling_counts_steps():
    fine = EDM(60, final="sigma_min").sigmas().tolist()
    draw = random.Random(1)
    eta = [draw.uniform(0.01, 10) for _ in range(60)]
    for every in (2, 5, 12):
        assert resample(fine, eta, 60 // every + 1, power=0, q=0) == pytest.approx(fine[::every], rel=1e-9)
    assert resample(fine, eta, 13, power=0.5, q=0) != pytest.approx(fine[::5], rel=1e-3)


def test_error_attracts_sigmas_and_so_does_low_noise():
    fine = EDM(60, final="sigma_min").sigmas().tolist()
    high = resample(fine, [100.0] * 30 + [1.0] * 30, 12, q=0)
    low = resample(fine, [1.0] * 30 + [100.0] * 30, 12, q=0)
    middle = fine[30]
    assert sum(s > middle for s in high) > 8 > 4 > sum(s > middle for s in low)
    level = [1.0] * 60
    medians = [resample(fine, level, 11, q=q)[5] for q in (-0.25, 0.0, 0.25)]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] > 2 * medians[-1]


@pytest.mark.parametrize(
    "eta",
    [
        [0.0, 1.0, 1.0, 1.0],
        [1.0, 0.0, 1.0, 1.0],
        [1.0, 1.0, 1.0, 0.0],
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
        [0.0, 1.0, 0.0, 0.0],
        [1.0, -1e-18, 1.0, 1e-300],
    ],
)
def test_a_step_without_error_is_stepped_over(eta):
    placed = resample([80.0, 20.0, 3.0, 0.2, 0.002], eta, 9)
    assert len(placed) == 9
    assert (placed[0], placed[-1]) == (80.0, 0.002)
    assert all(a > b for a, b in itertools.pairwise(placed))


@pytest.mark.parametrize("eta", [[0.0, 0.0], [-1.0, 0.0], [math.nan, 1.0]])
def test_a_walk_without_any_error_is_refused(eta):
    with pytest.raises(SpecError, match=r"zero error|not finite"):
        resample([80.0, 1.0, 0.1], eta, 4)


@pytest.mark.parametrize(("power", "q"), [(0.5, 100.0), (400.0, 0.1), (0.5, math.inf), (0.5, math.nan)])
def test_weights_beyond_double_precision_are_refused(power, q):
    with pytest.raises(SpecError, match="weights of the walk are not finite"):
        resample([80.0, 1.0, 0.002], [10.0, 10.0], 4, power=power, q=q)


def test_one_node_is_the_top_and_none_is_refused():
    assert resample([80.0, 1.0, 0.1], [1.0, 1.0], 1) == [80.0]
    with pytest.raises(SpecError, match="num_steps"):
        resample([80.0, 1.0, 0.1], [1.0, 1.0], 0)


# The schedule ----------------------------------------------------------------------------------------------------

SMALL = {"eta_min": 1e-4, "eta_max": 2e-3, "calibration_images": 32}


def placed(**fields):
    return SDM(**{**SMALL, **fields}).sigmas(MIXTURE, BATCH)


def test_final_decides_only_where_the_last_move_ends():
    zero, short = placed(num_steps=7), placed(num_steps=6, final="sigma_min")
    assert zero[-1] == 0
    assert torch.equal(zero[:-1], short)
    assert short[-1] == 0.002
    assert len(zero) == 8


@pytest.mark.parametrize(("final", "expected"), [("zero", [80.0, 0.0]), ("sigma_min", [80.0, 0.002])])
def test_one_step_goes_straight_to_the_end(final, expected):
    assert placed(num_steps=1, final=final).tolist() == expected


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_without_num_steps_it_is_the_walk_itself(final):
    walked = [step.sigma for step in Walk(1e-4, 2e-3).path(MIXTURE, BATCH)]
    assert len(walked) > 10
    end = [0.002, 0.0] if final == "zero" else [0.002]
    assert placed(final=final).tolist() == [*walked, *end]


def test_the_global_generators_do_not_matter():
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # the global generator is what must not matter
        random.seed(seed)
        answers.append(placed(num_steps=6).numpy().tobytes())
    assert answers[0] == answers[1]


def test_every_field_of_the_walk_is_taken_over():
    fields = {
        "eta_min": 0.003, "eta_max": 0.03, "eta_p": 0.5, "base_steps": 9, "rho": 5.0, "sigma_min": 0.01,
        "sigma_max": 50.0, "mover": "heun", "grid_snap": True, "gamma_step": 0.5, "c_shrink": 0.25,
        "max_expand_bins": 1, "max_shrink_iters": 3,
    }  # fmt: skip
    assert SDM(**fields).walk == Walk(**fields)


def test_it_is_learned_and_says_so():
    with pytest.raises(ValueError, match="needs a denoiser and calibration noise"):
        SDM(num_steps=4).sigmas()


def test_a_sampler_hands_each_part_as_many_images_as_it_wants():
    sampler = Sampler(Switch(calibration_images=8), SDM(num_steps=5, **{**SMALL, "calibration_images": 16}))
    assert sampler.calibration_images == 16
    sizes = set()

    def denoise(x, sigma):
        sizes.add(len(x))
        return MIXTURE(x, sigma)

    decided, plan = sampler.prepare(denoise, BATCH[:16])
    assert sizes == {8, 16}
    assert decided.solver.switch_at is not None
    assert plan.digest == trace(decided.solver, plan.sigmas).digest


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"eta_min": 0.5, "eta_max": 0.4}, "eta_min"),
        ({"eta_min": 0.0}, "eta_min"),
        ({"eta_min": math.nan}, "eta_min"),
        ({"eta_max": math.nan}, "eta_max"),
        ({"eta_max": math.inf}, "eta_max"),
        ({"eta_p": -1.0}, "eta_p"),
        ({"power": math.inf}, "power"),
        ({"q": math.nan}, "q"),
        ({"rho": 0.0}, "rho"),
        ({"num_steps": 0}, "num_steps"),
        ({"base_steps": 1}, "base_steps"),
        ({"gamma_step": 0.0}, "gamma_step"),
        ({"gamma_step": 1.5}, "gamma_step"),
        ({"c_shrink": 1.0}, "c_shrink"),
        ({"sigma_min": 80.0}, "sigma_min"),
        ({"calibration_images": 0}, "calibration_images"),
        ({"mover": "rk4"}, "mover"),
        ({"final": "0"}, "final"),
        ({"num_steps": 4.0}, "num_steps"),
    ],
)
def test_a_mistake_in_a_schedule_names_its_key(fields, path):
    with pytest.raises(SpecError) as caught:
        SCHEDULES.build({"name": "sdm", **fields})
    assert caught.value.path == path


def test_eta_min_above_eta_max_says_by_how_much():
    with pytest.raises(SpecError, match=r"eta_min: is above eta_max, given 0\.5; allowed: at most 0\.4"):
        SDM(eta_min=0.5)
