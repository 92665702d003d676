"""Pickles of networks from elsewhere, read as data: what they may name, and the plain values that stand for it.

`torch_utils.persistence` of NVlabs' projects puts the source of each class into the pickle. It is never compiled: of an
object its class's name and its state are kept, of a tensor its numbers. Any name that is not listed here is refused.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pipeline.pickle_machine import Name, Names, Record, Refused, follow, keys
from pipeline.registry import SpecError

# The numbers that open torch's older file format, in which a storage lies within a pickle.
_TORCH_MAGIC, _TORCH_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
# What a wrong instruction leads to: a stack that is too short, a value of another type, a text that is none.
_BROKEN = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    struct.error,
)


def read_pickle(path: Path) -> Any:
    """What a pickle holds: numbers, texts, lists, dicts, tensors, and a `Record` for each object.

    Raises:
        SpecError: it cannot be read; it is no pickle, is cut short, or names what is not on the list.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror or error})", file=str(path)) from None
    except Refused as refused:
        raise SpecError(refused.message, file=str(path), given=refused.given) from None


def _read(file: BinaryIO) -> Any:
    try:
        # Mapped, so that a length that the file does not have costs no memory.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a broken text in the file is not its reader's to be warned of
            return follow(mapped, NAMES, _nothing_outside)
    except _BROKEN:
        raise Refused("is not a whole pickle of a network") from None


def _nothing_outside(_: Any) -> Any:
    raise Refused("refers to something outside the file")


def _persistent(meta: Any) -> Record:
    if meta["type"] != "class" or not isinstance(meta["class_name"], str) or not isinstance(meta["state"], dict):
        raise TypeError("no persistent object")
    return Record(meta["class_name"], meta["state"])


def _dict(items: Iterable[Any] = ()) -> dict[Any, Any]:
    pairs = [(key, value) for key, value in items]
    return dict(zip(keys([key for key, _ in pairs]), (value for _, value in pairs), strict=True))


def _set(values: Iterable[Any] = ()) -> set[Any]:
    return set(keys(list(values)))


def _encoded(text: str, encoding: str) -> bytes:
    # How protocol 2 writes bytes.
    if not isinstance(text, str) or encoding != "latin1":
        raise TypeError("no bytes")
    return text.encode("latin1")


def _numpy_dtype(code: str, *_: Any) -> Record:
    if not isinstance(code, str) or np.dtype(code).kind not in "biuf":
        raise TypeError("no number")
    return Record("numpy.dtype", arguments=(code,))


def _numpy_scalar(dtype: Record, content: bytes) -> bool | int | float:
    order = dtype.state[1] if dtype.state else "|"
    if dtype.name != "numpy.dtype" or order not in ("<", ">", "|", "="):
        raise TypeError("no number")
    value: bool | int | float = np.frombuffer(content, np.dtype(dtype.arguments[0]).newbyteorder(order), 1)[0].item()
    return value


def _numpy_array(*_: Any) -> Record:
    return Record("numpy.ndarray")  # never looked into: none belongs to a network's weights


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if not isinstance(storage, Tensor) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise TypeError("no tensor")
    count: int = math.prod(size)
    if count == 0:
        return storage.new_empty(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # A stride of 0 would make terabytes of one number.
    if count > len(storage) or last >= len(storage):
        raise ValueError("outside its storage")
    return torch.as_strided(storage, size, stride, offset).contiguous()


def _parameter(tensor: Tensor, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError("no tensor")
    return tensor


def _storage(content: bytes) -> Tensor:
    """The numbers of a storage, flat, from what torch's older format wrote of it: bytes within the pickle."""
    file = io.BytesIO(content)
    wanted: dict[str, tuple[torch.dtype, int]] = {}

    def stored(reference: Any) -> str:
        kind, name, key, _, count, view = reference
        if kind != "storage" or not isinstance(key, str) or not isinstance(name, Name) or view is not None:
            raise TypeError("no storage")
        wanted[key] = _STORAGES[name.full], count
        return key

    magic, protocol, system = [follow(file, NAMES, _nothing_outside) for _ in range(3)]
    if magic != _TORCH_MAGIC or protocol != _TORCH_PROTOCOL or not system["little_endian"]:
        raise ValueError("not torch's older format")
    key = follow(file, NAMES, stored)
    if follow(file, NAMES, _nothing_outside) != [key] or list(wanted) != [key]:
        raise ValueError("not one storage")
    dtype, count = wanted[key]
    if int.from_bytes(file.read(8), "little") != count or len(content) - file.tell() != count * dtype.itemsize:
        raise ValueError("of another length")
    # A copy: torch's tensors can be written to, bytes cannot.
    return torch.frombuffer(bytearray(file.read()), dtype=dtype) if count else torch.empty(0, dtype=dtype)


NAMES = Names(
    calls={
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
        "collections.OrderedDict": _dict,
        "builtins.set": _set,
        "__builtin__.set": _set,
        "_codecs.encode": _encoded,
        "torch.Size": tuple,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch.storage._load_from_bytes": _storage,
        "numpy.dtype": _numpy_dtype,
        **{f"numpy.{core}.multiarray.scalar": _numpy_scalar for core in ("core", "_core")},
        **{f"numpy.{core}.multiarray._reconstruct": _numpy_array for core in ("core", "_core")},
        **{f"numpy.{core}.numeric._frombuffer": _numpy_array for core in ("core", "_core")},
    },
    records={f"torch.nn.modules.container.{name}" for name in ("ModuleDict", "ModuleList", "Sequential")},
    dicts={"dnnlib.util.EasyDict"},
    inert=_STORAGES.keys()
    | {"numpy.ndarray"}
    | {f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64", "int64")},
)
