"""A second checkpoint as a guide: autoguidance, classifier-free guidance, and what does not fit."""

import hashlib
import pickle

import pytest
import torch

from pipeline import benchmarks
from pipeline.denoiser import Meter
from pipeline.metrics.features import Identity
from pipeline.models import MODELS
from pipeline.networks.checkpoint import Checkpoint, write_checkpoint
from pipeline.networks.preconditioning import PRECONDITIONERS
from pipeline.registry import SpecError, to_spec
from pipeline.trial import TrialSpec, evaluate, prepare
from tests.networks import tiny
from tests.stored_moments import moments, our_file

SIGMA = 0.7
SMALLER = tiny.EDM2 | {"model_channels": 8, "num_blocks": 1, "channels_per_head": 8}


def written(folder, name, arguments, kind="Precond", seed=0):
    torch.manual_seed(seed)
    network = PRECONDITIONERS[kind](**arguments).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape) * (0.5 if parameter.dim() < 2 else 1))
    write_checkpoint(Checkpoint(kind, dict(arguments), network.state_dict()), folder / f"{name}.safetensors")
    return network


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A folder of checkpoints and their networks: `main` with five classes, and guides for it."""
    folder = tmp_path_factory.mktemp("guides")
    networks = {
        "main": written(folder, "main", tiny.EDM2),
        "less": written(folder, "less", SMALLER, seed=1),
        "uncond": written(folder, "uncond", SMALLER | {"label_dim": 0}, seed=2),
        "larger": written(folder, "larger", SMALLER | {"img_resolution": 16}, seed=3),
        "others": written(folder, "others", SMALLER | {"label_dim": 3}, seed=4),
    }
    return folder, networks


def built(folder, guide=None, name="main", **fields):
    given = {} if guide is None else {"guide": str(folder / f"{guide}.safetensors")}
    return MODELS.build({"name": "edm", "path": str(folder / f"{name}.safetensors"), **given, **fields})


def d(network, x, label=None):
    labels = None if label is None else torch.eye(5)[[label]]
    return network(x, torch.tensor(SIGMA), labels).to(x.dtype)


@pytest.mark.parametrize("guide", ["less", "uncond"])
@pytest.mark.parametrize("guidance", [1.4, 2.1])
def test_d_leads_away_from_the_guide(held, guide, guidance):
    folder, networks = held
    model, x = built(folder, guide, label=3, guidance=guidance), tiny.images(3)
    main, away = d(networks["main"], x, 3), d(networks[guide], x, 3)
    assert (main - away).abs().max() > 0.01
    # As NVlabs/edm2 generate_images.py writes it.
    expected = away.lerp(main, guidance)
    found = model.denoiser()(x, SIGMA)
    assert found.dtype == x.dtype
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_each_networks_row_counts(held):
    folder, _ = held
    reached = []
    model = built(folder, "less", label=3, guidance=2.0)
    for file in (model._main, model._guide):
        file.network.register_forward_pre_hook(lambda _, args: reached.append(len(args[0])))
    meter = Meter(model.denoiser())
    meter(tiny.images(3), SIGMA)
    assert meter.rows == sum(reached) == 6
    assert (model.rows_per_image, built(folder, "less", label=3).rows_per_image) == (2, 1)


def test_at_guidance_1_the_guide_is_not_asked(held):
    folder, networks = held
    model, x = built(folder, "less", label=3), tiny.images(2)
    assert torch.equal(model.denoiser()(x, SIGMA), d(networks["main"], x, 3))
    assert model.hash == built(folder, label=3).hash


def test_drawn_classes_are_both_networks(held):
    folder, networks = held
    model, x = built(folder, "less", guidance=2.0), tiny.images(4)
    labels = torch.eye(5)[model.drawn_classes(range(4))]
    main, away = (networks[name](x, torch.tensor(SIGMA), labels).double() for name in ("main", "less"))
    found = model.denoiser_for(range(4))(x, SIGMA)
    torch.testing.assert_close(found, away + 2 * (main - away), rtol=1e-12, atol=1e-12)


def test_a_guide_may_guide_a_network_without_classes(held):
    folder, _ = held
    assert built(folder, "uncond", name="uncond", guidance=2.0).rows_per_image == 2
    with pytest.raises(SpecError, match="guide: has other classes, given 5; allowed: 0"):
        built(folder, "less", name="uncond", guidance=2.0)


def test_the_hash_is_of_both_and_of_the_guidance(held):
    folder, _ = held
    fields = [(None, {}), ("less", {"guidance": 2.0}), ("uncond", {"guidance": 2.0}), ("less", {"guidance": 2.1})]
    assert len({built(folder, guide, label=1, **more).hash for guide, more in fields}) == 4
    model = built(folder, "less", label=1, guidance=2.0)
    assert MODELS.build(to_spec(model)) == model
    there = pickle.loads(pickle.dumps(model))
    assert there.hash == model.hash


@pytest.mark.parametrize(
    ("guide", "fields", "says"),
    [
        (None, {"guidance": 2.0}, "guidance: is out of range, given 2.0; allowed: 1, or a `guide` to lead away from"),
        (None, {"guide_sha256": "0" * 64}, "guide_sha256: is out of range"),
        ("less", {"guidance": 0.5}, "guidance: is out of range, given 0.5; allowed: 1 or above"),
        ("less", {"guidance": float("inf")}, "guidance: is out of range"),
        ("larger", {"guidance": 2.0}, "guide: is of images of another shape, given [3, 16, 16]; allowed: (3, 8, 8)"),
        ("others", {"guidance": 2.0}, "guide: has other classes, given 3; allowed: 0 or 5"),
        ("none", {"guidance": 2.0}, "guide: {folder}/none.safetensors: there is no such file; fetch"),
        ("less", {"guidance": 2.0, "guide_sha256": "0" * 64}, "guide_sha256: is another file than the card names"),
    ],
)
def test_a_guide_that_does_not_fit_is_one_line(held, guide, fields, says):
    folder, _ = held
    with pytest.raises(SpecError) as told:
        built(folder, guide, **fields)
    assert str(told.value).startswith(says.format(folder=folder))
    assert "\n" not in str(told.value)


def test_the_right_hash_of_the_guide_is_accepted(held):
    folder, _ = held
    digest = hashlib.sha256((folder / "less.safetensors").read_bytes()).hexdigest()
    assert built(folder, "less", guidance=2.0, guide_sha256=digest).rows_per_image == 2


def test_a_trial_costs_both_rows(held, tmp_path):
    folder, _ = held
    card = {"model": {"name": "edm", "path": str(folder / "main.safetensors"), "guidance": 2.0}, "name": "m"}
    card["model"]["guide"] = str(folder / "less.safetensors")
    card |= {"version": 1, "title": "t", "description": "d", "features": "identity", "quantise": True, "published": {}}
    card |= {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_source": "s", "reference": "pixels.npz"}
    our_file(tmp_path / "pixels.npz", moments(192), "identity", Identity().hash, (3, 8, 8))
    held = benchmarks.from_card(card, tmp_path)
    prepared = prepare(TrialSpec("m", {"name": "heun"}, {"name": "edm", "num_steps": 3}), held)
    assert (len(prepared.plan), prepared.nfe) == (5, 10)
    shards = evaluate(prepared.plan, held, range(8), 4)
    assert [shard.rows for shard in shards] == [2 * 5 * 4] * 2
