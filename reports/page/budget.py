"""One budget, closely: what its leaders draw, where they put their sigmas, what happens along their path."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.figures import COLOURS, MARKERS, baseline_curves
from reports.numbers import count, plain
from reports.page.album import Album, Picture
from reports.page.chart import Axis, Tick
from reports.page.front import Mark, Segment
from reports.page.headline import SYMBOLS, kind_of, shown
from reports.standings import Cell, Standings, Verdict
from reports.trial_files import Step, TrialFiles, short_name

SMALL = 9.0  # percent of a small chart's axis that a number needs
ENDS = 1.5  # factor of room beyond the largest and the smallest sigma


@dataclass(frozen=True)
class Shown:
    """A sample grid with its words, or in `missing` why there is none."""

    role: str
    name: str
    score: str
    picture: Picture | None
    missing: str = ""


@dataclass(frozen=True)
class ScheduleLine:
    """Where one method puts its sigmas: `places` in percent, `zero` if it ends there."""

    name: str
    nfe: str
    colour: str
    marker: str
    places: Sequence[str]
    zero: bool
    text: str


@dataclass(frozen=True)
class Curve:
    """One quantity along a path."""

    name: str
    marks: Sequence[Mark]
    lines: Sequence[Segment]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    tips: Sequence[Sequence[str]]
    missing: str = ""


@dataclass(frozen=True)
class Path:
    """What happens along the searched plan."""

    name: str
    solvers: str
    curves: Sequence[Curve]
    steps: Sequence[Sequence[str]]
    missing: str = ""


@dataclass(frozen=True)
class Panel:
    """Everything about one budget."""

    budget: int
    kind: str
    symbol: str
    words: str
    summary: str
    pictures: Sequence[Shown]
    schedules: Sequence[ScheduleLine]
    unlisted: Sequence[str]
    sigma_ticks: Sequence[Tick]
    path: Path


def panels(standings: Standings, files: TrialFiles) -> tuple[list[Panel], Album]:
    """A panel for each budget, and the pictures that they show."""
    verdicts = list(standings.verdicts())
    contents = []
    for verdict in verdicts:
        for row in (*_rows(verdict), standings.floor):
            content = None if row is None else files.samples(row)
            contents += [] if content is None else [content]
    album = Album(contents)
    axis = _sigma_axis(standings, files)
    return [_panel(standings, verdict, files, album, axis) for verdict in verdicts], album


def _panel(standings: Standings, verdict: Verdict, files: TrialFiles, album: Album, axis: Axis | None) -> Panel:
    kind = kind_of(verdict)
    ours, theirs = _rows(verdict)
    pictures = [
        _picture(role, absent, row, standings, files, album)
        for role, absent, row in (
            ("searched", "No searched plan was scored within this budget.", ours),
            ("best baseline", "No baseline was scored within this budget.", theirs),
            ("reference: the fine solve", "The study has no fine solve.", standings.floor),
        )
    ]
    lines, unlisted = _schedules(standings, verdict.budget, files, axis)
    ticks = [] if axis is None else axis.decades()
    return Panel(
        verdict.budget, kind, SYMBOLS[kind], verdict.words, _summary(verdict), pictures,
        lines, unlisted, ticks, _path(verdict.searched, files, axis),
    )  # fmt: skip


def _rows(verdict: Verdict) -> tuple[pd.Series[Any] | None, pd.Series[Any] | None]:
    return tuple(None if cell is None else cell.row for cell in (verdict.searched, verdict.baseline))  # type: ignore[return-value]  # two, as the pair is


def _summary(verdict: Verdict) -> str:
    ours, theirs = verdict.searched, verdict.baseline
    if ours is None or theirs is None:
        return "There is nothing to compare at this budget."
    mine, other = shown(verdict)
    assert mine is not None
    assert other is not None
    text = f"{short_name(ours.row)} scores FID {plain(mine)} with {count(ours.row['nfe'])} evaluations; {theirs.method}"
    text += f" scores {plain(other)} with {count(theirs.row['nfe'])}."
    text += " Both on seeds that chose nothing." if verdict.confirmed else " On the search's own seeds."
    same = ours.row["plan"] and ours.row["plan"] == theirs.row["plan"]
    return text + (" They are the same plan: the search found none that scores lower." if same else "")


def _picture(
    role: str, absent: str, row: pd.Series[Any] | None, standings: Standings, files: TrialFiles, album: Album
) -> Shown:
    if row is None:
        return Shown(role, "", "", None, absent)
    again = standings.confirmed.get(row["key"])
    score = f"FID {plain(row)}" + ("" if again is None else f", confirmed {plain(again)}")
    name = str(row["name"] if row["role"] in ("searched", "published") else row["method"])
    name += f" · {count(row['nfe'])} NFE" if row["role"] not in ("searched", "published") else ""
    content = files.samples(row)
    picture = None if content is None else album.picture(content)
    if content is None:
        missing = "No sample grid is kept with this trial's run."
    else:
        missing = "" if picture is not None else "Its sample grid cannot be shown within the size of this page."
    return Shown(role, name, score, picture, missing)


def _sigma_axis(standings: Standings, files: TrialFiles) -> Axis | None:
    """One axis for all budgets, so that they compare."""
    cards = [files.card(cell.row) for budget in standings.budgets for cell in standings.at(budget)]
    sigmas = [sigma for card in cards if card is not None for sigma in card.sigmas if sigma > 0]
    return Axis(min(sigmas) / ENDS, max(sigmas) * ENDS, falling=True) if sigmas else None


def _schedules(
    standings: Standings, budget: int, files: TrialFiles, axis: Axis | None
) -> tuple[list[ScheduleLine], list[str]]:
    """The lines of a budget, and the names of those without a card."""
    looks = {
        name: (f"c{k % len(COLOURS)}", MARKERS[k % len(MARKERS)])
        for k, (name, _) in enumerate(baseline_curves(standings.group))
    }
    found, unlisted = files.schedules(standings, budget)
    lines = []
    for schedule in found:
        colour, marker = looks.get(schedule.method, ("front", "o"))
        places = [] if axis is None else [axis.at(sigma) for sigma in schedule.sigmas if sigma > 0]
        text = ", ".join(f"{sigma:.4g}" for sigma in schedule.sigmas)
        ends_at_zero = schedule.sigmas[-1] == 0
        lines.append(ScheduleLine(schedule.name, count(schedule.nfe), colour, marker, places, ends_at_zero, text))
    return lines, unlisted


def _path(cell: Cell | None, files: TrialFiles, axis: Axis | None) -> Path:
    if cell is None:
        return Path("", "", (), (), "No searched plan was scored within this budget.")
    name, steps = str(cell.row["name"]), files.steps(cell.row)
    if not steps:
        return Path(name, "", (), (), "No table of steps is kept with this trial's run.")
    sigmas = [step.sigma for step in steps if step.sigma > 0]
    if axis is None and sigmas:
        axis = Axis(min(sigmas) / ENDS, max(sigmas) * ENDS, falling=True)
    curves = [] if axis is None else [
        _curve("kappa", "how much the path bends, per unit of sigma", [step.kappa for step in steps], steps, axis),
        _curve("eta", "local error of a step, in the image's L2 norm", [step.eta for step in steps], steps, axis),
    ]  # fmt: skip
    told = [
        [s.evaluation, _word(s.sigma), _word(s.sigma_next), s.solver or "–", _word(s.kappa), _word(s.eta)]
        for s in steps
    ]
    return Path(name, _solvers(steps), curves, told)


def _curve(name: str, meaning: str, values: Sequence[float], steps: Sequence[Step], x: Axis) -> Curve:
    label = f"{name}: {meaning}"
    held = [(step, value) for step, value in zip(steps, values, strict=True) if value > 0 and step.sigma > 0]
    if not held:
        return Curve(label, (), (), (), (), (), f"The table of steps holds no {name} for this plan.")
    y = Axis.around([value for _, value in held], margin=1.6, falling=True)
    marks: list[Mark] = []
    tips: list[list[str]] = []
    for step, value in held:
        at = y.at(value)
        marks.append(Mark(x.at(step.sigma), at, at, at, len(tips)))
        tips.append([f"{name} {value:.3g}", f"sigma {step.sigma:.4g}", f"evaluation {step.evaluation}, {step.solver}"])
    lines = [Segment(a.x, a.y, b.x, b.y) for a, b in itertools.pairwise(marks)]
    return Curve(label, marks, lines, x.decades(SMALL), y.decades(SMALL), tips)


def _solvers(steps: Sequence[Step]) -> str:
    """Which solver takes which evaluations."""
    parts = []
    for solver, held in itertools.groupby(steps, key=lambda step: step.solver):
        names = [step.evaluation for step in held]
        numbers = names[0] if len(names) == 1 else f"{names[0]}–{names[-1]}"
        parts.append(f"{solver or 'unknown solver'} at evaluation{'s' if len(names) > 1 else ''} {numbers}")
    return ", then ".join(parts)


def _word(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else ""
