"""A layout's tables as Markdown, CSV and LaTeX; and where each cell comes from."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.latex import closing, tex
from reports.layouts.comparable import Comparable
from reports.layouts.table import NOTHING, Cell, Layout, Line, Table
from reports.markdown import md
from reports.numbers import NEVER_WITHIN, concise, plain

NO_ROWS = "The record holds nothing for this table."
ID = ("layout", "measured", "table", "row", "column")
FIGURES = ("fid", "fid_se", "fid_corrected", "nfe", "setup_nfe", "images", "first_seed")
CONFIRMED = ("fid", "fid_se")
CSV = (
    *("benchmark", *ID, "kind", "shown", *FIGURES, *(f"confirmed_{name}" for name in CONFIRMED), "lowest"),
    *("inconclusive", "trials", "role", "key", "trial", "plan", "source"),
)
LINKS = (*ID, "value", "key", "run_id", "path")
COMPARED = f"Bold: lowest. ~: cannot be told from it (bias-corrected FIDs, paired, 95 %, {NEVER_WITHIN})."
MOST_IN_A_COLUMN = 6  # columns of numbers that fit half a page
WIDE = r"p{0.55\linewidth}"


@dataclass(frozen=True)
class Filled:
    """A layout filled from a record: the tables of each group of comparable trials."""

    layout: Layout
    parts: tuple[tuple[Comparable, tuple[Table, ...]], ...]

    @staticmethod
    def of(layout: Layout, groups: Sequence[Comparable]) -> Filled:
        """Fill it."""
        return Filled(layout, tuple((group, tuple(layout.make(group))) for group in groups))

    def cells(self) -> Iterator[tuple[Comparable, Table, Line, str, Cell]]:
        """Every cell with its place."""
        for group, tables in self.parts:
            for table in tables:
                for line in table.lines:
                    for column, cell in zip(table.columns, line.cells, strict=True):
                        yield group, table, line, column, cell


def markdown(filled: Filled, path: Callable[[str], str] | None = None) -> str:
    """The tables; with `path`, which gives a run's address, a footnote at each cell names the run it comes from."""
    runs: dict[str, tuple[int, pd.Series[Any]]] = {}
    said: set[str] = set()
    parts = [f"# {filled.layout.title}", filled.layout.about]
    for group, tables in filled.parts:
        parts.append(f"## {md(group.benchmark)}: {md(group.measured)}")
        parts += [text for table in tables for text in _blocks(table, runs if path else None, said)] or [NO_ROWS]
        parts += _unread(group)
    if not filled.parts:
        parts.append(NO_ROWS)
    if path and runs:
        lines = [f"[^{n}]: [{md(row['key'])}: {md(row['name'])}]({path(run_id)})" for run_id, (n, row) in runs.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(filter(None, parts)) + "\n"


def latex(filled: Filled) -> str:
    r"""The tables for `\input`, with booktabs; errors in brackets, in units of the last digit."""
    parts = [f"% {tex(filled.layout.title)}", r"% needs \usepackage{booktabs}", ""]
    tables = [(group, table) for group, tables in filled.parts for table in tables]
    for group, table in tables:
        parts += _latex_table(group, table, filled.layout)
    if not tables:
        parts.append(f"% {NO_ROWS}")
    return "\n".join(parts).rstrip("\n") + "\n"


def long_form(filled: Filled) -> str:
    """Every cell as a row, with all of its numbers."""
    rows = []
    for group, table, line, column, cell in filled.cells():
        place = _place(filled, group, table, line, column) | {"benchmark": group.benchmark}
        if cell.row is not None:
            rows.append(place | _figures(group, cell))
        for value, sources in cell.printed:
            rows.append(place | {"kind": "published", "shown": value, "source": "; ".join(sources)})
        if cell.empty:
            rows.append(place | {"kind": "empty", "shown": NOTHING})
    return _csv(CSV, rows)


def links(filled: Sequence[Filled], path: Callable[[str], str]) -> str:
    """Every cell that comes from a run, and that run's address in MLflow."""
    rows = []
    for each in filled:
        for group, table, line, column, cell in each.cells():
            if cell.row is not None:
                row, place = cell.row, _place(each, group, table, line, column)
                found = {"key": row["key"], "run_id": row["run_id"], "path": path(row["run_id"])}
                rows.append(place | {"value": _shown(cell)} | found)
    return _csv(LINKS, rows)


def _blocks(table: Table, runs: dict[str, tuple[int, pd.Series[Any]]] | None, said: set[str]) -> list[str]:
    """`said`: the notes of the tables before, which are not repeated."""
    head = [*table.stub, *table.columns]
    lines = [_line(map(md, head)), "|" + ":--|" * len(table.stub) + _aligned(table)]
    sources = table.sources
    for line in table.lines:
        shown = [_md_cell(cell, sources) + _footnote(cell, runs) for cell in line.cells]
        lines.append(_line([*map(md, line.labels), *shown]))
    notes = [note for note in _notes(table) if note not in said]
    said.update(notes)
    cited = "\n".join(f"- \\[{n}\\] {md(name)}" for n, name in enumerate(sources, 1))
    return [f"### {md(table.title)}", "\n".join(lines), " ".join(map(md, notes)), cited]


def _md_cell(cell: Cell, sources: Sequence[str]) -> str:
    if cell.printed:
        return "; ".join(f"{md(value)} \\[{_numbers(names, sources)}\\]" for value, names in cell.printed)
    text = md(_shown(cell))
    if cell.lowest:
        text = f"**{text}**"
    return text + " ~" * cell.tied + (f" {md(cell.after)}" if cell.after else "")


def _footnote(cell: Cell, runs: dict[str, tuple[int, pd.Series[Any]]] | None) -> str:
    if runs is None or cell.row is None:
        return ""
    number, _ = runs.setdefault(cell.row["run_id"], (len(runs) + 1, cell.row))
    return f" [^{number}]"


def _latex_table(group: Comparable, table: Table, layout: Layout) -> list[str]:
    sources = table.sources
    notes = [f"{layout.title}: {table.title}, on {group.benchmark}.", f"{group.measured}." if _measures(table) else ""]
    notes += _notes(table)
    notes += [f"[{n}] {name}." for n, name in enumerate(sources, 1)]
    columns = "l" * len(table.stub) + (_ends(table, "r", WIDE))
    environment, size = ("table*", r"\scriptsize") if len(table.columns) > MOST_IN_A_COLUMN else ("table", r"\small")
    lines = [
        rf"\begin{{{environment}}}",
        rf"\centering{size}\setlength{{\tabcolsep}}{{3pt}}",
        rf"\caption{{{' '.join(tex(note) for note in notes if note)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _row(map(tex, [*table.stub, *table.columns])),
        r"\midrule",
    ]
    for line in table.lines:
        lines.append(_row([*map(tex, line.labels), *(_tex_cell(cell, sources) for cell in line.cells)]))
    return [*lines, *closing(environment)]


def _tex_cell(cell: Cell, sources: Sequence[str]) -> str:
    if cell.printed:
        return "; ".join(f"{tex(value)}~[{_numbers(names, sources)}]" for value, names in cell.printed)
    text = tex(concise(cell.row) if cell.row is not None and cell.has_fid else _shown(cell))
    if cell.lowest:
        text = rf"\textbf{{{text}}}"
    return text + r"$\sim$" * cell.tied + (f"~[{tex(cell.after[1:-1])}]" if cell.after else "")


def _shown(cell: Cell) -> str:
    if cell.row is None:
        return cell.text or NOTHING
    return cell.text or plain(cell.row)


def _figures(group: Comparable, cell: Cell) -> dict[str, Any]:
    row = cell.row
    assert row is not None
    held = {name: row[name] for name in FIGURES} if cell.has_fid else {}
    again = group.confirmed.get(row["key"])
    if again is not None and cell.has_fid:
        held |= {f"confirmed_{name}": again[name] for name in CONFIRMED}
    marks = {"lowest": cell.lowest, "inconclusive": cell.tied, "trials": cell.of} if cell.has_fid else {}
    who = {"role": row["role"], "key": row["key"], "trial": row["name"], "plan": row["plan"]}
    return {"kind": "measured", "shown": _shown(cell)} | held | marks | who


def _place(filled: Filled, group: Comparable, table: Table, line: Line, column: str) -> dict[str, Any]:
    names = (filled.layout.name, group.measured, table.title, " | ".join(line.labels), column)
    return dict(zip(ID, names, strict=True))


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    if not isinstance(value, str) and pd.isna(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def _unread(group: Comparable) -> list[str]:
    if not group.unread:
        return []
    return [f"{len(group.unread)} files could not be read from MLflow: {', '.join(map(md, group.unread))}."]


def _notes(table: Table) -> list[str]:
    notes = [note for note in table.notes if note]
    return [*notes, COMPARED] if _compares(table) else notes


def _measures(table: Table) -> bool:
    return any(cell.has_fid for line in table.lines for cell in line.cells)


def _compares(table: Table) -> bool:
    return any(cell.lowest for line in table.lines for cell in line.cells)


def _numbers(names: Sequence[str], sources: Sequence[str]) -> str:
    return ", ".join(str(sources.index(name) + 1) for name in names)


def _aligned(table: Table) -> str:
    return "--:|" * (len(table.columns) - table.wide) + ":--|" * table.wide


def _ends(table: Table, normal: str, wide: str) -> str:
    held = itertools.repeat(normal, len(table.columns) - table.wide)
    return "".join(held) + wide * table.wide


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _row(cells: Any) -> str:
    return " & ".join(cells) + r" \\"
