"""The numbers that papers and their repositories print, each with its source: `published.csv`, read and checked.

One row a number. Numbers keep their digits as printed; what a source does not say is empty. `solver` and `schedule` are
this project's words where it has the method (those of `reports.layouts.methods`), else the paper's. `nfe` is as
printed, `nfe_counted` what reaches the network where that is known. `evidence` says how the number was seen: in the
paper, in a repository, on an image of a table, second-hand.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any

import pandas as pd

from pipeline.registry import SpecError

FILE = "published.csv"
WHAT = ("benchmark", "dataset", "network", "conditioning", "method", "solver", "schedule", "setting")
MEASURED = ("nfe", "nfe_counted", "nfe_convention", "metric", "value", "images")
SOURCE = ("authors", "year", "arxiv", "place", "evidence", "note")
COLUMNS = (*WHAT, *MEASURED, *SOURCE)
REQUIRED = ("benchmark", "method", "metric", "value", "place", "evidence")
FID = "fid"
POSITIVE = (FID, "nfe", "sigma", "tau_k", "eta_min", "eta_max", "num_steps", "search_seconds")
PATTERNS = {
    "benchmark": r"[a-z0-9][a-z0-9.-]*",
    "setting": r"(\w+=[^;=]+(; \w+=[^;=]+)*)?",
    "nfe": r"([1-9]\d*)?",
    "nfe_counted": r"([1-9]\d*)?",
    "metric": r"[a-z][a-z0-9_]*",
    "images": r"([1-9]\d*)?",
    "year": r"(\d{4})?",
    "arxiv": r"(\d{4}\.\d{5})?",
}


@functools.cache
def table() -> pd.DataFrame:
    """Every row that ships; see `read`."""
    return read(resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8"))


def read(text: str, file: str = FILE) -> pd.DataFrame:
    """The rows of such a file, all of them text as it stands, and `number`, the value as a float.

    Raises:
        SpecError: not these columns, a field that is missing or malformed, a number twice; names the line.
    """
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    if tuple(frame.columns) != COLUMNS:
        raise SpecError("has other columns", given=list(frame.columns), allowed=list(COLUMNS), file=file)
    frame["number"] = pd.to_numeric(frame["value"], errors="coerce").astype("float64")
    for line, (_, row) in enumerate(frame.iterrows(), 2):
        _check(row, f"{file}, line {line}")
    twice = frame[frame.duplicated(list(COLUMNS))]
    if not twice.empty:
        raise SpecError("is there twice", path=f"line {int(twice.index[0]) + 2}", file=file)
    return frame


def benchmarks() -> list[str]:
    """The benchmarks that have published numbers, sorted."""
    return sorted(table()["benchmark"].unique())


def rows(benchmark: str, metric: str = FID) -> pd.DataFrame:
    """The published numbers of a benchmark; empty where there are none."""
    held = table()
    return held[held["benchmark"].eq(benchmark) & held["metric"].eq(metric)]


def lookup(benchmark: str, solver: str, schedule: str, nfe: float | None = None, **setting: Any) -> pd.DataFrame:
    """The published FIDs of a pair, at this printed NFE if one is given, under these settings (num_steps=18)."""
    held = rows(benchmark)
    held = held[held["solver"].eq(solver) & held["schedule"].eq(schedule)]
    if nfe is not None:
        held = held[held["nfe"].eq(f"{nfe:g}")]
    wanted = {name: str(value) for name, value in setting.items()}
    return where(held, lambda row: wanted.items() <= settings(row).items())


def where(frame: pd.DataFrame, holds: Callable[[pd.Series[Any]], bool]) -> pd.DataFrame:
    """The rows for which this holds; of no rows none."""
    return frame[pd.Series([holds(row) for _, row in frame.iterrows()], frame.index, dtype=bool)]


def settings(row: pd.Series[Any]) -> dict[str, str]:
    """The hyper-parameters of a row by name."""
    return dict(part.split("=", 1) for part in str(row["setting"]).split("; ") if part)


def source(row: pd.Series[Any]) -> str:
    """Who printed a number, where, and how it was seen, in a line."""
    who = ", ".join(part for part in (row["authors"], row["year"]) if part)
    paper = f"arXiv {row['arxiv']}" if row["arxiv"] else ""
    return ", ".join(part for part in (who, paper, row["place"]) if part) + f" ({row['evidence']})"


def distinct(found: pd.DataFrame) -> Iterable[tuple[str, list[str]]]:
    """The values of some rows as printed, in the file's order, each with its sources: equal numbers are one."""
    by_value: dict[float, tuple[str, list[str]]] = {}
    for _, row in found.iterrows():
        _, sources = by_value.setdefault(float(row["number"]), (str(row["value"]), []))
        if source(row) not in sources:
            sources.append(source(row))
    return by_value.values()


def _check(row: pd.Series[Any], line: str) -> None:
    for name in REQUIRED:
        if not row[name]:
            raise SpecError("is required and missing", path=name, file=line)
    for name, pattern in PATTERNS.items():
        if not re.fullmatch(pattern, row[name]):
            raise SpecError("is malformed", path=name, given=row[name], file=line)
    number = float(row["number"])
    if not math.isfinite(number):
        raise SpecError("is no number", path="value", given=row["value"], file=line)
    if row["metric"] in POSITIVE and number <= 0:
        raise SpecError("is out of range", path="value", given=row["value"], allowed="above 0", file=line)
