"""A model in one word: in a card, in a study file, and in place of a card's model on the command line."""

import json
import shutil
import sys

import numpy as np
import pytest
import yaml

import search_spaces
from pipeline import benchmarks
from pipeline.models import MODELS
from pipeline.models.shorthand import absolute, expanded, shorthands
from pipeline.registry import SpecError
from tests.cli.console import TINY, done, refused
from tests.networks import persistent_pickle, tiny

CARD = {
    "name": "own",
    "version": 1,
    "title": "Own",
    "description": "d",
    "model": {"name": "kde", "data": "digits"},
    "features": "identity",
    "quantise": False,
    "reference": "data",
    "sigma_min": 0.01,
    "sigma_max": 10.0,
    "sigma_source": "s",
    "published": {},
}
MODULE = """
import torch

class Mine:
    shape = (1, 2, 2)
    def denoise(self, x, sigma):
        return x / (1 + sigma**2)
    def images(self):
        return torch.linspace(-1, 1, 200).reshape(50, 1, 2, 2)

def model(device):
    return Mine()
"""


def put_checkpoint(file, seed=0):
    made = tiny.network("ddpmpp", seed=seed)
    file.write_bytes(persistent_pickle.dumps(made, dict(tiny.TINY["ddpmpp"]), file.parent / "ran"))
    return file


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A card, and a network of the user's own with data to compare with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_word.py").write_text(MODULE)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    yield tmp_path
    sys.modules.pop("own_word", None)


def test_each_kind_says_which_field_follows_the_colon():
    assert shorthands() == {"edm": "path", "diffusers": "source", "python": "function"}
    assert expanded("edm:a:b.pkl") == {"name": "edm", "path": "a:b.pkl"}
    assert expanded("diffusers:some/id") == {"name": "diffusers", "source": "some/id"}
    assert expanded("python:a.b:c") == {"name": "python", "function": "a.b:c"}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("network.pkl", "is no model, given 'network.pkl'; allowed: diffusers:SOURCE, edm:PATH, python:FUNCTION"),
        ("edm:", "is no model, given 'edm:'"),
        ("emd:network.pkl", "unknown kind of model, given 'emd'; allowed: diffusers, edm, python; did you mean 'edm'?"),
        ("kde:digits", "unknown kind of model, given 'kde'"),
    ],
)
def test_another_word_is_one_line(word, told):
    with pytest.raises(SpecError) as error:
        expanded(word)
    assert str(error.value).startswith(told)
    with pytest.raises(SpecError) as error:
        benchmarks.from_card(CARD | {"model": word})
    assert str(error.value).startswith(f"model: {told}")


def test_a_path_is_named_from_the_root_and_an_id_is_not(place):
    (place / "folder").mkdir()
    assert absolute("edm:later.pkl") == f"edm:{place / 'later.pkl'}"
    assert absolute("diffusers:folder") == f"diffusers:{place / 'folder'}"
    assert absolute("diffusers:some/id") == "diffusers:some/id"
    assert absolute("python:a.b:c") == "python:a.b:c"


@pytest.mark.parametrize("path", ["a.pkl", "a b@c.pkl", "me@edm:x.pkl", "line\nbreak.pkl"])
def test_a_benchmark_with_another_model_is_one_word_too(place, path):
    word = benchmarks.with_model("my@home/card.yaml", f"edm:{path}")
    assert benchmarks.parted(word) == ("my@home/card.yaml", f"edm:{place / path}")
    assert benchmarks.with_model(word, "python:a:b") == "my@home/card.yaml@python:a:b"
    assert benchmarks.with_model(word, None) == word
    assert benchmarks.parted("digits-kde") == ("digits-kde", None)


def test_a_word_in_a_card_is_the_mapping(place):
    put_checkpoint(place / "n.pkl")
    cards = [benchmarks.Card.model_validate(CARD | {"model": model})
             for model in ("edm:n.pkl", {"name": "edm", "path": "n.pkl"})]  # fmt: skip
    assert cards[0] == cards[1]
    (place / "word.yaml").write_text(yaml.safe_dump(CARD | {"model": "python:own_word:model"}))
    assert benchmarks.load("word.yaml").model == MODELS.build({"name": "python", "function": "own_word:model"})


def test_another_model_takes_the_cards_place_and_goes_with_the_plan(place):
    done("plan", "card.yaml", "--model", "python:own_word:model", "--baseline", "ddim", "--nfe", "4", "--out", "p.json")
    held = json.loads((place / "p.json").read_text())
    assert held["spec"]["benchmark"] == "card.yaml@python:own_word:model"
    assert held["benchmark"]["model_hash"] == benchmarks.load("card.yaml@python:own_word:model").model_hash
    asked = ("evaluate", "p.json", "--images", "40", "--shard-images", "10", "--json")
    assert json.loads(done(*asked).out)["nfe"] == 4
    assert benchmarks.load("card.yaml@python:own_word:model").name == f"own@{held['benchmark']['model_hash'][:8]}"


def test_a_card_is_for_its_network_wherever_that_is(place):
    put_checkpoint(place / "n.pkl")
    content = CARD | {"model": "edm:" + str(place / "n.pkl"), "reference": "n.npz"}
    np.savez(place / "n.npz", mu=np.zeros(192), sigma=np.eye(192))
    (place / "card.yaml").write_text(yaml.safe_dump(content))
    done("plan", "card.yaml", "--baseline", "ddim", "--nfe", "2", "--out", "p.json")
    (place / "elsewhere").mkdir()
    shutil.move(place / "n.pkl", place / "elsewhere" / "n.pkl")
    asked = ("evaluate", "p.json", "--images", "8", "--shard-images", "4", "--json")
    assert "there is no such file" in refused(place, *asked)
    there = done(*asked, "--model", "edm:elsewhere/n.pkl")
    assert json.loads(there.out)["nfe"] == 2
    done("sample", "p.json", "--images", "2", "--out", "grid.png", "--model", "edm:elsewhere/n.pkl")
    put_checkpoint(place / "elsewhere" / "n.pkl", seed=1)
    assert "the card was made for another card.yaml" in refused(place, *asked, "--model", "edm:elsewhere/n.pkl")
    assert refused(place, *asked, "--model", "n.pkl").startswith("error: ")


def test_a_study_with_another_model_is_another_study(place):
    file = place / "study.yaml"
    content = yaml.safe_load(TINY.read_text()) | {"benchmark": "card.yaml"}
    file.write_text(yaml.safe_dump(content))
    plain = search_spaces.load(file)
    by_option = search_spaces.load(file, {"model": "python:own_word:model"})
    file.write_text(yaml.safe_dump(content | {"model": "python:own_word:model"}))
    by_key = search_spaces.load(file)
    assert "model" not in plain.identity(), "studies from before keep their identity"
    assert plain.fingerprint != by_key.fingerprint == by_option.fingerprint
    assert by_key.floor_spec().benchmark == "card.yaml@python:own_word:model"
    assert search_spaces.Study.model_validate(by_key.model_dump()).fingerprint == by_key.fingerprint


def test_a_wrong_word_in_a_study_is_one_line(place):
    (place / "study.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | {"model": "edn:x.pkl"}))
    assert "study.yaml: model: unknown kind of model, given 'edn'" in refused(place, "search", "study.yaml")
