"""The latents of EDM2's networks of ImageNet-512, and what Stable Diffusion's decoder makes of them."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.models.diffusers import folder
from pipeline.models.diffusers.autoencoder import Autoencoder
from pipeline.models.diffusers.component import public
from pipeline.registry import SpecError

# NVlabs/edm2 training/encoders.py:82-85: mean and deviation of the raw latents, by channel, and the deviation wanted.
RAW_MEAN = (5.81, 3.25, 0.12, -2.15)
RAW_STD = (4.17, 4.62, 3.71, 3.28)
FINAL_STD = 0.5


@dataclass(frozen=True)
class Edm2Decoder:
    """AutoencoderKL in the folder `path`, or in `vae` of a pipeline's folder; EDM2's is stabilityai/sd-vae-ft-mse."""

    path: str

    @functools.cached_property
    def autoencoder(self) -> Autoencoder:
        """The decoder's files, looked at.

        Raises:
            SpecError: about the card's `decoder`: no such folder, not an AutoencoderKL, damaged.
        """
        at = Path(self.path).expanduser()
        if importlib.util.find_spec("diffusers") is None:
            raise SpecError("needs the package diffusers", path="decoder", allowed="pip install diffusers")
        if not at.is_dir():
            allowed = "a folder with an AutoencoderKL, as `hf download stabilityai/sd-vae-ft-mse --local-dir FOLDER`"
            raise SpecError("there is no such folder", path="decoder", given=self.path, allowed=f"{allowed} makes it")
        try:
            found = Autoencoder(folder.part(at, "vae"))
            named = found.config.get("_class_name")
            if named != "AutoencoderKL":
                raise SpecError("is another network", given=named, allowed="AutoencoderKL")
            _ = found.files
        except SpecError as error:
            raise SpecError(error.message, path="decoder", given=error.given, allowed=error.allowed) from None
        return found

    def check(self, channels: int) -> None:
        """Refuse a network of other latents.

        Raises:
            SpecError: it does not make `channels` channels, or no others than those whose scaling is published.
        """
        held = self.autoencoder.config.get("latent_channels", 4)
        if not channels == held == len(RAW_MEAN):
            raise SpecError("is for a network of latents", path="decoder", given=f"a network of {channels} channels",
                            allowed=f"{len(RAW_MEAN)} channels of both; these are {held}")  # fmt: skip
        try:
            self.image_shape((channels, 1, 1))
        except SpecError as error:
            raise SpecError(error.message, path="decoder", given=error.given, allowed=error.allowed) from None

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of its configuration and of its weights' bytes."""
        return folder.digest(public(self.autoencoder.config), folder.sums(self.autoencoder.files))

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) of what becomes of a latent (C, H, W)."""
        return self.autoencoder.image_shape(shape)

    def decode(self, samples: Tensor) -> Tensor:
        """Latents as images in [-1, 1], float32: (B, C, H, W).

        EDM2 shows the autoencoder pixels in [0, 1], and cuts 255 times its answer to whole numbers (NVlabs/edm2
        training/encoders.py:114 and 125-132); `quantise` rounds, so that half a grey level is taken off here.
        """
        mean, std = (torch.tensor(value, device=samples.device)[:, None, None] for value in (RAW_MEAN, RAW_STD))
        decoded = self.autoencoder.decode(samples.float() * (std / FINAL_STD) + mean)
        return (255 * decoded - 128) / 127.5
