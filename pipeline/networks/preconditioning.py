"""What turns a network F into a denoiser D: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise).

Karras et al., 2022, arXiv 2206.00364, table 1. The published networks are of four kinds, with their checkpoints' names.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.networks.dhariwal_unet import DhariwalUNet
from pipeline.networks.edm2_unet import MPConv, MPFourier, UNet
from pipeline.networks.song_unet import SongUNet

UNETS: dict[str, type[SongUNet] | type[DhariwalUNet]] = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}


class Coefficients(NamedTuple):
    """The four functions of sigma, each in the shape and dtype of sigma."""

    skip: Tensor
    out: Tensor
    in_: Tensor
    noise: Tensor


class Preconditioner(nn.Module, ABC):
    """D(x; sigma) of images (B, C, H, W) in [-1, 1]. Subclasses say which four functions of sigma.

    The arguments bear the names of the published constructors. `use_fp16` says what the network was trained for;
    `forward` is told which dtype to use.
    """

    # Outputs of the network for each channel of the image; the first are what D is made of.
    outputs = 1
    usual = "SongUNet"

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        model_type: str = "",
        **network: Any,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.label_dim, self.use_fp16 = label_dim, use_fp16
        self.model = UNETS[model_type or self.usual](
            img_resolution, img_channels, img_channels * self.outputs, label_dim, **network
        )

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_skip, c_out, c_in and c_noise of float32 sigmas."""

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest sigma that the network was trained for."""
        return sigma

    def nearest_step(self, sigma: float) -> float:
        """As `round_sigma`, but that only 0 gives 0: at the last of the steps there is nothing left to denoise."""
        return float(self.round_sigma(torch.tensor(sigma, dtype=torch.float64)))

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, dtype: torch.dtype = torch.float32,
        raw: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """D in float32: x and sigma are rounded to it first, as published. Only F runs in `dtype`.

        Args:
            x: (B, C, H, W).
            sigma: (), or (B,).
            labels: One-hot classes (1 or B, label_dim); where the network has classes, none is all zeros, which is
                "no class" to a network that was trained with some labels dropped, and to no other.
            dtype: float16, bfloat16 or float32.
            raw: F, where it is run in another way than by `raw`.
        """
        x, sigma = x.float(), sigma.float().reshape(-1, 1, 1, 1)
        if self.label_dim:
            given = torch.zeros(1, self.label_dim, device=x.device) if labels is None else labels.float()
        else:
            given = None
        c = self.coefficients(sigma)
        found = (raw or self.raw)((c.in_ * x).to(dtype), c.noise.flatten(), given)
        return c.skip * x + c.out * found[:, : self.img_channels].float()

    def raw(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """F(x; c_noise), in the dtype of x."""
        found: Tensor = self.model(x, c_noise, labels)
        return found


class VPPrecond(Preconditioner):
    """A network trained on the variance-preserving path (DDPM++), which predicts the noise at time t(sigma)."""

    def __init__(
        self, *args: Any, beta_d: float = 19.9, beta_min: float = 0.1, M: int = 1000, epsilon_t: float = 1e-5,
        **rest: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **rest)
        self.beta_d, self.beta_min, self.steps, self.epsilon_t = beta_d, beta_min, M, epsilon_t

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_noise = (M - 1) t, with t the time at which the path has this sigma."""
        return Coefficients(
            torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), (self.steps - 1) * self.time(sigma)
        )

    def time(self, sigma: Tensor) -> Tensor:
        """t(sigma), the inverse of sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t) - 1."""
        root = (self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt()
        return (root - self.beta_min) / self.beta_d


class VEPrecond(Preconditioner):
    """A network trained on the variance-exploding path (NCSN++), which predicts the noise, negated."""

    def __init__(self, *args: Any, sigma_min: float = 0.02, sigma_max: float = 100.0, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_noise = log(sigma / 2)."""
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, (0.5 * sigma).log())


class iDDPMPrecond(Preconditioner):
    """A network trained on the steps of improved DDPM (ADM), which predicts the noise and its variance.

    Nichol and Dhariwal, 2021, arXiv 2102.09672. `u`, the sigmas of its M steps and a last 0, is in the checkpoint.
    """

    u: Tensor
    outputs = 2
    usual = "DhariwalUNet"

    def __init__(self, *args: Any, C_1: float = 0.001, C_2: float = 0.008, M: int = 1000, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.steps = M
        # In float32, and on the CPU also where the network is only outlined: it is a formula, not a weight.
        kept = (0.5 * math.pi * torch.arange(M + 1, device="cpu") / M / (C_2 + 1)).sin() ** 2
        ratios = (kept[:-1] / kept[1:]).clip(min=C_1)
        u = torch.zeros(M + 1, device="cpu")
        for j in range(M, 0, -1):
            u[j - 1] = ((u[j] ** 2 + 1) / ratios[j - 1] - 1).sqrt()
        self.register_buffer("u", u)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_noise = M - 1 - (the index of the nearest step); the others use sigma as it is."""
        return Coefficients(
            torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), self.steps - 1 - self._nearest(sigma).float()
        )

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest of the trained steps, in the dtype of sigma."""
        return self.u[self._nearest(sigma)].to(sigma.dtype)

    def nearest_step(self, sigma: float) -> float:
        """Of the steps above 0, in float32 as they are stored; 0 for 0."""
        return 0.0 if sigma == 0 else max(super().nearest_step(sigma), float(self.u[-2]))

    def _nearest(self, sigma: Tensor) -> Tensor:
        return (sigma.to(self.u).unsqueeze(-1) - self.u).abs().argmin(-1)


class EDMPrecond(Preconditioner):
    """EDM's own: unit variance of what enters F and of what it learns, for data of standard deviation `sigma_data`."""

    usual = "DhariwalUNet"

    def __init__(
        self, *args: Any, sigma_min: float = 0.0, sigma_max: float = math.inf, sigma_data: float = 0.5, **rest: Any
    ) -> None:
        super().__init__(*args, **rest)
        self.sigma_min, self.sigma_max, self.sigma_data = sigma_min, sigma_max, sigma_data

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_noise = log(sigma) / 4."""
        variance = sigma**2 + self.sigma_data**2
        return Coefficients(
            self.sigma_data**2 / variance,
            sigma * self.sigma_data / variance.sqrt(),
            1 / variance.sqrt(),
            sigma.log() / 4,
        )


class Precond(EDMPrecond):
    """EDM2's: the coefficients of EDM around its U-Net. The two layers that weigh the training loss are only kept."""

    usual = "UNet"

    def __init__(
        self, img_resolution: int, img_channels: int, label_dim: int, use_fp16: bool = True, sigma_data: float = 0.5,
        logvar_channels: int = 128, model_type: str = "", **network: Any,
    ) -> None:  # fmt: skip
        del model_type
        nn.Module.__init__(self)
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.label_dim, self.use_fp16, self.sigma_data = label_dim, use_fp16, sigma_data
        self.unet = UNet(img_resolution, img_channels, label_dim, **network)
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1)

    def raw(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """F(x; c_noise), in the dtype of x."""
        found: Tensor = self.unet(x, c_noise, labels)
        return found


PRECONDITIONERS: dict[str, type[Preconditioner]] = {
    kind.__name__: kind for kind in (VPPrecond, VEPrecond, iDDPMPrecond, EDMPrecond, Precond)
}
