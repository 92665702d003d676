"""Whether the rungs could be trusted: how well each ranks plans as all images do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from reports.record import groups, rung_columns, rung_images

TEACHER, PIXELS, CORRECTED = "teacher_distance", "teacher_distance_pixels", "fid_corrected"
LEAST_PLANS = 5  # with fewer, a rank correlation says nothing
LEAST_IN_BAND = 10
BANDS = 3
TRUSTED = 0.7  # below this a report warns
ROLES = ("baseline", "published", "searched")


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho between two rungs over the `n` distinct plans that reached both, nan where n is too small.

    A rung is a column of the record; the last is all images. `band`: the NFE of the plans, from and to, None for all.
    """

    rung: str
    other: str
    n: int
    rho: float
    band: tuple[int, int] | None = None


class RankCheck:
    """The rank correlations of a record's largest group, over baselines and searched trials, stopped ones included.

    Empty where the record has no rungs. `last` is the column of all images.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        parts = groups(frame)
        stopped = frame[frame["state"].eq("pruned")]
        rows = pd.concat([parts[0], stopped]) if parts else stopped
        self._plans = _distinct(rows[rows["role"].isin(ROLES) & rows["nfe"].notna()])
        self.images = int(parts[0].iloc[0]["images"]) if parts and not pd.isna(parts[0].iloc[0]["images"]) else 0
        self.last = CORRECTED
        fids = [name for name in rung_columns(frame) if rung_images(name) < self.images]
        held = [name for name in (TEACHER, *fids) if self._plans[name].notna().any()]
        self.climbed = [*held, self.last] if held else []
        self.has_pixels = TEACHER in held and bool(self._plans[PIXELS].notna().any())
        self.bands = _bands(self._plans.loc[self._plans[self.last].notna(), "nfe"])

    @property
    def rungs(self) -> list[str]:
        """The rungs below all images; the distance in pixels beside that in features, though no trial stops by it."""
        below = self.climbed[:-1]
        return [TEACHER, PIXELS, *below[1:]] if self.has_pixels else below

    def following(self, rung: str) -> str:
        """The rung that a trial climbs to from this one."""
        return self.climbed[self.climbed.index(TEACHER if rung == PIXELS else rung) + 1]

    def correlation(self, rung: str, other: str, band: tuple[int, int] | None = None) -> RankCorrelation:
        """Spearman's rho over the plans that reached both."""
        held = self._plans[self._plans[rung].notna() & self._plans[other].notna()]
        if band is not None:
            held = held[held["nfe"].between(*band)]
        # The ranks of what is equal are their mean; Pearson's correlation of ranks is Spearman's.
        a, b = held[rung].rank(), held[other].rank()
        enough = len(held) >= (LEAST_PLANS if band is None else LEAST_IN_BAND)
        varied = a.nunique() > 1 and b.nunique() > 1
        return RankCorrelation(rung, other, len(held), float(a.corr(b)) if enough and varied else math.nan, band)

    def correlations(self) -> Iterator[RankCorrelation]:
        """Of each rung with the next one, with all images, and with all images within each band of NFE."""
        for rung in self.rungs:
            if self.following(rung) != self.last:
                yield self.correlation(rung, self.following(rung))
            yield self.correlation(rung, self.last)
            for band in self.bands:
                yield self.correlation(rung, self.last, band)

    def lowest(self) -> RankCorrelation | None:
        """The worst of those that decided over trials: not that of pixels."""
        known = [found for found in self.correlations() if found.rung != PIXELS and math.isfinite(found.rho)]
        return min(known, key=lambda found: found.rho, default=None)

    def doubtful(self) -> list[RankCorrelation]:
        """Those below `TRUSTED`, of the rungs that decided over trials."""
        return [found for found in self.correlations() if found.rung != PIXELS and found.rho < TRUSTED]

    def words(self, rung: str) -> str:
        """A rung's name in a report."""
        if rung == self.last:
            return f"all {self.images:,} images"
        names = {TEACHER: "distance to the teacher", PIXELS: "the same in pixels"}
        return names.get(rung) or f"FID at {rung_images(rung):,} images"

    def told(self, found: RankCorrelation) -> str:
        """A correlation in a few words."""
        within = "" if found.band is None else f", NFE {band_words(found.band)}"
        one, other = (self._short(rung) for rung in (found.rung, found.other))
        return f"rho {found.rho:.2f} (n {found.n}), {one} to {other}{within}"

    def _short(self, rung: str) -> str:
        if rung == TEACHER:
            return "teacher's rung"
        return f"{self.images if rung == self.last else rung_images(rung):,} images"


def band_words(band: tuple[int, int]) -> str:
    """Its ends, or the one NFE in it."""
    return "-".join(dict.fromkeys(map(str, band)))


def _distinct(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a plan: the one that climbed highest, of equal ones the first."""
    known = [TEACHER, *rung_columns(rows), CORRECTED]
    plan = rows["plan"].where(rows["plan"].ne(""), rows["key"])
    order = rows[known].notna().sum(axis=1).sort_values(ascending=False, kind="stable").index
    return rows.loc[order].loc[~plan.loc[order].duplicated()].sort_index()


def _bands(nfe: pd.Series[float]) -> list[tuple[int, int]]:
    """Up to three bands of NFE with about as many plans each; none where a band would have too few."""
    values = sorted(int(value) for value in nfe)
    if len(values) < BANDS * LEAST_IN_BAND:
        return []
    edges = sorted({values[len(values) * k // BANDS - 1] for k in range(1, BANDS + 1)})
    starts = [values[0], *(edge + 1 for edge in edges[:-1])]
    parts = [[value for value in values if start <= value <= end] for start, end in zip(starts, edges, strict=True)]
    return [(part[0], part[-1]) for part in parts if len(part) >= LEAST_IN_BAND]
