"""What a network is to everything else here: D(x; sigma), and the meter that counts its evaluations.

EDM's coordinates throughout (Karras et al., 2022, arXiv 2206.00364): x = x0 + sigma * n, slope = (x - D) / sigma.
A model of another parametrisation converts itself once, inside its own denoiser.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Denoiser(Protocol):
    """D(x; sigma): the expected clean image. (B, C, H, W), sigma in data units -> (B, C, H, W)."""

    def __call__(self, x: Tensor, sigma: float) -> Tensor: ...


class Meter:
    """Counts what really reaches the network: `calls`, and `rows` (images per call, summed).

    NFE is rows / images. Rows, not calls, so that guidance (two rows an image) and ragged batches come out right: a
    denoiser that shows its network an image more than once a call says how often, as `rows_per_image`.
    """

    def __init__(self, network: Denoiser) -> None:
        self.network = network
        self.rows_per_image: int = getattr(network, "rows_per_image", 1)
        self.calls = 0
        self.rows = 0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.calls += 1
        self.rows += self.rows_per_image * x.shape[0]
        return self.network(x, sigma)
