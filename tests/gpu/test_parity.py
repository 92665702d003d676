"""A plan gives on CUDA the images that it gives on the CPU, and their moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.acceleration import AS_IS, Acceleration
from pipeline.benchmarks import load
from pipeline.metrics.moments import Moments
from pipeline.models.edm import EdmDenoiser
from pipeline.noise import noise
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import SOLVERS
from pipeline.trial import TrialSpec, draw, evaluate, prepare, sampled
from tests.networks import tiny

PLANS = {
    "heun": trace(SOLVERS.build({"name": "heun"}), EDM(8).sigmas().tolist()),
    "unipc": trace(SOLVERS.build({"name": "unipc", "order": 3}), EDM(10).sigmas().tolist()),
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("name", ["digits-kde", "gmm"])
@pytest.mark.parametrize("state", ["float32", "float64"])
def test_a_closed_form_gives_the_same_images(name, state, plan):
    here = load(name).placed("cpu", Acceleration(state=state))
    there = load(name).placed("cuda", Acceleration(state=state))
    seeds = range(300)
    expected = sampled(plan, here.denoiser(seeds), here, seeds)
    found = sampled(plan, there.denoiser(seeds), there, seeds)
    assert (found.device.type, found.dtype) == ("cuda", getattr(torch, state))
    tolerance = 1e-4 if state == "float32" else 1e-9
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", list(tiny.ALL))
def test_a_network_gives_the_same_images(name):
    network = tiny.network(name, "Precond" if name == "edm2" else "EDMPrecond")
    labels = [1, 2, 3, 4] if tiny.ALL[name].get("label_dim") else None
    seeds, shape = range(4), (3, 8, 8)
    expected = draw(PLANS["heun"], EdmDenoiser(network, labels), shape, seeds, "cpu", torch.float64)
    found = draw(PLANS["heun"], EdmDenoiser(network.cuda(), labels), shape, seeds, "cuda", torch.float64)
    # Fifteen evaluations in float32, each of which goes back through the network.
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_moments_of_an_evaluation_are_those_of_the_cpu():
    here, there = load("digits-kde").placed("cpu", AS_IS), load("digits-kde").placed("cuda", AS_IS)
    plan = PLANS["heun"]
    for one, other in zip(*(evaluate(plan, each, range(400), 200) for each in (here, there)), strict=True):
        assert other.rows == one.rows
        # A pixel on the edge of two values may fall on either side: one grey level of one image in hundreds.
        np.testing.assert_allclose(other.moments.mean, one.moments.mean, rtol=1e-2, atol=1e-2)


def test_moments_are_summed_in_float64_on_the_device():
    rows = 1000 + torch.randn((5000, 64), generator=torch.Generator().manual_seed(0))
    here, there = Moments.of(rows), Moments.of(rows.cuda())
    np.testing.assert_allclose(there.mean, here.mean, rtol=1e-12)
    np.testing.assert_allclose(there.scatter, here.scatter, rtol=1e-9, atol=1e-6)


def test_what_is_learned_from_a_network_is_what_the_cpu_learns():
    spec = TrialSpec("digits-unet", {"name": "switch", "tau_k": 0.1}, {"name": "sdm", "num_steps": 6})
    here, there = (prepare(spec, load("digits-unet").placed(device, AS_IS)) for device in ("cpu", "cuda"))
    assert there.nfe == here.nfe
    # TensorFloat-32 in convolutions: three digits.
    np.testing.assert_allclose(there.plan.sigmas, here.plan.sigmas, rtol=1e-2)


def test_a_plan_never_waits_for_the_device():
    denoise, start = EdmDenoiser(tiny.network().cuda()), noise(range(4), (3, 8, 8)).cuda()
    PLANS["unipc"].run(denoise, start)  # libraries wait when they are first used
    torch.cuda.set_sync_debug_mode("error")
    try:
        PLANS["unipc"].run(denoise, start)
    finally:
        torch.cuda.set_sync_debug_mode("default")
