"""The trials that a layout is filled from: one group that can be compared, with the files of their runs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from pipeline.comparison import difference, verdict
from pipeline.store import CARD, STEPS
from reports import published
from reports.layouts.methods import schedule_words, solver_words
from reports.layouts.table import Cell
from reports.numbers import conditions, count, groups_left_out, plain
from reports.record import complete, confirmations, estimate, groups, ranked, same_images

ROLES = ("baseline", "published", "searched")
Files = Callable[[str, str], bytes | None]


def no_files(run_id: str, name: str) -> None:
    """A record without files."""
    del run_id, name


@dataclass
class Comparable:
    """The scored trials of one group (`reports.record.groups`) but its floor, each with its `solver` and `schedule`.

    `measured`: on what. `files` reads a run's file by its name; `unread`: the files that a layout asked for in vain.
    """

    rows: pd.DataFrame
    benchmark: str
    measured: str
    floor: pd.Series[Any] | None = None
    confirmed: Mapping[str, pd.Series[Any]] = field(default_factory=dict)
    files: Files = no_files
    unread: list[str] = field(default_factory=list)

    def card(self, row: pd.Series[Any]) -> Mapping[str, Any]:
        """The card of a trial as it stands; empty where there is none, or no JSON object."""
        try:
            held = json.loads(self._file(row, CARD))
        except (ValueError, RecursionError):
            held = None
        return held if isinstance(held, dict) else self._missing(row, CARD)

    def steps(self, row: pd.Series[Any]) -> Mapping[str, list[str]]:
        """The steps of a trial by column, one of each evaluation; empty where they cannot be read."""
        try:
            rows = list(csv.reader(io.StringIO(self._file(row, STEPS).decode())))
        except (ValueError, csv.Error):
            rows = []
        if len(rows) < 2 or len({len(values) for values in rows}) != 1:
            return self._missing(row, STEPS)
        return {name: list(values) for name, *values in zip(*rows, strict=True)}

    def best(self, rows: pd.DataFrame) -> Cell:
        """The lowest FID of these, as a cell that knows of how many trials."""
        if rows.empty:
            return Cell()
        order = rows.assign(ranked=ranked(rows)).sort_values("ranked", kind="stable")
        return Cell(rows.loc[order.index[0]], of=len(rows))

    def pairs(self, rows: pd.DataFrame) -> dict[tuple[str, str], Cell]:
        """The lowest FID of each solver and schedule among these."""
        return {(str(a), str(b)): self.best(part) for (a, b), part in rows.groupby(["solver", "schedule"])}

    def leading(self) -> pd.DataFrame:
        """The baselines, the published settings, and of the searched trials those on the front."""
        return self.rows[self.rows["role"].ne("searched") | self.rows["front"]]

    def marked(self, cells: Sequence[Cell]) -> list[Cell]:
        """The same cells, with the lowest FID and what cannot be told from it.

        Neither where the lowest is at the floor, nor where there is one FID only. Equal plans are one.
        """
        held = [cell.row for cell in cells if cell.row is not None and cell.has_fid]
        if len(held) < 2:
            return list(cells)
        winner = min(held, key=lambda row: estimate(row).ranked)
        if self.floor is not None and _at_floor(winner, self.floor):
            return list(cells)
        return [
            replace(cell, lowest=_same(cell.row, winner), tied=not _same(cell.row, winner) and _tied(cell.row, winner))
            if cell.row is not None and cell.has_fid
            else cell
            for cell in cells
        ]

    def printed(self, found: pd.DataFrame) -> Cell:
        """What papers print, as a cell."""
        return Cell(printed=tuple((value, tuple(sources)) for value, sources in published.distinct(found)))

    @property
    def floor_note(self) -> str:
        """What the fine solve scores, below which nothing can be expected."""
        if self.floor is None:
            return ""
        return (
            f"Floor: {plain(self.floor)}, a fine solve of the same images with {count(self.floor['nfe'])} evaluations; "
            "where the lowest cannot be told from it nothing is ranked."
        )

    def _file(self, row: pd.Series[Any], name: str) -> bytes:
        return self.files(row["run_id"], name) or b""

    def _missing(self, row: pd.Series[Any], name: str) -> dict[str, Any]:
        told = f"{name} of {row['key']}"
        if told not in self.unread:
            self.unread.append(told)
        return {}


def comparables(frame: pd.DataFrame, files: Files = no_files) -> list[Comparable]:
    """A record's groups, the largest first, without what is no cell of any table."""
    found = []
    for group in groups(frame):
        rows = complete(group, *ROLES)
        words = {"solver": solver_words, "schedule": schedule_words}
        for name, word in words.items():
            rows = rows.assign(**{name: pd.Series([word(row) for _, row in rows.iterrows()], rows.index, dtype=object)})
        floors = complete(group, "floor")
        floor = None if floors.empty else floors.iloc[0]
        left_out = groups_left_out(row for _, row in group.iterrows())
        told = f"{conditions(group)}, ± its leave-one-out standard error ({left_out})"
        benchmark = str(group.iloc[0]["benchmark"])
        found.append(Comparable(rows, benchmark, told, floor, confirmations(frame, group), files))
    return found


def _tied(ours: pd.Series[Any], theirs: pd.Series[Any]) -> bool:
    return verdict(estimate(ours), estimate(theirs), paired=same_images(ours, theirs)) != "worse"


def _same(ours: pd.Series[Any], theirs: pd.Series[Any]) -> bool:
    return bool(ours["key"] == theirs["key"] or (ours["plan"] and ours["plan"] == theirs["plan"]))


def _at_floor(row: pd.Series[Any], floor: pd.Series[Any]) -> bool:
    gap = difference(estimate(row), estimate(floor), paired=same_images(row, floor))
    return math.isfinite(gap.error) and _tied(row, floor)
