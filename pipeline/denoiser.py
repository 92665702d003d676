"""What a network is to everything else here: D(x; sigma), and the meter that counts its evaluations.

EDM's coordinates throughout (Karras et al., 2022, arXiv 2206.00364): x = x0 + sigma * n, slope = (x - D) / sigma.
A model of another parametrisation converts itself once, inside its own denoiser.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

from pipeline.device import has_float64


class Denoiser(Protocol):
    """D(x; sigma): the expected clean image. (B, C, H, W), sigma in data units -> (B, C, H, W)."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor: ...


class Meter:
    """Counts what really reaches the network: `calls`, and `rows` (images per call, summed).

    NFE is rows / images. Rows, not calls, so that guidance (two rows an image) and ragged batches come out right: a
    denoiser that shows its network an image more than once a call says how often, as `rows_per_image`. `into` is
    another meter that counts the same once more.
    """

    def __init__(self, network: Denoiser, into: Meter | None = None) -> None:
        self.network, self._into = network, into
        self.rows_per_image: int = getattr(network, "rows_per_image", 1)
        self.calls = 0
        self.rows = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self._count(x.shape[0])
        return self.network(x, sigma)

    def part(self, start: int, stop: int) -> Meter:
        """The network for some of a batch's images, counted here."""
        return Meter(part_of(self.network, start, stop), into=self)

    def _count(self, images: int) -> None:
        self.calls += 1
        self.rows += self.rows_per_image * images
        if self._into is not None:
            self._into._count(images)


class BatchDenoiser:
    """D for the images of `seeds`, in this order, where each has a class of its own. `make` gives D for some seeds.

    Raises:
        ValueError: it is asked about another number of images; a part of the batch is asked for by `part_of`.
    """

    def __init__(self, make: Callable[[range], Denoiser], seeds: range, rows_per_image: int) -> None:
        self.seeds, self.rows_per_image = seeds, rows_per_image
        self._make = make

    @functools.cached_property
    def _network(self) -> Denoiser:
        return self._make(self.seeds)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        if len(x) != len(self.seeds):
            raise ValueError(f"{len(x)} images for {len(self.seeds)} seeds")
        return self._network(x, sigma)

    def part(self, start: int, stop: int) -> BatchDenoiser:
        """D for images start ... stop - 1 of the batch."""
        return BatchDenoiser(self._make, self.seeds[start:stop], self.rows_per_image)


class HostDenoiser:
    """D on another device for states that stay on the CPU, of whatever dtype; float64 that it has not is rounded."""

    def __init__(self, denoise: Denoiser, device: str) -> None:
        self._denoise, self._device = denoise, device
        self.rows_per_image: int = getattr(denoise, "rows_per_image", 1)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        seen = x if has_float64(self._device) else x.float()
        return self._denoise(seen.to(self._device), sigma).to(x)

    def part(self, start: int, stop: int) -> HostDenoiser:
        """D for images start ... stop - 1 of the batch."""
        return HostDenoiser(part_of(self._denoise, start, stop), self._device)


def part_of(denoise: Denoiser, start: int, stop: int) -> Denoiser:
    """D for images start ... stop - 1 of a batch: itself, unless its images are not all drawn for the same."""
    part: Callable[[int, int], Denoiser] | None = getattr(denoise, "part", None)
    return denoise if part is None else part(start, stop)


def in_parts(denoise: Denoiser, images: Tensor, size: int) -> Iterator[tuple[Denoiser, Tensor]]:
    """A batch in parts of `size` images, each with D for it."""
    for start in range(0, len(images), size):
        stop = min(start + size, len(images))
        yield part_of(denoise, start, stop), images[start:stop]
