"""The optimal denoiser of a data set, a kernel density estimate's: what a network that learnt it by heart would say."""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.models import MODELS, data
from pipeline.registry import SpecError

# Largest error of a logit, and so the largest relative error of a weight, that the float32 path may cause.
LOGIT_TOLERANCE = 1e-4
# Rows at a time on the CPU: 256 x 1797 logits stay in cache (64 to 512 rows measure alike, 1024 a quarter slower).
CPU_ROWS = 256
# On a device: this many logits at a time, 512 MiB in float64.
DEVICE_LOGITS = 2**26


@MODELS.register("kde")
@dataclass(frozen=True)
class KernelDensity:
    """D(x; sigma) = sum_i softmax_i(-|x - y_i|^2 / (2 sigma^2)) y_i over the images y of a data set.

    Chen et al., 2025, arXiv 2506.10177, Lemma 3 (eq. 9). `data` names the data set.

    Raises:
        SpecError: no such data set.
    """

    data: str

    def __post_init__(self) -> None:
        if self.data not in data.names():
            raise SpecError("unknown data set", path="data", given=self.data, allowed=data.names())

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """One image: (C, H, W)."""
        return tuple(self.images().shape[1:])

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the images: shape and float32 values."""
        images = self.images()
        digest = hashlib.sha256(f"kde {tuple(images.shape)} ".encode())
        digest.update(images.numpy().astype("<f4").tobytes())
        return digest.hexdigest()

    def images(self) -> Tensor:
        """The data, float32 in [-1, 1] (N, C, H, W)."""
        return data.images(self.data)

    def denoiser(self, device: str = "cpu") -> Denoiser:
        """D on `device`. See `DataDenoiser` for its precision."""
        return DataDenoiser(self.images().to(device))

    def draw(self, count: int, seed: int) -> Tensor:
        """Images of the data, drawn with replacement (count, C, H, W)."""
        images = self.images()
        return images[torch.randint(len(images), (count,), generator=torch.Generator().manual_seed(seed))]


class DataDenoiser:
    """The softmax-weighted mean of `images` (N, C, H, W); in bounded memory, whatever the batch.

    A logit is (x . y - |y|^2 / 2) / sigma^2 up to a constant of its row, x and y centred. In float32 its error is about
    u sqrt(d) (|x| R + R^2 / 2) / sigma^2, with u = 2^-24, R the radius of the data and |x| <= R + sigma sqrt(d): the
    probabilistic bound of a dot product (Higham and Mary, 2019). Where that exceeds `LOGIT_TOLERANCE` (sigma under 0.7
    for the digits; at 0.002 the bound is 6.5) the logits are float64 until their row maximum is taken off, which costs
    1.7 times as much. It is decided by sigma alone, so a batch may be split anywhere.
    A float64 x is answered in float64 throughout.
    """

    def __init__(self, images: Tensor) -> None:
        exact = images.flatten(1).double()
        self.centre = exact.mean(0)
        centred = exact - self.centre
        bias = -centred.square().sum(1) / 2
        # Contiguous (d, N) for the logits, (N, d) for the mean.
        self.keys = {dtype: centred.T.contiguous().to(dtype) for dtype in (torch.float32, torch.float64)}
        self.bias = {dtype: bias.to(dtype) for dtype in self.keys}
        self.values = {dtype: exact.to(dtype) for dtype in self.keys}
        self.radius = math.sqrt(-2 * float(bias.min()))
        self.rows = CPU_ROWS if images.device.type == "cpu" else max(CPU_ROWS, DEVICE_LOGITS // len(images))

    def logit_error(self, sigma: float) -> float:
        """About the largest error of a float32 logit at `sigma`, for x within the noise of the data."""
        root = math.sqrt(len(self.centre))
        size = (self.radius + sigma * root) * self.radius + self.radius**2 / 2
        return 2**-24 * root * size / sigma**2

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        weigh = torch.float64 if x.dtype == torch.float64 else torch.float32
        logit = (
            torch.float32 if weigh == torch.float32 and self.logit_error(sigma) <= LOGIT_TOLERANCE else torch.float64
        )
        flat = x.flatten(1)
        answer = torch.empty(flat.shape, dtype=weigh, device=x.device)
        rows = min(self.rows, len(flat))
        logits = torch.empty((rows, len(self.bias[logit])), dtype=logit, device=x.device)
        weights = logits if logit == weigh else torch.empty_like(logits, dtype=weigh)
        keys, bias, values, scale = self.keys[logit], self.bias[logit], self.values[weigh], sigma**-2
        for start in range(0, len(flat), rows) if rows else ():
            part = (flat[start : start + rows].double() - self.centre).to(logit)
            b, w = logits[: len(part)], weights[: len(part)]
            torch.addmm(bias, part, keys, beta=scale, alpha=scale, out=b)
            if logit != weigh:
                torch.sub(b, b.amax(1, keepdim=True), out=w)
            torch.softmax(w, 1, out=w)
            torch.mm(w, values, out=answer[start : start + rows])
        return answer.to(x.dtype).reshape(x.shape)
