"""A network that was trained here: one safetensors file, which says in its metadata what it is and how it was made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from pipeline.networks.checkpoint import Checkpoint
from pipeline.networks.preconditioning import Preconditioner
from pipeline.registry import SpecError
from pipeline.whole_file import write_whole
from pipeline.yaml_file import mistake

# One metadata key: the order of several in the file differs from run to run (safetensors 0.8).
_METADATA = "sigmasearch"


class Description(BaseModel):
    """The file's metadata. `patch` x `patch` pixels are one of the network's; `training` is for the reader."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: int = 1
    kind: str
    arguments: dict[str, Any]
    patch: int = Field(ge=1, le=16)
    data: str
    training: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """What a file holds: a description, and the weights by their names."""

    description: Description
    tensors: dict[str, Tensor]

    def network(self) -> Preconditioner:
        """The network with its weights, on the CPU.

        Raises:
            SpecError: weights and description do not fit.
        """
        return self._checkpoint.network()

    @property
    def shape(self) -> tuple[int, int, int]:
        """One image of the data, (C, H, W)."""
        patch, arguments = self.description.patch, self.description.arguments
        size = int(arguments["img_resolution"]) * patch
        return int(arguments["img_channels"]) // patch**2, size, size

    @property
    def hash(self) -> str:
        """SHA-256 of what decides D, 64 hex digits; how it was trained does not."""
        return hashlib.sha256(f"patch {self.description.patch} {self._checkpoint.hash}".encode()).hexdigest()

    @property
    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.description.kind, self.description.arguments, self.tensors)


def patches(images: Tensor, patch: int) -> Tensor:
    """What the network sees: (B, C, H, W) -> (B, C patch^2, H / patch, W / patch).

    The pixels are only put elsewhere, so noise and D are the same in either order.
    """
    return functional.pixel_unshuffle(images, patch)


def pixels(patched: Tensor, patch: int) -> Tensor:
    """The inverse of `patches`."""
    return functional.pixel_shuffle(patched, patch)


def save(trained: Trained, out: Path) -> None:
    """Write the file, whole or not at all. Equal networks and descriptions give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.tensors.items()}
    metadata = {_METADATA: json.dumps(trained.description.model_dump(mode="json"), sort_keys=True)}
    write_whole(out, safetensors.torch.save(tensors, metadata))


def load(path: Path) -> Trained:
    """Read a file that `save` wrote.

    Raises:
        SpecError: no such file, or none that `save` wrote; a description that its weights do not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            described = (file.metadata() or {}).get(_METADATA)
            if described is None:
                raise SpecError("holds no network that `sigmasearch train` wrote")
            description = Description.model_validate(json.loads(described))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        if description.format != 1:
            raise SpecError("is of another version", path="format", given=description.format, allowed="1")
        if not all(tensor.is_floating_point() for tensor in tensors.values()):
            raise SpecError("holds tensors that are no weights")
        trained = Trained(description, tensors)
        network = trained.network()
        if network.img_channels % description.patch**2:
            raise SpecError("does not divide the network's channels", path="patch", given=description.patch)
        return trained
    except SpecError as error:
        raise error.under(file=str(path)) from None
    except ValidationError as error:
        raise mistake(error, Description).under(file=str(path)) from None
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(f"cannot be read as a trained network ({reason})", file=str(path)) from None
