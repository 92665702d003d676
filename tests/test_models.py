import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models import MODELS, Model, data
from pipeline.models.gmm import GaussianMixture
from pipeline.models.kde import LOGIT_TOLERANCE, KernelDensity
from pipeline.registry import SpecError, to_spec


@pytest.fixture(scope="module")
def mixture():
    rng = np.random.default_rng(3)
    return GaussianMixture((0.2, 0.5, 0.3), rng.normal(size=(3, 12)), (0.02, 0.1, 0.5), (3, 2, 2))


@pytest.fixture(scope="module")
def digits():
    return KernelDensity("digits")


def every_model(mixture, digits):
    return [mixture, digits]


# --- the mixture ---


@settings(max_examples=30, deadline=None)
@given(log_sigma=st.floats(math.log(0.002), math.log(80)), seed=st.integers(0, 100))
def test_mixture_denoiser_is_tweedies_formula(mixture, log_sigma, seed):
    sigma = math.exp(log_sigma)
    generator = torch.Generator().manual_seed(seed)
    x = mixture.draw(6, seed).double()
    x = (x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    means = torch.tensor(mixture.means, dtype=torch.float64)
    parts = []
    for weight, mean, std in zip(mixture.weights, means, mixture.stds, strict=True):
        spread = math.sqrt(std**2 + sigma**2)
        parts.append(math.log(weight) + torch.distributions.Normal(mean, spread).log_prob(x.flatten(1)).sum(1))
    (score,) = torch.autograd.grad(torch.stack(parts).logsumexp(0).sum(), x)
    expected = x.detach() + sigma**2 * score
    torch.testing.assert_close(mixture.denoiser()(x.detach(), sigma), expected, rtol=1e-9, atol=1e-9)


def test_one_gaussian_shrinks_towards_its_mean():
    model = GaussianMixture((1.0,), ((1.0, -1.0),), (0.5,), (1, 1, 2))
    x = torch.tensor([[[[3.0, 0.0]]]], dtype=torch.float64)
    keep = 0.25 / (0.25 + 4)
    expected = torch.tensor([[[[1 + 2 * keep, -1 + keep]]]], dtype=torch.float64)
    torch.testing.assert_close(model.denoiser()(x, 2.0), expected, rtol=1e-14, atol=0)


def test_exact_moments_are_those_of_many_draws(mixture):
    drawn = mixture.draw(200_000, 1).flatten(1).double()
    torch.testing.assert_close(drawn.mean(0), mixture.mean, rtol=0, atol=0.015)
    torch.testing.assert_close(drawn.T.cov(), mixture.covariance, rtol=0, atol=0.03)


def test_at_a_high_sigma_the_mixture_answers_its_mean(mixture):
    x = torch.zeros((1, 3, 2, 2), dtype=torch.float64)
    torch.testing.assert_close(mixture.denoiser()(x, 1e5).flatten(), mixture.mean, rtol=0, atol=1e-7)


def test_mixture_takes_tensors_lists_and_tuples(mixture):
    tensors = GaussianMixture(
        torch.tensor(mixture.weights, dtype=torch.float64),
        torch.tensor(mixture.means, dtype=torch.float64),
        torch.tensor(mixture.stds, dtype=torch.float64),
        list(mixture.shape),
    )
    assert tensors == mixture
    assert tensors.hash == mixture.hash


def test_mixture_weights_are_relative(mixture):
    doubled = GaussianMixture(tuple(2 * w for w in mixture.weights), mixture.means, mixture.stds, mixture.shape)
    x = mixture.draw(4, 0)
    torch.testing.assert_close(doubled.denoiser()(x, 0.5), mixture.denoiser()(x, 0.5))


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"weights": (1.0, -1.0)}, "weights"),
        ({"weights": (1.0,)}, "stds"),
        ({"stds": (0.1, -0.1)}, "stds"),
        ({"stds": (0.1,)}, "stds"),
        ({"means": ((0.0, 0.0),)}, "means"),
        ({"means": ((0.0, 0.0), (1.0,))}, "means[1]"),
        ({"shape": (2,)}, "shape"),
        ({"weights": (), "means": (), "stds": ()}, "weights"),
    ],
)
def test_a_wrong_mixture_says_which_field(changed, key):
    fields = {"weights": (1.0, 1.0), "means": ((0.0, 0.0), (1.0, 1.0)), "stds": (0.1, 0.1), "shape": (1, 1, 2)}
    with pytest.raises(SpecError) as caught:
        GaussianMixture(**(fields | changed))
    assert caught.value.path == key
    assert "\n" not in str(caught.value)


# --- the data's optimal denoiser ---


def oracle(x, sigma, images):
    """Direct differences in float64: no expansion, nothing to cancel."""
    flat, data_ = x.flatten(1).double(), images.flatten(1).double()
    squared = (flat[:, None] - data_).square().sum(2)
    return (torch.softmax(-squared / (2 * sigma**2), 1) @ data_).reshape(x.shape)


SIGMAS = [0.002, 0.01, 0.05, 0.3, 0.6, 0.7, 0.8, 1.5, 5.0, 80.0]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_kde_is_the_softmax_mean_of_the_data(digits, sigma):
    x = digits.draw(20, 0) + sigma * torch.randn((20, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    denoise = digits.denoiser()
    torch.testing.assert_close(denoise(x, sigma).double(), oracle(x, sigma, digits.images()), rtol=0, atol=2e-5)
    exact = denoise(x.double(), sigma)
    torch.testing.assert_close(exact, oracle(x.double(), sigma, digits.images()), rtol=0, atol=1e-8)


@pytest.fixture(scope="module")
def nearest_pairs(digits):
    """Eight images and the nearest other image of each: between them two weights share nearly everything."""
    images = digits.images().double()
    first = images[::240]
    distance = (first.flatten(1)[:, None] - images.flatten(1)).norm(dim=2)
    return first, images[distance.topk(2, largest=False).indices[:, 1]]


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kde_weights_between_two_images(digits, nearest_pairs, sigma, dtype):
    """Close to the midplane a weight is a logistic of the distance to it: wrong logits show at once."""
    first, second = nearest_pairs
    apart = first - second
    gap = apart.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    for logit in (0.0, 0.7, -2.5):
        # In float32 the point moves as it is rounded; the oracle is asked about the point that came out.
        x = ((first + second) / 2 + logit * sigma**2 / gap**2 * apart).to(dtype)
        difference = digits.denoiser()(x, sigma).double() - oracle(x, sigma, digits.images())
        weights = (difference * apart / gap**2).flatten(1).sum(1)
        assert weights.abs().max() < 1e-4
        if dtype == torch.float64 and sigma <= 0.05:
            share = ((digits.denoiser()(x, sigma) - second) * apart / gap**2).flatten(1).sum(1)
            torch.testing.assert_close(share, torch.full((8,), 1 / (1 + math.exp(-logit)), dtype=torch.float64))


def test_kde_switches_by_its_own_bound(digits):
    denoise = digits.denoiser()
    assert denoise.logit_error(0.002) > 1, "plain float32 would be wrong by O(1) at EDM's sigma_min"
    assert denoise.logit_error(0.6) > LOGIT_TOLERANCE > denoise.logit_error(0.8)
    images = digits.images().flatten(1).double()
    for sigma in (0.8, 3.0, 20.0):
        x = digits.draw(40, 2).flatten(1) + sigma * torch.randn(40, 64, generator=torch.Generator().manual_seed(3))
        centred = (x.double() - denoise.centre).float()
        plain = (centred @ denoise.keys[torch.float32] + denoise.bias[torch.float32]).double() / sigma**2
        exact = -(x.double()[:, None] - images).square().sum(2) / (2 * sigma**2)
        error = (plain - plain.amax(1, keepdim=True)) - (exact - exact.gather(1, plain.argmax(1, keepdim=True)))
        assert error.abs().max() < denoise.logit_error(sigma)


def test_kde_at_the_ends(digits):
    x = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    mean = digits.images().double().mean(0).float()
    torch.testing.assert_close(digits.denoiser()(1e4 * x, 1e6), mean.expand(3, 1, 8, 8), rtol=0, atol=1e-3)
    images = digits.images()[:5]
    torch.testing.assert_close(digits.denoiser()(images + 0.002 * x[0], 0.002), images, rtol=0, atol=0)


def test_digits_are_what_the_card_says(digits):
    images, labels = data.labelled("digits")
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal((images + 1) * 8, ((images + 1) * 8).round())
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    images.zero_()
    assert digits.images().abs().sum() > 0, "the loader hands out copies"


def test_unknown_data_names_the_nearest():
    with pytest.raises(SpecError, match="did you mean 'digits'"):
        MODELS.build({"name": "kde", "data": "digit"})


# --- every model ---


def test_models_are_found_by_name():
    assert MODELS.names() == ["diffusers", "edm", "gaussian_hierarchy", "gmm", "kde", "python", "unet"]


def test_models_meet_the_protocol_and_survive_json_and_pickle(mixture, digits):
    for model in every_model(mixture, digits):
        assert isinstance(model, Model)
        assert MODELS.build(to_spec(model)) == model
        assert pickle.loads(pickle.dumps(model)) == model
        assert len(model.hash) == 64
        assert model.draw(3, 0).shape == (3, *model.shape)
        assert torch.equal(model.draw(3, 0), model.draw(3, 0))
        assert not torch.equal(model.draw(30, 0), model.draw(30, 1))


def test_the_hash_follows_every_field(mixture):
    other = GaussianMixture(mixture.weights, mixture.means, (0.02, 0.1, 0.51), mixture.shape)
    assert other.hash != mixture.hash


@pytest.mark.parametrize("sigma", [0.01, 0.9, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_denoisers_keep_dtype_input_and_rows(mixture, digits, sigma, dtype):
    for model in every_model(mixture, digits):
        x = (model.draw(301, 0) + sigma * torch.randn((301, *model.shape))).to(dtype)
        before, denoise = x.clone(), model.denoiser()
        whole = denoise(x, sigma)
        assert whole.dtype == dtype
        assert whole.shape == x.shape
        assert torch.equal(x, before)
        parts = torch.cat([denoise(part, sigma) for part in x.split([1, 200, 100])])
        tolerance = {torch.float32: 2e-5, torch.float64: 1e-9, torch.bfloat16: 1e-2}[dtype]
        torch.testing.assert_close(parts, whole, rtol=0, atol=tolerance)
        assert denoise(x[:0], sigma).shape == (0, *model.shape)
