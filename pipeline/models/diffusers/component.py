"""One component of a diffusers pipeline: its configuration and its network, from a folder."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.models.diffusers import folder
from pipeline.registry import SpecError


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
        text = f"cannot be loaded ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        raise SpecError(text, path="source", given=str(at)) from None
    for key in ("missing_keys", "unexpected_keys"):
        if found[key]:
            text = f"{len(found[key])} {key.replace('_', ' ')} in its weights"
            raise SpecError(text, path="source", given=sorted(found[key])[0], allowed="none")
    # Some networks are loaded in the dtype of the file, whatever is asked for.
    return network.to(getattr(torch, dtype)).eval()
