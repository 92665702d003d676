import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models import MODELS, Model
from pipeline.models.gmm import GaussianMixture
from pipeline.models.hierarchy import CPU_LOGITS, GaussianHierarchy
from pipeline.noise import noise
from pipeline.registry import SpecError, to_spec

FIELDS = {
    "shape": (1, 2, 6),
    "patch": 3,
    "branching": (2, 3),
    "spreads": (1.0, 0.2),
    "stds": (0.05, 0.02),
    "ratio": 0.5,
    "seed": 4,
}


@pytest.fixture(scope="module")
def model():
    return GaussianHierarchy(**FIELDS)


def test_it_meets_the_protocol_and_survives_json_and_pickle(model):
    assert isinstance(model, Model)
    assert MODELS.build(to_spec(model)) == model
    again = pickle.loads(pickle.dumps(model))
    assert (again, again.hash) == (model, model.hash)


def test_a_tree_by_hand():
    model = GaussianHierarchy((1, 1, 1), 1, (2, 2), (1.0, 0.1), (0.3, 0.2, 0.1), 0.5, 7)
    top = noise([7], (2, 1), torch.float64, stream=0).flatten().tolist()
    low = noise([7], (4, 1), torch.float64, stream=1).flatten().tolist()
    expected = [top[0] + 0.1 * low[0], top[0] + 0.1 * low[1], top[1] + 0.1 * low[2], top[1] + 0.1 * low[3]]
    assert [row[0] for row in model.mixture.means] == pytest.approx(expected, abs=1e-9)
    assert model.mixture.weights == (1.0, 0.5, 0.5, 0.25)
    assert model.mixture.stds == (0.3, 0.2, 0.1, 0.3)


def test_a_further_level_moves_no_centre_above_it(model):
    deeper = GaussianHierarchy(**(FIELDS | {"branching": (2, 3, 2), "spreads": (1.0, 0.2, 0.0)}))
    assert deeper.mixture.means[::2] == deeper.mixture.means[1::2] == model.mixture.means


def test_means_are_held_to_nine_decimals(model):
    assert all(value == round(value, 9) for row in model.mixture.means for value in row)


def every_combination(model):
    """The mixture of two patches written out: one component for each pair of theirs."""
    part = model.mixture
    pairs = list(itertools.product(range(len(part.weights)), repeat=2))
    weights = [part.weights[i] * part.weights[j] for i, j in pairs]
    means = [part.means[i] + part.means[j] for i, j in pairs]
    return GaussianMixture(weights, means, [part.stds[0]] * len(pairs), model.shape)


@settings(max_examples=20, deadline=None)
@given(log_sigma=st.floats(math.log(0.002), math.log(80)), seed=st.integers(0, 100))
def test_two_patches_are_the_mixture_of_all_pairs(log_sigma, seed):
    model = GaussianHierarchy((1, 2, 2), 2, (2, 2), (1.0, 0.3), (0.1,), 0.6, 1)
    written_out, sigma = every_combination(model), math.exp(log_sigma)
    x = model.draw(5, seed).double() + sigma * noise(range(5), model.shape, torch.float64)
    expected = written_out.denoiser()(x, sigma)
    torch.testing.assert_close(model.denoiser()(x, sigma), expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(model.mean, written_out.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.covariance, written_out.covariance, rtol=1e-12, atol=1e-12)


def test_exact_moments_are_those_of_many_draws(model):
    drawn = model.draw(100_000, 1).flatten(1).double()
    centred = drawn - model.mean
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - model.mean).abs() < 5 * error).all()
    products = centred[:, :, None] * centred[:, None, :]
    gap = products.mean(0) - model.covariance
    assert (gap.abs() < 5 * products.std(0) / math.sqrt(len(drawn))).all()


def test_at_a_small_sigma_the_nearest_leaf_answers():
    model = GaussianHierarchy(**(FIELDS | {"stds": (0.01,)}))
    part, sigma = model.mixture, 0.005
    means = torch.tensor(part.means, dtype=torch.float64)
    assert torch.pdist(means).min() > 10 * 0.01, "the leaves of this seed lie apart"
    leaf = torch.tensor([0, 5, 2, 3])
    x = means[leaf].reshape(1, *model.shape) + sigma * noise([1], model.shape, torch.float64)
    keep = 0.01**2 / (0.01**2 + sigma**2)
    expected = means[leaf].reshape(1, *model.shape) * (1 - keep) + keep * x
    torch.testing.assert_close(model.denoiser()(x, sigma), expected, rtol=0, atol=1e-9)


def test_at_a_high_sigma_the_mean_answers(model):
    x = torch.zeros((1, *model.shape), dtype=torch.float64)
    torch.testing.assert_close(model.denoiser()(x, 1e5).flatten(), model.mean, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_denoiser_keeps_dtype_input_and_rows(model, dtype):
    count = CPU_LOGITS // len(model.mixture.weights) // model.patches + 3
    x = (model.draw(count, 0) + 0.3 * noise(range(count), model.shape)).to(dtype)
    before, denoise = x.clone(), model.denoiser()
    whole = denoise(x, 0.3)
    assert (whole.dtype, whole.shape) == (dtype, x.shape)
    assert torch.equal(x, before)
    parts = torch.cat([denoise(part, 0.3) for part in x.split([1, 100, count - 101])])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert denoise(x[:0], 0.3).shape == (0, *model.shape)


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": (1, 6, 2)},
        {"patch": 4},
        {"branching": (3, 2)},
        {"spreads": (1.0, 0.3)},
        {"stds": (0.05, 0.03)},
        {"ratio": 0.6},
        {"seed": 5},
    ],
)
def test_the_hash_follows_every_field(model, changed):
    assert GaussianHierarchy(**(FIELDS | changed)).hash != model.hash


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"shape": (2, 6)}, "shape"),
        ({"shape": (1, 0, 6)}, "shape"),
        ({"patch": 5}, "patch"),
        ({"patch": 0}, "patch"),
        ({"branching": ()}, "branching"),
        ({"branching": (2, 0)}, "branching"),
        ({"branching": (100, 100)}, "branching"),
        ({"spreads": (1.0,)}, "spreads"),
        ({"spreads": (1.0, -0.1)}, "spreads"),
        ({"stds": ()}, "stds"),
        ({"stds": (math.nan,)}, "stds"),
        ({"stds": (math.inf,)}, "stds"),
        ({"ratio": 0.0}, "ratio"),
        ({"ratio": 1.5}, "ratio"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_wrong_field_is_one_line_with_its_name(changed, key):
    with pytest.raises(SpecError) as caught:
        GaussianHierarchy(**(FIELDS | changed))
    assert caught.value.path == key
    assert "\n" not in str(caught.value)
