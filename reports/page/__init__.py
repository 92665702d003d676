"""The report of a study as one HTML file that needs no network: charts, tables, pictures, provenance.

Everything in it comes from the record and is written by `page.html`, where Jinja escapes it; `safe` there are our own
style and script, and the JSON of `_data`. Style and script are named by their hashes in the Content-Security-Policy, so
that a browser runs nothing else and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports.artifacts import Artifacts
from reports.beside import INTRODUCTION
from reports.hypervolume import Growth
from reports.numbers import NEVER_WITHIN
from reports.page.budget import panels
from reports.page.front import FrontChart
from reports.page.growth import GrowthChart
from reports.page.headline import Headline, trials_sentence
from reports.page.provenance import provenance
from reports.page.tables import GroupTables
from reports.page.trust import CostTable, RankTable, failures
from reports.standings import standings
from reports.trial_files import TrialFiles

__all__ = ["page", "write"]

_FOLDER = Path(__file__).parent


def write(frame: pd.DataFrame, path: Path, artifacts: Artifacts, budgets: Sequence[int] | None = None) -> Path:
    """Write the page of a record. Same record, same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(frame, artifacts, budgets), encoding="utf-8", newline="\n")
    return path


def page(frame: pd.DataFrame, artifacts: Artifacts, budgets: Sequence[int] | None = None) -> str:
    """The page as text."""
    found = standings(frame, budgets)
    first = found[0] if found else None
    files = TrialFiles(frame, artifacts)
    shown, album = panels(first, files) if first is not None else ([], None)
    growth = None if first is None else Growth.of(frame, first)
    if first is not None and first.floor is not None:
        files.card(first.floor)
    front = None if first is None else FrontChart.of(first)
    growth_chart = None if growth is None else GrowthChart.of(growth)
    broken, more = failures(frame)
    tips = {
        "front": [] if front is None else front.tips,
        "growth": [] if growth_chart is None else growth_chart.tips,
    }
    for panel in shown:
        tips |= {f"path-{panel.budget}-{k}": curve.tips for k, curve in enumerate(panel.path.curves)}
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    return _environment().get_template("page.html").render(
        studies=[name for name in dict.fromkeys(frame["study"]) if name],
        benchmarks=[name for name in dict.fromkeys(frame["benchmark"]) if name],
        headline=Headline.of(frame, first),
        trials=trials_sentence(frame),
        front=front,
        tables=[GroupTables.of(each) for each in found],
        beside_introduction=INTRODUCTION,
        panels=shown,
        pictures=[] if album is None else album.pictures,
        pictures_note="" if album is None else album.note,
        growth=growth_chart,
        cost=CostTable.of(frame, first.budgets if first else ()),
        ranks=RankTable.of(frame),
        provenance=provenance(frame, first, files.cards),
        broken=broken,
        more_broken=more,
        never_within=NEVER_WITHIN,
        tips=_data(tips),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )  # fmt: skip


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _data(value: object) -> str:
    """JSON inside a script element: no text in it can end the element, or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
