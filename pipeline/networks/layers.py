"""What the U-Nets of EDM are made of. Parameters are named and shaped as in the published files (arXiv 2206.00364).

Parameters are kept in float32 and are cast to the dtype of what they meet, so that one network serves float32 and
float16: the embedding of the noise level stays in float32 in both, as published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Module):
    """x W^T + b: (B, in) -> (B, out)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / math.sqrt(in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) -> (B, out)."""
        product = x @ self.weight.to(x.dtype).t()
        return product if self.bias is None else product + self.bias.to(x.dtype)


class Conv2d(nn.Module):
    """A convolution that keeps the size, after a low-pass filter that halves or doubles it; `kernel` 0 only resamples.

    `filter_taps` is one axis of the separable filter; the buffer `resample_filter` holds its outer product with sum 1.
    `fused` convolves before it halves, with one padding for both: how NCSN++ halves its residual input.
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        filter_taps: Sequence[float] = (1, 1),
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.up, self.down, self.fused = up, down, fused
        shape = (out_channels, in_channels, kernel, kernel)
        fan_in = in_channels * kernel**2
        self.weight = nn.Parameter(torch.randn(shape) / math.sqrt(fan_in)) if kernel else None
        self.bias = nn.Parameter(torch.zeros(out_channels)) if kernel else None
        taps = torch.tensor(filter_taps, dtype=torch.float32)
        outer = torch.outer(taps, taps)[None, None] / taps.sum().square()
        self.register_buffer("resample_filter", outer if up or down else None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H', W'), H' = H, H / 2 or 2 H."""
        own = 0 if self.weight is None else self.weight.shape[-1] // 2
        if self.resample_filter is None:
            x = self._convolve(x, own)
        else:
            low_pass = self.resample_filter.to(x.dtype)
            half = (low_pass.shape[-1] - 1) // 2
            if self.fused:
                x = _halve(self._convolve(x, own + half), low_pass, 0)
            else:
                x = self._convolve(_double(x, low_pass, half) if self.up else _halve(x, low_pass, half), own)
        return x if self.bias is None else x + self.bias.to(x.dtype)[:, None, None]

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        return x if self.weight is None else functional.conv2d(x, self.weight.to(x.dtype), padding=padding)


def _double(x: Tensor, low_pass: Tensor, padding: int) -> Tensor:
    # Zeros between the pixels take three quarters of the sum away.
    each = (low_pass * 4).expand(x.shape[1], -1, -1, -1)
    return functional.conv_transpose2d(x, each, groups=x.shape[1], stride=2, padding=padding)


def _halve(x: Tensor, low_pass: Tensor, padding: int) -> Tensor:
    each = low_pass.expand(x.shape[1], -1, -1, -1)
    return functional.conv2d(x, each, groups=x.shape[1], stride=2, padding=padding)


class GroupNorm(nn.Module):
    """Group normalisation over 32 groups, or as many as leave four channels in each.

    Raises:
        ValueError: the channels cannot be divided so.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = min(32, channels // 4), eps
        if channels % self.groups:
            raise ValueError(f"{channels} channels in {self.groups} groups")
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return functional.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class PositionalEmbedding(nn.Module):
    """cos and sin of x f_i, f_i = 10000^(-i / n) for i = 0 ... channels / 2 - 1.

    n = channels / 2 - 1 with `endpoint`, so that the last is 1 / 10000 (DDPM++), and channels / 2 without (ADM).
    """

    def __init__(self, channels: int, *, endpoint: bool = False) -> None:
        super().__init__()
        self.channels, self.endpoint = channels, endpoint
        if channels % 2:
            raise ValueError(f"{channels} channels of cosines and sines")

    def forward(self, x: Tensor) -> Tensor:
        """(B,) -> (B, channels): the cosines, then the sines."""
        half = self.channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=x.device) / (half - 1 if self.endpoint else half)
        angles = torch.outer(x, ((1 / 10000) ** exponents).to(x.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """cos and sin of 2 pi x f_i; the random frequencies `freqs` are part of the checkpoint (NCSN++)."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B,) -> (B, channels): the cosines, then the sines."""
        angles = torch.outer(x, (2 * math.pi * self.freqs).to(x.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class UNetBlock(nn.Module):
    """Norm, convolution, the embedding, norm, convolution, beside a skip; then self-attention where there are heads.

    `adaptive_scale`: the embedding scales and shifts the second norm's output (ADM); without, it is added before that
    norm (DDPM++, NCSN++). `skip_scale` multiplies each sum with a skip. `resample_proj`: a skip that only resamples has
    a 1 x 1 convolution nevertheless.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        heads: int = 0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        filter_taps: Sequence[float] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.heads, self.skip_scale, self.adaptive_scale = heads, skip_scale, adaptive_scale
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, up=up, down=down, filter_taps=filter_taps)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1))
        self.norm1 = GroupNorm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3)
        self.skip = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, up=up, down=down, filter_taps=filter_taps)
        if heads:
            if out_channels % heads:
                raise ValueError(f"{out_channels} channels in {heads} heads")
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1)
            self.proj = Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, in, H, W), (1 or B, emb) -> (B, out, H', W')."""
        inner = self.conv0(functional.silu(self.norm0(x)))
        given = self.affine(emb)[:, :, None, None].to(inner.dtype)
        if self.adaptive_scale:
            scale, shift = given.chunk(2, dim=1)
            inner = functional.silu(torch.addcmul(shift, self.norm1(inner), scale + 1))
        else:
            inner = functional.silu(self.norm1(inner + given))
        inner = self.conv1(inner)
        outer = (inner + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.heads:
            outer = (self.proj(self._attend(self.norm2(outer))) + outer) * self.skip_scale
        result: Tensor = outer
        return result

    def _attend(self, x: Tensor) -> Tensor:
        # Of the 3 C outputs of `qkv`, each head has a run of 3 C / heads, in which q, k and v alternate.
        mixed = self.qkv(x).reshape(len(x) * self.heads, x.shape[1] // self.heads, 3, -1)
        query, key, value = mixed.unbind(2)
        scores = torch.einsum("ncq,nck->nqk", query.float(), (key / math.sqrt(key.shape[1])).float())
        weights = scores.softmax(dim=2).to(query.dtype)
        attended: Tensor = torch.einsum("nqk,nck->ncq", weights, value)
        return attended.reshape(x.shape)
