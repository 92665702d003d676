"""A network led away from another one, its guide."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pipeline.denoiser import Denoiser


class GuidedDenoiser:
    """D_guide + guidance (D - D_guide), D as `denoise` gives it: two rows an image, one of each network.

    Karras et al., 2024, arXiv 2406.02070, eq. 3 (autoguidance); Ho and Salimans, 2022, arXiv 2207.12598, eq. 6, with an
    unconditional guide.
    """

    rows_per_image = 2

    def __init__(self, denoise: Denoiser, guide: Denoiser, guidance: float) -> None:
        self.denoise, self.guide, self.guidance = denoise, guide, guidance

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        away = self.guide(x, sigma)
        return away + self.guidance * (self.denoise(x, sigma) - away)

    def each(self, run: Callable[[Denoiser], Denoiser]) -> GuidedDenoiser:
        """The same of two networks that are run otherwise."""
        return GuidedDenoiser(run(self.denoise), run(self.guide), self.guidance)
