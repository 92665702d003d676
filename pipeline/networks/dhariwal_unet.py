"""ADM's U-Net (Dhariwal and Nichol, 2021, arXiv 2105.05233), as EDM trained it (Karras et al., arXiv 2206.00364)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.layers import Conv2d, GroupNorm, Linear, PositionalEmbedding, UNetBlock

CHANNELS_PER_HEAD = 64


class DhariwalUNet(nn.Module):
    """F(x; c_noise). The arguments bear the names of the published constructor; see `SongUNet` for what they mean."""

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
    ) -> None:
        del dropout, label_dropout
        super().__init__()
        emb_channels = model_channels * channel_mult_emb
        block = functools.partial(UNetBlock, emb_channels=emb_channels)
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)
        self.map_label = Linear(label_dim, emb_channels, bias=False) if label_dim else None

        sizes = [img_resolution >> level for level in range(len(channel_mult))]
        self.enc = nn.ModuleDict()
        width = in_channels
        skips = []
        for level, (size, mult) in enumerate(zip(sizes, channel_mult, strict=True)):
            name, wide = f"{size}x{size}", model_channels * mult
            heads = wide // CHANNELS_PER_HEAD if size in attn_resolutions else 0
            if level == 0:
                self.enc[f"{name}_conv"] = Conv2d(width, wide, 3)
                width = wide
            else:
                self.enc[f"{name}_down"] = block(width, width, down=True)
            skips.append(width)
            for index in range(num_blocks):
                self.enc[f"{name}_block{index}"] = block(width, wide, heads=heads)
                width = wide
                skips.append(width)

        self.dec = nn.ModuleDict()
        last = len(channel_mult) - 1
        for level in range(last, -1, -1):
            size, wide = sizes[level], model_channels * channel_mult[level]
            name = f"{size}x{size}"
            heads = wide // CHANNELS_PER_HEAD if size in attn_resolutions else 0
            if level == last:
                self.dec[f"{name}_in0"] = block(width, width, heads=width // CHANNELS_PER_HEAD)
                self.dec[f"{name}_in1"] = block(width, width)
            else:
                self.dec[f"{name}_up"] = block(width, width, up=True)
            for index in range(num_blocks + 1):
                self.dec[f"{name}_block{index}"] = block(width + skips.pop(), wide, heads=heads)
                width = wide
        self.out_norm = GroupNorm(width)
        self.out_conv = Conv2d(width, out_channels, 3)

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """(B, C, H, W), (1 or B,), one-hot labels (1 or B, label_dim), (B, augment_dim) -> (B, out, H, W)."""
        emb = self.map_noise(c_noise)
        if self.map_augment is not None and augment is not None:
            emb = emb + self.map_augment(augment)
        emb = self.map_layer1(functional.silu(self.map_layer0(emb)))
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels)
        emb = functional.silu(emb)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            joined = x if name.endswith(("_in0", "_in1", "_up")) else torch.cat([x, skips.pop()], dim=1)
            x = layer(joined, emb)
        out: Tensor = self.out_conv(functional.silu(self.out_norm(x)))
        return out
