"""Feature extractors by name, the one place where pixels are quantised, and the way into torch-fidelity."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline.metrics import classifier
from pipeline.registry import Registry, SpecError

# Images at a time through a network on the CPU: activations stay in cache (8000 digits: 86 ms, 186 ms with 512).
ROWS = 256


@runtime_checkable
class Extractor(Protocol):
    """Images to features, image by image. `needs_pixels`: whether it takes uint8 images rather than float samples."""

    needs_pixels: ClassVar[bool]

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, d), on the same device."""
        ...

    def dim(self, shape: tuple[int, ...]) -> int:
        """d, of images of this shape (C, H, W).

        Raises:
            SpecError: it takes no such images.
        """
        ...

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides the features, 64 hex digits."""
        ...


FEATURES: Registry[Extractor] = Registry("feature extractor", ("pipeline.metrics.inception", "pipeline.metrics.dinov2"))


def name_of(extractor: Extractor) -> str:
    """The name that an extractor is registered under."""
    return str(getattr(extractor, "registry_name", type(extractor).__name__))


def quantise(samples: Tensor) -> Tensor:
    """Samples in [-1, 1] to pixels: floor(x * 127.5 + 128) clipped to uint8 (EDM's generate.py and fid.py).

    Nothing else in the package rounds pixels. Not a number becomes 0.
    """
    return (samples * 127.5 + 128).nan_to_num(nan=0.0).clip(0, 255).to(torch.uint8)


@FEATURES.register("identity")
@dataclass(frozen=True)
class Identity:
    """The image itself, flattened: exact reference moments exist for closed-form models."""

    needs_pixels: ClassVar[bool] = False

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * H * W), in the dtype of the images, uint8 as float32."""
        flat = images.flatten(1)
        return flat if flat.is_floating_point() else flat.float()

    def dim(self, shape: tuple[int, ...]) -> int:
        """C * H * W."""
        return math.prod(shape)

    @property
    def hash(self) -> str:
        """The SHA-256 of the name: there is nothing else."""
        return hashlib.sha256(b"identity").hexdigest()


@FEATURES.register("digits-cnn")
@dataclass(frozen=True)
class DigitsCNN:
    """64 penultimate features of the shipped classifier of digits, from uint8 images (B, 1, 8, 8)."""

    needs_pixels: ClassVar[bool] = True

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1, 8, 8) uint8 -> (B, 64) float32."""
        network = classifier.shipped(str(images.device))
        rows = ROWS if images.device.type == "cpu" else max(1, len(images))
        return through(network.features, images, rows)

    def dim(self, shape: tuple[int, ...]) -> int:
        """64, of digits only."""
        if tuple(shape) != (1, 8, 8):
            raise SpecError("digits-cnn takes digits", given=list(shape), allowed="[1, 8, 8]")
        return classifier.FEATURES

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the weights' file."""
        return hashlib.sha256(classifier.WEIGHTS.read_bytes()).hexdigest()


def register_torch_fidelity() -> None:
    """Make `digits-cnn` known to torch-fidelity under that name; a second call does nothing.

    Then `torch_fidelity.calculate_metrics(feature_extractor="digits-cnn", ...)` works. Its features are ours, handed
    over in float64 because torch-fidelity averages in the dtype that it is given. A grey image that its reader made RGB
    is taken by its first channel.
    """
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    if "digits-cnn" in FEATURE_EXTRACTORS_REGISTRY:
        return

    class FidelityDigitsCNN(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity ships no types
        """The contract of torch-fidelity 0.4 around `DigitsNet`."""

        def __init__(self, name: str, features_list: list[str], **kwargs: Any) -> None:
            super().__init__(name, features_list)
            self.network = classifier.load().network

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "penultimate", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "penultimate"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, input: Tensor) -> tuple[Tensor, ...]:
            if input.dtype != torch.uint8 or input.ndim != 4:
                raise ValueError(f"digits-cnn takes uint8 images (B, C, H, W), not {input.dtype} {tuple(input.shape)}")
            penultimate = self.network.features(input[:, :1])
            layers = {"penultimate": penultimate, "logits": self.network.last(penultimate)}
            return tuple(layers[name].double() for name in self.features_list)

    register_feature_extractor("digits-cnn", FidelityDigitsCNN)


def through(network: Callable[[Tensor], Tensor], images: Tensor, rows: int) -> Tensor:
    """Features of uint8 images (B, C, H, W) -> (B, d), so many at a time, without gradients.

    Raises:
        TypeError: images of another type.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"this extractor takes uint8 images, not {images.dtype}: quantise them first")
    with torch.no_grad():
        return torch.cat([network(part) for part in torch.split(images, rows)])
