"""The cards of published settings: what is known without their files, and that they work once those are there."""

import hashlib
import json

import numpy as np
import pytest
import yaml

from pipeline import benchmarks
from pipeline.benchmarks import cards
from pipeline.networks.arguments import build
from pipeline.registry import SpecError
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from reports import published
from tests.cli.console import done, refused
from tests.networks import persistent_pickle, tiny

CHECKPOINTS = {
    "cifar10-vp": "cifar10-uncond-vp",
    "cifar10-ve": "cifar10-uncond-ve",
    "cifar10-cond-vp": "cifar10-cond-vp",
    "cifar10-cond-ve": "cifar10-cond-ve",
    "ffhq-vp": "ffhq-vp",
    "ffhq-ve": "ffhq-ve",
    "afhqv2-vp": "afhqv2-vp",
    "afhqv2-ve": "afhqv2-ve",
    "imagenet64": "imagenet-cond-adm",
}
CHECKPOINT_FILES = {
    "cifar10-vp": "edm-cifar10-32x32-uncond-vp.pkl",
    "cifar10-ve": "edm-cifar10-32x32-uncond-ve.pkl",
    "cifar10-cond-vp": "edm-cifar10-32x32-cond-vp.pkl",
    "cifar10-cond-ve": "edm-cifar10-32x32-cond-ve.pkl",
    "ffhq-vp": "edm-ffhq-64x64-uncond-vp.pkl",
    "ffhq-ve": "edm-ffhq-64x64-uncond-ve.pkl",
    "afhqv2-vp": "edm-afhqv2-64x64-uncond-vp.pkl",
    "afhqv2-ve": "edm-afhqv2-64x64-uncond-ve.pkl",
    "imagenet64": "edm-imagenet-64x64-cond-adm.pkl",
}
FETCHED = [name for name in benchmarks.names() if benchmarks.card_of(name).fetch]
SMALL = {
    "name": "small",
    "version": 1,
    "title": "Small",
    "description": "A network of the published form.",
    "model": {"name": "edm", "path": "small.pkl", "network": {"kind": "EDMPrecond", **tiny.TINY["ddpmpp"]}},
    "features": "identity",
    "quantise": True,
    "reference": "small.npz",
    "fetch": {"model": "https://there.example/small.pkl", "reference": "https://there.example/small.npz"},
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_source": "Karras et al., 2022",
    "published": {},
}
DIM = 3 * 8 * 8


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty folder in the place of the user's."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("SIGMASEARCH_DATA", str(folder))
    return folder


def put_checkpoint(file, name="ddpmpp", seed=0):
    file.write_bytes(persistent_pickle.dumps(tiny.network(name, seed=seed), dict(tiny.TINY[name]), file.parent / "ran"))


@pytest.fixture
def shipped(tmp_path, monkeypatch, data):
    """A card among those of the package, whose files are to come into `data`."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    monkeypatch.setattr(cards, "FOLDER", folder)

    def files():
        put_checkpoint(data / "small.pkl")
        np.savez(data / "small.npz", mu=np.full(DIM, 128.0), sigma=np.eye(DIM) * 64.0)

    return files


def test_every_published_setting_has_a_card():
    assert sorted(CHECKPOINTS) == FETCHED


@pytest.mark.parametrize("name", FETCHED)
def test_a_card_declares_the_network_of_its_checkpoint(name, data):
    expected = tiny.sizes(build("EDMPrecond", tiny.PUBLISHED[CHECKPOINTS[name]]))
    expected.pop("model.map_augment.weight", None)  # an input that is always zero here is not declared
    model = benchmarks.model_of(name)
    assert tiny.sizes(model.outline) == expected
    arguments = tiny.PUBLISHED[CHECKPOINTS[name]]
    assert model.shape == (3, arguments["img_resolution"], arguments["img_resolution"])
    assert model.classes == arguments["label_dim"]
    assert model.outline.use_fp16 == arguments.get("use_fp16", False)


@pytest.mark.parametrize("name", FETCHED)
def test_a_card_has_the_papers_settings_with_their_sources(name):
    held = benchmarks.card_of(name).published
    assert not published.rows(held["numbers"]).empty
    settings = dict(held["sdm"])
    assert settings.pop("source")
    told = settings.pop("conflict", None)
    for key, value in settings.items():
        printed = set(published.rows(held["numbers"], key)["number"])
        assert value in printed, key
        assert len(printed) == 1 or told, f"{key}: {printed}"
    tau_k = settings.pop("tau_k")
    assert SCHEDULES.build({"name": "sdm", **settings}).num_steps == held["edm"]["num_steps"]
    assert SOLVERS.build({"name": "switch", "tau_k": tau_k}).tau_k == tau_k


@pytest.mark.parametrize("name", FETCHED)
def test_addresses_and_paths_are_of_the_same_files(name):
    card = benchmarks.card_of(name)
    assert card.fetch["model"].endswith(f"/{CHECKPOINT_FILES[name]}")
    assert card.model["path"] == CHECKPOINT_FILES[name]
    assert card.fetch["reference"].endswith(f"/{card.reference}")
    assert (card.model["sha256"], card.reference_sha256) == (None, None), "no hash is known here, and none is made up"


def test_without_its_files_a_card_says_what_to_fetch_and_where_to_put_it(data, monkeypatch):
    monkeypatch.chdir(data)
    asked = ("plan", "cifar10-vp", "--baseline", "ddim", "--nfe", "5")
    line, file = refused(data, *asked), "edm-cifar10-32x32-uncond-vp.pkl"
    assert f"fetch https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/{file} and put it there" in line
    assert f"given '{data / file}'" in line
    (data / file).write_bytes(b"")
    assert (
        "reference: there is no such file: fetch https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs/cifar10-32x32.npz"
        in (refused(data, *asked))
    )


def test_the_list_says_which_files_are_not_here(shipped, data):
    assert f"(not in {data}: small.pkl, small.npz)" in done("ls", "benchmarks").out
    put_checkpoint(data / "small.pkl")
    assert f"(not in {data}: small.npz)" in done("ls", "benchmarks").out
    shipped()
    assert "not in" not in done("ls", "benchmarks").out


def test_the_folder_is_the_users_cache_unless_a_variable_names_it(monkeypatch, tmp_path):
    monkeypatch.delenv("SIGMASEARCH_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert benchmarks.data_folder() == tmp_path / "sigmasearch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert benchmarks.data_folder() == tmp_path / ".cache" / "sigmasearch"
    monkeypatch.setenv("SIGMASEARCH_DATA", "here")
    monkeypatch.chdir(tmp_path)
    assert benchmarks.data_folder() == tmp_path / "here"


def test_a_shipped_card_works_once_its_files_are_there(shipped, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert benchmarks.model_of("small").shape == (3, 8, 8)
    with pytest.raises(SpecError, match=r"model\.path: there is no such file: fetch https://there\.example/small\.pkl"):
        benchmarks.load("small")
    shipped()
    held = benchmarks.load("small")
    assert benchmarks.load("small") is held, "its files are read once a process"
    assert (held.shape, held.name) == ((3, 8, 8), "small")
    done("plan", "small", "--baseline", "ddim", "--nfe", "3", "--out", "card.json")
    written = json.loads((tmp_path / "card.json").read_text())["benchmark"]
    assert written["reference_sha256"] == hashlib.sha256((data / "small.npz").read_bytes()).hexdigest()
    told = json.loads(done("evaluate", "card.json", "--images", "40", "--shard-images", "10", "--json").out)
    assert (told["nfe"], told["benchmark"]) == (3, "small")
    assert told["reference"] == held.reference_hash


def test_a_shipped_card_by_its_path_is_the_same(shipped, data):
    shipped()
    assert benchmarks.load(cards.FOLDER / "small.yaml").model_hash == benchmarks.load("small").model_hash


def test_another_network_than_the_card_declares_is_refused(shipped, data):
    shipped()
    put_checkpoint(data / "small.pkl", "ncsnpp")
    with pytest.raises(SpecError, match=r"model\.network\.channel_mult_noise: .*another network, given 1; allowed: 2"):
        benchmarks.load("small")


def test_a_changed_checkpoint_is_read_again(shipped, data):
    shipped()
    before = benchmarks.load("small").model_hash
    put_checkpoint(data / "small.pkl", seed=1)
    assert benchmarks.load("small").model_hash != before
    word = benchmarks.with_model("small", f"edm:{data / 'small.pkl'}")
    held = benchmarks.load(word).model_hash
    put_checkpoint(data / "small.pkl", seed=2)
    assert benchmarks.load(word).model_hash != held


def test_what_may_be_fetched_is_the_model_and_the_reference():
    with pytest.raises(SpecError, match="fetch"):
        benchmarks.from_card(SMALL | {"fetch": {"weights": "https://there.example"}})
