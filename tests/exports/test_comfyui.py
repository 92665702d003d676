"""The node file of `export --to comfyui`, in a stand-in for the part of ComfyUI that it meets.

ComfyUI is no package that can be installed. The stand-in does what its comfy/samplers.py does around a sampler: it
scales the first noise, hands the sampler a denoiser, its arguments and a callback of its own, and scales the end.
"""

import math
import re
import sys
import types

import pytest
import torch

from pipeline.export.comfyui import manual_sigmas
from tests.conformance_problem import LATENTS, MIXTURE
from tests.exports.exported import KINDS, made, module, source

NOISE = LATENTS[:3]


class Added:
    """Its EPS: noise is added to images. At the model's last sigma and beyond, a sample starts as x of its variance."""

    sigma_max = 1e6

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return noise * (math.sqrt(1 + sigma**2) if max_denoise else sigma) + latent_image

    def inverse_noise_scaling(self, sigma, latent):
        return latent


class Mixed(Added):
    """Its CONST, of the flow models."""


class KSampler:
    def __init__(self, sampler_function, extra_options=None):
        self.sampler_function, self.extra_options = sampler_function, extra_options or {}

    def sample(self, guider, sigmas, extra_args, callback, noise, latent_image):
        sampling = guider.inner_model.model_sampling
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, float(sigmas[0]) >= sampling.sigma_max)

        class Inpaint:
            inner_model = guider

            def __call__(self, x, sigma, denoise_mask, model_options=None, seed=None):
                return guider(x, sigma)

        moves = len(sigmas) - 1
        samples = self.sampler_function(
            Inpaint(), x, sigmas, extra_args=extra_args | {"denoise_mask": None},
            callback=lambda heard: callback(heard["i"], heard["denoised"], heard["x"], moves), disable=True,
            **self.extra_options,
        )  # fmt: skip
        return sampling.inverse_noise_scaling(sigmas[-1], samples)


class Guider:
    def __init__(self, sampling):
        self.inner_model = types.SimpleNamespace(model_sampling=sampling)
        self.seen = []

    def __call__(self, x, sigma):
        assert sigma.shape == x.shape[:1]
        self.seen.append(float(sigma[0]))
        return MIXTURE(x, float(sigma[0]))


@pytest.fixture
def node(monkeypatch):
    """Loads a file as ComfyUI does, and calls its node."""
    comfy, samplers, sampling = (types.ModuleType(f"comfy{name}") for name in ("", ".samplers", ".model_sampling"))
    comfy.samplers, comfy.model_sampling = samplers, sampling
    samplers.KSAMPLER, sampling.CONST = KSampler, Mixed
    for each in (comfy, samplers, sampling):
        monkeypatch.setitem(sys.modules, each.__name__, each)

    def load(card):
        exported = module("comfyui", card)
        ((key, cls),) = exported.NODE_CLASS_MAPPINGS.items()
        assert set(exported.NODE_DISPLAY_NAME_MAPPINGS) == {key}
        assert cls.INPUT_TYPES() == {"required": {}}
        assert cls.RETURN_TYPES == ("SAMPLER", "SIGMAS")
        return getattr(cls(), cls.FUNCTION)()

    return load


def sampled(node, card, sampling=None, seed=5, noise=NOISE):
    sampler, sigmas = node(card)
    heard = []
    guider = Guider(sampling or Added())
    extra = {"model_options": {}, "seed": seed}
    found = sampler.sample(guider, sigmas, extra, lambda *told: heard.append(told), noise, torch.zeros_like(noise))
    return found, guider, heard


def workflow_noise(seed):
    """Fresh noise by the workflow's seed, in words of its own."""
    return lambda k: torch.randn(NOISE.shape, generator=torch.Generator().manual_seed(seed + k))


@pytest.mark.parametrize("kind", KINDS)
def test_the_node_gives_the_plans_samples(node, kind):
    card = source(kind)
    found, guider, heard = sampled(node, card)
    expected = card.plan.run(MIXTURE, NOISE, workflow_noise(5))
    # The sigmas are float32 there, and scale the first noise.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    assert guider.seen == [stage.sigma for stage in card.plan.stages]
    assert [told[0] for told in heard] == sorted(told[0] for told in heard)
    assert {told[3] for told in heard} == {len(card.plan.sigmas) - 1}
    assert max(told[0] for told in heard) < len(card.plan.sigmas) - 1


def test_the_sigmas_are_a_float32_tensor_of_the_schedule(node):
    card = source("unipc")
    _, sigmas = node(card)
    assert sigmas.dtype == torch.float32
    assert sigmas.tolist() == torch.tensor(card.plan.sigmas).tolist()


def test_at_the_models_last_sigma_a_sample_starts_with_its_variance(node):
    card = source("unipc")
    sampling = Added()
    sampling.sigma_max = 80.0
    found, _, _ = sampled(node, card, sampling)
    expected = card.plan.run(MIXTURE, NOISE * math.sqrt(1 + 80.0**-2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_fresh_noise_is_of_the_seed_and_never_the_first_noise(node):
    card = source("churn")
    begun = torch.randn(NOISE.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float32).double()
    images = [sampled(node, card, seed=seed, noise=begun)[0] for seed in (5, 5, 6)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert all(not torch.equal(workflow_noise(5)(k).double(), begun) for k in card.plan.streams)


def test_a_flow_model_and_other_sigmas_are_refused(node):
    card = source("euler")
    with pytest.raises(ValueError, match="a flow model mixes the two"):
        sampled(node, card, Mixed())
    sampler, sigmas = node(card)
    with pytest.raises(ValueError, match="its own sigmas alone"):
        sampler.sample(Guider(Added()), sigmas[:-1], {}, lambda *told: None, NOISE, torch.zeros_like(NOISE))


@pytest.mark.parametrize("last", [0.0, 1e-7, 0.002])
def test_the_list_for_manual_sigmas_is_read_back_as_it_reads(last):
    """That node finds numbers by this pattern, which takes 1e-07 for 1 and -07."""
    card = made({"name": "euler"}, {"name": "given", "values": [80.0, 1.25, 3e-05, 2e-6, last]} if last < 1e-3 else
                {"name": "given", "values": [80.0, 1.25, last]}, {})  # fmt: skip
    read = [float(found) for found in re.findall(r"[-+]?(?:\d*\.*\d+)", manual_sigmas(card.plan))]
    assert read == list(card.plan.sigmas)


def test_two_plans_are_two_nodes(node):
    names = {next(iter(module("comfyui", source(kind)).NODE_CLASS_MAPPINGS)) for kind in KINDS}
    assert len(names) == len(KINDS)
