"""`sigmasearch convert`: two files or none, and a card's model reads what it wrote."""

import json
import os

import pytest

from pipeline.models import MODELS
from tests.cli.console import contents, done, refused
from tests.networks import persistent_pickle, tiny


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = persistent_pickle.dumps(tiny.network("ncsnpp"), dict(tiny.TINY["ncsnpp"]), tmp_path / "ran")
    (tmp_path / "network.pkl").write_bytes(content)
    return tmp_path


def test_it_writes_weights_and_arguments_that_make_the_same_model(folder):
    ran = done("convert", "network.pkl", "--out", "new/small.safetensors")
    assert sorted(contents(folder)) == ["network.pkl", "new", "new/small.json", "new/small.safetensors"]
    weights = sum(parameter.numel() for parameter in tiny.network("ncsnpp").parameters())
    assert f"new/small.safetensors: {weights:,} weights of EDMPrecond (SongUNet), 5 classes" in ran.out
    hashes = {MODELS.build({"name": "edm", "path": path, "label": 1}).hash
              for path in ("network.pkl", "new/small.safetensors")}  # fmt: skip
    assert len(hashes) == 1
    arguments = json.loads((folder / "new" / "small.json").read_text())["arguments"]
    assert arguments == tiny.TINY["ncsnpp"]


def test_edm2_is_named_too(folder):
    content = persistent_pickle.dumps(tiny.network("edm2", "Precond"), dict(tiny.EDM2), folder / "ran")
    (folder / "second.pkl").write_bytes(content)
    assert "weights of Precond (UNet), 5 classes" in done("convert", "second.pkl").out
    assert MODELS.build({"name": "edm", "path": "second.safetensors", "label": 0}).shape == (3, 8, 8)


def test_the_name_is_the_checkpoints_and_scripts_get_json(folder):
    told = json.loads(done("convert", "network.pkl", "--json").out)
    assert (told["file"], told["arguments"], told["kind"]) == ("network.safetensors", "network.json", "EDMPrecond")
    first = contents(folder)
    done("convert", "network.pkl")
    assert contents(folder) == first
    # What it wrote is a checkpoint too.
    again = json.loads(done("convert", "network.safetensors", "--out", "again.safetensors", "--json").out)
    assert again["hash"] == told["hash"]


def cut(folder):
    content = (folder / "network.pkl").read_bytes()
    (folder / "network.pkl").write_bytes(content[:-50])


def other(folder):
    arguments = tiny.TINY["ncsnpp"] | {"channel_mult": [1, 1]}
    content = persistent_pickle.dumps(tiny.network("ncsnpp"), arguments, folder / "ran")
    (folder / "network.pkl").write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "options", "says"),
    [
        (cut, (), "network.pkl: is not a whole pickle of a network"),
        (other, (), "has another shape than the network, given"),
        (lambda folder: (folder / "network.pkl").unlink(), (), "network.pkl: there is no such file; fetch"),
        (lambda folder: None, ("--out", "a.bin"), "--out: is no name for weights, given 'a.bin'"),
        (lambda folder: (folder / "a.safetensors").mkdir(), ("--out", "a.safetensors"), "--out: is a folder"),
        (lambda folder: (folder / "a.json").mkdir(), ("--out", "a.safetensors"), "--out: is a folder"),
        (lambda folder: None, ("--out", "network.pkl/a.safetensors"), "--out: cannot be written"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(folder, harm, options, says):
    harm(folder)
    assert says in refused(folder, "convert", "network.pkl", *options)


def test_a_hostile_pickle_is_refused_by_name(folder):
    (folder / "network.pkl").write_bytes(b"cos\nsystem\n(X\x09\x00\x00\x00touch ran\x85R.")
    assert "nothing of it was run, given 'os.system'" in refused(folder, "convert", "network.pkl")
    assert not os.path.exists("ran")
