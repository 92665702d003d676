"""AutoencoderKL, the decoder of latents (Rombach et al., 2022, arXiv 2112.10752): its folder, and what it decodes."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.models.diffusers import component, folder
from pipeline.models.diffusers.condition import whole
from pipeline.registry import SpecError

# Decoding takes far more memory an image than sampling its latent did.
DECODED_AT_ONCE = 16


@dataclass(frozen=True)
class Autoencoder:
    """The component in the folder `at`; its weights are loaded when it first decodes."""

    at: Path

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Its `config.json`."""
        return component.configuration(self.at, "vae")

    @functools.cached_property
    def files(self) -> list[Path]:
        """Those of its weights, whose names and shapes are this network's."""
        found = folder.weights(self.at)
        component.check(self.at, "AutoencoderKL", self.config, found)
        return found

    @property
    def side(self) -> int:
        """How many pixels along one side of a latent: the decoder doubles between its blocks."""
        blocks = self.config.get("block_out_channels")
        return 2 ** (len(blocks) - 1) if isinstance(blocks, list) and blocks else 1

    def image_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) of what it makes of a latent (C, H, W)."""
        return whole(self.config, "out_channels", 3), self.side * shape[1], self.side * shape[2]

    def norms(self, channels: int) -> tuple[float, Tensor, Tensor]:
        """What latents were multiplied by, their mean and their deviation before, each (1 or C, 1, 1)."""
        held = self.config
        mean, std = held.get("latents_mean"), held.get("latents_std")
        if mean is None or std is None:
            mean, std = [0.0], [1.0]
        try:
            factor = float(held.get("scaling_factor", 0.18215))  # diffusers' default: an old decoder does not say it
            shift = float(held.get("shift_factor") or 0)
            norms = torch.tensor([mean, std], dtype=torch.float32)[..., None, None]
            fits = norms.shape[1] in (1, channels) and factor > 0
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise SpecError("has no right scaling of latents", path="vae", given=held.get("scaling_factor"))
        return factor, norms[0] + shift, norms[1]

    def decode(self, latents: Tensor) -> Tensor:
        """What it makes of latents as it was trained on them, float32: (B, C, H, W), on their device."""
        decoder = self._decoders(str(latents.device))
        with torch.no_grad():
            return torch.cat([decoder.decode(part).sample for part in torch.split(latents, DECODED_AT_ONCE)])

    @functools.cached_property
    def _decoders(self) -> Any:
        return functools.cache(lambda device: component.load(self.at, "AutoencoderKL", "float32").to(device))
