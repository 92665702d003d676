"""COS: costs and places against closed forms, its two interpolations, what it refuses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.cos import COS, equal_costs, score_cost
from pipeline.denoiser import Meter
from pipeline.methods import METHODS
from pipeline.registry import SpecError
from pipeline.schedules import EDM, SCHEDULES
from pipeline.solvers import Point
from tests.conformance_problem import CALIBRATION_LATENTS, MIXTURE

VARIANCE = 0.3
ENDS = {"sigma_min": 0.01, "sigma_max": 50.0}


def gaussian(x, sigma):
    """The denoiser of data N(0, VARIANCE I), whose score is -x / (sigma^2 + VARIANCE)."""
    return x * (VARIANCE / (sigma**2 + VARIANCE))


def length(sigma):
    """The path of that data, cost up to sigma in the limit of small intervals, per root of the dimension.

    Its integrand is 2 sigma^2 / (sigma^2 + VARIANCE)^(3/2), since |x| grows as (sigma^2 + VARIANCE)^(1/2).
    """
    sigma = np.asarray(sigma)
    return 2 * (np.arcsinh(sigma / math.sqrt(VARIANCE)) - sigma / np.sqrt(sigma**2 + VARIANCE))


def monotone_cubic(x, y, at):
    """Fritsch & Butland's interpolant, written from its definition; the outer pieces go on outside."""
    h, slope = np.diff(x), np.diff(y) / np.diff(x)
    d = np.empty(len(x))
    if len(x) == 2:
        d[:] = slope[0]
    else:
        for k in range(1, len(x) - 1):
            a, b = 2 * h[k] + h[k - 1], h[k] + 2 * h[k - 1]
            d[k] = (a + b) / (a / slope[k - 1] + b / slope[k]) if slope[k - 1] * slope[k] > 0 else 0.0
        for end, near, far in ((0, 0, 1), (-1, -1, -2)):
            edge = ((2 * h[near] + h[far]) * slope[near] - h[near] * slope[far]) / (h[near] + h[far])
            edge = 0.0 if edge * slope[near] <= 0 else edge
            turns = slope[near] * slope[far] < 0 and abs(edge) > 3 * abs(slope[near])
            d[end] = 3 * slope[near] if turns else edge
    k = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    u = (at - x[k]) / h[k]
    return (
        y[k] * (1 + 2 * u) * (1 - u) ** 2
        + d[k] * h[k] * u * (1 - u) ** 2
        + y[k + 1] * u**2 * (3 - 2 * u)
        + d[k + 1] * h[k] * u**2 * (u - 1)
    )


def test_the_cost_of_an_interval_is_the_root_mean_square_over_images():
    x = torch.tensor([3.0, 4.0, 0.0, 12.0], dtype=torch.float64).reshape(2, 1, 1, 2)  # of norms 5 and 12
    point = Point(2.0, x, gaussian(x, 2.0))
    gap = 1 / (0.5**2 + VARIANCE) - 1 / (2.0**2 + VARIANCE)
    assert score_cost(gaussian, point, 0.5) == pytest.approx(2.0 * gap * math.sqrt((25 + 144) / 2), rel=1e-12)


@pytest.mark.parametrize(("probe_steps", "tolerance"), [(150, 1e-3), (18, 2e-2), (3, 2e-2)])
def test_costs_on_a_gaussian_are_the_closed_form(probe_steps, tolerance):
    """The flow takes x at sigma_max to x sqrt((sigma^2 + v) / (sigma_max^2 + v)); the walk keeps to it, few or many."""
    schedule = COS(num_steps=3, **ENDS, probe_steps=probe_steps)
    costs, probe = schedule.costs(gaussian, CALIBRATION_LATENTS), schedule.probe()
    assert len(costs) == len(probe) - 1 == probe_steps - 1
    noise = CALIBRATION_LATENTS.flatten(1).square().sum(1).mean().sqrt().item()
    for cost, (upper, lower) in zip(costs, itertools.pairwise(probe), strict=True):
        size = noise * 50.0 * math.sqrt((upper**2 + VARIANCE) / (50.0**2 + VARIANCE))
        gap = 1 / (lower**2 + VARIANCE) - 1 / (upper**2 + VARIANCE)
        assert cost == pytest.approx(upper * size * gap, rel=tolerance)


def test_the_probe_grid_is_edm_s():
    assert COS(num_steps=18).probe() == pytest.approx(EDM(18).sigmas().tolist()[:-1], rel=1e-12)
    assert COS(num_steps=18, final="sigma_min").probe() == pytest.approx(EDM(19).sigmas().tolist()[:-1], rel=1e-12)
    given_ = COS(num_steps=5, probe_steps=4, rho=3.0, **ENDS).probe()
    assert given_ == pytest.approx(EDM(4, 0.01, 50.0, rho=3.0).sigmas().tolist()[:-1], rel=1e-12)


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_sigmas_on_a_gaussian_take_equal_parts_of_the_path(final):
    schedule = COS(num_steps=12, **ENDS, final=final, probe_steps=400, knots="all")
    values = schedule.sigmas(gaussian, CALIBRATION_LATENTS).tolist()
    assert len(values) == 13
    above = values[:-1] if final == "zero" else values
    parts = -np.diff(length(above))
    assert parts == pytest.approx(np.full(len(parts), parts.mean()), rel=5e-3)


def test_set_up_costs_three_evaluations_an_interval_and_one_less():
    for probe in (19, 40):
        meter = Meter(MIXTURE)
        COS(num_steps=8, probe_steps=probe).costs(meter, CALIBRATION_LATENTS)
        assert meter.calls == 3 * (probe - 1) - 1
        assert meter.rows == meter.calls * len(CALIBRATION_LATENTS)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=30), st.integers(3, 40), st.floats(1.0, 10.0))
def test_any_costs_give_a_schedule_between_the_ends(costs, nodes, rho):
    probe = EDM(len(costs) + 1, rho=rho).sigmas().tolist()[:-1]
    values = equal_costs(probe, costs, nodes, rho=rho, knots="all")
    assert len(values) == nodes
    assert (values[0], values[-1]) == (80.0, 0.002)
    assert all(a > b for a, b in itertools.pairwise(values))
    assert equal_costs(probe, [8 * cost for cost in costs], nodes, rho=rho, knots="all") == pytest.approx(values)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(0.5, 2.0), min_size=2, max_size=20), st.integers(3, 40), st.sampled_from(["published", "all"])
)
def test_both_interpolations_are_the_monotone_cubic_over_their_knots(costs, nodes, knots):
    probe = EDM(len(costs) + 1).sigmas().tolist()[:-1]
    rising = np.array(probe[::-1]) ** (1 / 7)
    at = np.array([sum(costs[::-1][:k]) for k in range(len(costs) + 1)])
    first = 1 if knots == "published" else 0
    time = monotone_cubic(at[first:], rising[first:], np.linspace(0, at[-1], nodes))
    time[0], time[-1] = rising[0], rising[-1]
    if np.diff(time).min() <= 0:
        assert knots == "published"
        with pytest.raises(SpecError, match=r"^knots: .*given 'published'; allowed: all"):
            equal_costs(probe, costs, nodes, knots=knots)
    else:
        assert equal_costs(probe, costs, nodes, knots=knots)[::-1] == pytest.approx(time**7, rel=1e-8)


@pytest.mark.parametrize("knots", ["published", "all"])
def test_equal_costs_give_the_probe_grid_back(knots):
    probe = EDM(9).sigmas().tolist()[:-1]
    assert equal_costs(probe, [2.5] * 8, 9, knots=knots) == pytest.approx(probe, rel=1e-12)


def test_the_published_form_by_hand():
    """Two knots make a line: sigma 1 at cost 1 and 128 at cost 4, in sigma^(1/7) from 1 to 2; it goes on below."""
    values = equal_costs([128.0, 1.0, 0.002], [3.0, 1.0], 9, knots="published")
    assert values[0] == 128.0
    assert values[1:8] == pytest.approx([(1 + (k / 2 - 1) / 3) ** 7 for k in range(7, 0, -1)], rel=1e-12)
    assert values[8] == 0.002
    mended = equal_costs([128.0, 1.0, 0.002], [3.0, 1.0], 9, knots="all")
    assert mended[6] == pytest.approx(1.0, rel=1e-12), "cost 1 is sigma 1 there too"
    assert mended[7] < values[7]


def test_where_the_extrapolation_leaves_the_range_the_mended_form_is_named():
    sharp = torch.zeros(1, 3, 2, 2, dtype=torch.float64)  # data on a point: the score explodes as sigma falls
    noise = CALIBRATION_LATENTS
    with pytest.raises(
        SpecError, match=r"^knots: leaves out the lowest probe sigma.*allowed: all, or more probe_steps"
    ):
        COS(num_steps=6).sigmas(lambda x, sigma: sharp.expand_as(x), noise)
    assert len(COS(num_steps=6, knots="all").sigmas(lambda x, sigma: sharp.expand_as(x), noise)) == 7


@pytest.mark.parametrize("costs", [[0, 3.0, 2.0, 1.0], [1.0, 0, 2.0, 1.0], [1.0, 3.0, 2.0, 0], [0, 0, 0, 1.0]])
def test_intervals_that_cost_nothing_are_stepped_over(costs):
    values = equal_costs([80.0, 20.0, 5.0, 1.0, 0.002], costs, 7, knots="all")
    assert (values[0], values[-1]) == (80.0, 0.002)
    assert all(a > b for a, b in itertools.pairwise(values))
    highest = next(upper for upper, cost in zip([80.0, 20.0, 5.0, 1.0], costs, strict=True) if cost > 0)
    assert values[1] < highest


@pytest.mark.parametrize("knots", ["published", "all"])
def test_no_cost_anywhere_is_told_once(knots):
    with pytest.raises(SpecError, match="nothing to place by: every cost is 0"):
        COS(num_steps=6, knots=knots).sigmas(lambda x, sigma: x, CALIBRATION_LATENTS)


def test_one_costly_interval_at_the_bottom_is_no_line_to_extrapolate():
    with pytest.raises(SpecError, match=r"^knots: "):
        equal_costs([80.0, 5.0, 1.0, 0.002], [0, 0, 1.0], 4, knots="published")


@pytest.mark.parametrize(("num_steps", "final"), [(1, "zero"), (2, "zero"), (1, "sigma_min")])
def test_two_sigmas_are_the_ends_and_cost_nothing(num_steps, final):
    meter = Meter(MIXTURE)
    values = COS(num_steps=num_steps, final=final).sigmas(meter, CALIBRATION_LATENTS).tolist()
    assert values == EDM(num_steps, final=final).sigmas().tolist()
    assert meter.calls == 0


def test_single_precision_moves_the_sigmas_by_little():
    schedule = COS(num_steps=8, knots="all")
    double = schedule.sigmas(MIXTURE, CALIBRATION_LATENTS)
    single = schedule.sigmas(lambda x, sigma: MIXTURE(x.double(), sigma).float(), CALIBRATION_LATENTS.float())
    assert torch.allclose(single, double, rtol=1e-3, atol=0)


@pytest.mark.parametrize("given_", [{}, {"denoise": MIXTURE}, {"denoise": MIXTURE, "noise": CALIBRATION_LATENTS[:0]}])
def test_it_needs_a_denoiser_and_noise(given_):
    with pytest.raises(SpecError, match="'cos' is learned and needs a denoiser and calibration noise"):
        COS(num_steps=4).sigmas(**given_)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_cost_that_is_not_finite_names_the_sigma(value):
    def breaks(x, sigma):
        return MIXTURE(x, sigma) if sigma > 1.0 else torch.full_like(x, value)

    with pytest.raises(
        SpecError, match=r"^sigma [0-9.]+: the score along the calibration path is not finite"
    ) as caught:
        COS(num_steps=18).sigmas(breaks, CALIBRATION_LATENTS)
    probe = COS(num_steps=18).probe()
    assert float(caught.value.path.split()[1]) == pytest.approx(min(s for s in probe if s > 1.0), rel=1e-3)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 4, "sigma_min": 0.0}, "sigma_min"),
        ({"num_steps": 4, "sigma_max": math.inf}, "sigma_max"),
        ({"num_steps": 4, "final": "none"}, "final"),
        ({"num_steps": 4, "rho": 0.0}, "rho"),
        ({"num_steps": 4, "probe_steps": 2}, "probe_steps"),
        ({"num_steps": 4, "probe_steps": 10001}, "probe_steps"),
        ({"num_steps": 4, "knots": "some"}, "knots"),
        ({"num_steps": 4, "calibration_images": 0}, "calibration_images"),
    ],
)
def test_a_mistake_names_its_key(values, key):
    with pytest.raises(SpecError) as caught:
        COS(**values)
    assert caught.value.path == key
    with pytest.raises(SpecError) as caught:
        SCHEDULES.build({"name": "cos", **values})
    assert caught.value.path == key


def test_heun_on_cos_spends_odd_budgets_from_five():
    pair = METHODS.get("heun_cos").pair
    assert [nfe for nfe in range(13) if pair(nfe)] == [5, 7, 9, 11]
    assert pair(35)[1]["num_steps"] == 18
    assert pair(79)[1] == {"name": "cos", "num_steps": 40, "probe_steps": 40, "knots": "all"}
