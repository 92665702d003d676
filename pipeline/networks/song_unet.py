"""DDPM++ and NCSN++ (Song et al., 2021, arXiv 2011.13456), as EDM trained them (Karras et al., arXiv 2206.00364)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.layers import Conv2d, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding, UNetBlock

Path = Literal["standard", "skip", "residual"]


class SongUNet(nn.Module):
    """F(x; c_noise). DDPM++ is `positional`, `standard` on both sides; NCSN++ `fourier` with a `residual` encoder.

    The arguments bear the names of the published constructor, since a checkpoint records them. `label_dim` classes and
    `augment_dim` augmentation inputs of 0 mean none. Dropout plays no part in sampling: its rates are only accepted.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Path = "standard",
        decoder_type: Path = "standard",
        resample_filter: Sequence[int] = (1, 1),
    ) -> None:
        del dropout, label_dropout
        super().__init__()
        emb_channels, noise_channels = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        taps = tuple(resample_filter)
        block = functools.partial(
            UNetBlock, emb_channels=emb_channels, skip_scale=math.sqrt(0.5), eps=1e-6, filter_taps=taps,
            resample_proj=True, adaptive_scale=False,
        )  # fmt: skip
        self.map_noise: nn.Module = (
            PositionalEmbedding(noise_channels, endpoint=True)
            if embedding_type == "positional"
            else FourierEmbedding(noise_channels)
        )
        self.map_label = Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)

        sizes = [img_resolution >> level for level in range(len(channel_mult))]
        self.enc = nn.ModuleDict()
        width = image_width = in_channels
        skips = []
        for level, (size, mult) in enumerate(zip(sizes, channel_mult, strict=True)):
            name = f"{size}x{size}"
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(width, model_channels, 3)
                width = model_channels
            else:
                self.enc[f"{name}_down"] = block(width, width, down=True)
                if encoder_type == "skip":
                    self.enc[f"{name}_aux_down"] = Conv2d(image_width, image_width, 0, down=True, filter_taps=taps)
                    self.enc[f"{name}_aux_skip"] = Conv2d(image_width, width, 1)
                elif encoder_type == "residual":
                    self.enc[f"{name}_aux_residual"] = Conv2d(
                        image_width, width, 3, down=True, filter_taps=taps, fused=True
                    )
                    image_width = width
            skips.append(width)
            for index in range(num_blocks):
                heads = int(size in attn_resolutions)
                self.enc[f"{name}_block{index}"] = block(width, model_channels * mult, heads=heads)
                width = model_channels * mult
                skips.append(width)

        self.dec = nn.ModuleDict()
        last = len(channel_mult) - 1
        for level in range(last, -1, -1):
            size, name = sizes[level], f"{sizes[level]}x{sizes[level]}"
            if level == last:
                self.dec[f"{name}_in0"] = block(width, width, heads=1)
                self.dec[f"{name}_in1"] = block(width, width)
            else:
                self.dec[f"{name}_up"] = block(width, width, up=True)
            for index in range(num_blocks + 1):
                heads = int(index == num_blocks and size in attn_resolutions)
                self.dec[f"{name}_block{index}"] = block(
                    width + skips.pop(), model_channels * channel_mult[level], heads=heads
                )
                width = model_channels * channel_mult[level]
            if decoder_type == "skip" or level == 0:
                if decoder_type == "skip" and level < last:
                    self.dec[f"{name}_aux_up"] = Conv2d(out_channels, out_channels, 0, up=True, filter_taps=taps)
                self.dec[f"{name}_aux_norm"] = GroupNorm(width, eps=1e-6)
                self.dec[f"{name}_aux_conv"] = Conv2d(width, out_channels, 3)

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """(B, C, H, W), (1 or B,), one-hot labels (1 or B, label_dim), (B, augment_dim) -> (B, out, H, W)."""
        return self._decode(*self._encode(x, self._embed(c_noise, labels, augment)))

    def _embed(self, c_noise: Tensor, labels: Tensor | None, augment: Tensor | None) -> Tensor:
        # The published weights expect the sines first.
        cosines, sines = self.map_noise(c_noise).chunk(2, dim=1)
        emb = torch.cat([sines, cosines], dim=1)
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels * math.sqrt(self.map_label.in_features))
        if self.map_augment is not None and augment is not None:
            emb = emb + self.map_augment(augment)
        return functional.silu(self.map_layer1(functional.silu(self.map_layer0(emb))))

    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        skips: list[Tensor] = []
        image = x
        for name, layer in self.enc.items():
            if name.endswith("_aux_down"):
                image = layer(image)
            elif name.endswith("_aux_skip"):
                x = skips[-1] = x + layer(image)
            elif name.endswith("_aux_residual"):
                x = skips[-1] = image = (x + layer(image)) / math.sqrt(2)
            else:
                x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
                skips.append(x)
        return x, emb, skips

    def _decode(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        image: Tensor | None = None
        normed = x
        for name, layer in self.dec.items():
            if name.endswith("_aux_up"):
                image = layer(image)
            elif name.endswith("_aux_norm"):
                normed = layer(x)
            elif name.endswith("_aux_conv"):
                part = layer(functional.silu(normed))
                image = part if image is None else part + image
            else:
                joined = x if name.endswith(("_in0", "_in1", "_up")) else torch.cat([x, skips.pop()], dim=1)
                x = layer(joined, emb)
        assert image is not None  # the last level has an `_aux_conv`
        return image
