"""torch-fidelity's statistics: a torch pickle of two numpy arrays, of which nothing is run while it is read."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.metrics.moments import Array
from pipeline.registry import SpecError

MOST_BYTES = 4 * 2**30  # unpacked: 16384 features in float64 are 2 GiB, and a pickle may write a byte as two


class _Array:
    """Stands for a numpy array while torch reads: it keeps what the pickle says, and does nothing."""

    def __init__(self, *unused: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Type:
    """Stands for a numpy dtype, as "f8"; its state says the byte order."""

    def __init__(self, code: object = None, *unused: object) -> None:
        self.code, self.state = code, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Array, "numpy._core.multiarray._reconstruct"),  # numpy 2
    (_Array, "numpy.core.multiarray._reconstruct"),  # numpy 1
    (_Array, "numpy.ndarray"),
    (_Type, "numpy.dtype"),
]


def read(path: Path) -> dict[str, Array]:
    """`mu` and `sigma` as float64, as far as the file holds them, of whatever shape.

    torch reads with `weights_only`; even what that may call for numpy's arrays is replaced by classes of ours.

    Raises:
        SpecError: not a file of torch, or one that holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror})", file=str(path)) from None
    except Exception as error:  # zipfile's own mistake, or what a damaged file makes it do
        raise SpecError(f"is not a file of torch.save ({error})", file=str(path)) from None
    if size > MOST_BYTES:
        raise SpecError("is too large unpacked", file=str(path), given=size, allowed=f"{MOST_BYTES:,} bytes or fewer")
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its reader met
        raise SpecError(f"cannot be read as statistics ({_reason(error)})", file=str(path)) from None
    if not isinstance(held, dict):
        raise SpecError("holds no statistics", file=str(path), given=type(held).__name__, allowed="mu and sigma")
    found = {}
    for key in ("mu", "sigma"):
        if key in held:
            try:
                found[key] = _array(held[key])
            except Exception:  # what the file says of an array may be anything
                message = f"{key} is no array of float32 or float64"
                raise SpecError(message, file=str(path), given=type(held[key]).__name__.strip("_")) from None
    return found


def _array(value: object) -> Array:
    if isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.float64):
        return np.asarray(value.detach().double().numpy())
    if not isinstance(value, _Array):
        raise TypeError
    _, shape, kind, by_columns, content = value.state
    if not isinstance(kind, _Type) or kind.code not in ("f4", "f8") or not isinstance(content, bytes):
        raise TypeError
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise TypeError
    order = kind.state[1] if kind.state else "<"
    if order not in ("<", ">"):
        raise TypeError
    flat = np.frombuffer(content, dtype=f"{order}{kind.code}")
    return flat.astype(np.float64).reshape(shape, order="F" if by_columns else "C")


def _reason(error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return f"it asks for {refused[1][:80]}, which is not run"
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__
