"""Pickles as `torch_utils.persistence` of NVlabs' projects lays them out, written without it.

A reduced object calls `_reconstruct_persistent_obj` with its class's name, the source of the class's module and its
state. Source that is written here would leave a file behind if anything ran it.
"""

import contextlib
import io
import pickle
import sys
import types

import numpy as np
from torch import nn

HOOK = "_reconstruct_persistent_obj"


def _never(*_):
    raise AssertionError("called while it was written")


@contextlib.contextmanager
def _foreign_modules():
    """The modules that a pickle's names come from have to exist while it is written."""
    persistence, util = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")
    _never.__module__, _never.__qualname__, _never.__name__ = "torch_utils.persistence", HOOK, HOOK
    setattr(persistence, HOOK, _never)
    util.EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    made = {"torch_utils": types.ModuleType("torch_utils"), "torch_utils.persistence": persistence}
    made |= {"dnnlib": types.ModuleType("dnnlib"), "dnnlib.util": util}
    assert not made.keys() & sys.modules.keys()
    sys.modules.update(made)
    try:
        yield util.EasyDict
    finally:
        for name in made:
            del sys.modules[name]


class Persistent:
    """An object that is no module: a loss, or an augmentation."""

    def __init__(self, name, **state):
        self.name, self.state = name, state


class _Writer(pickle.Pickler):
    def __init__(self, file, protocol, source, arguments):
        super().__init__(file, protocol)
        self.source, self.arguments = source, arguments

    def reducer_override(self, obj):
        if isinstance(obj, Persistent):
            return self._reduced(obj.name, obj.state)
        if isinstance(obj, nn.Module) and type(obj).__module__.startswith("pipeline.networks"):
            # numpy's scalars are among the published state, and a layer's arguments too.
            state = dict(vars(obj)) | {"_init_args": (), "_init_kwargs": {"init_weight": np.sqrt(0.2)}}
            return self._reduced(type(obj).__name__, state | self.arguments.pop(id(obj), {}))
        return NotImplemented

    def _reduced(self, name, state):
        return _never, ({"type": "class", "version": 6, "module_src": self.source, "class_name": name, "state": state},)


def dumps(network, arguments, mark="ran", protocol=4, positional=()):
    """The bytes of a snapshot: the network under `ema`, beside what a training run keeps with it."""
    source = f"open({str(mark)!r}, 'w').close()\nraise SystemExit(9)\n"
    own = {id(network): {"_init_args": positional, "_init_kwargs": arguments}}
    with _foreign_modules() as easy_dict, io.BytesIO() as file:
        snapshot = {
            "ema": network,
            "loss_fn": Persistent("EDMLoss", P_mean=-1.2, P_std=1.2, sigma_data=np.float64(0.5)),
            "augment_pipe": Persistent("AugmentPipe", p=np.float32(0.12), taps=np.arange(3.0)),
            "dataset_kwargs": easy_dict(class_name="training.dataset.ImageFolderDataset", path="cifar10.zip"),
        }
        _Writer(file, protocol, source, own).dump(snapshot)
        return file.getvalue()
