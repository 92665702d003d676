"""The sigmas of each method: what a reader needs to take a schedule along. From the trials' cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports import published
from reports.layouts.comparable import Comparable
from reports.layouts.methods import moves
from reports.layouts.table import PUBLISHED, Cell, Layout, Line, Table, said
from reports.numbers import count

SHOWN = "{:.4g}"


def make(group: Comparable) -> list[Table]:
    """One table of all plans; equal plans are one line."""
    rows = group.leading()
    rows = rows.assign(known=rows["plan"].where(rows["plan"].ne(""), rows["key"]))
    rows = rows.sort_values(["solver", "schedule", "nfe"], kind="stable").drop_duplicates(["solver", "known"])
    if rows.empty:
        return []
    printed = {row["key"]: _printed(group.benchmark, row) for _, row in rows.iterrows()}
    told = any(not cell.empty for cell in printed.values())
    lines = []
    for _, row in rows.iterrows():
        sigmas = _sigmas(group.card(row))
        labels = (row["solver"], row["schedule"], count(row["nfe"]))
        shown = Cell() if sigmas is None else said(row, ", ".join(SHOWN.format(sigma) for sigma in sigmas))
        lines.append(Line(labels, (*([printed[row["key"]]] if told else []), shown)))
    notes = (
        "From the noise to the image, to four digits; the cards hold all of them. Of the searched trials those on the "
        "front.",
    )
    columns = (*([f"sigmas {PUBLISHED}"] if told else []), "sigmas")
    return [Table("sigmas", ("solver", "schedule", "NFE"), columns, tuple(lines), notes, wide=True)]


def _sigmas(card: Mapping[str, Any]) -> list[float] | None:
    """The sigmas of a card's plan; None where they cannot be read."""
    plan = card.get("plan")
    held = plan.get("sigmas") if isinstance(plan, Mapping) else None
    if not isinstance(held, list) or not held or not all(type(sigma) in (int, float) for sigma in held):
        return None
    return [float(sigma) for sigma in held]


def _printed(benchmark: str, row: pd.Series[Any]) -> Cell:
    held = published.rows(benchmark, "sigma")
    held = held[held["schedule"].eq(row["schedule"]) & held["solver"].isin([row["solver"], ""])]
    held = published.where(held, lambda one: published.settings(one).get("num_steps") == str(moves(row)))
    if held.empty:
        return Cell()
    ordered = sorted((one for _, one in held.iterrows()), key=lambda one: int(published.settings(one)["index"]))
    sources = tuple(dict.fromkeys(published.source(one) for one in ordered))
    return Cell(printed=((", ".join(str(one["value"]) for one in ordered), sources),))


LAYOUT = Layout("sigmas", "Schedule listing", "Where each method puts its sigmas.", make)
