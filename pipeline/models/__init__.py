"""Models by name: one file a family. A model's fields are its entry in a benchmark's card."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.registry import Registry


@runtime_checkable
class Model(Protocol):
    """A frozen description of a network or of a closed form; weights are loaded by `denoiser`, not before.

    A class may have `paths`, those of its fields that are paths, and `paths_or_ids`, those that a hub may know as well.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """One image: (C, H, W)."""
        ...

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides D, 64 hex digits."""
        ...

    def denoiser(self, device: str = "cpu") -> Denoiser:
        """D(x; sigma) on `device`, in the dtype of x."""
        ...

    def draw(self, count: int, seed: int) -> Tensor:
        """Exact samples of what the model models, float32 -> (count, C, H, W): what a perfect sampler would give.

        Raises:
            NotImplementedError: the model cannot, as a trained network cannot.
        """
        ...


@runtime_checkable
class Conditional(Protocol):
    """A model whose images are not all drawn for the same: each has a class, say, which its seed alone decides."""

    def denoiser_for(self, seeds: range, device: str = "cpu") -> Denoiser:
        """D(x; sigma) for one batch, the images of these seeds in this order."""
        ...


MODELS: Registry[Model] = Registry("model", (__name__,))
