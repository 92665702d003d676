"""The front of FID against NFE as a figure for a paper, at the width of a column.

Colours are those of Okabe and Ito (2008), which the colour-blind tell apart; each baseline has its own marker besides.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from reports.numbers import count
from reports.pareto import front
from reports.record import complete
from reports.standings import Standings, standings

FRONT_COLOUR, TRIAL_COLOUR, FLOOR_COLOUR = "#D55E00", "#8C8C8C", "#000000"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7A5C00", "#332288")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
COLUMN_INCHES = 3.5
NFE_LABEL = "NFE: network evaluations per image"
# Below this a log axis has nothing to show; a negative FID is sampling noise.
SMALLEST = 1e-9

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that every machine draws the same
    "font.size": 7,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6,
    "text.parse_math": False,  # a method's name may hold a dollar sign
    "svg.hashsalt": "sigmasearch",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


def front_png(frame: pd.DataFrame, path: Path, dpi: int = 300) -> Path:
    """Draw the largest comparable group of the record as PNG, `dpi` dots an inch. Same record, same bytes."""
    return _save(frame, path, dpi=dpi, metadata={"Software": None})


def front_svg(frame: pd.DataFrame, path: Path) -> Path:
    """The same figure as SVG."""
    return _save(frame, path, metadata={"Date": None, "Creator": None})


def baseline_curves(group: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each baseline's rows by rising NFE, in the order of their names."""
    for name, rows in complete(group, "baseline").groupby("method", sort=True):
        yield str(name), rows.sort_values("nfe", kind="stable")


def confirmed_points(standings: Standings) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The confirmations of the searched front, of the baselines that led, and of the floor, by rising NFE.

    Only those of as many images as the search's own: FID falls with their number, and one axis is for one number.
    """
    images = standings.group.iloc[0]["images"]
    rows = {key: row for key, row in standings.confirmed.items() if not pd.isna(images) and row["images"] == images}
    leading = front(complete(standings.group, "searched", "published"))
    led = dict.fromkeys(v.baseline.row["key"] for v in standings.verdicts() if v.baseline is not None)
    floor = [] if standings.floor is None else [standings.floor["key"]]
    parts = [pd.DataFrame([rows[key] for key in keys if key in rows]) for keys in (leading["key"], led, floor)]
    first, second, third = (part.sort_values("nfe", kind="stable") if len(part) else part for part in parts)
    return first, second, third


def _save(frame: pd.DataFrame, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # From the defaults, so that nobody's matplotlibrc shows.
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(COLUMN_INCHES, 3.7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        found = standings(frame)
        if found:
            _draw(figure, axes, found[0])
        else:
            axes.text(0.5, 0.5, "no scored trials", ha="center", transform=axes.transAxes)
            axes.set(xlabel=NFE_LABEL, ylabel="FID")
        figure.savefig(path, format=path.suffix.lstrip("."), **options)
    return path


def _draw(figure: Figure, axes: Axes, standings: Standings) -> None:
    group = standings.group
    floors = complete(group, "floor")
    searched = complete(group, "searched", "published")
    leading = front(searched)
    curves = list(baseline_curves(group))
    axes.set(xscale="log", yscale="log")
    if not floors.empty:
        fid, se = _positive(floors["fid"])[0], float(floors["fid_se"].iloc[0])
        if np.isfinite(se):
            axes.axhspan(max(fid - se, SMALLEST), fid + se, color=FLOOR_COLOUR, alpha=0.12, linewidth=0)
        label = f"floor: {floors['method'].iloc[0]}, {count(floors['nfe'].iloc[0])} NFE"
        axes.axhline(fid, color=FLOOR_COLOUR, linestyle=(0, (4, 2)), linewidth=0.8, label=label)
    # The ends are noted before the dots: one bad trial must not flatten everything else.
    shown = pd.concat([rows for _, rows in curves] + [leading, floors]) if curves or not leading.empty else group
    axes.scatter(
        searched["nfe"], _positive(searched["fid"]), s=5, color=TRIAL_COLOUR, alpha=0.45, linewidths=0, label="trials"
    )
    for k, (name, rows) in enumerate(curves):
        axes.plot(
            rows["nfe"],
            _positive(rows["fid"]),
            color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[k % len(MARKERS)],
            linestyle="-" if k < len(COLOURS) else (0, (2, 1)),
            markersize=2.8,
            markeredgewidth=0,
            linewidth=0.7,
            alpha=0.9,
            label=name,
        )
    again = confirmed_points(standings)
    _axes(axes, standings, pd.concat([shown, *again]))
    _front(axes, leading)
    _confirmed(axes, again[0], FRONT_COLOUR, 2.8, "searched: confirmed")
    _confirmed(axes, again[1], FLOOR_COLOUR, -2.8, "best baseline: confirmed")
    for fid in _positive(again[2]["fid"]) if len(again[2]) else []:
        axes.axhline(fid, color=FLOOR_COLOUR, linestyle=":", linewidth=0.8, label="floor: confirmed")
    handles, labels = axes.get_legend_handles_labels()
    first = ("searched:", "best baseline:", "floor:")
    order = sorted(range(len(labels)), key=lambda k: ([not labels[k].startswith(word) for word in first], k))
    figure.legend(
        [handles[k] for k in order],
        [labels[k] for k in order],
        loc="outside lower center",
        ncols=2,
        frameon=False,
        handlelength=2.2,
        columnspacing=1.2,
    )


def _front(axes: Axes, leading: pd.DataFrame) -> None:
    """A staircase, since between two points there is no sampler that a straight line would promise."""
    if leading.empty:
        return
    nfe, fid = leading["nfe"].tolist(), _positive(leading["fid"])
    axes.errorbar(
        nfe,
        fid,
        yerr=leading["fid_se"].fillna(0.0),
        fmt="none",
        color=FRONT_COLOUR,
        elinewidth=0.9,
        capsize=1.6,
        zorder=5,
    )
    axes.plot(
        [*nfe, axes.get_xlim()[1]],
        [*fid, fid[-1]],
        drawstyle="steps-post",
        color=FRONT_COLOUR,
        marker="o",
        markevery=slice(0, len(nfe)),
        markersize=3.2,
        markerfacecolor="white",
        markeredgewidth=1.0,
        linewidth=1.4,
        zorder=6,
        label="searched: best within budget",
    )


def _confirmed(axes: Axes, rows: pd.DataFrame, colour: str, aside: float, label: str) -> None:
    """Points beside their NFE, so many points of print `aside`, since the search's own score lies close to each."""
    if rows.empty:
        return
    beside = ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
    axes.errorbar(
        rows["nfe"],
        _positive(rows["fid"]),
        yerr=rows["fid_se"].fillna(0.0),
        fmt="D",
        color=colour,
        markersize=3.2,
        markeredgecolor="white",
        markeredgewidth=0.4,
        elinewidth=0.7,
        zorder=7,
        transform=axes.transData + beside,
        label=label,
    )


def _axes(axes: Axes, standings: Standings, shown: pd.DataFrame) -> None:
    group = standings.group
    held = shown[shown["role"].isin(("baseline", "published", "searched"))]
    if held.empty:
        held = group
    left, right = float(held["nfe"].min()) / 1.12, float(held["nfe"].max()) * 1.12
    fids = _positive(shown["fid"])
    bottom, top = min(fids) / 1.35, max(fids) * 1.35
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    above = int((complete(group, "searched", "published")["fid"] > top).sum())
    if above:
        noun = "trial lies" if above == 1 else "trials lie"
        axes.text(0.99, 0.985, f"{above} {noun} above", ha="right", va="top", fontsize=6, transform=axes.transAxes)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(standings.budgets, left, right)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    decades = np.log10(top / bottom)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", color="#DDDDDD", linewidth=0.4)
    axes.set_axisbelow(True)
    images = group.iloc[0]["images"]
    axes.set_xlabel(NFE_LABEL)
    axes.set_ylabel("FID" if pd.isna(images) else f"FID ({int(images):,} images)")
    axes.set_title(str(group.iloc[0]["benchmark"]), loc="left")


def _ticks(budgets: list[int], left: float, right: float) -> list[float]:
    """Budgets as ticks, without those that would print into the one before on a log axis."""
    ticks: list[float] = []
    apart = 0.05 * np.log(right / left)
    for budget in budgets:
        if left <= budget <= right and (not ticks or np.log(budget / ticks[-1]) > apart):
            ticks.append(float(budget))
    return ticks


def _positive(values: pd.Series[Any]) -> list[float]:
    return [max(float(value), SMALLEST) for value in values]
