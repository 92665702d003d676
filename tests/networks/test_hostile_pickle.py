"""A pickle that wants something run gets nothing run: a file that it would have made is not there."""

import builtins
import collections
import functools
import io
import operator
import os
import pickle
import pickletools
import struct
import sys

import numpy as np
import pytest
import torch

from pipeline.foreign_pickle import NAMES, read_pickle
from pipeline.networks.checkpoint import read_checkpoint
from pipeline.pickle_machine import Record
from pipeline.registry import SpecError
from tests.networks import persistent_pickle, tiny


class Call:
    """Pickled as a call of `function`, with a state if one is given."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


class Gadget:
    def __setstate__(self, state):
        os.system(state)


def touch(mark):
    return f"touch {mark}"


def text(content):
    return b"X" + struct.pack("<I", len(content)) + content.encode()


def protocol_0(mark):
    return f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()


def instance(mark):
    return b"(" + text(f"touch {mark}") + b"ios\nsystem\n."


def through_an_allowed_name(mark):
    # An allowed name with a state whose second half sets attributes: on a class it would change the class.
    out = io.BytesIO()
    out.write(b"\x80\x04ccollections\nOrderedDict\n")
    out.write(b"N}\x8c\x0c__setstate__cos\nsystem\ns\x86b.")
    return out.getvalue()


def stacked(module, name):
    return b"\x80\x04\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93."


HOSTILE = {
    "os.system": lambda mark: pickle.dumps(Call(os.system, touch(mark))),
    "builtins.eval": lambda mark: pickle.dumps(Call(builtins.eval, f"open({str(mark)!r}, 'w').close()")),
    "builtins.exec": lambda mark: pickle.dumps({"ema": Call(builtins.exec, f"open({str(mark)!r}, 'w').close()")}, 2),
    "builtins.getattr": lambda mark: pickle.dumps(Call(getattr, "", "upper")),
    "functools.partial": lambda mark: pickle.dumps([Call(functools.partial(os.system, touch(mark)))]),
    "operator.methodcaller": lambda mark: pickle.dumps(Call(operator.methodcaller("system", touch(mark)), None)),
    "a call in a call": lambda mark: pickle.dumps(Call(collections.OrderedDict, [Call(os.system, touch(mark))])),
    "a call in a state": lambda mark: pickle.dumps(Call(collections.OrderedDict, state=Call(os.system, touch(mark)))),
    "a class's __setstate__": lambda mark: pickle.dumps(Call(Gadget, state=touch(mark))),
    "torch's __setstate__": lambda mark: pickle.dumps(
        Call(torch._utils._rebuild_parameter, torch.ones(1), False, {}, state=Call(os.system, touch(mark)))
    ),
    "a state for a tensor": lambda mark: pickle.dumps(
        Call(torch._utils._rebuild_parameter, torch.ones(1), False, {}, state=(0, 0, 0, 0))
    ),
    "a state for a name": lambda mark: b"\x80\x04ccollections\nOrderedDict\nN}\x8c\x01aK\x01s\x86b.",
    "a second state": lambda mark: b"\x80\x04cnumpy\ndtype\n\x8c\x02f8\x85R}b]b.",
    "a numpy object": lambda mark: pickle.dumps(np.array([Call(os.system, touch(mark))], dtype=object)),
    "protocol 0": protocol_0,
    "an instance": instance,
    "an allowed name's attributes": through_an_allowed_name,
    "a name with dots": lambda mark: stacked(b"collections", b"OrderedDict.__init__.__globals__"),
    "a module with dots": lambda mark: stacked(b"torch.storage.os", b"system"),
    "within a storage": lambda mark: pickle.dumps(
        Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, touch(mark))))
    ),
    "within source": lambda mark: persistent_pickle.dumps(tiny.network(), {}, mark),
    "a persistent reference": lambda mark: b"\x80\x02X\x01\x00\x00\x00aQ.",
    "an extension": lambda mark: b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_is_run_and_one_line_says_what_was_wanted(tmp_path, kind):
    file, mark = tmp_path / "network.pkl", tmp_path / "mark"
    file.write_bytes(HOSTILE[kind](mark))
    modules = set(sys.modules)
    with pytest.raises(SpecError) as told:
        read_checkpoint(file)
    assert [path.name for path in tmp_path.iterdir()] == ["network.pkl"]
    assert "\n" not in str(told.value)
    assert str(told.value).startswith(str(file))
    assert not {name for name in set(sys.modules) - modules if name.startswith(("torch_utils", "dnnlib"))}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("os.system", "posix.system"),
        ("builtins.eval", "builtins.eval"),
        ("builtins.exec", "__builtin__.exec"),
        ("builtins.getattr", "builtins.getattr"),
        ("functools.partial", "functools.partial"),
        ("a call in a call", "posix.system"),
        ("a call in a state", "posix.system"),
        ("a class's __setstate__", "tests.networks.test_hostile_pickle.Gadget"),
        ("protocol 0", "os.system"),
        ("an instance", "os.system"),
        ("a name with dots", "collections.OrderedDict.__init__.__globals__"),
        ("a module with dots", "torch.storage.os.system"),
        ("within a storage", "posix.system"),
        ("a state for a tensor", "Tensor"),
        ("a state for a name", "collections.OrderedDict"),
        ("a second state", "Record"),
    ],
)
def test_what_is_refused_is_named(tmp_path, kind, name):
    file = tmp_path / "network.pkl"
    file.write_bytes(HOSTILE[kind](tmp_path / "mark"))
    with pytest.raises(SpecError, match="nothing of it was run") as told:
        read_pickle(file)
    assert told.value.given == name


@pytest.mark.parametrize("kind", ["os.system", "builtins.eval", "protocol 0", "an instance", "a class's __setstate__"])
def test_pythons_own_unpickler_would_have_run_it(tmp_path, kind, capfd):
    """The files above are hostile: without this, they might be refused for being broken."""
    mark = tmp_path / "mark"
    pickle.loads(HOSTILE[kind](mark))
    assert mark.exists()


def test_every_listed_call_is_a_function_of_ours_or_a_plain_type():
    for name, function in NAMES.calls.items():
        assert function is tuple or function.__module__ == "pipeline.foreign_pickle", name


def test_a_file_that_is_cut_anywhere_is_refused_in_one_line(tmp_path):
    file = tmp_path / "network.pkl"
    whole = persistent_pickle.dumps(tiny.network(), dict(tiny.TINY["ddpmpp"]), tmp_path / "mark")
    ends = [place for *_, place in pickletools.genops(whole)][1:]
    rng = np.random.default_rng(0)
    for length in {
        0,
        1,
        2,
        len(whole) - 1,
        *rng.choice(ends, 60).tolist(),
        *rng.integers(len(whole), size=60).tolist(),
    }:
        file.write_bytes(whole[:length])
        with pytest.raises(SpecError, match="is not a whole pickle of a network") as told:
            read_checkpoint(file)
        assert "\n" not in str(told.value)


def test_a_file_with_any_byte_changed_is_read_or_refused_and_nothing_else(tmp_path):
    """Whatever a byte turns into: a value, or one line; no other exception, and nothing is run."""
    file = tmp_path / "network.pkl"
    network = torch.nn.ModuleDict({"a": tiny.network().model.map_layer0})
    whole = persistent_pickle.dumps(network, {}, tmp_path / "mark")
    rng = np.random.default_rng(1)
    refused = []
    for place in rng.choice(len(whole), 600, replace=False):
        changed = bytearray(whole)
        changed[place] = rng.integers(256)
        file.write_bytes(changed)
        try:
            read_pickle(file)
        except SpecError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert not any("\n" in line for line in refused)
    assert [path.name for path in tmp_path.iterdir()] == ["network.pkl"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",  # a terabyte, it says
        b"\x80\x02" + b"K\x01\x85" * 200_000 + b"N}s.",  # a tuple too deep to be hashed as a key
        b"\x80\x04}" + b"N" + b"\x85" * 200_000 + b"Ns.",
        b"\x80\x04h\x05.",  # from an empty memo
        b"\x80\x04e.",  # no mark
        b"\x80\x04].",  # a list
        b"not a pickle",
        b"\xff" * 64,
    ],
)
def test_a_file_that_is_no_pickle_of_a_network_costs_neither_memory_nor_the_process(tmp_path, content):
    file = tmp_path / "network.pkl"
    file.write_bytes(content)
    with pytest.raises(SpecError, match=r"is not a whole pickle of a network|holds no network"):
        read_checkpoint(file)


def tensor(*arguments):
    return pickle.dumps(Call(torch._utils._rebuild_tensor_v2, torch.arange(6.0).storage(), *arguments, False, {}))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_tensor_stays_within_its_storage(tmp_path):
    file = tmp_path / "t.pkl"
    for content, expected in (
        (tensor(0, (2, 3), (3, 1)), [[0, 1, 2], [3, 4, 5]]),
        (tensor(1, (2, 2), (1, 2)), [[1, 3], [2, 4]]),
        (tensor(0, (0, 5), (5, 1)), torch.empty(0, 5).tolist()),
    ):
        file.write_bytes(content)
        assert read_pickle(file).tolist() == expected
    for arguments in ((1, (6,), (1,)), (0, (10**12,), (0,)), (-1, (2,), (1,)), (0, (3,), (-1,)), (0, (2, 3), (3,))):
        file.write_bytes(tensor(*arguments))
        with pytest.raises(SpecError, match="is not a whole pickle"):
            read_pickle(file)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_storage_has_the_length_that_it_says(tmp_path):
    file, held = tmp_path / "t.pkl", io.BytesIO()
    torch.save(torch.arange(6.0).storage(), held, _use_new_zipfile_serialization=False)
    whole = held.getvalue()
    for content, right in ((whole, True), (whole[:-8], False), (whole + bytes(8), False)):
        storage = Call(torch.storage._load_from_bytes, content)
        file.write_bytes(pickle.dumps(Call(torch._utils._rebuild_tensor_v2, storage, 0, (2,), (1,), False, {})))
        if right:
            assert read_pickle(file).tolist() == [0, 1]
        else:
            with pytest.raises(SpecError, match="is not a whole pickle"):
                read_pickle(file)


def module(**state):
    return {"_parameters": {}, "_buffers": {}, "_modules": {}, "_init_args": (), "_init_kwargs": {}} | state


def read(folder, **state):
    file = folder / "n.pkl"
    with persistent_pickle._foreign_modules():
        out = io.BytesIO()
        thing = persistent_pickle.Persistent("EDMPrecond", **module(**state))
        persistent_pickle._Writer(out, 4, "", {}).dump({"ema": thing})
    file.write_bytes(out.getvalue())
    return read_checkpoint(file)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"_init_kwargs": None}, "does not say what its network was made from, given 'EDMPrecond'"),
        ({"_init_args": (1, 2, 3, 4, 5)}, "does not say what its network was made from"),
        ({"_init_kwargs": {"img_resolution": torch.ones(1)}}, "img_resolution: is no argument of a network"),
        ({"_init_kwargs": {"img_resolution": 8}}, "img_channels: is required and missing"),
    ],
)
def test_a_network_that_does_not_say_how_it_was_made_is_refused(tmp_path, state, says):
    with pytest.raises(SpecError) as told:
        read(tmp_path, **state)
    assert says in str(told.value)


def test_a_module_within_itself_ends(tmp_path):
    loop = {"img_resolution": 8, "img_channels": 3, "model_type": "SongUNet"}
    shared = persistent_pickle.Persistent("Linear", **module())
    with pytest.raises(SpecError, match=r"is no tree of modules, given 'b\.'"):
        read(tmp_path, _init_kwargs=loop, _modules={"a": shared, "b": shared})
    for held, says in (({"_modules": {"a": 3}}, "a: is no module"), ({"_buffers": {"a": [1]}}, "a: is no tensor")):
        with pytest.raises(SpecError, match=says):
            read(tmp_path, _init_kwargs=loop, **held)


def test_a_buffer_that_a_state_dict_leaves_out_is_left_out(tmp_path):
    made = {"img_resolution": 8, "img_channels": 3, "model_type": "SongUNet"}
    buffers = {"kept": torch.ones(1), "left": torch.ones(2), "none": None}
    found = read(tmp_path, _init_kwargs=made, _buffers=buffers, _non_persistent_buffers_set={"left"})
    assert list(found.tensors) == ["kept"]


def test_a_record_is_all_that_becomes_of_an_object(tmp_path):
    file = tmp_path / "n.pkl"
    file.write_bytes(persistent_pickle.dumps(tiny.network(), {}, tmp_path / "mark"))
    held = read_pickle(file)
    assert sorted(held) == ["augment_pipe", "dataset_kwargs", "ema", "loss_fn"]
    assert held["dataset_kwargs"]["path"] == "cifar10.zip"
    assert held["loss_fn"].state["sigma_data"] == 0.5
    assert type(held["loss_fn"]) is type(held["ema"]) is Record
    assert held["ema"].state["_modules"]["model"].state["_modules"]["enc"].name.endswith(".ModuleDict")
