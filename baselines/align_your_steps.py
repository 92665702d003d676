"""Align Your Steps: tables of noise levels, each optimised once for a model (Sabour et al., 2024, arXiv 2404.14507).

Only the tables are here; the optimisation behind them needs training images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.registry import require
from pipeline.schedules import MOST_STEPS, SCHEDULES, check_sigmas

Table = Literal["sd15", "sdxl", "deepfloyd_if", "svd"]
# Sabour et al. (2024), Table 3: Stable Diffusion 1.5, SDXL, DeepFloyd-IF stage 1, Stable Video Diffusion; ten steps.
TABLES: dict[Table, tuple[float, ...]] = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "deepfloyd_if": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@SCHEDULES.register("ays")
@dataclass(frozen=True)
class AlignYourSteps:
    """A table of Align Your Steps, log-linear between its nodes (Sabour et al., 2024, arXiv 2404.14507, Table 3).

    Ten steps to sigma_min are the table itself. Other numbers of steps interpolate log sigma over the index, as the
    authors' quickstart guide does. A table holds for the model that it was made for, and for no other; its ends are its
    own. `final` "zero" keeps the lowest sigma, and one of the N moves goes from it to 0; "zero_in_place" puts 0 in its
    place, as huggingface/diffusers' AysSchedules and ComfyUI's node do.

    Differs from comfyanonymous/ComfyUI comfy_extras/nodes_align_your_steps.py:47: the table ends in its own lowest
    sigma, as its authors print it, unless `final` says otherwise.
    """

    num_steps: int = 10
    table: Table = "sd15"
    final: Literal["sigma_min", "zero", "zero_in_place"] = "sigma_min"

    calibration_images: ClassVar[int] = 0
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(1 <= self.num_steps <= MOST_STEPS, "num_steps", self.num_steps, f"1 to {MOST_STEPS}")
        require(self.table in TABLES, "table", self.table, ", ".join(TABLES))
        finals = ("sigma_min", "zero", "zero_in_place")
        require(self.final in finals, "final", self.final, ", ".join(finals))

    @property
    def sigma_max(self) -> float:
        """The table's highest sigma."""
        return TABLES[self.table][0]

    @property
    def sigma_min(self) -> float:
        """The table's lowest sigma."""
        return TABLES[self.table][-1]

    @property
    def ends(self) -> tuple[float, float]:
        """The highest and the lowest sigma above 0."""
        above = [float(sigma) for sigma in self.sigmas() if sigma > 0]
        return above[0], above[-1]

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """(N + 1,) float64; neither the denoiser nor noise is used."""
        del denoise, noise
        table = TABLES[self.table]
        nodes = self.num_steps + (self.final != "zero")
        at = np.linspace(0, len(table) - 1, nodes)
        between = np.exp(np.interp(at, np.arange(len(table)), np.log(table)))
        # Where a node of the table is met, it is that number and not the exponential of its logarithm.
        placed = [table[int(i)] if math.floor(i) == i else float(sigma) for i, sigma in zip(at, between, strict=True)]
        if self.final == "zero_in_place":
            placed.pop()
        if self.final != "sigma_min":
            placed.append(0.0)
        return check_sigmas(torch.tensor(placed, dtype=torch.float64), self.registry_name)
