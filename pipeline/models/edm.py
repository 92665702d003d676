"""A checkpoint of EDM or EDM2 as a model (Karras et al., 2022, arXiv 2206.00364; 2024, arXiv 2312.02696)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.denoiser import Denoiser
from pipeline.models import MODELS
from pipeline.models.classes import drawn_classes
from pipeline.networks.checkpoint import Checkpoint, read_checkpoint
from pipeline.networks.preconditioning import Preconditioner
from pipeline.registry import SpecError, require


@MODELS.register("edm")
@dataclass(frozen=True)
class EdmModel:
    """The network in the checkpoint at `path`: a pickle of NVlabs/edm or edm2, or what `convert` made of one.

    `label` is the class of every image; null for a network without classes, or where each image's class is drawn from
    its seed (`denoiser_for`). `fp16`: whether F runs in float16 on a CUDA device; null is as the network was trained.
    Elsewhere it runs in float32, as published. `sha256` is the file's, checked where it is given.

    Raises:
        SpecError: no such file, not a checkpoint, not the one of that hash; no such class.
    """

    paths: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    label: int | None = None
    fp16: bool | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        classes = self.classes
        if self.label is not None:
            require(0 <= self.label < classes, "label", self.label, f"0 to {classes - 1}" if classes else "null")

    @property
    def shape(self) -> tuple[int, ...]:
        """One image: (C, H, W)."""
        size = self._network.img_resolution
        return (self._network.img_channels, size, size)

    @property
    def rows_per_image(self) -> int:
        """Network rows that an evaluation of an image takes."""
        return 1

    @property
    def classes(self) -> int:
        """How many classes the network has; 0 where it has none."""
        return self._network.label_dim

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of kind, arguments and weights, of the class, and of whether float16 may be used."""
        named = f"{self._checkpoint.hash} label {self.label} fp16 {self._half}"
        return hashlib.sha256(named.encode()).hexdigest()

    def denoiser(self, device: str = "cpu") -> Denoiser:
        """D on `device`, in the dtype of x, for images of the class `label`.

        Raises:
            SpecError: the network has classes and none is named. All zeros is no class to it, and was never trained.
        """
        if self.classes and self.label is None:
            raise SpecError("the network has classes: name one", path="label", allowed=f"0 to {self.classes - 1}")
        return EdmDenoiser(self._on(device), None if self.label is None else [self.label], half=self._half)

    def denoiser_for(self, seeds: range, device: str = "cpu") -> Denoiser:
        """D for one batch, the images of these seeds in this order: each of the class that `drawn_classes` gives it."""
        if not self.classes or self.label is not None:
            return self.denoiser(device)
        return EdmDenoiser(self._on(device), self.drawn_classes(seeds), half=self._half)

    def drawn_classes(self, seeds: range) -> list[int]:
        """A class for each seed, uniform and a function of the seed alone, as noise is."""
        require(self.classes > 0, "label", None, "a network with classes")
        return list(drawn_classes(seeds, self.classes))

    def round_sigma(self, sigma: float) -> float:
        """The nearest sigma that the network was trained for: its own steps for iDDPM, sigma itself for the others."""
        return float(self._network.round_sigma(torch.tensor(sigma, dtype=torch.float64)))

    def draw(self, count: int, seed: int) -> Tensor:
        """A trained network cannot be drawn from exactly."""
        raise NotImplementedError(f"{self.path} holds a trained network")

    def __getstate__(self) -> Mapping[str, Any]:
        # A worker reads the file itself.
        return {"path": self.path, "label": self.label, "fp16": self.fp16, "sha256": self.sha256}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @functools.cached_property
    def _checkpoint(self) -> Checkpoint:
        file = Path(self.path).expanduser()
        if self.sha256 is not None and file.is_file():
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != self.sha256.lower():
                raise SpecError("is another file than the card names", path="sha256", given=found, allowed=self.sha256)
        try:
            return read_checkpoint(file)
        except SpecError as error:
            raise self._in_file(error) from None

    @functools.cached_property
    def _network(self) -> Preconditioner:
        checkpoint = self._checkpoint
        try:
            return checkpoint.network()
        except SpecError as error:
            raise self._in_file(error) from None

    def _in_file(self, error: SpecError) -> SpecError:
        # A card's error names the card as its file: what is wrong with the checkpoint is a mistake of the key `path`.
        where = [error.file or self.path, *([error.path] if error.path else [])]
        return SpecError(": ".join([*where, error.message]), path="path", given=error.given, allowed=error.allowed)

    @functools.cached_property
    def _networks(self) -> dict[str, Preconditioner]:
        return {"cpu": self._network}

    @property
    def _half(self) -> bool:
        return self._network.use_fp16 if self.fp16 is None else self.fp16

    def _on(self, device: str) -> Preconditioner:
        if device not in self._networks:
            copy = self._checkpoint.network()
            self._networks[device] = copy.to(device)
        return self._networks[device]


class EdmDenoiser:
    """D(x; sigma) without gradients: rounded to float32 for the network, and back to the dtype of x.

    `labels`: none, one for every image, or one for each image of the batch. `half` counts on CUDA devices only.
    """

    def __init__(self, network: Preconditioner, labels: Sequence[int] | None = None, *, half: bool = False) -> None:
        self.network, self.labels, self.half = network, None, half
        if labels is not None:
            device = next(network.parameters()).device
            self.labels = functional.one_hot(
                torch.tensor(labels, dtype=torch.int64, device=device), network.label_dim
            ).float()

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        if self.labels is not None and len(self.labels) not in (1, len(x)):
            raise ValueError(f"{len(self.labels)} labels for {len(x)} images")
        dtype = torch.float16 if self.half and x.device.type == "cuda" else torch.float32
        return self.denoise(x, sigma, dtype)

    def denoise(self, x: Tensor, sigma: float, dtype: torch.dtype) -> Tensor:
        """D with the network in this dtype.

        Raises:
            SpecError: float16 was not enough: the answer is not finite for an x that is.
        """
        with torch.no_grad():
            denoised: Tensor = self.network(x, torch.tensor(sigma, dtype=torch.float32, device=x.device),
                                            self.labels, dtype)  # fmt: skip
        if dtype == torch.float16 and not denoised.isfinite().all() and x.isfinite().all():
            raise SpecError(f"float16 overflowed at sigma {sigma:g}", path="fp16", given=True, allowed="false")
        return denoised.to(x.dtype)
