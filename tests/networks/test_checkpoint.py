"""A checkpoint keeps its kind, its arguments and every bit of its weights, in whichever file it is."""

import json

import numpy as np
import pytest
import torch

from pipeline.networks.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.registry import SpecError
from tests.networks import persistent_pickle, tiny

KINDS = [
    ("ddpmpp", "EDMPrecond"),
    ("ncsnpp", "VEPrecond"),
    ("skip", "VPPrecond"),
    ("adm", "iDDPMPrecond"),
    ("edm2", "Precond"),
]


def written(folder, name="ddpmpp", kind="EDMPrecond", **options):
    file = folder / "network.pkl"
    made = tiny.network(name, kind)
    file.write_bytes(persistent_pickle.dumps(made, dict(tiny.ALL[name]), folder / "ran", **options))
    return file, made


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_persistent_pickle_gives_kind_arguments_and_every_bit_of_the_weights(tmp_path, name, kind, protocol):
    file, made = written(tmp_path, name, kind, protocol=protocol)
    read = read_checkpoint(file)
    assert (read.kind, read.arguments) == (kind, tiny.ALL[name])
    assert same(read.tensors, made.state_dict())
    x, sigma = tiny.images(), torch.tensor(1.5)
    assert torch.equal(read.network()(x, sigma), made(x, sigma))
    # The source in it was not run.
    assert [path.name for path in tmp_path.iterdir()] == ["network.pkl"]


def test_a_network_alone_and_arguments_by_position_are_read(tmp_path):
    file, made = written(tmp_path)
    by_position = {k: v for k, v in tiny.TINY["ddpmpp"].items() if k not in ("img_resolution", "img_channels")}
    by_position |= {"channel_mult": (1, 2), "dropout": np.float32(0.125)}
    content = persistent_pickle.dumps(made, by_position, tmp_path / "ran", positional=(8, 3))
    file.write_bytes(content)
    read = read_checkpoint(file)
    assert read.arguments == tiny.TINY["ddpmpp"] | {"dropout": 0.125}
    assert type(read.arguments["dropout"]) is float
    assert same(read.tensors, made.state_dict())


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_safetensors_give_the_same_network_and_the_same_hash(tmp_path, name, kind):
    read = read_checkpoint(written(tmp_path, name, kind)[0])
    out = tmp_path / "out.safetensors"
    assert write_checkpoint(read, out) == tmp_path / "out.json"
    again = read_checkpoint(out)
    assert (again.kind, again.arguments, again.hash) == (read.kind, read.arguments, read.hash)
    assert same(again.tensors, read.tensors)
    first = out.read_bytes(), out.with_suffix(".json").read_bytes()
    write_checkpoint(again, out)
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == first


def test_an_endless_sigma_max_survives_json(tmp_path):
    read = tiny.checkpoint()
    endless = Checkpoint(read.kind, read.arguments | {"sigma_max": float("inf")}, read.tensors)
    json.loads(write_checkpoint(endless, tmp_path / "a.safetensors").read_text(), parse_constant=pytest.fail)
    assert read_checkpoint(tmp_path / "a.safetensors").arguments["sigma_max"] == float("inf")
    # It is the default, so it is the same network.
    assert read_checkpoint(tmp_path / "a.safetensors").hash == read.hash


def test_the_hash_is_of_what_decides_the_network():
    read = tiny.checkpoint()
    assert len(read.hash) == 64

    def changed(**arguments):
        return Checkpoint(read.kind, read.arguments | arguments, read.tensors).hash

    assert changed(dropout=0.4, use_fp16=True, sigma_data=0.5) == read.hash
    other = dict(read.tensors)
    other["model.enc.8x8_conv.bias"] = other["model.enc.8x8_conv.bias"].nextafter(torch.tensor(9.0))
    hashes = {read.hash, changed(sigma_data=0.6), Checkpoint("VPPrecond", read.arguments, read.tensors).hash}
    assert len(hashes | {Checkpoint(read.kind, read.arguments, other).hash}) == 4


def conv(read, tensor):
    return Checkpoint(read.kind, read.arguments, read.tensors | {"model.enc.8x8_conv.weight": tensor})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: Checkpoint(c.kind, c.arguments, {k: v for k, v in c.tensors.items() if "8x8_conv.w" not in k}),
         "the network has a tensor that the checkpoint lacks, given 'model.enc.8x8_conv.weight'"),
        (lambda c: Checkpoint(c.kind, c.arguments, c.tensors | {"model.more": torch.ones(1)}),
         "the checkpoint has a tensor that its network lacks, given 'model.more'"),
        (lambda c: conv(c, torch.ones(8, 3, 3, 1)),
         "model.enc.8x8_conv.weight: has another shape than the network, given [8, 3, 3, 1]; allowed: [8, 3, 3, 3]"),
        (lambda c: Checkpoint("Generator", c.arguments, c.tensors), "is a kind of network that is not known here"),
        (lambda c: Checkpoint(c.kind, c.arguments | {"model_type": "os"}, c.tensors), "model_type: is not one of the"),
        (lambda c: Checkpoint(c.kind, c.arguments | {"depth": 3}, c.tensors), "depth: unknown key, given 'depth'"),
        (lambda c: Checkpoint(c.kind, c.arguments | {"num_blocks": 10**9}, c.tensors), "num_blocks: input should be"),
        (lambda c: Checkpoint(c.kind, c.arguments | {"model_channels": "8"}, c.tensors), "model_channels: input"),
        (lambda c: Checkpoint(c.kind, c.arguments | {"model_channels": 33}, c.tensors), "model_channels: makes no net"),
        (lambda c: Checkpoint(c.kind, c.arguments | {"img_resolution": 9}, c.tensors), "cannot be halved so often"),
        (lambda c: Checkpoint(c.kind, c.arguments | {"resample_filter": [1, 2, 1]}, c.tensors), "is no filter"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_their_arguments_are_refused_in_one_line(change, says):
    with pytest.raises(SpecError) as told:
        change(tiny.checkpoint()).network()
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def broken(file, name, content=None):
    target = file.with_suffix(name)
    target.write_bytes(target.read_bytes()[:-9] if content is None else content)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f: broken(f, ".safetensors"), "is not the file that a.json describes, or is cut short"),
        (lambda f: broken(f, ".json"), "a.json: is not JSON"),
        (lambda f: broken(f, ".json", b"[" * 100_000), "a.json: is not JSON"),
        (lambda f: broken(f, ".json", b"{}"), "a.json: format: is required and missing"),
        (lambda f: broken(f, ".json", f.with_suffix(".json").read_bytes().replace(b'"format": 1', b'"format": 2')),
         "format: is of another version, given 2; allowed: 1"),
        (lambda f: f.with_suffix(".json").unlink(), "a.json: cannot be read (No such file or directory); allowed:"),
        (lambda f: f.unlink(), "there is no such file; fetch the checkpoint and put it there"),
    ],
)  # fmt: skip
def test_a_broken_pair_of_files_is_refused_in_one_line(tmp_path, harm, says):
    file = tmp_path / "a.safetensors"
    write_checkpoint(tiny.checkpoint(), file)
    harm(file)
    with pytest.raises(SpecError) as told:
        read_checkpoint(file)
    assert says in str(told.value)
    assert "\n" not in str(told.value)


def test_weights_stay_in_the_dtype_that_they_were_stored_in(tmp_path):
    """EDM2 is published in float16: half the bytes, and its gains are divided in that dtype."""
    made = tiny.network("edm2", "Precond").half()
    file = tmp_path / "network.pkl"
    file.write_bytes(persistent_pickle.dumps(made, dict(tiny.EDM2), tmp_path / "ran"))
    write_checkpoint(read_checkpoint(file), tmp_path / "a.safetensors")
    x, sigma = tiny.images(), torch.tensor(0.9)
    for path in (file, tmp_path / "a.safetensors"):
        read = read_checkpoint(path)
        assert {tensor.dtype for tensor in read.tensors.values()} == {torch.float16}
        assert torch.equal(read.network()(x, sigma), made(x, sigma))
    whole = Checkpoint("Precond", read.arguments, {k: v.float() for k, v in read.tensors.items()})
    other = Checkpoint("Precond", read.arguments, {k: v.view(torch.bfloat16) for k, v in read.tensors.items()})
    assert len({whole.hash, read.hash, other.hash}) == 3
    assert 0 < (whole.network()(x, sigma) - made(x, sigma)).abs().max() < 1e-2


def test_whole_numbers_are_no_weights(tmp_path):
    read = tiny.checkpoint()
    file = tmp_path / "a.safetensors"
    write_checkpoint(Checkpoint(read.kind, read.arguments, {k: v.long() for k, v in read.tensors.items()}), file)
    with pytest.raises(SpecError, match="holds tensors that are no weights"):
        read_checkpoint(file)
