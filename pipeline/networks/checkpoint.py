"""A published checkpoint: its kind, its constructor arguments and its weights, from a pickle or from safetensors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from pipeline.foreign_pickle import read_pickle
from pipeline.networks.arguments import build, checked
from pipeline.networks.preconditioning import Preconditioner
from pipeline.pickle_machine import Record
from pipeline.registry import SpecError
from pipeline.whole_file import write_whole
from pipeline.yaml_file import mistake

# What a published constructor takes by position, in its order.
_POSITIONAL = ("img_resolution", "img_channels", "label_dim", "use_fp16")
# What decides nothing of D: rates that only training uses, and a dtype that the model's own field decides.
_IDLE = {"dropout", "label_dropout", "use_fp16"}


@dataclass(frozen=True)
class Checkpoint:
    """`kind` is the preconditioner's class; `arguments` as they were given, without defaults; tensors as stored."""

    kind: str
    arguments: dict[str, Any]
    tensors: dict[str, Tensor]

    def network(self) -> Preconditioner:
        """The network with its weights, on the CPU.

        Raises:
            SpecError: a tensor is missing, too many, or of another shape than the arguments say.
        """
        network = build(self.kind, self.arguments)
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for name, shape in expected.items():
            if name not in self.tensors:
                raise SpecError("the network has a tensor that the checkpoint lacks", given=name)
            if tuple(self.tensors[name].shape) != shape:
                raise SpecError("has another shape than the network", path=name,
                                given=list(self.tensors[name].shape), allowed=str(list(shape)))  # fmt: skip
        for name in self.tensors:
            if name not in expected:
                raise SpecError("the checkpoint has a tensor that its network lacks", given=name)
        network.load_state_dict(self.tensors, assign=True)
        return network

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the network, 64 hex digits: the same from a pickle and from what it became."""
        values = {name: value for name, value in checked(self.kind, self.arguments).items() if name not in _IDLE}
        digest = hashlib.sha256(f"edm {self.kind} {json.dumps(values, sort_keys=True)} ".encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


class _Description(BaseModel):
    """The JSON beside the safetensors. `weights_sha256` ties the two: neither is of use with another."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: int
    kind: str
    arguments: dict[str, Any]
    weights_sha256: str


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a `.pkl`, or in a `.safetensors` with its `.json` beside it.

    Raises:
        SpecError: no such file, or not one of the two; broken, foreign, or without a network.
    """
    if path.suffix not in (".pkl", ".safetensors"):
        raise SpecError("is no checkpoint", file=str(path), allowed="a .pkl or .safetensors file")
    if not path.exists():
        raise SpecError("there is no such file; fetch the checkpoint and put it there", file=str(path))
    try:
        return _from_pickle(path) if path.suffix == ".pkl" else _from_safetensors(path)
    except SpecError as error:
        raise error if error.file else error.under(file=str(path)) from None


def write_checkpoint(checkpoint: Checkpoint, out: Path) -> Path:
    """Write `out` and the JSON beside it, whole or not at all; gives the JSON's path. Same checkpoint, same bytes.

    Raises:
        OSError: one of them cannot be written.
    """
    content = safetensors.torch.save(checkpoint.tensors)
    description = {
        "format": 1,
        "kind": checkpoint.kind,
        "arguments": {k: str(v) if v in (math.inf, -math.inf) else v for k, v in checkpoint.arguments.items()},
        "weights_sha256": hashlib.sha256(content).hexdigest(),
    }
    beside = out.with_suffix(".json")
    # The description last: without it the weights are not taken for a checkpoint.
    write_whole(out, content)
    write_whole(beside, (json.dumps(description, indent=1, sort_keys=True) + "\n").encode())
    return beside


def _from_pickle(path: Path) -> Checkpoint:
    content = read_pickle(path)
    record = content.get("ema") if isinstance(content, dict) else content
    if not isinstance(record, Record) or not isinstance(record.state, dict):
        held = sorted(str(key)[:40] for key in content) if isinstance(content, dict) else type(content).__name__
        raise SpecError("holds no network", given=held, allowed="a pickle with a network under 'ema'")
    positional, named = record.state.get("_init_args"), record.state.get("_init_kwargs")
    if not isinstance(positional, tuple) or len(positional) > len(_POSITIONAL) or not isinstance(named, dict):
        raise SpecError("does not say what its network was made from", given=record.name)
    given = dict(zip(_POSITIONAL, positional, strict=False)) | named
    arguments = {str(key): _plain(value, str(key)) for key, value in given.items()}
    checked(record.name, arguments)
    return Checkpoint(record.name, arguments, dict(_tensors(record, "", set())))


def _plain(value: Any, key: str) -> Any:
    """A constructor argument as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each, key) for each in value if not isinstance(each, list | tuple)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise SpecError("is no argument of a network", path=key, given=type(value).__name__)


def _tensors(record: Record, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a stored module by the names of its state dict."""
    state = record.state
    if id(record) in seen or not isinstance(state, dict):
        raise SpecError("holds a module that is no tree of modules", given=prefix or record.name)
    seen.add(id(record))
    passing = state.get("_non_persistent_buffers_set", set())
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _held(state, kind, prefix):
            if tensor is None or (kind == "_buffers" and name in passing):
                continue
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise SpecError("is no tensor of weights", path=f"{prefix}{name}", given=type(tensor).__name__)
            yield f"{prefix}{name}", tensor
    for name, module in _held(state, "_modules", prefix):
        if isinstance(module, Record):
            yield from _tensors(module, f"{prefix}{name}.", seen)
        elif module is not None:
            raise SpecError("is no module", path=f"{prefix}{name}", given=type(module).__name__)


def _held(state: dict[Any, Any], kind: str, prefix: str) -> list[tuple[str, Any]]:
    held = state.get(kind, {})
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise SpecError("holds a module that is no tree of modules", given=f"{prefix}{kind}")
    return list(held.items())


def _from_safetensors(path: Path) -> Checkpoint:
    beside = path.with_suffix(".json")
    try:
        description = _Description.model_validate(json.loads(beside.read_bytes()))
        content = path.read_bytes()
    except OSError as error:
        allowed = "weights.safetensors with weights.json beside it, as `convert` writes them"
        raise SpecError(f"cannot be read ({error.strerror})", file=str(error.filename), allowed=allowed) from None
    except ValidationError as error:
        raise mistake(error, _Description).under(file=str(beside)) from None
    except (ValueError, RecursionError):
        raise SpecError("is not JSON", file=str(beside)) from None
    if description.format != 1:
        raise SpecError("is of another version", file=str(beside), path="format", given=description.format, allowed="1")
    if hashlib.sha256(content).hexdigest() != description.weights_sha256:
        raise SpecError(f"is not the file that {beside.name} describes, or is cut short")
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError):
        raise SpecError("is no whole safetensors file") from None
    arguments = {key: float(value) if value in ("inf", "-inf") else value for key, value in
                 description.arguments.items()}  # fmt: skip
    checked(description.kind, arguments)
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise SpecError("holds tensors that are no weights")
    return Checkpoint(description.kind, arguments, tensors)
