"""Extractors whose network's weights are in a file that the user fetched."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from pipeline.metrics.features import name_of, through
from pipeline.metrics.weight_files import WeightsFile
from pipeline.registry import SpecError

# Images at a time: Inception's largest layer of 16 takes 90 MB; an accelerator takes as many as EDM's fid.py.
ROWS, ROWS_ON_DEVICE = 16, 64


@dataclass(frozen=True)
class FileExtractor(ABC):
    """Features of uint8 images, grey ones as RGB. `weights` is the file, found by the rules of `weights_file` if empty.

    Nothing is fetched. A worker elsewhere finds the file by the same rules.

    Raises:
        SpecError: no such file, or no weights of this network in it.
    """

    weights: str = ""
    needs_pixels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.network("cpu")

    @abstractmethod
    def weights_file(self) -> WeightsFile:
        """Where the weights may be, and where they can be had."""

    @abstractmethod
    def network(self, device: str) -> Any:
        """torch-fidelity's extractor on `device`, its weights those of `file`, whose SHA-256 is `hash`."""

    @abstractmethod
    def width(self) -> int:
        """How many features an image has."""

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) uint8 -> (B, d) float32."""
        device = str(images.device)
        network = self.network(device)
        rows = ROWS if device == "cpu" else ROWS_ON_DEVICE
        return through(lambda part: network(part.expand(-1, 3, -1, -1))[0], images, rows)

    def dim(self, shape: tuple[int, ...]) -> int:
        """The network's width, whatever the resolution."""
        if len(shape) != 3 or shape[0] not in (1, 3):
            message = f"{name_of(self)} takes grey images or RGB"
            raise SpecError(message, given=list(shape), allowed="(1 or 3, H, W)")
        return self.width()

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the weights' file. It stays what it was when the extractor was made, also on a worker."""
        return self.weights_file().sha256(self.file)

    @property
    def file(self) -> Path:
        """The weights' file."""
        return self.weights_file().found(self.weights)
