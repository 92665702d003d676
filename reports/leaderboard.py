"""The leaderboard: what MLflow's page shows above a study's run, with the front's picture and links to its trials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline import store
from pipeline.store import BESIDE
from reports.beside import TITLES, others_of
from reports.markdown import confirmed_line, counted, heading, line, md
from reports.numbers import count, plain
from reports.page.headline import Headline
from reports.pareto import front
from reports.record import complete, ranked
from reports.standings import Standings, standings

MOST_CHARACTERS = 8000  # of a tag in MLflow, which keeps this text as one
HEAD = ("", "method", "NFE", "set-up NFE", "FID ± se", "confirmed")
LEGEND = (
    "Lower FID is better; NFE is how often the network is evaluated for an image. **front**: the searched samplers "
    "that no other one beats in both. **floor**: the fine solve, as good as this network gets. **baseline**: the best "
    "published method of each NFE. **confirmed**: scored again on seeds that the search never saw."
)
PICTURE = "leaderboard.png"
TRAINING = "?workflowType=machine_learning"  # MLflow's menu for this, not the one for chat traces
SPACE = "&emsp;"  # MLflow's page gives the cells of a table none
NO_RESULT = "No trial has been scored on all its images yet."


@dataclass(frozen=True)
class Page:
    """Where MLflow shows the study: addresses as its own page reads them, relative to wherever it is served.

    Its page shows a picture only by address: it strips `data:` from descriptions (MLflow 3.17.2).
    """

    experiment_id: str
    run_id: str

    def picture(self, name: str) -> str:
        """An artifact of the study as an image."""
        return f"![{name}](get-artifact?path={name}&run_uuid={self.run_id})"

    def artifact(self, name: str) -> str:
        """The page that shows an artifact of the study."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}/artifacts/{name}{TRAINING}"

    def run(self, run_id: str) -> str:
        """The page of a run."""
        return f"#/experiments/{self.experiment_id}/runs/{run_id}{TRAINING}"

    @property
    def trials(self) -> str:
        """The table of all scored trials, in the leaderboard's order."""
        return store.leaderboard_url("", self.experiment_id, self.run_id).removeprefix("/")


def leaderboard(frame: pd.DataFrame, page: Page | None = None) -> str:
    """Markdown for the study's page: the floor, the front, then the best baseline of each NFE.

    With `page`, the front's picture and links too. What would be too long for MLflow goes without links first, then
    without its last rows, which is said.
    """
    found = standings(frame)
    if not found:
        return counted(frame) + (f" {NO_RESULT}" if len(frame) else "") + "\n"
    rows = [list(_rows(each)) for each in found]
    most = max(len(lines) for lines in rows)
    for linked in (page, None):
        for kept in range(most, -1, -1):
            text = _text(frame, found, rows, page, linked, kept)
            if len(text) <= MOST_CHARACTERS:
                return text
            if linked is not None:
                break
    return text[:MOST_CHARACTERS]


def _text(
    frame: pd.DataFrame,
    found: list[Standings],
    rows: list[list[Callable[[Page | None], str]]],
    page: Page | None,
    linked: Page | None,
    kept: int,
) -> str:
    # MLflow folds a description after its first lines: they are to say what was found, and where the rest is.
    parts = [md(Headline.of(frame, found[0]).sentence)]
    parts += [LEGEND] if page is None else [_links(page), page.picture(PICTURE), LEGEND]
    for each, lines in zip(found, rows, strict=True):
        shown = [make(linked) for make in lines[:kept]]
        names = _beside(each)
        head = line(*HEAD, *(TITLES[name] for name in names)), "|:--|:--|--:|--:|--:|--:|" + "--:|" * len(names)
        parts += [heading(each), "\n".join([*head, *shown])]
        if len(shown) < len(lines):
            left = len(lines) - len(shown)
            parts.append("One more row is in the report." if left == 1 else f"{left} more rows are in the report.")
        parts.append(confirmed_line(each))
        if names:
            told = ", ".join(TITLES[name] for name in names)
            parts.append(f"{told}: of the same images; what they rest on, and their errors, is in the report.")
    return "\n\n".join([*parts, counted(frame)]) + "\n"


def _links(page: Page) -> str:
    links = {
        "The whole report": page.artifact("report.html"),
        "all trials, best first": page.trials,
        "the tables": page.artifact("table.md"),
    }
    return " · ".join(f"[{words}]({address})" for words, address in links.items())


def _rows(each: Standings) -> Iterator[Callable[[Page | None], str]]:
    baselines = complete(each.group, "baseline")
    order = baselines.assign(ranked=ranked(baselines)).sort_values(["ranked", "nfe"], kind="stable")
    best = baselines.loc[order.groupby("nfe").head(1).index].sort_values("nfe", kind="stable")
    leading = front(complete(each.group, "searched", "published"))
    for title, rows in (("floor", complete(each.group, "floor")), ("front", leading), ("baseline", best)):
        for _, row in rows.iterrows():
            yield _row(each, title, row)


def _beside(each: Standings) -> list[str]:
    """The metrics beside FID that a confirmation of the group has."""
    told = {name for again in each.confirmed.values() for name in others_of(again["beside"])}
    return [name for name in BESIDE if name in told]


def _row(each: Standings, title: str, row: pd.Series[Any]) -> Callable[[Page | None], str]:
    again = each.confirmed.get(row["key"])
    others = {} if again is None else others_of(again["beside"])
    numbers = [count(row["nfe"]), count(row["setup_nfe"]), plain(row), "–" if again is None else plain(again)]
    numbers += [others[name].text if name in others else "–" for name in _beside(each)]
    name = md(row["name"] if title == "front" else row["method"])

    def made(page: Page | None) -> str:
        if page is None:
            return line(title, name, *numbers)
        return line(title, f"{SPACE}[{name}]({page.run(row['run_id'])})", *(SPACE + number for number in numbers))

    return made
