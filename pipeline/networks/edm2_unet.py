"""The magnitude-preserving U-Net of EDM2 (Karras et al., 2024, arXiv 2312.02696)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def normalized(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Divide x by its root mean square along `dims`, which are all but the first for a weight."""
    wide = torch.promote_types(x.dtype, torch.float32)  # the square of a float16 may be none
    size: Tensor = torch.linalg.vector_norm(x, dim=list(dims), keepdim=True, dtype=wide)
    return x / (1e-4 + size * math.sqrt(size.numel() / x.numel())).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """SiLU over the magnitude that it leaves of unit-normal x, 0.596 (eq. 81)."""
    return functional.silu(x) / 0.596


def mixed(a: Tensor, b: Tensor, share: float) -> Tensor:
    """(1 - share) a + share b, of unit magnitude where both have it and are independent (eq. 88)."""
    return a.lerp(b, share) / math.hypot(1 - share, share)


def joined(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The channels of both, each scaled so that it contributes its share whatever its width (eq. 103)."""
    of_a, of_b = a.shape[1], b.shape[1]
    scale = math.sqrt((of_a + of_b) / ((1 - share) ** 2 + share**2))
    return torch.cat([a * (scale / math.sqrt(of_a) * (1 - share)), b * (scale / math.sqrt(of_b) * share)], dim=1)


class MPFourier(nn.Module):
    """sqrt(2) cos(x f + phi) with the frequencies and phases of the checkpoint: (B,) -> (B, channels)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B,) -> (B, channels), in the dtype of x."""
        angles = torch.outer(x.float(), self.freqs.float()) + self.phases.float()
        return (angles.cos() * math.sqrt(2)).to(x.dtype)


class MPConv(nn.Module):
    """A convolution, or a linear layer where `kernel` is empty, whose outputs' weights have unit length; no bias.

    A gain that is stored in float16, as in the published files, is divided in float16, as published.
    """

    def __init__(self, into: int, out: int, kernel: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, into, *kernel))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """(B, in) -> (B, out), or (B, in, H, W) -> (B, out, H, W)."""
        weight = self.weight.float()
        weight = normalized(weight, range(1, weight.dim()))
        weight = (weight * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)
        if weight.dim() == 2:
            return x @ weight.t()
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)


class Block(nn.Module):
    """A block of the encoder, which normalises what it is given, or of the decoder, which does not."""

    def __init__(
        self,
        into: int,
        out: int,
        emb: int,
        *,
        encodes: bool,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        channels_per_head: int = 64,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
    ) -> None:
        super().__init__()
        self.encodes, self.up, self.down, self.taps = encodes, up, down, tuple(resample_filter)
        self.heads = out // channels_per_head if attention else 0
        self.res_balance, self.attn_balance, self.clip_act = res_balance, attn_balance, clip_act
        if self.heads and out % self.heads:
            raise ValueError(f"{out} channels in {self.heads} heads")
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(out if encodes else into, out, (3, 3))
        self.emb_linear = MPConv(emb, out)
        self.conv_res1 = MPConv(out, out, (3, 3))
        self.conv_skip = MPConv(into, out, (1, 1)) if into != out else None
        self.attn_qkv = MPConv(out, out * 3, (1, 1)) if self.heads else None
        self.attn_proj = MPConv(out, out, (1, 1)) if self.heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, in, H, W), (1 or B, emb) -> (B, out, H', W')."""
        x = self._resample(x)
        if self.encodes:
            x = normalized(x if self.conv_skip is None else self.conv_skip(x), [1])
        gain = self.emb_linear(emb, self.emb_gain) + 1
        inner = self.conv_res0(silu(x))
        inner = self.conv_res1(silu(inner * gain[:, :, None, None].to(inner.dtype)))
        if not self.encodes and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mixed(x, inner, self.res_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            x = mixed(x, self.attn_proj(self._attend(self.attn_qkv(x))), self.attn_balance)
        return x if self.clip_act is None else x.clip(-self.clip_act, self.clip_act)

    def _resample(self, x: Tensor) -> Tensor:
        if not self.up and not self.down:
            return x
        taps = torch.tensor(self.taps, dtype=torch.float32, device=x.device) / sum(self.taps)
        kernel = torch.outer(taps, taps)[None, None].to(x.dtype)
        each, padding = kernel.expand(x.shape[1], -1, -1, -1), (len(self.taps) - 1) // 2
        if self.down:
            return functional.conv2d(x, each, groups=x.shape[1], stride=2, padding=padding)
        return functional.conv_transpose2d(x, each * 4, groups=x.shape[1], stride=2, padding=padding)

    def _attend(self, mixed_up: Tensor) -> Tensor:
        batch, channels, height, width = mixed_up.shape
        # Of the 3 C channels, each head has a run, in which q, k and v alternate.
        parts = mixed_up.reshape(batch, self.heads, -1, 3, height * width)
        query, key, value = normalized(parts, [2]).unbind(3)
        weights = torch.einsum("nhcq,nhck->nhqk", query, key / math.sqrt(query.shape[2])).softmax(dim=3)
        attended: Tensor = torch.einsum("nhqk,nhck->nhcq", weights, value)
        return attended.reshape(batch, channels // 3, height, width)


class UNet(nn.Module):
    """F(x; c_noise). The arguments bear the names of the published constructor, since a checkpoint records them."""

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        resample_filter: Sequence[float] = (1, 1),
        channels_per_head: int = 64,
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
    ) -> None:
        del dropout
        super().__init__()
        widths = [model_channels * mult for mult in channel_mult]
        noise = model_channels * channel_mult_noise if channel_mult_noise is not None else widths[0]
        emb = model_channels * channel_mult_emb if channel_mult_emb is not None else max(widths)
        self.label_balance, self.concat_balance = label_balance, concat_balance
        block = functools.partial(
            Block, emb=emb, resample_filter=resample_filter, channels_per_head=channels_per_head,
            res_balance=res_balance, attn_balance=attn_balance, clip_act=clip_act,
        )  # fmt: skip
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier = MPFourier(noise)
        self.emb_noise = MPConv(noise, emb)
        self.emb_label = MPConv(label_dim, emb) if label_dim else None

        sizes = [img_resolution >> level for level in range(len(widths))]
        self.enc = nn.ModuleDict()
        held, skips = widths[0], []
        for level, (size, width) in enumerate(zip(sizes, widths, strict=True)):
            name = f"{size}x{size}"
            if level == 0:
                # One more channel, of ones, stands for the biases.
                self.enc[f"{name}_conv"] = MPConv(img_channels + 1, held, (3, 3))
            else:
                self.enc[f"{name}_down"] = block(held, held, encodes=True, down=True)
            skips.append(held)
            for index in range(num_blocks):
                self.enc[f"{name}_block{index}"] = block(held, width, encodes=True, attention=size in attn_resolutions)
                held = width
                skips.append(held)
        self.dec = nn.ModuleDict()
        for level in range(len(widths) - 1, -1, -1):
            size, width, name = sizes[level], widths[level], f"{sizes[level]}x{sizes[level]}"
            if level == len(widths) - 1:
                self.dec[f"{name}_in0"] = block(held, held, encodes=False, attention=True)
                self.dec[f"{name}_in1"] = block(held, held, encodes=False)
            else:
                self.dec[f"{name}_up"] = block(held, held, encodes=False, up=True)
            for index in range(num_blocks + 1):
                attention = size in attn_resolutions
                into = held + skips.pop()
                self.dec[f"{name}_block{index}"] = block(into, width, encodes=False, attention=attention)
                held = width
        self.out_conv = MPConv(held, img_channels, (3, 3))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (1 or B,), one-hot labels (1 or B, label_dim) -> (B, C, H, W)."""
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None and labels is not None:
            emb = mixed(emb, self.emb_label(labels * math.sqrt(labels.shape[1])), self.label_balance)
        emb = silu(emb)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            if "_block" in name:
                x = joined(x, skips.pop(), self.concat_balance)
            x = layer(x, emb)
        out: Tensor = self.out_conv(x, self.out_gain)
        return out
