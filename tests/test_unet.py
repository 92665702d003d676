"""The U-Net as a card's model: its guidance, its classes, its rows, and one line for each mistake."""

import pickle

import pytest
import torch

from pipeline import benchmarks
from pipeline.denoiser import Meter
from pipeline.models import MODELS, Conditional, Model, data
from pipeline.models.classes import drawn_classes
from pipeline.models.unet import CPU_ROWS, UNetModel
from pipeline.networks.preconditioning import EDMPrecond
from pipeline.networks.trained import Description, Trained, patches, pixels, save
from pipeline.noise import noise
from pipeline.registry import SpecError, to_spec
from tests.networks.test_trained import ARGUMENTS


def network(arguments):
    """Every tensor random: a weight that is never used cannot hide."""
    torch.manual_seed(7)
    made = EDMPrecond(**arguments).eval().requires_grad_(False)
    for weight in made.parameters():
        weight.copy_(torch.randn(weight.shape) * 0.2)
    return made


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    out = tmp_path_factory.mktemp("unet") / "tiny.safetensors"
    described = Description(kind="EDMPrecond", arguments=ARGUMENTS, patch=2, data="digits", training={})
    save(Trained(described, network(ARGUMENTS).state_dict()), out)
    return out


def built(file, **fields):
    return MODELS.build({"name": "unet", "path": str(file), **fields})


def alone(x, sigma, labels):
    """D of the network without guidance, from the images' pixels to the images' pixels."""
    found = network(ARGUMENTS)(patches(x, 2), torch.tensor(sigma), labels)
    return pixels(found, 2)


@pytest.fixture
def x():
    return noise(range(6), (1, 8, 8)) * 1.3


def test_it_is_a_model_and_survives_json_and_pickle(file):
    model = built(file, label=1, guidance=2.0)
    assert isinstance(model, Model)
    assert isinstance(model, Conditional)
    assert (model.shape, model.classes, model.rows_per_image) == ((1, 8, 8), 3, 2)
    _ = model.hash, model.denoiser()
    text = pickle.dumps(model)
    assert len(text) < 400, "weights do not travel"
    assert pickle.loads(text) == model == MODELS.build(to_spec(model))
    assert pickle.loads(text).hash == model.hash
    assert torch.equal(model.images(), data.images("digits"))
    with pytest.raises(NotImplementedError):
        model.draw(1, 0)


def test_the_hash_follows_class_and_guidance(file):
    models = [built(file), built(file, label=0), built(file, label=1), built(file, guidance=1.5)]
    assert len({model.hash for model in models}) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0, 1.5, 3.0])
def test_guidance_is_the_line_through_the_two_answers(file, x, guidance, dtype):
    for label, sigma in ((0, 0.002), (2, 0.7), (1, 80.0)):
        told, untold = alone(x, sigma, torch.eye(3)[[label]]), alone(x, sigma, torch.zeros(1, 3))
        assert (told - untold).abs().max() > 1e-5
        found = built(file, label=label, guidance=guidance).denoiser()(x.to(dtype), sigma)
        assert found.dtype == dtype
        expected = (1 - guidance) * untold + guidance * told
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=2e-5)


def test_rows_are_counted_as_the_network_sees_them(file):
    for guidance, rows in ((1.0, 1), (1.5, 2)):
        model, seen = built(file, guidance=guidance), []
        denoise = Meter(model.denoiser_for(range(600)))
        model._network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        denoise(noise(range(600), (1, 8, 8)), 1.0)
        assert denoise.rows == sum(seen) == 600 * rows
        assert max(seen) == CPU_ROWS
        few = Meter(model.denoiser_for(range(10)))
        few(noise(range(10), (1, 8, 8)), 1.0)
        assert seen[-1] == few.rows == 10 * rows, "both halves in one call"


def test_each_seed_has_its_class_however_the_batch_is_split(file, x):
    classes = drawn_classes(range(6), 3)
    assert len(set(classes)) > 1
    model = built(file, guidance=1.5)
    whole = model.denoiser_for(range(6))(x, 0.7)
    for seed, label in enumerate(classes):
        one = built(file, label=label, guidance=1.5).denoiser()(x[seed : seed + 1], 0.7)
        torch.testing.assert_close(whole[seed : seed + 1], one, rtol=0, atol=1e-5)
    parts = [model.denoiser_for(range(start, stop))(x[start:stop], 0.7) for start, stop in ((0, 1), (1, 4), (4, 6))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="6 classes for 5 images"):
        model.denoiser_for(range(6))(x[:5], 0.7)


def test_classes_are_the_seeds_own_and_equally_likely():
    drawn = drawn_classes(range(20_000), 10)
    assert drawn[123:130] == drawn_classes(range(123, 130), 10)
    counts = torch.bincount(torch.tensor(drawn), minlength=10)
    assert len(counts) == 10
    # Nine degrees of freedom: 27.9 is exceeded once in a thousand.
    assert float((counts - 2000).square().sum()) / 2000 < 27.9


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"label": 3}, "label"),
        ({"label": -1}, "label"),
        ({"guidance": -0.1}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"path": "none.safetensors"}, "path"),
    ],
)
def test_a_wrong_field_is_one_line(file, fields, key):
    with pytest.raises(SpecError) as caught:
        MODELS.build({"name": "unet", "path": str(file)} | fields)
    assert caught.value.path == key
    assert "\n" not in str(caught.value)


def test_without_seeds_a_class_must_be_named(file):
    with pytest.raises(SpecError, match="0 to 2") as caught:
        built(file).denoiser()
    assert caught.value.path == "label"


def test_a_network_without_classes_is_refused(tmp_path):
    arguments = ARGUMENTS | {"label_dim": 0}
    described = Description(kind="EDMPrecond", arguments=arguments, patch=2, data="digits", training={})
    save(Trained(described, network(arguments).state_dict()), tmp_path / "plain.safetensors")
    with pytest.raises(SpecError, match="without classes"):
        built(tmp_path / "plain.safetensors")


def test_a_cards_path_begins_at_the_card(file):
    card = benchmarks.load("digits-unet").card
    held = benchmarks.from_card(card | {"model": {"name": "unet", "path": file.name, "label": 1}}, file.parent)
    assert held.model == UNetModel(str(file), label=1)
    assert held.rows_per_image == 1
    with pytest.raises(SpecError, match=r"model\.label"):
        benchmarks.from_card(card | {"model": {"name": "unet", "label": 10}})
