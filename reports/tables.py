"""The tables of a study in Markdown, CSV and LaTeX. Same record, same bytes: no clock and no machine goes into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.store import BESIDE
from reports.beside import others_of
from reports.latex import latex
from reports.leaderboard import leaderboard
from reports.markdown import markdown
from reports.record import rung_columns
from reports.standings import Standings, Verdict, standings

__all__ = ["csv", "latex", "leaderboard", "markdown", "write"]

_MEASURED = (
    *("fid", "fid_se", "fid_corrected", "fid_infinity", "nfe", "setup_nfe", "spent_rows", "images", "first_seed"),
    *("last_seed", "terminal", "plan", "reference", "revision", "teacher_distance", "teacher_distance_se"),
    "teacher_distance_pixels",
)
_CONFIRMED = ("fid", "fid_se", "fid_corrected", "fid_infinity", "images", "first_seed", "spent_rows")
_LONG = (
    *("benchmark", "benchmark_version", "study", "budget", "role", "method", "key", "trial"),
    *_MEASURED,
    *(f"confirmed_{name}" for name in _CONFIRMED),
    *("optimism", "optimism_error", "winner", "inconclusive", "at_floor"),
    *("gap", "gap_error", "paired", "confirmed", "verdict"),
)
_BESIDE = [f"confirmed_{name}{end}" for name in BESIDE for end in ("", "_error")]
# Printed whole, however large.
_COUNTS = (
    *("spent_rows", "images", "first_seed", "last_seed"),
    *("confirmed_spent_rows", "confirmed_images", "confirmed_first_seed"),
)


def csv(frame: pd.DataFrame, budgets: Sequence[int] | None = None) -> str:
    """Long form: one row a budget and method, with every number; the floor has no budget.

    `gap` to `verdict` compare the search with the best baseline, on the row of the search.
    """
    rows: list[dict[str, Any]] = []
    for each in standings(frame, budgets):
        if each.floor is not None:
            rows.append(_long(each, each.floor, "floor", str(each.floor["method"])))
        verdicts = {verdict.budget: verdict for verdict in each.verdicts()}
        for budget in each.budgets:
            for cell in each.at(budget):
                marks = {"winner": cell.winner, "inconclusive": cell.tied, "at_floor": cell.at_floor}
                told = _told(verdicts[budget]) if cell.role == "searched" else {}
                rows.append(_long(each, cell.row, cell.role, cell.method, budget) | marks | told)
    beside = [name for name in _BESIDE if any(name in row for row in rows)]
    held = pd.DataFrame(rows, columns=[*_LONG, *rung_columns(frame), *beside])
    for name in _COUNTS:
        held[name] = pd.to_numeric(held[name]).astype("Int64")
    return held.to_csv(index=False, lineterminator="\n", float_format="%.6g")


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


def _long(
    standings: Standings, row: pd.Series[Any], role: str, method: str, budget: int | None = None
) -> dict[str, Any]:
    held = {name: row[name] for name in (*_LONG, *rung_columns(standings.group)) if name in row.index}
    again = standings.confirmed.get(row["key"])
    if again is not None:
        held |= {f"confirmed_{name}": again[name] for name in _CONFIRMED}
        for name, other in others_of(again["beside"]).items():
            held |= {f"confirmed_{name}": other.value, f"confirmed_{name}_error": other.error}
    optimism = standings.optimism(row)
    return held | {
        "budget": "" if budget is None else budget,
        "role": role,
        "method": method,
        "trial": row["name"],
        "last_seed": row["first_seed"] + row["images"] - 1,
        "optimism": optimism.gap,
        "optimism_error": optimism.error,
    }


def _told(verdict: Verdict) -> dict[str, Any]:
    gap, _, error, paired = verdict.difference
    compared = {} if verdict.word is None else {"paired": paired, "confirmed": verdict.confirmed}
    return {"gap": gap, "gap_error": error, "verdict": verdict.words} | compared
