"""Two more figures for a paper: where schedules put their sigmas, and how hypervolume grew with network rows.

In the style and the colours of `reports.figures`. Same record, same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter, PercentFormatter

from reports.artifacts import Artifacts
from reports.figures import COLOURS, COLUMN_INCHES, FLOOR_COLOUR, FRONT_COLOUR, MARKERS, STYLE, baseline_curves
from reports.hypervolume import Growth
from reports.numbers import count
from reports.page.headline import Headline
from reports.standings import standings
from reports.trial_files import Schedule, TrialFiles

LINE_INCHES = 0.17
ENDS = 1.5  # factor of room beyond the largest and the smallest sigma


def write(frame: pd.DataFrame, folder: Path, artifacts: Artifacts, budgets: Sequence[int] | None = None) -> list[Path]:
    """Write sigmas and hypervolume as PNG and SVG into `folder`, the sigmas at the budget of the largest gain."""
    found = standings(frame, budgets)
    first = found[0] if found else None
    gain = Headline.of(frame, first).largest
    budget = gain if gain is not None else first.budgets[0] if first is not None and first.budgets else 0
    kinds = ("png", "svg")
    paths = [sigmas_figure(frame, folder / f"sigmas.{kind}", artifacts, budget, budgets) for kind in kinds]
    return paths + [growth_figure(frame, folder / f"hypervolume.{kind}", budgets) for kind in kinds]


def sigmas_figure(
    frame: pd.DataFrame, path: Path, artifacts: Artifacts, budget: int, budgets: Sequence[int] | None = None
) -> Path:
    """Draw where each method's best plan within a budget puts its sigmas, as PNG or SVG by the path's name."""
    found = standings(frame, budgets)
    schedules, _ = TrialFiles(frame, artifacts).schedules(found[0], budget) if found else ([], [])
    with _drawing(path, 0.75 + LINE_INCHES * max(len(schedules), 2)) as axes:
        if schedules:
            _sigmas(axes, schedules, [name for name, _ in baseline_curves(found[0].group)])
            axes.set_title(f"{found[0].group.iloc[0]['benchmark']}: within {budget} NFE", loc="left")
        else:
            axes.text(0.5, 0.5, "no card at this budget", ha="center", transform=axes.transAxes)
            axes.set_yticks([])
        axes.set_xlabel("sigma")
    return path


def growth_figure(frame: pd.DataFrame, path: Path, budgets: Sequence[int] | None = None) -> Path:
    """Draw the share of the final hypervolume against network rows, as PNG or SVG by the path's name."""
    found = standings(frame, budgets)
    growth = Growth.of(frame, found[0]) if found else None
    with _drawing(path, 2.2) as axes:
        if growth is not None and growth.shares:
            _growth(axes, growth)
            axes.set_title(str(found[0].group.iloc[0]["benchmark"]), loc="left")
        else:
            axes.text(0.5, 0.5, "no hypervolume in this record", ha="center", transform=axes.transAxes)
        axes.set(xlabel="network rows spent by searched trials", ylabel="of the final hypervolume")
    return path


def _growth(axes: Axes, growth: Growth) -> None:
    rows, shares = zip(*growth.shares, strict=True)
    axes.plot(rows, shares, drawstyle="steps-post", color=FRONT_COLOUR, linewidth=1.4, label="searched front")
    if math.isfinite(growth.baselines_share):
        label = "all baselines together"
        axes.axhline(growth.baselines_share, color=FLOOR_COLOUR, linestyle=(0, (4, 2)), linewidth=0.8, label=label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(True, color="#DDDDDD", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=False)


def _sigmas(axes: Axes, schedules: list[Schedule], names: list[str]) -> None:
    positive = [sigma for schedule in schedules for sigma in schedule.sigmas if sigma > 0]
    right = min(positive) / ENDS
    for k, schedule in enumerate(schedules):
        at = names.index(schedule.method) if schedule.method else -1
        colour = COLOURS[at % len(COLOURS)] if schedule.method else FRONT_COLOUR
        marker = MARKERS[at % len(MARKERS)] if schedule.method else "o"
        axes.axhline(k, color="#DDDDDD", linewidth=0.6, zorder=0)
        places = [sigma for sigma in schedule.sigmas if sigma > 0]
        axes.plot(places, [k] * len(places), linestyle="", marker=marker, markersize=3.4, color=colour, clip_on=False)
        if schedule.sigmas[-1] == 0:
            # A last move to 0, which a logarithm has no place for.
            ring = {"markerfacecolor": "white", "markersize": 3.6, "clip_on": False}
            axes.plot([right], [k], linestyle="", marker="o", color=colour, **ring)  # type: ignore[arg-type]  # options by name
    axes.set(xscale="log", xlim=(max(positive) * ENDS, right), ylim=(len(schedules) - 0.5, -0.5))
    labels = [f"{schedule.name} ({count(schedule.nfe)})" for schedule in schedules]
    axes.set_yticks(range(len(schedules)), labels)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


@contextmanager
def _drawing(path: Path, height: float) -> Iterator[Axes]:
    """Axes of a column's width, saved when they are drawn; from the defaults, so that nobody's matplotlibrc shows."""
    kind = path.suffix.lstrip(".")
    same = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(COLUMN_INCHES, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.add_subplot()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=kind, dpi=300, metadata=same)
