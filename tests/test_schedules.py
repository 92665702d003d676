"""The closed forms: limits, ranges and mistakes. What every schedule keeps to is in test_contract.py."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.registry import SpecError
from pipeline.schedules import EDM, SCHEDULES, Given, LogSNR, TimeUniform, check_sigmas

FORMS = [EDM, LogSNR, TimeUniform]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(FORMS),
    st.integers(1, 60),
    st.floats(1e-3, 0.02),
    st.floats(1.0, 200.0),
    st.sampled_from(["zero", "sigma_min"]),
)
def test_any_range_gives_a_schedule_with_exactly_these_ends(form, num_steps, sigma_min, sigma_max, final):
    sigmas = form(num_steps, sigma_min, sigma_max, final).sigmas()
    values = sigmas.tolist()
    assert sigmas.dtype == torch.float64
    assert len(values) == num_steps + 1
    assert all(a > b for a, b in itertools.pairwise(values))
    assert values[0] == sigma_max
    assert values[-1] == (0.0 if final == "zero" else sigma_min)
    if final == "zero" and num_steps > 1:
        assert values[-2] == sigma_min


@pytest.mark.parametrize("form", FORMS)
def test_the_end_at_0_only_adds_a_move(form):
    assert form(9).sigmas().tolist() == [*form(8, final="sigma_min").sigmas().tolist(), 0.0]


def test_edm_is_straight_for_rho_1_and_geometric_as_rho_grows():
    straight = EDM(10, 1.0, 11.0, "sigma_min", rho=1.0).sigmas()
    assert straight.tolist() == pytest.approx(np.linspace(11, 1, 11).tolist(), rel=1e-14)
    gaps = [float((EDM(10, rho=rho).sigmas() - LogSNR(10).sigmas()).abs().max()) for rho in (1e2, 1e3, 1e4)]
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.2)
    assert gaps[1] / gaps[2] == pytest.approx(10, rel=0.05)


def test_edm_at_18_steps_is_the_papers_grid():
    """Two nodes by hand: (80^(1/7) + i/17 (0.002^(1/7) - 80^(1/7)))^7."""
    sigmas = EDM(18).sigmas().tolist()
    assert sigmas[4] == pytest.approx(19.3525, rel=1e-4)
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    assert sigmas[9] == pytest.approx((8 / 17 * high + 9 / 17 * low) ** 7, rel=1e-12)


def test_logsnr_takes_equal_ratios():
    values = LogSNR(12, 0.01, 50.0, "sigma_min").sigmas().log().diff()
    assert values.tolist() == pytest.approx([math.log(0.01 / 50) / 12] * 12, rel=1e-10)


@pytest.mark.parametrize("rho", [1.0, 2.0])
def test_time_uniform_is_linear_in_the_vp_process_own_time(rho):
    """Invert sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1): t^(1/rho) falls in equal parts from 1 to 1e-3."""
    form = TimeUniform(10, final="sigma_min", rho=rho)
    log_high, log_low = math.log1p(80.0**2), math.log1p(0.002**2)
    beta_d = 2 * (log_low / 1e-3 - log_high) / (1e-3 - 1)
    beta_min = log_high - beta_d / 2
    log = np.log1p(form.sigmas().numpy() ** 2)
    t = (-beta_min + np.sqrt(beta_min**2 + 2 * beta_d * log)) / beta_d
    steps = np.diff(t ** (1 / rho))
    assert t[0] == pytest.approx(1.0)
    assert t[-1] == pytest.approx(1e-3)
    assert steps == pytest.approx(np.full(10, steps.mean()), rel=1e-6)


def test_a_range_too_narrow_for_its_steps_is_refused():
    with pytest.raises(SpecError, match="'logsnr' gives sigmas that are not strictly decreasing"):
        LogSNR(50, 1.0, 1.0 + 1e-15).sigmas()


def test_a_range_that_no_vp_process_has_is_refused():
    with pytest.raises(SpecError, match="'time_uniform' gives sigmas that are not strictly decreasing"):
        TimeUniform(2, 0.5, 1.0, "sigma_min").sigmas()


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"name": "edm", "num_steps": 0}, "num_steps"),
        ({"name": "edm", "num_steps": 4, "sigma_min": 0.0}, "sigma_min"),
        ({"name": "edm", "num_steps": 4, "sigma_min": 80.0}, "sigma_min"),
        ({"name": "edm", "num_steps": 4, "sigma_max": math.nan}, "sigma_max"),
        ({"name": "edm", "num_steps": 4, "sigma_max": math.inf}, "sigma_max"),
        ({"name": "edm", "num_steps": 10**12}, "num_steps"),
        ({"name": "edm", "num_steps": 4, "rho": 0.001}, "rho"),
        ({"name": "edm", "num_steps": 4, "rho": 0.0}, "rho"),
        ({"name": "edm", "num_steps": 4, "rho": math.nan}, "rho"),
        ({"name": "edm", "num_steps": 4, "final": "none"}, "final"),
        ({"name": "time_uniform", "num_steps": 4, "rho": -1.0}, "rho"),
        ({"name": "time_uniform", "num_steps": 4, "epsilon_s": 0.0}, "epsilon_s"),
        ({"name": "time_uniform", "num_steps": 4, "epsilon_s": 1.0}, "epsilon_s"),
        ({"name": "logsnr"}, "num_steps"),
        ({"name": "given"}, "values"),
        ({"name": "given", "values": [80.0, "1"]}, "values[1]"),
    ],
)
def test_a_mistake_names_its_key(spec, path):
    with pytest.raises(SpecError) as caught:
        SCHEDULES.build(spec)
    assert caught.value.path == path


@pytest.mark.parametrize(
    "values",
    [(), (1.0,), (1.0, 1.0), (1.0, 2.0), (2.0, 1.0, -0.1), (math.inf, 1.0), (2.0, math.nan, 1.0), (2.0, 0.0, 0.0)],
)
def test_a_given_list_is_a_schedule_or_refused(values):
    with pytest.raises(SpecError, match="'given' gives sigmas that are not strictly decreasing"):
        Given(values)


def test_sigmas_become_double():
    checked = check_sigmas(torch.tensor([2.0, 0.5], dtype=torch.float32), "any")
    assert checked.dtype == torch.float64
