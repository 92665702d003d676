"""Evidence by hand: distances and FIDs of a chosen mean, whose luck is shared between plans or their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.comparison import Estimate
from pipeline.evidence import Evidence, TeacherDistance
from pipeline.pruning import Field

IMAGES, FULL = 100, 1000
# What the noise of the images does to every plan alike: to each image's distance, and to the FID without each group.
LUCK = np.random.default_rng(3).normal(size=64)
GROUPS = np.random.default_rng(4).normal(size=10)


def distance(mean: float, luck: np.ndarray = LUCK, spread: float = 0.1) -> TeacherDistance:
    """Distances of this mean, each image's luck scaled with it."""
    each = mean * (1 + spread * (luck - luck.mean()))
    return TeacherDistance(tuple(each.tolist()), tuple(each.tolist()))


def fid(corrected: float, images: int = IMAGES, groups: np.ndarray = GROUPS, spread: float = 0.1) -> Estimate:
    """A score of this corrected FID whose groups share their luck."""
    left_out = corrected + spread * (groups - groups.mean())
    return replace(Estimate.of(images, corrected, tuple(left_out.tolist())), corrected=corrected)


def known(nfe: int, teacher: TeacherDistance | None = None, *scores: Estimate) -> Evidence:
    """What was measured of a plan of so many evaluations."""
    return Evidence(f"{nfe:016x}", nfe, teacher=teacher, scores=scores)


def field(*evidence: Evidence, slack: float = 1.5, confidence: float = 0.95, floor: Evidence | None = None) -> Field:
    """A field of these rivals, called rival/0 and so on."""
    made = Field(slack, confidence)
    if floor is not None:
        made.set_floor(floor)
    for i, each in enumerate(evidence):
        made.add(f"rival/{i}", each)
    return made
