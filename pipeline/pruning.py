"""Pareto pruning: which trials a rung stops, because another one is as cheap and, with confidence, as good or better.

Optuna prunes studies of one objective only (optuna#3450), so this is ours. All comparisons are paired: rivals were
measured on the same noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from pipeline.comparison import RESOLUTION, difference
from pipeline.evidence import Evidence, TeacherDistance

# A plan whose FID is above the floor's by less than this share of it, with confidence, leaves nothing to win.
NEGLIGIBLE = 0.2
LEAST_PAIRS = 5  # trials with both numbers, before FID is told from a distance to the teacher


@dataclass(frozen=True)
class Stop:
    """Why a trial is stopped, and by whom. `excess`: by how much it is behind, in the rung's own unit."""

    rival: str
    reason: str
    excess: float


class Field:
    """Everything measured so far, by key: who may stop whom.

    `slack`: how many times as far from the teacher as a rival a trial must be to be stopped for it; above 1 where the
    distance does not rank plans as FID does. `confidence` is that of the two-sided intervals: at 0.8, one trial in ten
    that equals a rival is stopped for it, which costs nothing but the trial.
    """

    def __init__(self, slack: float, confidence: float) -> None:
        self.slack, self.confidence = slack, confidence
        self._known: dict[str, Evidence] = {}
        self._floor: Evidence | None = None
        self._full = 0

    def __len__(self) -> int:
        return len(self._known)

    def set_floor(self, floor: Evidence) -> None:
        """What the fine solve scored; nobody is stopped for it, and who equals it leaves nothing to win."""
        self._floor = floor
        self._full = floor.scores[-1].images if floor.scores else 0

    def add(self, key: str, evidence: Evidence) -> None:
        """What is known of a trial by now; later evidence takes the place of earlier."""
        self._known[key] = evidence

    def saturated(self, nfe: int, key: str = "") -> Stop | None:
        """Whether a plan of so many evaluations, not that of `key`, has nothing to win.

        It has not where another one, as cheap or cheaper, is as good as the fine solve.
        """
        within = [(known.nfe, name) for name, known in self._rivals(key, nfe) if self._equals_floor(known)]
        if not within:
            return None
        cost, name = min(within)
        return Stop(name, f"nothing to win: {name} is as good as the floor with {cost} evaluations", 0.0)

    def judge(self, key: str, evidence: Evidence, images: int | None) -> Stop | None:
        """Whether the trial is stopped at the rung of so many images; None is the rung of the teacher."""
        found = [
            self._behind_in_distance(evidence, name, known)
            if images is None
            else self._behind_in_fid(evidence, name, known, images)
            for name, known in self._rivals(key, evidence.nfe)
        ]
        return max((stop for stop in found if stop is not None), key=lambda stop: stop.excess, default=None)

    def _rivals(self, key: str, nfe: int) -> list[tuple[str, Evidence]]:
        return [(name, known) for name, known in self._known.items() if name != key and known.nfe <= nfe]

    def predicted(self, teacher: TeacherDistance) -> float | None:
        """FID from the distance to the teacher, by a line through log FID against log distance of those with both.

        None where fewer than five have both. Bias-corrected FIDs of 0 and less take no part.
        """
        distances, fids = [], []
        for known in self._known.values():
            score = known.score(self._full)
            if known.teacher is not None and score is not None and score.corrected > 0 < known.teacher.mean:
                distances.append(math.log(known.teacher.mean))
                fids.append(math.log(score.corrected))
        if len(fids) < LEAST_PAIRS or teacher.mean <= 0 or max(distances) == min(distances):
            return None
        slope, intercept = np.polyfit(distances, fids, 1)
        return float(math.exp(intercept + slope * math.log(teacher.mean)))

    def _behind_in_distance(self, evidence: Evidence, name: str, rival: Evidence) -> Stop | None:
        ours, theirs = evidence.teacher, rival.teacher
        if ours is None or theirs is None or len(ours.features) != len(theirs.features):
            return None
        gaps = np.asarray(ours.features) - self.slack * np.asarray(theirs.features)
        count = len(gaps)
        error = self._quantile(count) * float(gaps.std(ddof=1)) / math.sqrt(count)
        if not float(gaps.mean()) > error:
            return None
        reason = (
            f"stopped at the teacher's rung, {count} images: {ours.mean:.3g} from the teacher, more than "
            f"{self.slack:g} times the {theirs.mean:.3g} of {name} with {rival.nfe} evaluations"
        )
        return Stop(name, reason, float(gaps.mean()))

    def _behind_in_fid(self, evidence: Evidence, name: str, rival: Evidence, images: int) -> Stop | None:
        ours, theirs = evidence.score(images), rival.score(images)
        if ours is None or theirs is None:
            return None
        gap, _, error, paired = difference(ours, theirs, confidence=self.confidence)
        # Better by less than this would be called inconclusive in the end.
        margin = RESOLUTION * max(theirs.corrected, 0.0)
        if not paired or not gap - error > -margin:
            return None
        reason = (
            f"stopped at {images} images: a FID of {gap:+.2g} ± {error:.2g} beside {name} with {rival.nfe} evaluations "
            "(corrected, paired)"
        )
        return Stop(name, reason, gap + margin)

    def _equals_floor(self, known: Evidence) -> bool:
        """Whether, on the last rung that it reached, it is not seen above the floor, nor can be by much."""
        if self._floor is None or not known.scores:
            return False
        ours, theirs = known.scores[-1], self._floor.score(known.scores[-1].images)
        if theirs is None:
            return False
        # That a difference is not seen does not say that there is none: its whole interval has to be small as well.
        gap, _, error, _ = difference(ours, theirs, confidence=self.confidence)
        return gap <= error and gap + error <= NEGLIGIBLE * self._floor.scores[-1].fid

    def _quantile(self, count: int) -> float:
        return float(stdtrit(count - 1, (1 + self.confidence) / 2))
