"""The file of a network that was trained here: equal bytes for equal networks, and one line for any other file."""

import json

import pytest
import safetensors.torch
import torch

from pipeline.metrics import classifier
from pipeline.networks.preconditioning import EDMPrecond
from pipeline.networks.trained import Description, Trained, load, patches, pixels, save
from pipeline.registry import SpecError

ARGUMENTS = {
    "model_type": "SongUNet", "img_resolution": 4, "img_channels": 4, "label_dim": 3, "model_channels": 16,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "sigma_data": 0.75,
}  # fmt: skip
FIELDS = {"kind": "EDMPrecond", "arguments": ARGUMENTS, "patch": 2, "data": "digits", "training": {"seed": 0}}


def made(seed=0, **changed):
    torch.manual_seed(seed)
    return Trained(Description(**FIELDS | changed), EDMPrecond(**ARGUMENTS).state_dict())


def test_what_is_saved_comes_back(tmp_path):
    trained, out = made(), tmp_path / "a.safetensors"
    save(trained, out)
    back = load(out)
    assert back.description == trained.description
    assert back.shape == (1, 8, 8)
    assert back.hash == trained.hash
    own = back.network().state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in trained.tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_equal_networks_are_equal_bytes_and_the_hash_follows_what_decides_d(tmp_path):
    for name in "ab":
        save(made(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    others = [made(seed=1), made(patch=1), made(arguments=ARGUMENTS | {"sigma_data": 0.5})]
    assert len({made().hash, *(other.hash for other in others)}) == 4
    assert made(training={"seed": 1}).hash == made().hash


def test_a_patch_is_pixels_put_elsewhere():
    images = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = patches(images, 2)
    assert seen.shape == (3, 8, 4, 4)
    assert torch.equal(pixels(seen, 2), images)
    assert torch.equal(seen[:, :4, 1, 2], images[:, 0, 2:4, 4:6].flatten(1))


def written(path, tensors, metadata):
    path.write_bytes(safetensors.torch.save(tensors, metadata))


def described(**changed):
    return {"sigmasearch": json.dumps({"format": 1, **FIELDS, **changed})}


WRONG = {
    "another version": (described(format=2), {}, "format"),
    "unknown kind": (described(kind="posix.system"), {}, "class"),
    "unknown argument": (described(arguments={**ARGUMENTS, "channels": 3}), {}, "channels"),
    "patch that does not divide": (described(patch=3), {}, "patch"),
    "patch that is no number": (described(patch="2"), {}, "patch"),
    "unknown key": (described(code="print()"), {}, "code"),
    "a network of another size": (described(arguments={**ARGUMENTS, "model_channels": 32}), {}, "another shape"),
    "whole numbers": (described(), {"model.map_label.bias": torch.zeros(16, dtype=torch.int64)}, "no weights"),
    "a tensor too many": (described(), {"more": torch.zeros(1)}, "more"),
    "no metadata": (None, {}, "sigmasearch train"),
    "no JSON": ({"sigmasearch": "{"}, {}, "cannot be read"),
    "deep JSON": ({"sigmasearch": "[" * 100_000}, {}, "cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_one_line(tmp_path, kind):
    metadata, more, says = WRONG[kind]
    file = tmp_path / "file.safetensors"
    written(file, made().tensors | more, metadata)
    with pytest.raises(SpecError) as caught:
        load(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"not weights", "cut", "digits-cnn"])
def test_another_file_is_one_line(tmp_path, content):
    file = tmp_path / "file.safetensors"
    if content == "cut":
        save(made(), file)
        file.write_bytes(file.read_bytes()[:-100])
    elif content == "digits-cnn":
        file.write_bytes(classifier.WEIGHTS.read_bytes())
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load(file)
    assert caught.value.file == str(file)
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path, monkeypatch):
    out = tmp_path / "a.safetensors"
    save(made(), out)
    before = out.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.whole_file.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        save(made(seed=1), out)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
