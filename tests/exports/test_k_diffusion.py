"""The function of `export --to k-diffusion`, with models in k-diffusion's own wrappers."""

import pytest
import torch

from tests.conformance_problem import LATENTS, MIXTURE
from tests.exports.exported import KINDS, fresh_noise, module, source

SHAPE = tuple(LATENTS.shape[1:])
FRESH = fresh_noise(SHAPE, torch.float64)
NOISE = LATENTS[:3]


def eps_network(trained):
    """What predicts eps at trained times, and answers with the exact mixture."""

    def network(x, t):
        sigma = float(trained[int(t[0].round())])
        scaled = x * (1 + sigma**2) ** 0.5
        return (scaled - MIXTURE(scaled, sigma)) / sigma

    return network


def as_k_diffusion_calls_it(x, sigma, **extra):
    assert sigma.shape == x.shape[:1]
    assert extra in ({}, {"scale": 2.0})
    return extra.get("scale", 1.0) * MIXTURE(x, float(sigma[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_plans_samples(kind):
    card = source(kind)
    exported = module("k-diffusion", card)
    x = exported.SIGMAS[0] * NOISE
    for sigmas in (None, torch.tensor(card.plan.sigmas), torch.tensor(card.plan.sigmas, dtype=torch.float64)):
        found = exported.sample_plan(as_k_diffusion_calls_it, x, sigmas, fresh=FRESH)
        expected = card.plan.run(MIXTURE, NOISE, FRESH)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * float(expected.abs().max()))


def test_it_is_called_as_their_own_functions_are(k_diffusion):
    """Beside sample_heun, on a network of eps at trained times in their wrapper: the same samples, the same calls."""
    card = source("switch")
    betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)
    trained = ((1 - kept) / kept).sqrt()
    wrapped = k_diffusion.external.DiscreteEpsDDPMDenoiser(eps_network(trained), kept, quantize=True)
    exported = module("k-diffusion", card)
    x = exported.SIGMAS[0] * NOISE
    found = exported.sample_plan(wrapped, x, torch.tensor(exported.SIGMAS, dtype=torch.float64), {}, None, True)

    def denoise(x, sigma):
        return wrapped(x, torch.full((len(x),), sigma, dtype=torch.float64))

    expected = card.plan.run(denoise, NOISE)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * float(expected.abs().max()))
    sigmas = torch.tensor(exported.SIGMAS, dtype=torch.float64)
    theirs = k_diffusion.sampling.sample_euler(wrapped, x, sigmas, disable=True)
    euler = module("k-diffusion", source("euler"))
    assert float((theirs - found).abs().max()) > 1e-3
    sigmas = torch.tensor(euler.SIGMAS, dtype=torch.float64)
    theirs = k_diffusion.sampling.sample_euler(wrapped, x, sigmas, disable=True)
    torch.testing.assert_close(euler.sample_plan(wrapped, x), theirs, rtol=0, atol=1e-12 * float(theirs.abs().max()))


def test_extra_arguments_reach_the_model():
    exported = module("k-diffusion", source("euler"))
    plain, scaled = (
        exported.sample_plan(as_k_diffusion_calls_it, exported.SIGMAS[0] * NOISE, extra_args=extra)
        for extra in (None, {"scale": 2.0})
    )
    assert float((plain - scaled).abs().max()) > 0.1


MOVES = {
    "euler": [0, 1, 2, 3, 4],
    "switch": [0, 1, 2, 3, 3, 4, 4, 5],
    "churn": [0, 0, 1, 1, 2, 2, 3],
    "afs": [1, 2, 3, 4, 5],
}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("kind", MOVES)
def test_the_callback_hears_of_every_evaluation_and_of_its_move(kind, told):
    card = source(kind)
    if not told:
        del card.card["steps"]
    exported = module("k-diffusion", card)
    heard = []
    x = exported.SIGMAS[0] * NOISE
    exported.sample_plan(as_k_diffusion_calls_it, x, callback=heard.append, fresh=FRESH)
    assert [float(each["sigma"]) for each in heard] == [stage.sigma for stage in card.plan.stages]
    moves = [each["i"] for each in heard]
    if told:
        assert moves == MOVES[kind]
    assert moves == sorted(moves)
    assert moves[-1] <= len(card.plan.sigmas) - 2
    for each in heard:
        assert torch.equal(each["denoised"], MIXTURE(each["x"], float(each["sigma"])))


def test_fresh_noise_is_torchs_own_where_none_is_given():
    exported = module("k-diffusion", source("churn"))
    x = exported.SIGMAS[0] * NOISE
    with torch.random.fork_rng():
        torch.manual_seed(4)
        found = exported.sample_plan(as_k_diffusion_calls_it, x)
        torch.manual_seed(4)
        held = {}

        def fresh(k):
            return held.setdefault(k, torch.randn_like(x))

        assert torch.equal(found, exported.sample_plan(as_k_diffusion_calls_it, x, fresh=fresh))


@pytest.mark.parametrize("change", [lambda s: s[:-1], lambda s: [*s[:2], 1.001 * s[2], *s[3:]], lambda s: s[::-1]])
def test_other_sigmas_are_refused(change):
    exported = module("k-diffusion", source("euler"))
    with pytest.raises(ValueError, match="its own sigmas alone"):
        exported.sample_plan(as_k_diffusion_calls_it, NOISE, change(list(exported.SIGMAS)))
