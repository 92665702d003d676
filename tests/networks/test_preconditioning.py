"""The four preconditioners: their functions of sigma in closed form, their rounding, and what they do with a dtype."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.networks.preconditioning import PRECONDITIONERS
from tests.networks import tiny

SIGMAS = st.floats(2e-3, 100.0)


def alpha_bar(j, steps=1000, c_2=0.008):
    return math.sin(0.5 * math.pi * j / steps / (c_2 + 1)) ** 2


def iddpm_sigmas(steps=1000, c_1=0.001):
    """Table 1 of Karras et al. in float64: u_M = 0, and upwards from there."""
    u = [0.0]
    for j in range(steps, 0, -1):
        ratio = max(alpha_bar(j - 1, steps) / alpha_bar(j, steps), c_1)
        u.append(math.sqrt((u[-1] ** 2 + 1) / ratio - 1))
    return np.array(u[::-1])


U = iddpm_sigmas()
# c_skip, c_out, c_in, c_noise of a float64 sigma.
FORMULAS = {
    "VPPrecond": lambda s: (1, -s, 1 / math.sqrt(s**2 + 1), 999 * vp_time(s)),
    "VEPrecond": lambda s: (1, s, 1, math.log(s / 2)),
    "iDDPMPrecond": lambda s: (1, -s, 1 / math.sqrt(s**2 + 1), 999 - np.abs(U - s).argmin()),
    "EDMPrecond": lambda s: (0.25 / (s**2 + 0.25), s / 2 / math.hypot(s, 0.5), 1 / math.hypot(s, 0.5), math.log(s) / 4),
}
MADE = {kind: tiny.network("adm" if kind == "iDDPMPrecond" else "ddpmpp", kind) for kind in FORMULAS}


def vp_time(sigma):
    """t with exp(19.9 t^2 / 2 + 0.1 t) = 1 + sigma^2, by the quadratic formula."""
    return (-0.1 + math.sqrt(0.01 + 2 * 19.9 * math.log1p(sigma**2))) / 19.9


@pytest.mark.parametrize("kind", FORMULAS)
@given(sigma=SIGMAS)
@settings(deadline=None, max_examples=50)
def test_the_coefficients_are_those_of_the_paper(kind, sigma):
    sigma = float(np.float32(sigma))
    found = MADE[kind].coefficients(torch.tensor(sigma))
    for name, ours, theirs in zip(("skip", "out", "in", "noise"), found, FORMULAS[kind](sigma), strict=True):
        # log(1 + sigma^2) loses digits in float32 at small sigma, as published; a step between two may go either way.
        tolerance = {"VPPrecond": 0.02, "iDDPMPrecond": 1.01}.get(kind, 1e-5) if name == "noise" else 1e-6
        assert float(ours) == pytest.approx(theirs, rel=2e-6, abs=tolerance), name


@pytest.mark.parametrize("kind", FORMULAS)
def test_d_is_the_weighted_sum_of_x_and_f(kind):
    network, x = MADE[kind], tiny.images().float()
    labels = torch.eye(5)[[1, 3]] if network.label_dim else None
    for sigma in (0.002, 0.4, 7.0, 80.0):
        skip, out, in_, noise = network.coefficients(torch.tensor(sigma))
        raw = network.model(in_ * x, noise.reshape(1), labels)
        assert raw.shape[1] == (6 if kind == "iDDPMPrecond" else 3)
        found = network(x, torch.tensor(sigma), labels)
        assert torch.equal(found, skip * x + out * raw[:, :3])


@pytest.mark.parametrize("kind", FORMULAS)
def test_x_and_sigma_are_rounded_to_float32_first_and_d_is_float32(kind):
    network, x = MADE[kind], tiny.images()
    sigma = torch.tensor(1.234567890123456, dtype=torch.float64)
    found = network(x, sigma)
    assert found.dtype == torch.float32
    assert torch.equal(found, network(x.float(), sigma.float()))
    # One sigma an image is the same as one for all.
    assert torch.allclose(network(x, sigma.expand(2)), found, rtol=1e-5, atol=1e-6)


def test_the_extreme_sigmas_of_vp_are_the_ends_of_its_time():
    network = MADE["VPPrecond"]
    for time, sigma in ((1e-5, math.sqrt(math.expm1(19.9 * 1e-10 / 2 + 1e-6))), (1.0, math.sqrt(math.expm1(10.05)))):
        assert float(network.time(torch.tensor(sigma, dtype=torch.float64))) == pytest.approx(time, rel=1e-6)


def test_iddpm_rounds_to_its_own_steps_and_the_others_to_nothing():
    network = MADE["iDDPMPrecond"]
    assert network.u.numpy() == pytest.approx(U, rel=1e-3, abs=1e-7)
    assert network.u[-1] == 0
    between = torch.tensor([[0.0, 0.5], [1.0, 1e9]], dtype=torch.float64)
    rounded = network.round_sigma(between)
    assert rounded.dtype == torch.float64
    assert rounded.shape == between.shape
    nearest = [[network.u[(network.u - s).abs().argmin()].item() for s in row] for row in between.tolist()]
    assert rounded.tolist() == nearest
    assert torch.equal(network.round_sigma(rounded), rounded)
    assert (rounded[0, 1], rounded[1, 1]) == (nearest[0][1], network.u.max())
    for kind in ("VPPrecond", "VEPrecond", "EDMPrecond"):
        assert torch.equal(MADE[kind].round_sigma(between), between)


def test_a_step_of_iddpm_is_what_c_noise_counts():
    network = MADE["iDDPMPrecond"]
    for j in (0, 1, 500, 999):
        assert float(network.coefficients(network.u[j]).noise) == 999 - j


def test_labels_reach_the_network_and_none_is_all_zeros():
    network, x = tiny.network("ncsnpp"), tiny.images()
    one_hot, sigma = torch.eye(5), torch.tensor(1.0)
    none = network(x, sigma)
    assert torch.equal(none, network(x, sigma, torch.zeros(1, 5)))
    each = network(x, sigma, one_hot[[2, 4]])
    for i, label in enumerate((2, 4)):
        alone = network(x, sigma, one_hot[[label]])
        assert torch.allclose(each[i], alone[i], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(alone[i], none[i], rtol=1e-2)
    without = tiny.network("ddpmpp")
    assert torch.equal(without(x, sigma, one_hot[[2]]), without(x, sigma))


@pytest.mark.parametrize("kind", FORMULAS)
def test_float16_is_for_the_network_alone(kind):
    network, x, sigma = MADE[kind], tiny.images(), torch.tensor(0.7)
    whole, half = network(x, sigma), network(x, sigma, None, torch.float16)
    assert half.dtype == torch.float32
    assert 1e-6 < (whole - half).abs().max() / whole.abs().max() < 0.05


def test_each_kind_has_the_network_it_was_published_with():
    assert {kind: made.usual for kind, made in PRECONDITIONERS.items()} == {
        "VPPrecond": "SongUNet",
        "VEPrecond": "SongUNet",
        "iDDPMPrecond": "DhariwalUNet",
        "EDMPrecond": "DhariwalUNet",
        "Precond": "UNet",
    }
