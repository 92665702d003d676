"""The closed forms: limits, ranges and mistakes. What every schedule keeps to is in test_schedule_contract.py."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.registry import SpecError
from pipeline.schedules import EDM, IDDPM, SCHEDULES, VE, VP, Given, LogLinear, LogSNR, TimeUniform, check_sigmas

# iDDPM's has ends of its own, and is tested by itself.
FORMS = [EDM, LogSNR, LogLinear, VE, TimeUniform, VP]


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
    assert form(num_steps, sigma_min, sigma_max, final).ends == (sigma_max, sigma_min)
    assert values[0] == sigma_max
    assert values[-1] == (0.0 if final == "zero" else sigma_min)
    if final == "zero" and num_steps > 1:
        assert values[-2] == sigma_min


@pytest.mark.parametrize("form", [*FORMS, IDDPM])
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


def test_ve_and_loglinear_are_other_names_of_logsnr():
    """VE: sigma^2 = sigma_max^2 (sigma_min^2 / sigma_max^2)^(i / (N - 1)) (Karras et al., 2022, Table 1)."""
    values = VE(18).sigmas()
    assert torch.equal(values, LogSNR(18).sigmas())
    assert torch.equal(values, LogLinear(18).sigmas())
    squares = [6400 * (0.002**2 / 6400) ** (i / 17) for i in range(18)]
    assert values[:-1].square().tolist() == pytest.approx(squares, rel=1e-12)


@pytest.mark.parametrize("epsilon_s", [1e-3, 1e-5])
def test_vp_is_time_uniform_without_a_power(epsilon_s):
    assert torch.equal(VP(17, epsilon_s=epsilon_s).sigmas(), TimeUniform(17, rho=1.0, epsilon_s=epsilon_s).sigmas())


def test_vp_on_the_process_of_the_papers():
    """beta_d = 19.9 and beta_min = 0.1 (Song et al., 2021): with their sigmas for ends, sigma(t) at t = 0.5005."""
    high, low = (math.sqrt(math.expm1(19.9 / 2 * t * t + 0.1 * t)) for t in (1.0, 1e-3))
    middle = VP(2, low, high, "sigma_min").sigmas().tolist()[1]
    assert middle == pytest.approx(math.sqrt(math.expm1(19.9 / 2 * 0.5005**2 + 0.1 * 0.5005)), rel=1e-9)


def published_iddpm_grid(c_1=0.001, c_2=0.008, m=1000):
    """The recursion as Karras et al. (2022), Table 1, print it: u_m = 0 and so on down to u_0."""
    level = [math.sin(math.pi * j / (2 * m * (c_2 + 1))) ** 2 for j in range(m + 1)]
    grid = [0.0]
    for j in range(m, 0, -1):
        grid.append(math.sqrt((grid[-1] ** 2 + 1) / max(level[j - 1] / level[j], c_1) - 1))
    return grid[:0:-1]


@pytest.mark.parametrize("settings_", [{}, {"c_1": 0.3, "c_2": 0.1, "m": 60}, {"m": 4000}])
def test_iddpm_grid_is_the_published_recursion(settings_):
    in_range = [sigma for sigma in published_iddpm_grid(**settings_) if 0.002 <= sigma <= 80]
    assert IDDPM(4, **settings_).members().tolist() == pytest.approx(in_range, rel=1e-9)


def test_iddpm_ends_are_members_of_its_grid():
    """The default grid's highest and lowest member between 0.002 and 80, as the published samplers have them."""
    schedule = IDDPM(5, final="sigma_min")
    values = schedule.sigmas().tolist()
    assert (values[0], values[-1]) == schedule.ends
    assert schedule.ends == pytest.approx((71.2912, 0.00642541), rel=1e-5)
    assert schedule.members()[1] == pytest.approx(64.1611, rel=1e-5)
    assert set(values) <= set(schedule.members().tolist())
    assert IDDPM(1).sigmas().tolist() == [values[0], 0.0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 120), st.floats(1e-3, 0.05), st.floats(20.0, 700.0), st.sampled_from(["zero", "sigma_min"]))
def test_iddpm_takes_members_within_any_range(num_steps, sigma_min, sigma_max, final):
    schedule = IDDPM(num_steps, sigma_min, sigma_max, final, m=500)
    values = schedule.sigmas().tolist()
    assert len(values) == num_steps + 1
    assert all(a > b for a, b in itertools.pairwise(values))
    above = values[:-1] if final == "zero" else values
    assert all(sigma_min <= value <= sigma_max for value in above)
    assert set(above) <= set(schedule.members().tolist())
    gaps = np.diff([schedule.members().tolist().index(value) for value in above])
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1, "evenly spaced but for the rounding"


def test_iddpm_with_all_its_members():
    every = IDDPM(991)
    assert every.sigmas().tolist() == [*every.members().tolist(), 0.0]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_steps": 992}, "asks for 992 sigmas above 0, and the grid has 991.*given 992; allowed: at most 991,"),
        ({"num_steps": 991, "final": "sigma_min"}, "asks for 992 .* has 991 .*given 991; allowed: at most 990,"),
        ({"num_steps": 3, "sigma_min": 70.0}, "the grid has 1 from sigma_min to sigma_max, given 3"),
        ({"num_steps": 3, "sigma_min": 79.0}, "the grid has 0 from sigma_min to sigma_max, given 3"),
        ({"num_steps": 3, "m": 2}, "the grid has 2 from .*allowed: at most 2, or a wider range, or a larger m"),
    ],
)
def test_iddpm_with_too_few_members_is_told_with_how_many_there_are(values, says):
    with pytest.raises(SpecError, match=f"^num_steps: .*{says}"):
        SCHEDULES.build({"name": "iddpm", **values})


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
    """beta_min + beta_d t, the rate at which log(sigma^2 + 1) rises, is to be positive up to time 1."""
    with pytest.raises(SpecError, match=r"epsilon_s: is out of range, given 0.001; allowed: above 0.177 and below 1"):
        TimeUniform(2, 0.5, 1.0, "sigma_min")
    with pytest.raises(SpecError, match="epsilon_s: is out of range, given 1e-09"):
        VP(8, epsilon_s=1e-9)
    for sigma_min, epsilon_s in ((0.1, 6e-4), (0.1, 1e-3), (0.5, 0.4), (0.002, 0.97)):
        sigmas = VP(40, sigma_min, final="sigma_min", epsilon_s=epsilon_s).sigmas()
        assert (sigmas.diff() < 0).all()


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
        ({"name": "vp", "num_steps": 4, "epsilon_s": 1.0}, "epsilon_s"),
        ({"name": "vp", "num_steps": 4, "rho": 2.0}, "rho"),
        ({"name": "ve", "num_steps": 0}, "num_steps"),
        ({"name": "iddpm", "num_steps": 4, "c_1": 0.0}, "c_1"),
        ({"name": "iddpm", "num_steps": 4, "c_1": 1.0}, "c_1"),
        ({"name": "iddpm", "num_steps": 4, "c_2": -0.1}, "c_2"),
        ({"name": "iddpm", "num_steps": 4, "c_2": math.inf}, "c_2"),
        ({"name": "iddpm", "num_steps": 4, "m": 0}, "m"),
        ({"name": "iddpm", "num_steps": 4, "m": 10**9}, "m"),
        ({"name": "logsnr"}, "num_steps"),
        ({"name": "given"}, "values"),
        ({"name": "given", "values": [80.0, "1"]}, "values[1]"),
    ],
)
def test_a_mistake_names_its_key(spec, path):
    with pytest.raises(SpecError) as caught:
        SCHEDULES.build(spec)
    assert caught.value.path == path


def test_a_final_that_there_is_not_is_refused_in_python_too():
    with pytest.raises(SpecError, match=r"^final: .*allowed: zero, sigma_min"):
        EDM(4, final="none")


DECREASING = "not strictly decreasing: sigmas"
OUTSIDE = "out of range: sigma"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((), r"fewer than two sigmas, given \[\]"),
        ((1.0,), r"fewer than two sigmas, given \[1.0\]"),
        ((1.0, 1.0), rf"{DECREASING} 0 and 1, given \[1.0, 1.0\]"),
        ((1.0, 2.0), rf"{DECREASING} 0 and 1, given \[1.0, 2.0\]"),
        ((9.0, 5.0, 6.0, 7.0), rf"{DECREASING} 1 and 2, given \[5.0, 6.0\]"),
        ((2.0, 0.0, 0.0), rf"{DECREASING} 1 and 2, given \[0.0, 0.0\]"),
        ((3.0, 1.0, 1.0 + 1e-15), rf"{DECREASING} 1 and 2, given \[1.0, 1.000000000000001\]"),
        ((2.0, 1.0, -0.1), rf"{OUTSIDE} 2, given -0.1"),
        ((math.inf, 1.0), rf"{OUTSIDE} 0, given inf"),
        ((2.0, math.nan, 1.0), rf"{OUTSIDE} 1, given nan"),
    ],
)
def test_a_given_list_is_a_schedule_or_its_first_fault_is_named(values, says):
    with pytest.raises(SpecError, match=f"^values: schedule 'given' gives .*{says}"):
        Given(values)


def test_sigmas_become_double():
    checked = check_sigmas(torch.tensor([2.0, 0.5], dtype=torch.float32), "any")
    assert checked.dtype == torch.float64
