"""What every layout makes: tables of cells, each of them of a trial, or of a paper, or empty."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.numbers import count

if TYPE_CHECKING:
    from reports.layouts.comparable import Comparable

NOTHING = "–"
PUBLISHED = "published"
UNSTATED = "(not stated)"  # a schedule that a source does not name


@dataclass(frozen=True)
class Cell:
    """One cell. With neither a trial nor a text nor a printed number it holds nothing, and shows as a dash.

    `row`: the trial that it comes from. `text`: what is shown of it in place of its FID. `after`: what is shown behind,
    in round brackets. `lowest` and `tied` compare it with others. `of`: the number of trials that it is the lowest of.
    `printed`: what papers print, each with its sources.
    """

    row: pd.Series[Any] | None = None
    text: str = ""
    after: str = ""
    lowest: bool = False
    tied: bool = False
    of: int = 1
    printed: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def has_fid(self) -> bool:
        """Whether it shows its trial's FID."""
        return self.row is not None and not self.text

    @property
    def empty(self) -> bool:
        """Whether it holds nothing."""
        return self.row is None and not self.text and not self.printed


@dataclass(frozen=True)
class Line:
    """A row of a table: its labels, one for each of the table's `stub`, and its cells, one a column."""

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table. `stub` and `columns` are its header, `notes` sentences below it.

    `wide`: the last column is long text.
    """

    title: str
    stub: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    wide: bool = False

    @property
    def sources(self) -> list[str]:
        """The sources of its printed numbers, in their order."""
        cells = (cell for line in self.lines for cell in line.cells)
        return list(dict.fromkeys(name for cell in cells for _, names in cell.printed for name in names))


@dataclass(frozen=True)
class Layout:
    """A paper's table: its file's name, its title, what it shows, and how it is made of rows that can be compared."""

    name: str
    title: str
    about: str
    make: Callable[[Comparable], list[Table]]


def with_nfe(cell: Cell) -> Cell:
    """The cell with its NFE behind it."""
    return cell if cell.row is None else replace(cell, after=f"({count(cell.row['nfe'])})")


def said(row: pd.Series[Any], text: str) -> Cell:
    """A cell with another number of a trial than its FID; an empty one where there is no text."""
    return Cell(row, text=text) if text else Cell()


def number_columns(names: Iterable[str], printed: Mapping[str, bool]) -> tuple[str, ...]:
    """Each name, and behind it one for what papers print where there is such a thing."""
    return tuple(
        column for name in names for column in (name, f"{name} {PUBLISHED}") if column == name or printed.get(name)
    )
