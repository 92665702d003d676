"""A checkpoint as a card's model: its D, its classes, its hash, and one line for each mistake."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
import yaml

from pipeline import benchmarks
from pipeline.denoiser import Meter
from pipeline.models import MODELS, Model
from pipeline.models.edm import EdmDenoiser
from pipeline.networks.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.noise import noise
from pipeline.registry import SpecError, to_spec
from pipeline.sampler import trace
from pipeline.solvers import SOLVERS
from tests.networks import persistent_pickle, tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """`plain`, without classes, and `classes`, with five: each as a pickle and as what becomes of one."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, architecture in (("plain", "ddpmpp"), ("classes", "ncsnpp")):
        made, file = tiny.network(architecture), folder / f"{name}.pkl"
        file.write_bytes(persistent_pickle.dumps(made, dict(tiny.TINY[architecture]), folder / "ran"))
        write_checkpoint(read_checkpoint(file), folder / f"{name}.safetensors")
    return folder


def built(file, **fields):
    return MODELS.build({"name": "edm", "path": str(file), **fields})


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_its_denoiser_is_the_network_and_keeps_the_dtype_of_x(files, suffix):
    model = built(files / f"plain{suffix}")
    assert isinstance(model, Model)
    assert (model.shape, model.classes) == ((3, 8, 8), 0)
    network, denoise = tiny.network("ddpmpp"), model.denoiser()
    for dtype in (torch.float32, torch.float64):
        x = tiny.images().to(dtype)
        for sigma in (0.002, 1 / 3, 80.0):
            found = denoise(x, sigma)
            assert (found.dtype, found.requires_grad) == (dtype, False)
            assert torch.equal(found, network(x, torch.tensor(sigma)).to(dtype))
    with pytest.raises(NotImplementedError):
        model.draw(1, 0)


def test_a_pickle_and_what_became_of_it_are_one_model(files):
    hashes = {suffix: built(files / f"classes{suffix}", label=1).hash for suffix in (".pkl", ".safetensors")}
    assert hashes[".pkl"] == hashes[".safetensors"]
    others = [built(files / "classes.pkl", label=2), built(files / "classes.pkl", label=1, fp16=True)]
    assert len({hashes[".pkl"], *(other.hash for other in others)}) == 3
    assert built(files / "classes.pkl", label=1, fp16=False).hash == hashes[".pkl"]


def test_it_travels_as_a_path_and_is_a_cards_json(files):
    model = built(files / "classes.pkl", label=3)
    _ = model.hash, model.denoiser()
    text = pickle.dumps(model)
    assert len(text) < 400
    assert pickle.loads(text) == model == MODELS.build(to_spec(model))
    assert pickle.loads(text).hash == model.hash


def test_a_label_is_a_class_for_every_image(files):
    network, x = tiny.network("ncsnpp"), tiny.images(3)
    for label in (0, 4):
        found = built(files / "classes.pkl", label=label).denoiser()(x, 0.5)
        assert torch.equal(found, network(x, torch.tensor(0.5), torch.eye(5)[[label]]).double())


def test_without_a_label_each_seed_has_a_class_of_its_own(files):
    model = built(files / "classes.pkl")
    drawn = model.drawn_classes(range(1000))
    assert drawn[17:20] == model.drawn_classes(range(17, 20))
    # Uniform: 1000 draws of 5 classes, within four standard deviations of 200 each.
    assert all(abs(drawn.count(label) - 200) < 4 * 12.7 for label in range(5))
    # Not from the numbers that the seed's noise is made of.
    of_noise = [int(np.random.Generator(np.random.Philox(key=seed)).integers(5)) for seed in range(1000)]
    assert sum(a == b for a, b in zip(drawn, of_noise, strict=True)) < 300
    x = tiny.images(4)
    together = model.denoiser_for(range(4))(x, 0.5)
    network = tiny.network("ncsnpp")
    expected = network(x, torch.tensor(0.5), torch.eye(5)[drawn[:4]])
    assert torch.equal(together, expected.double())
    apart = [model.denoiser_for(range(i, i + 1))(x[i : i + 1], 0.5) for i in range(4)]
    assert torch.allclose(torch.cat(apart), together, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="4 labels for 3 images"):
        model.denoiser_for(range(4))(x[:3], 0.5)
    # Where the class is given, or there is none, the seeds change nothing.
    for fields, file in (({"label": 2}, "classes.pkl"), ({}, "plain.pkl")):
        other = built(files / file, **fields)
        assert torch.equal(other.denoiser_for(range(4))(x, 0.5), other.denoiser()(x, 0.5))


def test_the_sigma_of_a_card_is_rounded_where_the_network_has_steps(tmp_path, files):
    assert built(files / "plain.pkl").round_sigma(1 / 3) == 1 / 3
    made = tiny.checkpoint("adm", "iDDPMPrecond")
    write_checkpoint(made, tmp_path / "steps.safetensors")
    rounded = built(tmp_path / "steps.safetensors", label=0).round_sigma(1 / 3)
    assert rounded in made.tensors["u"].double().tolist()
    assert abs(rounded - 1 / 3) < 0.01


def test_float16_that_overflows_is_a_mistake_of_the_card():
    network = tiny.network("ddpmpp")
    network.model.dec["8x8_aux_conv"].bias.fill_(1e5)
    denoiser = EdmDenoiser(network, half=True)
    x = tiny.images()
    # On the CPU, as published, the network is float32 whatever was asked for.
    assert denoiser(x, 1.0).isfinite().all()
    with pytest.raises(SpecError, match=r"fp16: float16 overflowed at sigma 1, given True; allowed: false"):
        denoiser.denoise(x, 1.0, torch.float16)
    # What is not finite already is the sampler's to tell.
    assert denoiser.denoise(x * torch.inf, 1.0, torch.float16).isnan().any()


@pytest.mark.parametrize(
    ("file", "fields", "says"),
    [
        ("plain.pkl", {"label": 0}, "label: is out of range, given 0; allowed: null"),
        ("classes.pkl", {"label": 5}, "label: is out of range, given 5; allowed: 0 to 4"),
        ("classes.pkl", {"label": -1}, "label: is out of range, given -1; allowed: 0 to 4"),
        ("classes.pkl", {"label": "cat"}, "label: has the wrong type"),
        ("plain.pkl", {"sha256": "0" * 64}, "sha256: is another file than the card names"),
        ("none.pkl", {}, "path: {file}: there is no such file; fetch the checkpoint and put it there"),
        ("plain.json", {}, "path: {file}: is no checkpoint; allowed: a .pkl or"),
        ("broken.pkl", {}, "path: {file}: is not a whole pickle of a network"),
        ("short.safetensors", {}, "path: {file}: the network has a tensor that the checkpoint lacks"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_cards_key(files, file, fields, says):
    (files / "broken.pkl").write_bytes((files / "plain.pkl").read_bytes()[:1000])
    held = tiny.checkpoint()
    fewer = Checkpoint(held.kind, held.arguments, dict(list(held.tensors.items())[:5]))
    write_checkpoint(fewer, files / "short.safetensors")
    with pytest.raises(SpecError) as told:
        built(files / file, **fields)
    assert str(told.value).startswith(says.format(file=files / file))
    assert "\n" not in str(told.value)


def test_a_network_with_classes_asks_for_one(files):
    with pytest.raises(SpecError, match=r"label: the network has classes: name one; allowed: 0 to 4"):
        built(files / "classes.pkl").denoiser()
    with pytest.raises(SpecError, match="label"):
        built(files / "plain.pkl").drawn_classes(range(3))


def test_the_right_hash_of_the_file_is_accepted(files):
    found = hashlib.sha256((files / "plain.pkl").read_bytes()).hexdigest()
    assert built(files / "plain.pkl", sha256=found.upper()).shape == (3, 8, 8)


def test_a_plan_on_a_checkpoint_is_heuns_method_on_its_network(files):
    network, meter = tiny.network("ddpmpp"), Meter(built(files / "plain.pkl").denoiser())
    plan = trace(SOLVERS.build({"name": "heun"}), torch.tensor([80.0, 5.0, 0.0], dtype=torch.float64))
    start = noise(range(2), (3, 8, 8), torch.float64)

    def slope(x, sigma):
        return (x - network(x, torch.tensor(sigma)).double()) / sigma

    x = 80.0 * start
    first = slope(x, 80.0)
    x = x - 75.0 * (first + slope(x - 75.0 * first, 5.0)) / 2
    expected = x - 5.0 * slope(x, 5.0)
    assert torch.allclose(plan.run(meter, start), expected, rtol=1e-6, atol=1e-6)
    assert meter.rows == 2 * len(plan) == 6


def card(path):
    told = {"model": {"name": "edm", "path": path}, "name": "m", "version": 1, "title": "t", "sigma_source": "s"}
    told |= {"description": "d", "features": "identity", "quantise": False, "reference": "moments.npz", "published": {}}
    return told | {"sigma_min": 0.002, "sigma_max": 80.0}


def test_a_cards_path_begins_at_its_folder(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(files / "moments.npz", mu=np.zeros(192), sigma=np.eye(192))
    (files / "card.yaml").write_text(yaml.safe_dump(card("plain.pkl")))
    (files / "whole.yaml").write_text(yaml.safe_dump(card(str(files / "plain.pkl"))))
    assert benchmarks.load(files / "card.yaml").model_hash == built(files / "plain.pkl").hash
    assert benchmarks.load(files / "whole.yaml").model_hash == built(files / "plain.pkl").hash
    assert benchmarks.load(files / "card.yaml").denoiser(range(1))(noise(range(1), (3, 8, 8)), 1.0).shape == (
        1,
        3,
        8,
        8,
    )


def test_a_card_names_the_key_and_the_file(files):
    with pytest.raises(SpecError, match=r"model\.path: .*none\.pkl: there is no such file; fetch the checkpoint"):
        benchmarks.from_card(card(str(files / "none.pkl")))
