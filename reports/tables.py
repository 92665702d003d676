"""The tables of a study in Markdown, CSV and LaTeX. Same record, same bytes: no clock and no machine goes into them."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports.latex import latex
from reports.numbers import conditions, count, plain, setup, spent, with_error
from reports.pareto import front
from reports.record import complete, groups
from reports.standings import SEARCHED, Cell, Standings


def markdown(frame: pd.DataFrame, budgets: Sequence[int] | None = None) -> str:
    """The whole report: the table of FID at each budget, the verdicts, and what the numbers are."""
    parts = [_counted(frame)]
    for group in groups(frame):
        standings = Standings(group, budgets)
        parts += [_heading(group), _main_table(standings), _marks(standings), _verdict_table(standings), _notes(group)]
    return "\n\n".join(parts) + "\n"


def csv(frame: pd.DataFrame, budgets: Sequence[int] | None = None) -> str:
    """Long form: one row a budget and method, with every number; the floor has no budget."""
    rows: list[dict[str, Any]] = []
    for group in groups(frame):
        standings = Standings(group, budgets)
        if standings.floor is not None:
            rows.append(_long(standings.floor, "floor", str(standings.floor["method"])))
        for budget in standings.budgets:
            for cell in standings.at(budget):
                marks = {"winner": cell.winner, "inconclusive": cell.tied, "at_floor": cell.at_floor}
                rows.append(_long(cell.row, cell.role, cell.method, budget) | marks)
    columns = [*_LONG, "winner", "inconclusive", "at_floor"]
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n", float_format="%.6g")


def leaderboard(frame: pd.DataFrame) -> str:
    """Markdown for the study's page: the floor, the front, then the best baseline of each NFE."""
    parts: list[str] = []
    for group in groups(frame):
        leading = front(complete(group, "searched", "published"))
        baselines = complete(group, "baseline")
        best = baselines.loc[baselines.sort_values(["fid", "nfe"], kind="stable").groupby("nfe").head(1).index]
        best = best.sort_values("nfe", kind="stable")
        lines = [_line("", "method", "NFE", "set-up NFE", "FID ± se"), "|:--|:--|--:|--:|--:|"]
        for title, rows in (("floor", complete(group, "floor")), ("front", leading), ("baseline", best)):
            for _, row in rows.iterrows():
                name = row["name"] if title == "front" else row["method"]
                lines.append(_line(title, _md(name), count(row["nfe"]), count(row["setup_nfe"]), plain(row)))
        parts += [_heading(group), "\n".join(lines)]
    return "\n\n".join([*parts, _counted(frame)]) + "\n"


def write(frame: pd.DataFrame, folder: Path, budgets: Sequence[int] | None = None) -> list[Path]:
    """Write table.md, table.csv and table.tex into `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[..., str]] = {"table.md": markdown, "table.csv": csv, "table.tex": latex}
    paths = []
    for name, make in makers.items():
        path = folder / name
        path.write_text(make(frame, budgets), encoding="utf-8", newline="\n")
        paths.append(path)
    return paths


_LONG = (
    *("benchmark", "benchmark_version", "study", "budget", "role", "method", "key", "trial", "fid", "fid_se"),
    *("fid_corrected", "nfe", "setup_nfe", "images", "first_seed", "last_seed", "terminal", "plan", "reference"),
    "revision",
)


def _long(row: pd.Series[Any], role: str, method: str, budget: int | None = None) -> dict[str, Any]:
    held = {name: row[name] for name in _LONG if name in row.index}
    return held | {
        "budget": "" if budget is None else budget,
        "role": role,
        "method": method,
        "trial": row["name"],
        "last_seed": row["first_seed"] + row["images"] - 1,
    }


def _counted(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "No trials."
    counts = frame["state"].value_counts().to_dict()
    order = ("complete", "pruned", "failed", "broken", "foreign")
    told = ", ".join(f"{counts[state]} {state}" for state in order if state in counts)
    studies = [name for name in frame["study"].unique() if name]
    return f"Study {', '.join(map(_md, studies))}: {told}." if studies else f"Runs: {told}."


def _heading(group: pd.DataFrame) -> str:
    row = group.iloc[0]
    return f"### {_md(row['benchmark'])}: {conditions(group)}"


def _main_table(standings: Standings) -> str:
    budgets = standings.budgets
    lines = [_line("method", "set-up NFE", *map(str, budgets)), "|:--|--:|" + "--:|" * len(budgets)]
    floor = standings.floor
    if floor is not None:
        name = f"floor: {_md(floor['method'])} ({count(floor['nfe'])} NFE)"
        lines.append(_line(name, count(floor["setup_nfe"]), *[plain(floor)] * len(budgets)))
    for method, role in standings.methods:
        cells = [standings.cells.get((method, role, budget)) for budget in budgets]
        lines.append(_line(_md(method), setup(cells), *map(_cell, cells)))
    return "\n".join(lines)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = plain(cell.row)
    if cell.winner:
        text = f"**{text}**"
    if cell.tied:
        text += " ~"
    return text + spent(cell)


def _verdict_table(standings: Standings) -> str:
    lines = [
        _line("NFE", "best baseline", "FID ± se", SEARCHED, "its NFE", "set-up", "FID ± se", "gap ± error", "verdict"),
        "|--:|:--|--:|:--|--:|--:|--:|--:|:--|",
    ]
    for verdict in standings.verdicts():
        base, ours = verdict.baseline, verdict.searched
        gap = "–"
        if math.isfinite(verdict.gap):
            sign = "-" if verdict.gap < 0 else ""
            gap = sign + " ± ".join(with_error(abs(verdict.gap), verdict.error))
        lines.append(
            _line(
                str(verdict.budget),
                "–" if base is None else _md(base.method) + spent(base),
                "–" if base is None else plain(base.row),
                "–" if ours is None else f"{_md(ours.row['name'])} [{_md(ours.row['key'])}]",
                "–" if ours is None else count(ours.row["nfe"]),
                "–" if ours is None else count(ours.row["setup_nfe"]),
                "–" if ours is None else plain(ours.row),
                gap,
                verdict.words,
            )
        )
    return "\n".join(lines)


def _marks(standings: Standings) -> str:
    trials = len(complete(standings.group, "searched", "published"))
    return (
        "Each cell is the method's lowest FID within the budget; in brackets the NFE it took, where that is less. "
        "Bold: the lowest. `~`: inconclusive, the lowest and this one lie within each other's error (they differ by at "
        f"most the root of the sum of the squared errors). `{SEARCHED}` is the best of {trials} trials on the same "
        "seeds as everything else, and the lowest of many is a little too low: confirm it on fresh seeds."
    )


def _notes(group: pd.DataFrame) -> str:
    row = group.iloc[0]
    ends = sorted({{"zero": "0", "sigma_min": "sigma_min"}.get(end, end) for end in group["terminal"] if end})
    revisions = sorted({name for name in group["revision"] if name})
    lines = [
        f"{conditions(group)}, one reference ({row['reference'] or 'unknown'}, benchmark version "
        f"{row['benchmark_version'] or 'unknown'}); se: leave one shard out.",
        "NFE is counted at the network, per image. Set-up NFE is what placing the sigmas and taking a solver's "
        "decision cost once, per calibration image; it is not in NFE.",
        f"Methods end at sigma = {' or '.join(ends) or 'unknown'}.",
        f"Code revision: {', '.join(revisions) or 'unknown'}."
        + (" (`+`: with changes that are not committed.)" if any(name.endswith("+") for name in revisions) else ""),
    ]
    return "\n".join(f"- {_md_light(line)}" for line in lines)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _md(text: str) -> str:
    """Text that Markdown and the HTML in it show as it is, on one line of a table."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def _md_light(text: str) -> str:
    return html.escape(text, quote=False)
