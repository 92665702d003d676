"""One component of a diffusers pipeline: its configuration and its network, from a folder."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.models.diffusers import folder
from pipeline.registry import SpecError

# In the names of the weights of attention, as diffusers wrote them at first.
OLD_NAMES = (".query.", ".key.", ".value.", ".proj_attn.")


def configuration(at: Path, name: str) -> dict[str, Any]:
    """The component's own `config.json`. `name` is what a mistake calls it.

    Raises:
        SpecError: there is none, or it is of quantized weights.
    """
    config = folder.read(at / "config.json")
    if config.get("quantization_config"):
        raise SpecError("is not understood", path=f"{name}.quantization_config", allowed="none")
    return config


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration decides the network: not who wrote it."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def check(at: Path, name: str, config: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Compare names and shapes of the weights in `files` with the network of that class, which takes no memory here.

    Raises:
        SpecError: the configuration makes no network, or another than that of the weights.
    """
    held = {key: shape for file in files for key, shape in folder.header(file).items()}
    if any(old in key for key in held for old in OLD_NAMES):
        return  # diffusers gives them their new ones when it loads them
    cls = getattr(importlib.import_module("diffusers"), name)
    try:
        with torch.device("meta"):
            network = cls.from_config(dict(config))
    except Exception as error:  # a stranger's configuration
        raise _unfit(error, at) from None
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    idle = getattr(cls, "_keys_to_ignore_on_load_unexpected", None) or ()
    more = [key for key in sorted(held.keys() - expected.keys()) if not any(re.search(each, key) for each in idle)]
    _complete(sorted(expected.keys() - held.keys()), more)
    for key, shape in expected.items():
        if held[key] != shape:
            raise SpecError(f"{key} has another shape than the network", path="source", given=list(held[key]),
                            allowed=str(list(shape)))  # fmt: skip


def load(at: Path, name: str, dtype: str) -> Any:
    """The network of that class with its weights, all of them: diffusers would make up what a file lacks.

    Raises:
        SpecError: configuration and weights make no network, or not one another's.
    """
    cls = getattr(importlib.import_module("diffusers"), name)
    try:
        network, found = cls.from_pretrained(
            at, torch_dtype=getattr(torch, dtype), use_safetensors=True,
            local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # a stranger's configuration, or weights of other shapes
        raise _unfit(error, at) from None
    _complete(sorted(found["missing_keys"]), sorted(found["unexpected_keys"]))
    # Some networks are loaded in the dtype of the file, whatever is asked for.
    return network.to(getattr(torch, dtype)).eval()


def _unfit(error: Exception, at: Path) -> SpecError:
    text = f"cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
    return SpecError(text, path="source", given=str(at))


def _complete(missing: Sequence[str], unexpected: Sequence[str]) -> None:
    for what, keys in (("missing", missing), ("unexpected", unexpected)):
        if keys:
            raise SpecError(f"{len(keys)} {what} keys in its weights", path="source", given=keys[0], allowed="none")
