"""Half precision within its bound, graphs equal to the bit, and memory that really runs out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.acceleration import Acceleration, Accelerator
from pipeline.batch_size import BatchSize
from pipeline.benchmarks import load
from pipeline.models.edm import EdmDenoiser
from pipeline.models.gmm import GaussianMixture
from pipeline.noise import noise
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import SOLVERS
from pipeline.trial import evaluate
from tests.networks import tiny

HEUN = trace(SOLVERS.build({"name": "heun"}), EDM(6).sigmas().tolist())
MIB = 2**20


def denoiser(name="ddpmpp", count=4):
    network = tiny.network(name, "Precond" if name == "edm2" else "EDMPrecond").cuda()
    return EdmDenoiser(network, list(range(1, count + 1)) if tiny.ALL[name].get("label_dim") else None)


def accelerated(denoise, **settings):
    return Accelerator(Acceleration(**settings))(denoise)


@pytest.mark.parametrize("name", list(tiny.ALL))
@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_half_precision_is_as_near_as_it_is_fine(name, autocast, channels_last):
    denoise = denoiser(name)
    fast = accelerated(denoise, autocast=autocast, channels_last=channels_last)
    for sigma in (0.01, 1.0, 50.0):
        x = (1 + sigma) * tiny.images(4).cuda()
        gap = (fast(x, sigma) - denoise(x, sigma)).std() / (sigma * 0.5 / (sigma**2 + 0.25) ** 0.5)
        assert 0 < gap < 8 * torch.finfo(getattr(torch, autocast)).eps


@pytest.mark.parametrize("name", list(tiny.ALL))
@pytest.mark.parametrize("settings", [{}, {"autocast": "bfloat16"}, {"channels_last": True}], ids=str)
def test_graphs_give_the_images_of_the_network_to_the_bit(name, settings):
    denoise, start = denoiser(name), noise(range(4), (3, 8, 8)).cuda()
    expected = HEUN.run(accelerated(denoise, **settings), start)
    fast = accelerated(denoise, cuda_graphs=True, **settings)
    for _ in range(2):
        assert torch.equal(HEUN.run(fast, start), expected)


def test_graphs_of_several_shapes_do_not_write_over_each_other():
    denoise = denoiser()
    fast = accelerated(denoise, cuda_graphs=True)
    batches = {count: tiny.images(count).cuda() for count in (5, 3, 7)}
    for _ in range(2):
        for x in batches.values():
            assert torch.equal(fast(x, 0.5), denoise(x, 0.5))


@pytest.mark.slow
def test_compiled_and_in_graphs_it_is_the_same_to_rounding():
    denoise, x = denoiser(), tiny.images(4).cuda()
    for settings in ({"compile": True}, {"compile": True, "cuda_graphs": True}):
        torch.testing.assert_close(accelerated(denoise, **settings)(x, 0.7), denoise(x, 0.7), rtol=1e-4, atol=1e-4)


class Hungry(GaussianMixture):
    """The mixture, by a denoiser that takes 4 MiB an image while it computes."""

    def denoiser(self, device="cpu", dtype=torch.float64):
        whole = super().denoiser(device, dtype)

        def denoise(x, sigma):
            taken = torch.empty((len(x), MIB), dtype=torch.float32, device=x.device)
            return whole(x, sigma) + 0 * taken[:, :1, None, None].nan_to_num(0, 0, 0)

        return denoise


def test_a_shard_is_not_lost_where_memory_runs_out(little_memory):
    generator = np.random.default_rng(0)
    mixture = {"weights": [1.0, 2.0], "means": generator.normal(size=(2, 48)), "stds": [0.1, 0.3], "shape": (3, 4, 4)}
    roomy = replace(load("gmm"), model=GaussianMixture(**mixture), device="cuda")
    cramped = replace(roomy, model=Hungry(**mixture))
    expected = evaluate(HEUN, roomy, range(256), 64)
    little_memory(300 * MIB)
    found = evaluate(HEUN, cramped, range(256), 64)
    assert cramped.images_at_once == 64  # 256 images would take 1 GiB, 128 half of it
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other.moments.mean, one.moments.mean, rtol=1e-6, atol=1e-6)
        assert other.rows == one.rows == 64 * len(HEUN)


def test_a_graph_that_has_no_room_is_captured_in_halves(little_memory):
    def function(x):
        taken = torch.zeros((len(x), MIB), dtype=torch.float32, device=x.device)
        return x + taken[:, :1]

    from pipeline.cuda_graphs import CudaGraphs

    fast, x, size = CudaGraphs(function), torch.ones((256, 1), device="cuda"), BatchSize()
    little_memory(700 * MIB)
    answer = size.each(lambda part: fast(x[part]), 256, "cuda")
    assert (answer == 1).all()
    assert size.limit is not None
    assert 16 <= size.limit <= 128
