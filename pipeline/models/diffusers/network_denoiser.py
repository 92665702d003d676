"""D of a network that is called as its pipeline calls it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.acceleration import Raw
from pipeline.models.diffusers.condition import Row
from pipeline.models.diffusers.networks import Form
from pipeline.models.diffusers.scaling import Scaling


class NetworkDenoiser:
    """D(x; sigma) of a network: one row an image, or two where the second is what guidance leads away from.

    Each tensor of `rows` is one for every image, or holds one for each image of the batch.
    """

    def __init__(self, form: Form, scaling: Scaling, network: Any, rows: Sequence[Row], guidance: float) -> None:
        self.form, self.scaling, self.network, self.rows, self.guidance = form, scaling, network, rows, guidance
        self.rows_per_image = len(rows)
        self._raw = self.raw(network)

    def raw(self, network: nn.Module) -> Raw:
        """The prediction of this network: what it sees, its times, and its condition -> a tensor."""
        return functools.partial(self.form.answer, network)

    def through(self, raw: Raw) -> NetworkDenoiser:
        """The same D with `raw` in the place of the network."""
        other = copy.copy(self)
        other._raw = raw
        return other

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        count, dtype = len(x), next(self.network.parameters()).dtype
        seen = self.scaling.seen(x, sigma).to(dtype).repeat(len(self.rows), 1, 1, 1)
        times = torch.full((len(seen),), self.scaling.time(sigma), device=x.device)
        row = {key: torch.cat([self._of(one[key], count, dtype) for one in self.rows]) for key in self.rows[0]}
        answer = self._raw(seen, times, row)[:, : x.shape[1]].to(x.dtype)
        if len(self.rows) == 2:
            wanted, none = answer.chunk(2)
            answer = none + self.guidance * (wanted - none)
        return self.scaling.denoised(x, answer, sigma)

    def _of(self, value: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        if len(value) not in (1, count):
            raise ValueError(f"{len(value)} conditions for {count} images")
        cast = value.to(dtype) if value.is_floating_point() else value
        return cast.expand(count, *cast.shape[1:])
