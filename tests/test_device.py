"""Devices by name, and one that has no float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline import device
from pipeline.acceleration import AS_IS, Acceleration
from pipeline.benchmarks import load
from pipeline.device import chosen
from pipeline.metrics.distances import Reference, frechet_distance
from pipeline.metrics.moments import Moments
from pipeline.portrait import Sitting
from pipeline.registry import SpecError
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import SOLVERS


@pytest.fixture
def machine(monkeypatch):
    def make(gpus=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("gpus", "mps", "network", "closed"),
    [(0, False, "cpu", "cpu"), (2, False, "cuda", "cpu"), (0, True, "mps", "cpu"), (1, True, "cuda", "cpu")],
)
def test_auto_is_the_best_there_is_for_a_network(machine, gpus, mps, network, closed):
    machine(gpus, mps)
    assert chosen("auto") == network
    assert chosen("auto", network=False) == closed


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cuda:2", "device: is not here, given 'cuda:2'; allowed: auto, cpu, cuda, cuda:0, cuda:1; did you mean"),
        ("mps", "device: is not here, given 'mps'; allowed: auto, cpu, cuda, cuda:0, cuda:1"),
        ("gpu", "device: is no device, given 'gpu'; allowed: auto, cpu, cuda, cuda:N or mps"),
        ("cuda:", "device: is no device"),
        ("cuda:01", "device: is no device"),
        ("CPU", "device: is no device"),
    ],
)
def test_a_device_that_is_not_here_is_told_with_those_that_are(machine, name, says):
    machine(gpus=2)
    with pytest.raises(SpecError) as told:
        chosen(name)
    assert str(told.value).startswith(says)


def test_devices_that_are_here_are_taken(machine):
    machine(gpus=2, mps=True)
    assert [chosen(name) for name in ("cpu", "cuda", "cuda:1", "mps")] == ["cpu", "cuda", "cuda:1", "mps"]


def test_a_closed_form_goes_where_it_is_told_but_not_where_there_is_no_float64(machine):
    machine(gpus=1, mps=True)
    held = load("digits-kde")
    assert held.placed("auto", AS_IS).device == "cpu"
    assert held.placed("cuda:0", AS_IS).device == "cuda:0"
    with pytest.raises(SpecError, match=r"^device: kde is a closed form in float64, which mps does not have"):
        held.placed("mps", AS_IS)
    with pytest.raises(SpecError, match=r"^autocast: kde is a closed form"):
        held.placed("cpu", Acceleration("bfloat16"))


class OnMps(torch.Tensor):
    """A tensor that says to lie on MPS, and refuses float64 as Metal does; its own device is the CPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.device.__get__:
            return torch.device("mps")
        with torch._C.DisableTorchFunctionSubclass():
            answer = func(*args, **(kwargs or {}))
            if func == torch.Tensor.cpu:
                return answer.as_subclass(torch.Tensor)
        if isinstance(answer, torch.Tensor):
            if answer.dtype == torch.float64:
                raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support it")
            return answer.as_subclass(OnMps)
        return answer


def on_mps(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).as_subclass(OnMps)


def test_the_fake_refuses_what_metal_refuses():
    x = on_mps(2, 3)
    assert x.device.type == "mps"
    with pytest.raises(TypeError, match="float64"):
        x.double()
    assert x.cpu().double().dtype == torch.float64
    assert isinstance(x + 1, OnMps)


def test_a_plan_and_its_portrait_and_moments_need_no_float64_on_the_device():
    plan = trace(SOLVERS.build({"name": "unipc", "order": 2}), EDM(6).sigmas().tolist())

    def denoise(x, sigma):
        return x * (1 / (1 + sigma**2))

    start = on_mps(8, 3, 2, 2)
    sitting = Sitting()
    samples = plan.run(sitting.watch(denoise), start)
    assert isinstance(samples, OnMps)
    expected = plan.run(denoise, start.cpu())
    torch.testing.assert_close(samples.cpu(), expected, rtol=0, atol=0)
    found, same = Moments.of(samples.flatten(1)), Moments.of(expected.flatten(1))
    assert np.array_equal(found.scatter, same.scatter)
    sitting.end(plan, samples.cpu(), load("gmm"))
    assert sitting.portrait is not None
    assert np.isfinite(sitting.portrait.etas[1:]).all()


def test_a_distance_is_found_beside_a_device_without_float64():
    rows = np.random.default_rng(0).normal(size=(50, 6))
    moments, reference = Moments.of(rows), Reference.of(Moments.of(rows + 0.1))
    assert frechet_distance(moments, reference, "mps") == frechet_distance(moments, reference)


def test_float64_stays_where_there_is_some():
    assert device.in_float64(torch.ones(2)).dtype == torch.float64
    assert device.has_float64("cuda:1")
    assert not device.has_float64("mps")
