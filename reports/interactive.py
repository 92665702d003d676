"""The front as a page of its own: every trial under the pointer, no network needed."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from reports.figures import (
    COLOURS,
    FLOOR_COLOUR,
    FRONT_COLOUR,
    NFE_LABEL,
    TRIAL_COLOUR,
    baseline_curves,
    confirmed_points,
)
from reports.numbers import conditions, count, plain
from reports.pareto import front
from reports.record import complete
from reports.standings import Standings, standings

# Plotly's words for the markers of `reports.figures`.
SYMBOLS = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "x",
    "triangle-left",
    "triangle-right",
)


def front_html(frame: pd.DataFrame, path: Path) -> Path:
    """Write the page: 4.9 MB, since all of plotly.js is in it and the file is to open anywhere and for ever."""
    found = standings(frame)
    figure = go.Figure()
    title = "no scored trials"
    budgets: list[int] = []
    if found:
        group, budgets = found[0].group, found[0].budgets
        _draw(figure, found[0])
        title = html.escape(f"{group.iloc[0]['benchmark']}: {conditions(group)}")
    figure.update_layout(
        title=title,
        template="plotly_white",
        xaxis={
            "title": {"text": NFE_LABEL},
            "type": "log",
            "tickvals": budgets,
            "ticktext": [str(budget) for budget in budgets],
        },
        yaxis={"title": {"text": "FID"}, "type": "log"},
        legend={"groupclick": "toggleitem"},
        hovermode="closest",
        height=620,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # A fixed id: plotly's own is random, and the same record is to give the same bytes.
    text = figure.to_html(include_plotlyjs=True, full_html=True, div_id="front", config={"displaylogo": False})
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


def _draw(figure: Any, standings: Standings) -> None:
    group = standings.group
    searched = complete(group, "searched", "published")
    leading = front(searched)
    dots = {"color": TRIAL_COLOUR, "size": 6, "opacity": 0.5}
    figure.add_trace(_trace(searched.drop(leading.index), "trials", mode="markers", marker=dots))
    for k, (name, rows) in enumerate(baseline_curves(group)):
        colour, symbol = COLOURS[k % len(COLOURS)], SYMBOLS[k % len(SYMBOLS)]
        figure.add_trace(_trace(rows, name, line={"color": colour, "width": 1.5}, marker={"symbol": symbol, "size": 7}))
    marker = {"size": 9, "color": "white", "line": {"color": FRONT_COLOUR, "width": 2}}
    error = {"type": "data", "array": leading["fid_se"].tolist(), "color": FRONT_COLOUR}
    figure.add_trace(
        _trace(
            leading,
            "searched: best within budget",
            line={"color": FRONT_COLOUR, "width": 3, "shape": "hv"},
            marker=marker,
            error_y=error,
        )
    )
    searched_again, baselines_again, floor_again = confirmed_points(standings)
    for rows, colour, name in (
        (searched_again, FRONT_COLOUR, "searched: confirmed"),
        (baselines_again, FLOOR_COLOUR, "best baseline: confirmed"),
    ):
        if len(rows):
            error = {"type": "data", "array": rows["fid_se"].tolist(), "color": colour}
            marker = {"size": 8, "color": colour, "symbol": "diamond"}
            figure.add_trace(_trace(rows, name, mode="markers", marker=marker, error_y=error))
    floor = complete(group, "floor").head(1)
    # From one end of the data to the other.
    others = group.drop(floor.index)["nfe"]
    ends = [float(others.min()), float(others.max())]
    for rows, dash in ((floor, "dash"), (floor_again, "dot")):
        for _, row in rows.iterrows():
            words = f"floor: {row['method']}, {count(row['nfe'])} NFE" if dash == "dash" else "floor: confirmed"
            # A trace, since a line across the page has no hover.
            line = {"color": FLOOR_COLOUR, "dash": dash, "width": 1.5}
            trace = _trace(pd.concat([rows, rows]), words, mode="lines", line=line)
            trace.x = ends
            figure.add_trace(trace)
    for _, row in floor[floor["fid"] > floor["fid_se"]].iterrows():
        band = {"fillcolor": FLOOR_COLOUR, "opacity": 0.12, "line_width": 0}
        figure.add_hrect(y0=row["fid"] - row["fid_se"], y1=row["fid"] + row["fid_se"], **band)


def _trace(rows: pd.DataFrame, name: str, **options: Any) -> Any:
    return go.Scatter(
        **{"mode": "lines+markers"} | options,
        x=rows["nfe"].tolist(),
        y=rows["fid"].tolist(),
        name=html.escape(name),
        text=[_hover(row) for _, row in rows.iterrows()],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(row: pd.Series[Any]) -> str:
    lines = [
        row["method"],
        row["name"],
        f"FID {plain(row)}" + (f", seeds from {row['first_seed']}" if row["role"] == "confirmed" else ""),
        f"NFE {count(row['nfe'])}, set-up {count(row['setup_nfe'])}",
    ]
    return "<br>".join(html.escape(str(line)) for line in dict.fromkeys([*lines, row["key"]]) if line)
