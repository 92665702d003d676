"""The Wasserstein-bounded walk: its eta, its steps, its bound. Its published paths: test_conformance_sdm.py."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import wasserstein
from pipeline.denoiser import Meter
from pipeline.registry import SpecError
from pipeline.schedules import EDM
from pipeline.wasserstein import PathStep, Walk, measured_eta
from tests.conformance_problem import CALIBRATION_LATENTS, MIXTURE, SHIPPED
from tests.exact_flows import BATCH, SIGMAS, Gaussian, OnePoint, euler_points, norms


class Listing:
    """Writes down at which sigmas it is asked."""

    def __init__(self, denoise):
        self.denoise, self.sigmas = denoise, []

    def __call__(self, x, sigma):
        self.sigmas.append(sigma)
        return self.denoise(x, sigma)


def walked(steps):
    """The sigmas of a walk, both ends included."""
    return [step.sigma for step in steps] + [steps[-1].sigma - steps[-1].step]


# Eta -------------------------------------------------------------------------------------------------------------


def test_a_straight_way_has_no_eta():
    eta, secants = measured_eta(OnePoint(), BATCH, SIGMAS)
    assert max(eta) < 1e-11
    assert max(secants) < 1e-9


def test_eta_is_the_speed_of_the_denoised_along_euler_steps():
    """v' - v = (D - D') / s', so eta = ds |D' - D| / (2 s')."""
    etas = []
    for before, here in itertools.pairwise(euler_points(MIXTURE)):
        moved, width = norms(here.denoised - before.denoised), before.sigma - here.sigma
        etas.append(0.5 * width / here.sigma * float(moved.mean()))
    assert measured_eta(MIXTURE, BATCH, SIGMAS)[0][:-1] == pytest.approx(etas, rel=1e-9)


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


# The walk as published -------------------------------------------------------------------------------------------


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


def test_a_straight_way_is_walked_in_one_step_and_no_bins_are_tried_beyond_the_grid():
    """Bins are tried by 1, 2 and 4: of a grid of four nodes the second and the third, never the fourth."""
    listing = Listing(OnePoint())
    (step,) = Walk(1e-4, 2e-3, base_steps=4).path(listing, BATCH, measure_end=False)
    assert (step.sigma, step.step) == (80.0, 80.0 - 0.002)
    assert listing.sigmas == EDM(4).sigmas()[:3].tolist()


def test_the_last_step_is_measured_as_the_others_are_for_one_evaluation():
    meter, walk = Meter(MIXTURE), Walk(5e-4, 2e-3, base_steps=60, sigma_min=5.0, max_expand_bins=0)
    steps = walk.path(meter, BATCH)
    measured = meter.calls
    etas, secants = measured_eta(MIXTURE, BATCH, walked(steps))
    assert [step.eta for step in steps] == pytest.approx(etas, rel=1e-9)
    assert [step.secant for step in steps] == pytest.approx(secants, rel=1e-9)
    unmeasured = walk.path(meter, BATCH, measure_end=False)
    assert meter.calls == 2 * measured - 1
    assert unmeasured[:-1] == steps[:-1]
    assert unmeasured[-1][:2] == steps[-1][:2]
    assert math.isnan(unmeasured[-1].eta)
    assert not unmeasured[-1].kept


@pytest.mark.parametrize(("eta", "kept"), [(0.2, True), (0.2 * (1 + 1e-12), True), (0.2 * (1 + 1e-8), False)])
def test_a_step_is_kept_up_to_rounding(eta, kept):
    assert PathStep(1.0, 0.5, 8 * eta, eta, 0.2).kept is kept


def test_as_published_a_walk_breaks_its_bound_and_says_where():
    """Far out the path is straight: a trial's secant there says nothing of the step that it lets go all the way."""
    (step,) = Walk(1e-3, 2e-2).path(MIXTURE, BATCH)
    assert step.eta > 10 * step.allowed
    assert not step.kept


# The walk that keeps its bound -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    eta_min=st.floats(-4, 0.3).map(lambda power: 10**power),
    factor=st.floats(1, 100),
    eta_p=st.floats(0, 4),
    base_steps=st.integers(2, 60),
    mover=st.sampled_from(["euler", "heun"]),
)
def test_an_enforced_walk_keeps_every_step_within_its_bound(eta_min, factor, eta_p, base_steps, mover):
    walk = Walk(eta_min, factor * eta_min, eta_p, base_steps, mover=mover, enforce_bound=True)
    meter = Meter(MIXTURE)
    steps = walk.path(meter, BATCH)
    assert all(step.eta <= step.allowed == walk.allowed(step.sigma) for step in steps)
    assert all(step.kept for step in steps)
    assert steps[0].sigma == 80.0
    assert walked(steps)[-1] == pytest.approx(0.002, rel=1e-12)
    assert all(a > b for a, b in itertools.pairwise(walked(steps)))
    # Two trials that fail, or three that hold, and the step itself: five or so, and one more to move by Heun.
    assert meter.calls <= 6 * len(steps) + len(steps) * (mover == "heun") + 6
    if mover == "euler":
        etas, _ = measured_eta(MIXTURE, BATCH, walked(steps))
        assert all(eta <= step.allowed * (1 + 1e-9) for eta, step in zip(etas, steps, strict=True))


@pytest.mark.parametrize("gamma_step", [0.5, 0.95, 1.0])
@pytest.mark.parametrize("c_shrink", [0.1, 0.999])
@pytest.mark.parametrize(("bins", "shrinks"), [(0, 0), (0, 5), (6, 0)])
def test_no_setting_of_the_search_lets_an_enforced_walk_off(gamma_step, c_shrink, bins, shrinks):
    walk = Walk(
        1e-3, 5e-2, gamma_step=gamma_step, c_shrink=c_shrink, max_expand_bins=bins, max_shrink_iters=shrinks,
        enforce_bound=True,
    )  # fmt: skip
    steps = walk.path(MIXTURE, BATCH)
    assert all(step.eta <= step.allowed for step in steps)
    assert walked(steps)[-1] == pytest.approx(0.002, rel=1e-12)


def test_where_the_published_walk_keeps_its_bound_the_enforced_one_is_the_same():
    """Data this wide bend the path evenly, so that a trial's secant holds for the longer step too."""
    flow = Gaussian(1000.0)
    free = Walk(0.1, 0.1).path(flow, BATCH)
    assert len(free) > 30
    assert all(step.kept for step in free)
    assert Walk(0.1, 0.1, enforce_bound=True).path(flow, BATCH) == free


def test_an_enforced_walk_evaluates_each_of_its_states_once():
    listing = Listing(MIXTURE)
    steps = Walk(1e-3, 2e-2, enforce_bound=True).path(listing, BATCH)
    assert len(steps) > 20
    assert all(listing.sigmas.count(sigma) == 1 for sigma in walked(steps)[:-1])


def test_a_jump_is_crossed_by_a_short_step():
    def denoise(x, sigma):
        return x / (sigma**2 + 1) + (1.0 if sigma < 1 else 0.0)

    steps = Walk(1e-3, 1e-2, enforce_bound=True).path(denoise, BATCH)
    (crossing,) = [step for step in steps if step.sigma - step.step < 1 <= step.sigma]
    assert crossing.eta <= crossing.allowed
    # Slopes on its two sides are |1| apart, sqrt(12) over the image: eta is half of that for each unit of the step.
    assert crossing.step <= 2 * crossing.allowed / math.sqrt(12)


def test_a_bound_below_what_any_step_can_keep_is_told_at_once():
    meter = Meter(MIXTURE)
    with pytest.raises(SpecError) as caught:
        Walk(1e-30, 1e-30, enforce_bound=True).path(meter, BATCH)
    assert caught.value.path == "eta_min"
    assert "no step from sigma 80 keeps it" in str(caught.value)
    assert "given 1e-30" in str(caught.value)
    assert meter.calls < 10


@pytest.mark.parametrize("enforce_bound", [False, True])
def test_a_walk_without_end_is_told(monkeypatch, enforce_bound):
    monkeypatch.setattr(wasserstein, "MOST_STEPS", 30)
    meter = Meter(MIXTURE)
    with pytest.raises(SpecError, match=r"eta_min: needs more than 30 steps: the walk has come to sigma 7\d.* only"):
        Walk(1e-7, 1e-7, max_shrink_iters=20, enforce_bound=enforce_bound).path(meter, BATCH)
    assert meter.calls < 30 * 25


def test_snapping_and_an_enforced_bound_exclude_each_other():
    with pytest.raises(SpecError, match=r"grid_snap: lengthens steps .* allowed: false, or enforce_bound: false"):
        Walk(0.01, 0.1, grid_snap=True, enforce_bound=True)


@pytest.mark.parametrize("enforce_bound", [False, True])
@pytest.mark.parametrize("wrong_below", [100.0, 50.0, 1.0])
def test_a_slope_that_is_not_finite_names_the_first_such_sigma(wrong_below, enforce_bound):
    def denoise(x, sigma):
        return x * (math.inf if sigma < wrong_below else 1 / (1 + sigma**2))

    for walk in (Walk(0.01, 0.1, max_expand_bins=0, enforce_bound=enforce_bound).path, measured):
        listing = Listing(denoise)
        with pytest.raises(SpecError) as caught:
            walk(listing, BATCH)
        first = next(sigma for sigma in listing.sigmas if sigma < wrong_below)
        assert caught.value.path == ""  # no single option is at fault; the sampler adds `schedule`
        assert f"slope along the calibration path is not finite at sigma {first:.4g}, given " in str(caught.value)


def measured(denoise, noise):
    return measured_eta(denoise, noise, SIGMAS)


@pytest.mark.parametrize("case", [case for case in SHIPPED.cases if case["kind"] == "sdm_wasserstein_schedule"])
def test_the_published_path_breaks_its_own_bound_and_an_enforced_one_keeps_it(case):
    p = case["params"]
    bound = {key: p[key] for key in ("eta_min", "eta_max", "eta_p", "sigma_min", "sigma_max")}
    published = Walk(**bound, base_steps=p["num_steps"], mover=p["solver"], grid_snap=p["grid_snap"])
    steps = published.path(MIXTURE, CALIBRATION_LATENTS)
    assert not all(step.kept for step in steps)
    walk = Walk(**bound, base_steps=p["num_steps"], mover=p["solver"], enforce_bound=True)
    kept = walk.path(MIXTURE, CALIBRATION_LATENTS)
    assert all(step.eta <= step.allowed for step in kept)
    assert len(kept) > len(steps)


def test_every_step_is_measured_as_heun_minus_euler():
    sigmas = [80.0, 20.0, 5.0, 1.0, 0.2, 0.02]
    eta, _ = measured_eta(MIXTURE, CALIBRATION_LATENTS, sigmas)
    x = sigmas[0] * CALIBRATION_LATENTS
    for i, sigma in enumerate(sigmas[:-1]):
        slope = (x - MIXTURE(x, sigma)) / sigma
        euler = x + (sigmas[i + 1] - sigma) * slope
        there = (euler - MIXTURE(euler, sigmas[i + 1])) / sigmas[i + 1]
        heun = x + (sigmas[i + 1] - sigma) * 0.5 * (slope + there)
        assert eta[i] == pytest.approx(float((heun - euler).flatten(1).norm(dim=1).mean()), rel=1e-10)
        x = euler
