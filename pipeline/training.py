"""Training a network with EDM's loss: Karras et al., 2022, arXiv 2206.00364, section 5, and its training code's EMA."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.networks.layers import Conv2d, Linear
from pipeline.networks.preconditioning import EDMPrecond
from pipeline.registry import require


@dataclass(frozen=True)
class Settings:
    """How long and how a network is trained. Lengths are in `rows`, images shown to it.

    `p_mean` and `p_std` are of ln sigma. Of `label_dropout` of the rows the network is not told the class: what
    guidance needs (Ho and Salimans, 2022, arXiv 2207.12598). The rate climbs over `warm_up_rows` and then falls as a
    cosine to 0.

    Raises:
        SpecError: a value that is out of range.
    """

    rows: int = 1_280_000
    batch: int = 256
    rate: float = 2e-3
    warm_up_rows: int = 50_000
    p_mean: float = -1.2
    p_std: float = 1.2
    label_dropout: float = 0.1
    ema_rows: int = 50_000

    def __post_init__(self) -> None:
        require(self.batch >= 1, "batch", self.batch, ">= 1")
        require(self.rows >= self.batch, "rows", self.rows, f">= {self.batch}")
        require(0 <= self.label_dropout < 1, "label_dropout", self.label_dropout, "[0, 1)")
        for name in ("rate", "p_std", "ema_rows", "warm_up_rows"):
            require(getattr(self, name) > 0, name, getattr(self, name), "> 0")

    @property
    def steps(self) -> int:
        """How many batches."""
        return self.rows // self.batch

    def rate_at(self, step: int) -> float:
        """The learning rate of this step, from 0."""
        warm = min(1.0, (step + 1) * self.batch / self.warm_up_rows)
        return self.rate * warm * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True)
class Draws:
    """What a batch is shown with: sigma (B,), unit noise (B, C, H, W), and whether its class is told (B,)."""

    sigma: Tensor
    noise: Tensor
    told: Tensor

    @staticmethod
    def of(settings: Settings, shape: tuple[int, ...], generator: torch.Generator) -> Draws:
        """Draws for images of this shape (B, C, H, W), on the CPU."""
        normal = torch.randn(shape[0], generator=generator)
        return Draws(
            (normal * settings.p_std + settings.p_mean).exp(),
            torch.randn(shape, generator=generator),
            torch.rand(shape[0], generator=generator) >= settings.label_dropout,
        )

    def to(self, device: torch.device) -> Draws:
        """The same on `device`."""
        return Draws(self.sigma.to(device), self.noise.to(device), self.told.to(device))


def loss_of(network: EDMPrecond, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
    """The mean of lambda(sigma) (D(y + sigma n; sigma) - y)^2 over the pixels of each image -> (B,).

    lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 makes it 1 at every sigma for a network that answers 0 (eq.
    8, table 1). `labels` are classes (B,).
    """
    sigma = draws.sigma.reshape(-1, 1, 1, 1)
    given = functional.one_hot(labels, network.label_dim).float() * draws.told[:, None]
    weight = (sigma**2 + network.sigma_data**2) / (sigma * network.sigma_data) ** 2
    denoised = network(images + sigma * draws.noise, draws.sigma, given)
    weighed: Tensor = weight * (denoised - images) ** 2
    return weighed.flatten(1).mean(1)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights as EDM's SongUNet does: Xavier's uniform; what ends a residual branch nearly 0."""
    for name, module in network.named_modules():
        if isinstance(module, Conv2d | Linear) and module.weight is not None:
            weight = module.weight
            size = weight[0, 0].numel() if weight.ndim == 4 else 1
            bound = math.sqrt(6 / (size * (weight.shape[0] + weight.shape[1])))
            last = name.rsplit(".", 1)[-1]
            if last in ("conv1", "proj") or last.endswith("aux_conv"):
                bound *= 1e-5
            elif last == "qkv":
                bound *= math.sqrt(0.2)
            with torch.no_grad():
                weight.copy_((torch.rand(weight.shape, generator=generator) * 2 - 1) * bound)


class Average:
    """An exponential moving average of a network's weights, with a half-life in rows.

    The half-life is a twentieth of the rows so far while that is shorter, as in EDM's training code.
    """

    def __init__(self, network: EDMPrecond, half_life: int) -> None:
        self._trained, self.half_life = network, half_life
        self.weights = {name: weight.detach().clone() for name, weight in network.state_dict().items()}

    def update(self, batch: int, rows: int) -> None:
        """Take in the weights after a batch; `rows` have been shown in all."""
        keep = 0.5 ** (batch / min(self.half_life, rows / 20))
        for name, weight in self._trained.state_dict().items():
            self.weights[name].lerp_(weight.detach(), 1 - keep)

    def network(self) -> EDMPrecond:
        """A network with the averaged weights, of its own."""
        averaged = copy.deepcopy(self._trained).requires_grad_(False)
        averaged.load_state_dict(self.weights)
        return averaged


@dataclass(frozen=True)
class Batch:
    """What training tells after each batch: rows shown so far, and the mean loss of the batch."""

    rows: int
    loss: float


def train(
    network: EDMPrecond,
    images: Tensor,
    labels: Tensor,
    settings: Settings,
    *,
    seed: int = 0,
    tell: Callable[[Batch, Average], None] = lambda batch, average: None,
) -> Average:
    """Train `network` in place on images (N, C, H, W) with classes (N,); gives the average of its weights.

    It trains where `images` are. All draws are the CPU's, from `seed`; global generators are left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    initialise(network, generator)
    average = Average(network, settings.ema_rows)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.rate, betas=(0.9, 0.999))
    order = torch.empty(0, dtype=torch.int64)
    for step in range(settings.steps):
        while len(order) < settings.batch:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        chosen, order = order[: settings.batch].to(images.device), order[settings.batch :]
        draws = Draws.of(settings, (settings.batch, *images.shape[1:]), generator).to(images.device)
        loss = loss_of(network, images[chosen], labels[chosen], draws).mean()
        for group in optimiser.param_groups:
            group["lr"] = settings.rate_at(step)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped
        optimiser.step()
        rows = (step + 1) * settings.batch
        average.update(settings.batch, rows)
        tell(Batch(rows, float(loss.detach())), average)
    return average


@contextlib.contextmanager
def reproducible(threads: int, device: str) -> Iterator[None]:
    """So many threads and, on the CPU, deterministic kernels; the caller's settings again afterwards."""
    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(device == "cpu" or strict)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)
