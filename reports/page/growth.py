"""The chart of hypervolume against network rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.hypervolume import Growth
from reports.page.chart import Axis, Tick
from reports.page.front import Mark, Segment


@dataclass(frozen=True)
class GrowthChart:
    """Hypervolume against network rows: a staircase, in percent, and the same as a table."""

    marks: Sequence[Mark]
    lines: Sequence[Segment]
    baselines: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    tips: Sequence[Sequence[str]]
    table: Sequence[tuple[str, str]]
    sentence: str
    corner: tuple[str, str]
    unknown: int

    @staticmethod
    def of(growth: Growth) -> GrowthChart | None:
        """The chart; None where nothing is dominated."""
        steps, theirs = growth.shares, growth.baselines_share
        if not steps:
            return None
        known = [theirs] if math.isfinite(theirs) else []
        x = Axis(0.0, max(steps[-1][0], 1.0), log=False)
        low = max(0.0, min([share for _, share in steps] + known) - 0.05)
        y = Axis(low, 1.02 * max([1.0, *known]), log=False, falling=True)
        places = [(x.at(rows), y.at(share)) for rows, share in steps]
        lines = []
        for (x1, y1), (x2, y2) in itertools.pairwise(places):
            lines += [Segment(x1, y1, x2, y1), Segment(x2, y1, x2, y2)]
        told = [(f"{rows:,.0f}", f"{100 * share:.1f} %") for rows, share in steps]
        return GrowthChart(
            marks=[Mark(a, b, b, b, k) for k, (a, b) in enumerate(places)],
            lines=lines,
            baselines=y.at(theirs) if known else "",
            x_ticks=[Tick(x.at(value), _rows_word(value)) for value in _round_steps(x.high)],
            y_ticks=[Tick(y.at(k / 100), f"{k} %") for k in _percents(100 * y.low, 100 * y.high)],
            tips=[[f"{share} of the final hypervolume", f"after {rows} network rows"] for rows, share in told],
            table=told,
            sentence=_growth_sentence(growth),
            corner=(f"{growth.corner[0]:g}", f"{growth.corner[1]:.4g}"),
            unknown=growth.unknown,
        )


def _growth_sentence(growth: Growth) -> str:
    if not math.isfinite(growth.baselines):
        return "There is no baseline to compare this with."
    share = f"{100 * growth.baselines_share:.1f} % of what the search has in the end"
    if math.isnan(growth.passed):
        return f"All baselines together dominate {share}: the search never came to as much."
    return (
        f"All baselines together dominate {share}. The search had passed them after {growth.passed:,.0f} of its "
        f"{growth.rows[-1]:,.0f} network rows."
    )


def _percents(low: float, high: float) -> list[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 25) if (high - low) / step <= 8 or step == 25)
    return list(range(math.ceil(low / step) * step, math.floor(high) + 1, step))


def _round_steps(high: float) -> list[float]:
    """Zero and up to six round numbers."""
    magnitude = 10.0 ** math.floor(math.log10(high))
    step = next(step for step in (magnitude / 5, magnitude / 2, magnitude, 2 * magnitude) if high / step <= 6)
    return [step * k for k in range(int(high / step) + 1)]


def _rows_word(rows: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if rows >= size:
            return f"{rows / size:g}{letter}"
    return f"{rows:g}"
