"""A class-conditional U-Net as a model: the one that ships, `digits-unet`, or one that `sigmasearch train` wrote."""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.acceleration import EVERY, Raw
from pipeline.denoiser import Denoiser
from pipeline.models import MODELS, data
from pipeline.models.classes import drawn_classes
from pipeline.networks.preconditioning import Preconditioner
from pipeline.networks.trained import Trained, load, patches, pixels
from pipeline.registry import SpecError, require

WEIGHTS = Path(__file__).parent / "weights" / "digits-unet.safetensors"
# Rows at a time through the network on the CPU: its activations stay in cache.
CPU_ROWS = 512


@MODELS.register("unet")
@dataclass(frozen=True)
class UNetModel:
    """The network in the file at `path`, or the one that ships where that is null.

    `label` is the class of every image; null draws the class of each image from its seed. `guidance` is the w of
    D = D(no class) + w (D(class) - D(no class)) (Ho and Salimans, 2022, arXiv 2207.12598, in EDM's terms): at 1 the
    network sees an image once an evaluation, else twice.

    Raises:
        SpecError: no such file, or not a network trained here; no such class; a guidance that is no number from 0.
    """

    paths: ClassVar[tuple[str, ...]] = ("path",)
    accelerations: ClassVar[tuple[str, ...]] = EVERY

    path: str | None = None
    label: int | None = None
    guidance: float = 1.0

    def __post_init__(self) -> None:
        require(math.isfinite(self.guidance) and self.guidance >= 0, "guidance", self.guidance, "a number, >= 0")
        classes = self.classes
        if self.label is not None:
            require(0 <= self.label < classes, "label", self.label, f"0 to {classes - 1}")

    @property
    def shape(self) -> tuple[int, ...]:
        """One image: (C, H, W)."""
        return self._trained.shape

    @property
    def rows_per_image(self) -> int:
        """Network rows that an evaluation of an image takes."""
        return 1 if self.guidance == 1 else 2

    @property
    def classes(self) -> int:
        """How many classes the network has."""
        return self._network.label_dim

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the network, the class and the guidance."""
        return hashlib.sha256(f"{self._trained.hash} label {self.label} guidance {self.guidance}".encode()).hexdigest()

    def images(self) -> Tensor:
        """The data that the network was trained on, float32 in [-1, 1] (N, C, H, W)."""
        return data.images(self._trained.description.data)

    def denoiser(self, device: str = "cpu") -> Denoiser:
        """D on `device`, for images of the class `label`.

        Raises:
            SpecError: none is named: `denoiser_for` draws one for each seed.
        """
        if self.label is None:
            raise SpecError("no class is named, and no seeds to draw classes from", path="label",
                            allowed=f"0 to {self.classes - 1}")  # fmt: skip
        return UNetDenoiser(self._on(device), [self.label], self._trained.description.patch, self.guidance)

    def denoiser_for(self, seeds: range, device: str = "cpu") -> Denoiser:
        """D for one batch, the images of these seeds in this order: each of its own class, or all of `label`."""
        if self.label is not None:
            return self.denoiser(device)
        classes = drawn_classes(seeds, self.classes)
        return UNetDenoiser(self._on(device), classes, self._trained.description.patch, self.guidance)

    def draw(self, count: int, seed: int) -> Tensor:
        """A trained network cannot be drawn from exactly."""
        raise NotImplementedError(f"{self._file} holds a trained network")

    def __getstate__(self) -> Mapping[str, Any]:
        # A worker reads the file itself.
        return {"path": self.path, "label": self.label, "guidance": self.guidance}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @property
    def _file(self) -> Path:
        return WEIGHTS if self.path is None else Path(self.path).expanduser()

    @functools.cached_property
    def _trained(self) -> Trained:
        try:
            found = load(self._file)
            if not found.network().label_dim:
                raise SpecError("holds a network without classes", file=str(self._file))
        except SpecError as error:
            # A card's error names the card as its file: what is wrong with the weights is a mistake of the key `path`.
            message = ": ".join(part for part in (error.file, error.path, error.message) if part)
            raise SpecError(message, path="path", given=error.given, allowed=error.allowed) from None
        return found

    @functools.cached_property
    def _network(self) -> Preconditioner:
        return self._trained.network()

    @functools.cached_property
    def _networks(self) -> dict[str, Preconditioner]:
        return {"cpu": self._network}

    def _on(self, device: str) -> Preconditioner:
        if device not in self._networks:
            self._networks[device] = self._trained.network().to(device)
        return self._networks[device]


class UNetDenoiser:
    """D(x; sigma) without gradients, guided: rounded to float32 for the network, and back to the dtype of x.

    `classes`: one for every image, or one for each image of the batch. Each image is shown `rows_per_image` times an
    evaluation, with its class and without, in one call of the network.
    """

    # As EdmDenoiser: parameters are cast to what they meet.
    follows_dtype: ClassVar[bool] = True

    def __init__(self, network: Preconditioner, classes: Sequence[int], patch: int, guidance: float) -> None:
        self.network, self.patch, self.guidance = network, patch, guidance
        self.rows_per_image = 1 if guidance == 1 else 2
        self._raw: Raw | None = None
        held = torch.tensor(classes, dtype=torch.int64, device=next(network.parameters()).device)
        self.labels = functional.one_hot(held, network.label_dim).float()

    def raw(self, network: nn.Module) -> Raw:
        """F of this preconditioned network: images, c_noise and labels -> a tensor."""
        assert isinstance(network, Preconditioner)
        return network.raw

    def through(self, raw: Raw) -> UNetDenoiser:
        """The same D with `raw` in the place of F."""
        other = copy.copy(self)
        other._raw = raw
        return other

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        if len(self.labels) not in (1, len(x)):
            raise ValueError(f"{len(self.labels)} classes for {len(x)} images")
        labels = self.labels.expand(len(x), -1)
        rows = CPU_ROWS // self.rows_per_image if x.device.type == "cpu" else max(1, len(x))
        level = torch.full((), sigma, dtype=torch.float32, device=x.device)
        with torch.no_grad():
            parts = [
                self._guided(part, level, told)
                for part, told in zip(torch.split(x, rows), torch.split(labels, rows), strict=True)
            ]
        return torch.cat(parts).to(x.dtype)

    def _guided(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        seen = patches(x.float(), self.patch)
        if self.rows_per_image == 1:
            return pixels(self.network(seen, sigma, labels, torch.float32, self._raw), self.patch)
        twice, every = seen.repeat(2, 1, 1, 1), torch.cat([labels, torch.zeros_like(labels)])
        both: Tensor = self.network(twice, sigma, every, torch.float32, self._raw)
        told, untold = pixels(both, self.patch).chunk(2)
        return untold + self.guidance * (told - untold)
