"""FD-DINOv2: the Frechet distance of DINOv2's features, which sees what Inception's classes do not."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pipeline.metrics.dinov2 import Dinov2
from pipeline.metrics.distances import Reference, jackknife
from pipeline.metrics.moments import Moments
from pipeline.metrics.scores import METRICS, Number


@METRICS.register("fd_dinov2")
@dataclass(frozen=True)
class FdDinov2:
    """Of all images of the trial (Stein et al., 2023, arXiv 2306.04675), with its leave-one-shard-out standard error.

    `weights`: as `Dinov2` takes them. `reference`: moments of DINOv2's features in a file, or images; the images of the
    card's own reference where none is given. Images are enlarged as torch-fidelity does, and not as that paper.
    """

    weights: str = ""
    reference: str = ""
    keeps: ClassVar[Literal["moments"]] = "moments"
    gives: ClassVar[tuple[str, ...]] = ("fd_dinov2",)

    def __post_init__(self) -> None:
        # A worker may run in another folder.
        for name in ("weights", "reference"):
            if getattr(self, name):
                object.__setattr__(self, name, str(Path(getattr(self, name)).absolute()))
        assert self.extractor.hash

    @functools.cached_property
    def extractor(self) -> Dinov2:
        """DINOv2 with these weights."""
        return Dinov2(self.weights)

    def compare(self, shards: list[Moments], reference: Reference) -> dict[str, Number]:
        """The Frechet distance of all shards together."""
        found = jackknife(shards, reference)
        finite = len(found.leave_one_out) >= 2
        settings = {"corrected": found.corrected, "groups": len(found.leave_one_out)} if finite else {}
        return {"fd_dinov2": Number(found.fid, found.se if finite else None, "se" if finite else "none", settings)}
