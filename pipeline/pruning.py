"""Pareto pruning: which trials a rung stops, because another one is as cheap and, with confidence, as good or better.

Optuna prunes studies of one objective only (optuna#3450), so this is ours. All comparisons are paired: rivals were
measured on the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from pipeline.comparison import RESOLUTION, difference
from pipeline.evidence import Evidence, TeacherDistance

# A plan whose FID is above the floor's by less than this share of it, with confidence, leaves nothing to win.
NEGLIGIBLE = 0.2
LEAST_PAIRS = 5  # trials with both numbers, before FID is told from a distance to the teacher

Values = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Stop:
    """Why a trial is stopped, and by whom. `excess`: by how much it is behind, in the rung's own unit."""

    rival: str
    reason: str
    excess: float


class Rivals:
    """What trials have on one rung: `values`, one row a trial, and `levels`, their corrected FIDs."""

    def __init__(self, width: int) -> None:
        self._row: dict[str, int] = {}
        self._names: list[str] = []
        self._costs = np.empty(0)
        self.values, self.levels = np.empty((0, width)), np.empty(0)

    def put(self, key: str, nfe: int, values: Sequence[float], level: float) -> None:
        """Set the row of a trial."""
        row = self._row.setdefault(key, len(self._names))
        if row == len(self._names):
            self._names.append(key)
            if row == len(self._costs):
                more = max(64, row)
                self._costs = np.append(self._costs, np.empty(more))
                self.levels = np.append(self.levels, np.empty(more))
                self.values = np.append(self.values, np.empty((more, self.values.shape[1])), axis=0)
        self._costs[row], self.values[row], self.levels[row] = nfe, values, level

    def drop(self, key: str) -> None:
        """Let a trial be nobody's rival here, until it is put again."""
        if key in self._row:
            self._costs[self._row[key]] = math.inf

    def within(self, nfe: int, but: str) -> Rows:
        """The rows of those that take no more evaluations, but for one trial."""
        fits = self._costs[: len(self._names)] <= nfe
        if but in self._row:
            fits[self._row[but]] = False
        return np.flatnonzero(fits)

    def furthest(self, rows: Rows, excess: Values, ahead: NDArray[np.bool_]) -> tuple[str, float] | None:
        """Who of these rows is ahead by most, the first of equal ones, and by how much."""
        if not ahead.any():
            return None
        best = int(np.argmax(np.where(ahead, excess, -math.inf)))
        return self._names[rows[best]], float(excess[best])


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
        # The same by rung, None that of the teacher, and by the number of values that a trial has there.
        self._rungs: dict[tuple[int | None, int], Rivals] = {}
        # What follows from each trial beside the floor: the NFE of who equals it, the logarithms of distance and FID.
        self._equals: dict[str, int] = {}
        self._pairs: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def set_floor(self, floor: Evidence) -> None:
        """What the fine solve scored; nobody is stopped for it, and who equals it leaves nothing to win."""
        self._floor = floor
        self._full = floor.scores[-1].images if floor.scores else 0
        for key, evidence in self._known.items():
            self._compare_with_floor(key, evidence)

    def add(self, key: str, evidence: Evidence) -> None:
        """What is known of a trial by now; later evidence takes the place of earlier."""
        if key in self._known:
            for rivals in self._rungs.values():
                rivals.drop(key)
        self._known[key] = evidence
        if evidence.teacher is not None:
            self._on(None, evidence.teacher.features).put(key, evidence.nfe, evidence.teacher.features, 0.0)
        for score in evidence.scores:
            if score is evidence.score(score.images):
                self._on(score.images, score.leave_one_out).put(key, evidence.nfe, score.leave_one_out, score.corrected)
        self._compare_with_floor(key, evidence)

    def saturated(self, nfe: int, key: str = "") -> Stop | None:
        """Whether a plan of so many evaluations, not that of `key`, has nothing to win.

        It has not where another one, as cheap or cheaper, is as good as the fine solve.
        """
        within = [(cost, name) for name, cost in self._equals.items() if name != key and cost <= nfe]
        if not within:
            return None
        cost, name = min(within)
        return Stop(name, f"nothing to win: {name} is as good as the floor with {cost} evaluations", 0.0)

    def judge(self, key: str, evidence: Evidence, images: int | None) -> Stop | None:
        """Whether the trial is stopped at the rung of so many images; None is the rung of the teacher."""
        return self._behind_in_distance(key, evidence) if images is None else self._behind_in_fid(key, evidence, images)

    def predicted(self, teacher: TeacherDistance) -> float | None:
        """FID from the distance to the teacher, by a line through log FID against log distance of those with both.

        None where fewer than five have both. Bias-corrected FIDs of 0 and less take no part.
        """
        if len(self._pairs) < LEAST_PAIRS or teacher.mean <= 0:
            return None
        distances, fids = zip(*(self._pairs[key] for key in self._known if key in self._pairs), strict=True)
        if max(distances) == min(distances):
            return None
        slope, intercept = np.polyfit(distances, fids, 1)
        return float(math.exp(intercept + slope * math.log(teacher.mean)))

    def _on(self, images: int | None, values: Sequence[float]) -> Rivals:
        held = self._rungs.get((images, len(values)))
        if held is None:
            held = self._rungs[images, len(values)] = Rivals(len(values))
        return held

    def _behind_in_distance(self, key: str, evidence: Evidence) -> Stop | None:
        ours = evidence.teacher
        if ours is None:
            return None
        rivals, count = self._on(None, ours.features), len(ours.features)
        held = rivals.within(evidence.nfe, but=key)
        if not len(held):
            return None
        gaps = np.asarray(ours.features) - self.slack * rivals.values[held]
        means = gaps.mean(axis=1)
        errors = self._quantile(count) * gaps.std(axis=1, ddof=1) / math.sqrt(count)
        found = rivals.furthest(held, means, means > errors)
        if found is None:
            return None
        name, excess = found
        rival = self._known[name]
        assert rival.teacher is not None
        reason = (
            f"stopped at the teacher's rung, {count} images: {ours.mean:.3g} from the teacher, more than "
            f"{self.slack:g} times the {rival.teacher.mean:.3g} of {name} with {rival.nfe} evaluations"
        )
        return Stop(name, reason, excess)

    def _behind_in_fid(self, key: str, evidence: Evidence, images: int) -> Stop | None:
        ours = evidence.score(images)
        if ours is None or len(ours.leave_one_out) < 2:
            return None
        rivals = self._on(images, ours.leave_one_out)
        held = rivals.within(evidence.nfe, but=key)
        if not len(held):
            return None
        # As `difference` has it, for all of them at once.
        apart, count = np.asarray(ours.leave_one_out) - rivals.values[held], len(ours.leave_one_out)
        squares = np.square(apart - apart.mean(axis=1, keepdims=True)).sum(axis=1)
        errors = self._quantile(count) * np.sqrt((count - 1) / count * squares)
        gaps = ours.corrected - rivals.levels[held]
        # Better by less than this would be called inconclusive in the end.
        margins = RESOLUTION * np.maximum(rivals.levels[held], 0.0)
        found = rivals.furthest(held, gaps + margins, gaps - errors > -margins)
        if found is None:
            return None
        name, excess = found
        rival = self._known[name]
        theirs = rival.score(images)
        assert theirs is not None
        gap, _, error, _ = difference(ours, theirs, confidence=self.confidence)
        reason = (
            f"stopped at {images} images: a FID of {gap:+.2g} ± {error:.2g} beside {name} with {rival.nfe} evaluations "
            "(corrected, paired)"
        )
        return Stop(name, reason, excess)

    def _compare_with_floor(self, key: str, known: Evidence) -> None:
        self._equals.pop(key, None)
        self._pairs.pop(key, None)
        if self._equals_floor(known):
            self._equals[key] = known.nfe
        score = known.score(self._full)
        if known.teacher is not None and score is not None and score.corrected > 0 < known.teacher.mean:
            self._pairs[key] = math.log(known.teacher.mean), math.log(score.corrected)

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
