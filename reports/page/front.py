"""The chart of FID against NFE: every scored trial, every baseline, the floor, the confirmations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from reports.figures import COLOURS, MARKERS, SMALLEST, baseline_curves, confirmed_points
from reports.numbers import count, plain
from reports.page.chart import Axis, Tick
from reports.pareto import front
from reports.record import complete
from reports.standings import Standings

ASIDE = 4  # pixels by which a confirmation is drawn beside the score that it confirms


class Mark(NamedTuple):
    """A point with its error bar, in percent; `tip`: the number of its text."""

    x: str
    y: str
    top: str
    bottom: str
    tip: int


class Segment(NamedTuple):
    """A straight line, in percent."""

    x1: str
    y1: str
    x2: str
    y2: str


@dataclass(frozen=True)
class Series:
    """Points under one name. `colour` is a class of the style sheet, `marker` a symbol of `reports.figures`."""

    name: str
    colour: str
    marker: str = ""
    marks: Sequence[Mark] = ()
    lines: Sequence[Segment] = ()
    style: str = "thin"
    aside: int = 0
    band: tuple[str, str] | None = None


@dataclass(frozen=True)
class PointRow:
    """A point's line in the table below the chart."""

    series: str
    name: str
    nfe: str
    setup: str
    fid: str
    key: str


@dataclass
class FrontChart:
    """The chart, ready to be drawn: series, ticks, the texts of its points, and the same as a table.

    `above`: searched trials whose FID is beyond the chart, which the table has all the same.
    """

    series: list[Series] = field(default_factory=list)
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    tips: list[list[str]] = field(default_factory=list)
    table: list[PointRow] = field(default_factory=list)
    above: int = 0

    @staticmethod
    def of(standings: Standings) -> FrontChart:
        """The chart of one group."""
        made = FrontChart()
        group = standings.group
        searched, floors = complete(group, "searched", "published"), complete(group, "floor")
        leading, curves, again = front(searched), list(baseline_curves(group)), confirmed_points(standings)
        # The ends are noted before the dots: one bad trial must not flatten everything else.
        shown = pd.concat([rows for _, rows in curves] + [leading, floors]) if curves or not leading.empty else group
        held = shown[shown["role"].isin(("baseline", "published", "searched"))]
        fids = [value for rows in (shown, *again) if len(rows) for value in _positive(rows["fid"])]
        x = Axis.around((held if not held.empty else group)["nfe"].astype(float))
        y = Axis.around(fids, margin=1.35, falling=True)
        made.above = int((searched["fid"] > y.high).sum())
        made.x_ticks, made.y_ticks = x.ticks(list(map(float, standings.budgets))), y.decades()
        draw = _Pen(made, x, y)
        draw.points(leading, "searched: best within budget", "front", "o", steps=True, style="front")
        draw.points(again[0], "searched: confirmed", "front", "D", aside=ASIDE)
        draw.points(again[1], "best baseline: confirmed", "floor", "D", aside=-ASIDE)
        for _, row in floors.head(1).iterrows():
            draw.level(row, f"floor: {row['method']}, {count(row['nfe'])} NFE", "dash", band=True)
        for _, row in again[2].iterrows():
            draw.level(row, "floor: confirmed", "dot")
        draw.points(searched.drop(leading.index), "other trials", "trial", ".", style="dots", errors=False)
        for k, (name, rows) in enumerate(curves):
            style = "thin" if k < len(COLOURS) else "thin dashed"
            colour, marker = f"c{k % len(COLOURS)}", MARKERS[k % len(MARKERS)]
            draw.points(rows, name, colour, marker, joined=True, style=style)
        return made


def told(row: pd.Series[Any], series: str) -> list[str]:
    """A point in a few lines: what it is, its FID and what that was measured on, what it costs."""
    lines = [
        str(row["name"] if row["role"] in ("searched", "published") else row["method"]),
        f"FID {plain(row)}",
        f"{count(row['nfe'])} NFE, set-up {count(row['setup_nfe'])}",
        f"{series}; {_seeds(row)}",
        str(row["key"]),
    ]
    return [line for line in lines if line]


def _seeds(row: pd.Series[Any]) -> str:
    if pd.isna(row["images"]) or pd.isna(row["first_seed"]):
        return "seeds unknown"
    return f"{int(row['images']):,} images, seeds from {int(row['first_seed'])}"


class _Pen:
    """Draws rows into a chart."""

    def __init__(self, chart: FrontChart, x: Axis, y: Axis) -> None:
        self._chart, self._x, self._y = chart, x, y

    def points(
        self,
        rows: pd.DataFrame,
        name: str,
        colour: str,
        marker: str,
        *,
        style: str = "thin",
        joined: bool = False,
        steps: bool = False,
        aside: int = 0,
        errors: bool = True,
    ) -> None:
        if rows.empty:
            return
        marks = [self._mark(row, name, errors=errors) for _, row in rows.iterrows()]
        places = [(mark.x, mark.y) for mark in marks]
        if steps:
            # A staircase, since between two points there is no sampler that a straight line would promise.
            places = [*_stairs(places), ("100.00%", places[-1][1])]
        lines = [Segment(*a, *b) for a, b in itertools.pairwise(places)] if joined or steps else []
        drawn = [mark for mark, fid in zip(marks, rows["fid"], strict=True) if self._y.holds(max(float(fid), SMALLEST))]
        self._chart.series.append(Series(name, colour, marker, drawn, lines, style, aside))

    def level(self, row: pd.Series[Any], name: str, style: str, *, band: bool = False) -> None:
        mark, se = self._mark(row, name), float(row["fid_se"])
        held = None
        if band and se > 0:
            held = (mark.top, f"{float(mark.bottom[:-1]) - float(mark.top[:-1]):.2f}%")
        line = Segment("0.00%", mark.y, "100.00%", mark.y)
        at_end = mark._replace(x="100.00%")
        self._chart.series.append(Series(name, "floor", "", [at_end], [line], style, band=held))

    def _mark(self, row: pd.Series[Any], series: str, *, errors: bool = True) -> Mark:
        chart, fid, se = self._chart, max(float(row["fid"]), SMALLEST), float(row["fid_se"])
        se = se if errors and se > 0 else 0.0
        chart.tips.append(told(row, series))
        title = str(row["name"] if row["role"] in ("searched", "published") else row["method"])
        numbers = count(row["nfe"]), count(row["setup_nfe"]), plain(row)
        chart.table.append(PointRow(series, title, *numbers, str(row["key"])))
        top, bottom = self._y.at(fid + se), self._y.at(max(fid - se, SMALLEST))
        return Mark(self._x.at(float(row["nfe"])), self._y.at(fid), top, bottom, len(chart.tips) - 1)


def _stairs(places: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    yield places[0]
    for before, here in itertools.pairwise(places):
        yield here[0], before[1]
        yield here


def _positive(values: pd.Series[Any]) -> list[float]:
    return [max(float(value), SMALLEST) for value in values]
