"""True local errors where they are known in closed form, and what SDM's estimate and bound are beside them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.denoiser import Meter
from pipeline.local_error import StepError, local_errors, verify_walk
from pipeline.registry import SpecError
from pipeline.schedules import EDM
from pipeline.sdm import SDM
from pipeline.solvers import Heun
from pipeline.wasserstein import measured_eta
from tests.conformance_problem import CALIBRATION_LATENTS, MIXTURE
from tests.exact_flows import BATCH, SIGMAS, Gaussian, OnePoint, euler_points, norms


@pytest.mark.parametrize("variance", [0.04, 1.0, 30.0])
def test_the_error_of_a_gaussians_steps_in_closed_form(variance):
    """A path is x sqrt((t^2 + v) / (s^2 + v)), so Euler's error is a multiple of |x|."""
    flow, sigmas = Gaussian(variance), [80.0, 60.0, 20.0, 19.9, 3.0, 0.5, 0.49, 0.01]
    steps = local_errors(flow, BATCH, sigmas)
    points = euler_points(flow, sigmas)
    ends = [*(point.x for point in points[1:]), None]
    for step, here, end, target in zip(steps, points, ends, sigmas[1:], strict=True):
        assert (step.sigma, step.target) == (here.sigma, target)
        euler = here.x + (target - here.sigma) * here.slope if end is None else end
        errors = norms(euler - flow.moved(here.x, here.sigma, target))
        assert step.error == pytest.approx(float(errors.mean()), rel=1e-3)
        assert step.uncertainty <= 1e-3 * step.error
        assert step.rms == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-3)
        assert step.standard_error == pytest.approx(float(errors.std()) / math.sqrt(len(BATCH)), rel=1e-2)
        # |dv/dsigma| = c v / (s^2 + v)^(3/2) with c = x / sqrt(s^2 + v): steepest at the step's lower end.
        c = float(norms(here.x).mean()) / math.sqrt(here.sigma**2 + variance)
        steepest = c * variance / (target**2 + variance) ** 1.5
        assert step.supremum_bound == pytest.approx(0.5 * (here.sigma - target) ** 2 * steepest, rel=0.05)
        assert step.supremum_bound >= step.error


def test_eta_is_the_walks_and_comes_to_the_true_error_as_steps_shrink():
    assert [step.eta for step in local_errors(MIXTURE, BATCH, SIGMAS)] == pytest.approx(
        measured_eta(MIXTURE, BATCH, SIGMAS)[0], rel=1e-9
    )
    for denoise in (Gaussian(1.0), MIXTURE):
        ratios = []
        for width in (0.4, 0.2, 0.1, 0.05):
            (step,) = local_errors(denoise, BATCH, [2.0, 2.0 - width])
            ratios.append(abs(step.eta / step.error - 1))
        # The estimate is of the first order in the step.
        assert all(a / b == pytest.approx(2, rel=0.25) for a, b in itertools.pairwise(ratios))
        assert ratios[-1] < 0.1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.003, 79.0), min_size=1, max_size=4, unique=True))
def test_the_supremum_bounds_the_true_error_on_the_mixture(between):
    sigmas = [80.0, *sorted(between, reverse=True), 0.002]
    for step in local_errors(MIXTURE, BATCH, sigmas):
        assert step.supremum_bound >= step.error - step.uncertainty
        assert step.rms >= step.error


def test_a_secant_is_no_bound_where_the_path_bends_after_it():
    """Eta falls short of the true error where the slope turns back: what the supremum is for."""

    def denoise(x, sigma):
        return x - sigma * math.sin(math.pi * sigma)

    (step,) = local_errors(denoise, BATCH, [2.0, 1.0])
    # v = sin(pi sigma) is 0 at both ends, and its integral over the step -2 / pi in each of 12 pixels.
    assert step.eta < 1e-9 < step.error
    assert step.error == pytest.approx(2 / math.pi * math.sqrt(12), rel=1e-3)
    assert step.supremum_bound == pytest.approx(0.5 * math.pi * math.sqrt(12), rel=0.05)


def test_a_straight_path_has_no_error_and_costs_no_more_than_it_must():
    meter = Meter(OnePoint())
    steps = local_errors(meter, BATCH, SIGMAS, allowed=lambda sigma: 1e-9)
    assert max(step.error for step in steps) < 1e-12
    assert {step.verdict for step in steps} == {"kept"}
    assert meter.calls < 250 * len(steps)


def test_a_move_to_0_is_not_verified_and_asks_nothing_below_sigma_min():
    asked = []

    def denoise(x, sigma):
        asked.append(sigma)
        return MIXTURE(x, sigma)

    *steps, last = local_errors(denoise, BATCH, EDM(5).sigmas().tolist(), allowed=lambda sigma: 1.0)
    assert min(asked) >= 0.002
    assert last == StepError(0.002, 0.0, 0.0, None, None, None, None, None, 1.0)
    assert last.verdict == "not verified"
    assert all(step.error > 0 for step in steps)


@pytest.mark.parametrize(
    ("error", "allowed", "verdict"),
    [
        (1.0, 1.3, "kept"),
        (1.0, 1.2, "inconclusive"),
        (1.0, 1.0, "inconclusive"),
        (1.0, 0.8, "inconclusive"),
        (1.0, 0.7, "broken"),
        (1.0, None, "not verified"),
        (None, 1.0, "not verified"),
    ],
)
def test_a_verdict_leaves_two_standard_errors_and_the_fine_solves_own(error, allowed, verdict):
    step = StepError(2.0, 1.0, 0.9, error, 0.1, 1.1, 2.0, 0.05, allowed)
    assert step.verdict == verdict


@pytest.mark.parametrize("mover", ["euler", "heun"])
def test_a_published_walk_is_broken_and_an_enforced_one_is_not(mover):
    """The published walk crosses the mixture in one step, thousands of times its budget by eta."""
    (step,) = verify_walk(SDM(eta_min=1e-3, eta_max=2e-2, mover=mover), MIXTURE, CALIBRATION_LATENTS)
    assert step.verdict == "broken"
    assert step.eta > 100 * step.allowed
    schedule = SDM(eta_min=1e-3, eta_max=2e-2, mover=mover, enforce_bound=True)
    steps = verify_walk(schedule, MIXTURE, CALIBRATION_LATENTS)
    path = schedule.walk.path(MIXTURE, CALIBRATION_LATENTS)
    assert [step.sigma for step in steps] == [step.sigma for step in path]
    assert [step.eta for step in steps] == pytest.approx([step.eta for step in path], rel=1e-6)
    assert [step.allowed for step in steps] == [step.allowed for step in path]
    verdicts = [step.verdict for step in steps]
    assert "broken" not in verdicts
    assert verdicts.count("kept") > 0.7 * len(steps)


def test_steps_are_measured_where_the_mover_stands():
    flow, sigmas = Gaussian(1.0), [10.0, 2.0, 1.0]
    _, last = local_errors(flow, BATCH, sigmas, mover=Heun())
    here = 10.0 * BATCH
    slope = (here - flow(here, 10.0)) / 10.0
    end = here - 8.0 * slope
    state = here - 4.0 * (slope + (end - flow(end, 2.0)) / 2.0)
    euler = state - (state - flow(state, 2.0)) / 2.0
    assert last.error == pytest.approx(float(norms(euler - flow.moved(state, 2.0, 1.0)).mean()), rel=1e-3)


def test_single_precision_is_asked_in_single_precision_and_ends():
    dtypes = set()

    def denoise(x, sigma):
        dtypes.add(x.dtype)
        return MIXTURE(x.double(), sigma).float()

    single = local_errors(denoise, BATCH.float(), SIGMAS)
    double = local_errors(MIXTURE, BATCH.float().double(), SIGMAS)
    assert dtypes == {torch.float32}
    assert [step.error for step in single] == pytest.approx([step.error for step in double], rel=2e-3)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(SpecError, match=r"calibration_images: .* given 1; allowed: 2 or more"):
        local_errors(MIXTURE, BATCH[:1], SIGMAS)
    with pytest.raises(SpecError, match="fine_steps"):
        local_errors(MIXTURE, BATCH, SIGMAS, fine_steps=1)
