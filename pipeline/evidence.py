"""What is known of a trial as it climbs: its distance to the teacher, and its FID on each rung that it reached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.comparison import Estimate


@dataclass(frozen=True)
class TeacherDistance:
    """How far each image ends from the fine solve of the same noise: L2 in feature space and in pixels, (B,) each.

    Pixels are the samples themselves, in data units, before they are quantised.
    """

    features: tuple[float, ...]
    pixels: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over images, in feature space."""
        return math.fsum(self.features) / len(self.features)

    @property
    def se(self) -> float:
        """Its standard error."""
        return float(np.std(self.features, ddof=1)) / math.sqrt(len(self.features)) if len(self.features) > 1 else 0.0

    @property
    def mean_pixels(self) -> float:
        """The mean over images, in pixels."""
        return math.fsum(self.pixels) / len(self.pixels)


@dataclass(frozen=True)
class Evidence:
    """A plan's NFE and what was measured of it, the cheapest first. `scores`: FID by rung, images growing.

    `digest` is the plan's. `spent_rows` are the network rows that went into all of it, the set-up that was not known
    from before included; a trial whose plan equals an earlier one's spends its set-up alone.
    """

    digest: str
    nfe: int
    setup_nfe: float = 0.0
    teacher: TeacherDistance | None = None
    scores: tuple[Estimate, ...] = ()
    spent_rows: int = 0

    def score(self, images: int) -> Estimate | None:
        """The FID at this rung, if it was reached."""
        return next((score for score in self.scores if score.images == images), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives an equal one."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Evidence:
        """Read evidence back."""
        teacher = value["teacher"]
        held = {name: tuple(values) for name, values in teacher.items()} if teacher else None
        scores = [score | {"leave_one_out": tuple(score["leave_one_out"])} for score in value["scores"]]
        read = {"teacher": held and TeacherDistance(**held), "scores": tuple(Estimate(**score) for score in scores)}
        return Evidence(**{**value, **read})
