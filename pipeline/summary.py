"""What a search leaves behind: the front, the verdict at each budget, where everything lies; for people and scripts."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline import store
from pipeline.progress import clock
from reports import pareto
from reports.beside import TITLES, others_of
from reports.cost import Cost, rung_words
from reports.numbers import confirmed_conditions, floor_sentence, plain
from reports.rank_check import TRUSTED, RankCheck
from reports.record import complete, groups
from reports.standings import Cell, Standings, Verdict, standings
from search_spaces import Study

FAILURES_SHOWN = 5
PLACES = {
    "report.html": "report",
    "table.md": "tables",
    "front.png": "figure",
    "front": "cards, pictures",
}


@dataclass
class Outcome:
    """What a search leaves behind, for the screen and for `--json`."""

    study: Study
    run_dir: Path
    uri: str
    seconds: float
    new_trials: int
    frame: pd.DataFrame
    files: dict[str, Path] = field(default_factory=dict)

    def standings(self) -> Standings:
        """Baselines and search at the study's budgets."""
        return standings(self.frame, self.study.budgets)[0]

    def front(self) -> pd.DataFrame:
        """The searched trials that no other one beats in both FID and NFE."""
        return pareto.front(complete(groups(self.frame)[0], "searched", "published"))

    def cost(self) -> Cost:
        """Network rows and stopped trials."""
        return Cost.of(self.frame, self.study.budgets[-1])

    def to_json(self) -> dict[str, Any]:
        """The summary that a script reads."""
        keep = ("key", "name", "fid", "fid_se", "nfe", "setup_nfe", "images", "first_seed", "plan")
        found, cost, check = self.standings(), self.cost(), RankCheck(self.frame)
        front = json.loads(self.front()[list(keep)].to_json(orient="records"))
        for row in front:
            row["confirmed"] = _scored(found.confirmed.get(row["key"]))
        counts = {str(state): int(n) for state, n in self.frame["state"].value_counts().items()}
        return {
            "study": self.study.study,
            "benchmark": self.study.benchmark,
            "trials": counts,
            "new_trials": self.new_trials,
            "seconds": round(self.seconds, 1),
            "front": front,
            "budgets": [_told(verdict) for verdict in found.verdicts()],
            "floor": _floor(found),
            "rank_check": [
                {"rung": c.rung, "with": c.other, "nfe": c.band, "rho": _known(c.rho), "plans": c.n}
                for c in check.correlations()
            ],
            "stopped": cost.stopped,
            "network_rows": {part: _known(rows) for part, rows in cost.rows.items()}
            | {"searched at full size": _known(cost.full_size)},
            "mlflow": store.masked(self.uri),
            "files": {name: str(path) for name, path in self.files.items()},
        }


def show(outcome: Outcome, console: Console) -> None:
    """Print the standings, the front and where everything lies; fits 80 columns."""
    if complete(outcome.frame).empty:
        console.print("no trial gave a result", style="red")
        _failures(outcome, console)
        return
    found = outcome.standings()
    line = functools.partial(_line, console)
    for text in _conditions(outcome, found):
        line(text)
    console.print(_table(found))
    for text in _remarks(found):
        line(text)
    line("front of the search:")
    for _, row in outcome.front().iterrows():
        name = str(row["name"]).rsplit(" · ", 1)[0]
        shown = found.confirmed.get(row["key"], row)
        line(f"  {row['nfe']:>4g} NFE   FID {plain(shown) + _mark(found, shown):<15} {name}")
        others = others_of(shown["beside"])
        if others:
            line(f"{'':>12}" + "   ".join(f"{TITLES[name]} {other.text}" for name, other in others.items()))
    counts = outcome.frame["state"].value_counts()
    told = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if state in counts)
    line(f"trials: {told}; {outcome.new_trials} of them new, in {clock(outcome.seconds)}")
    for text in _rungs(outcome):
        line(text)
    _failures(outcome, console)
    for name, label in PLACES.items():
        line(f"{label:>16}  {outcome.files[name]}")
    line(f"{'MLflow':>16}  {store.masked(outcome.uri)}")
    line(f"{'':>16}  `make ui` (or `sigmasearch ui --runs {outcome.run_dir.parent}`) opens the leaderboard")


def _conditions(outcome: Outcome, found: Standings) -> Iterator[str]:
    first, count = outcome.study.first_seed, outcome.study.images
    yield "best FID within each NFE budget ± standard error"
    yield f"chosen by: FID at {count:,} images, seeds {first}-{first + count - 1}"
    if found.confirmed:
        yield f"shown: {confirmed_conditions(found)}, which chose nothing"
    else:
        yield "shown: the same, unconfirmed"


def _table(found: Standings) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("budget", "searched", "NFE", "best baseline"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("method", "searched is"):
        table.add_column(name, no_wrap=True)
    for verdict in found.verdicts():
        ours, theirs = (_shown(cell, verdict) for cell in (verdict.searched, verdict.baseline))
        left = ["–", "–"] if ours is None else [plain(ours), f"{ours['nfe']:g}"]
        right = ["–", "–"] if theirs is None else [plain(theirs), str(theirs["method"])]
        marks = {_mark(found, row) for row in (ours, theirs) if row is not None}
        table.add_row(str(verdict.budget), *left, *right, _word(verdict) + "".join(sorted(marks)))
    return table


def _shown(cell: Cell | None, verdict: Verdict) -> pd.Series[Any] | None:
    """The confirmation, where whatever it is compared with has one too; else the row itself."""
    if cell is None:
        return None
    confirmed = verdict.confirmed or verdict.word is None
    return cell.confirmed if confirmed and cell.confirmed is not None else cell.row


def _word(verdict: Verdict) -> str:
    if verdict.word is None:
        return "–"
    return "at the floor" if verdict.at_floor else verdict.word


def _mark(found: Standings, row: pd.Series[Any]) -> str:
    """A star where others are confirmed and this is not."""
    return "*" if found.confirmed and row["role"] != "confirmed" else ""


def _remarks(found: Standings) -> Iterator[str]:
    verdicts = list(found.verdicts())
    if found.confirmed and any(verdict.word is not None and not verdict.confirmed for verdict in verdicts):
        yield "* not confirmed: on the seeds that it was chosen by"
    if sentence := floor_sentence(found):
        # Two lines of 80 columns.
        yield from (part + (":" if k == 0 else "") for k, part in enumerate(sentence.split(": ")))
    if found.floor is not None:
        again = found.confirmed.get(found.floor["key"])
        yield f"floor: {found.floor['method']} scores " + plain(found.floor if again is None else again)


def _rungs(outcome: Outcome) -> Iterator[str]:
    """What the rungs did: whether they could be trusted, whom they stopped, what that saved."""
    check, cost = RankCheck(outcome.frame), outcome.cost()
    lowest = check.lowest()
    if lowest is not None:
        yield f"rank check: {'lowest' if lowest.rho >= TRUSTED else 'doubtful,'} {check.told(lowest)}"
    if cost.stopped:
        yield "stopped at: " + ", ".join(f"{rung_words(rung)} {number}" for rung, number in cost.stopped.items())
    if math.isfinite(cost.share):
        rest = sum(rows for part, rows in cost.rows.items() if part != "searched")
        searched = f"{_millions(cost.rows['searched'])} network rows searched ({100 * cost.share:.3g} % of full size)"
        yield f"cost: {searched}, {_millions(rest)} beside"


def _millions(rows: float) -> str:
    return f"{rows / 1e6:.3g} M" if math.isfinite(rows) else "unknown"


def _floor(found: Standings) -> dict[str, Any] | None:
    if found.floor is None:
        return None
    return {**(_scored(found.floor) or {}), "confirmed": _scored(found.confirmed.get(found.floor["key"]))}


def _told(verdict: Verdict) -> dict[str, Any]:
    gap, _, error, paired = verdict.difference
    return {
        "budget": verdict.budget,
        "searched": _cell(verdict.searched),
        "baseline": _cell(verdict.baseline),
        "verdict": verdict.words,
        "confirmed": verdict.confirmed,
        "at_floor": verdict.at_floor,
        "gap": _known(gap),
        "gap_error": _known(error),
        "paired": paired,
        "optimism": _known(verdict.optimism.gap),
        "optimism_error": _known(verdict.optimism.error),
    }


def _cell(cell: Cell | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    return (_scored(cell.row) or {}) | {"method": cell.method, "confirmed": _scored(cell.confirmed)}


def _scored(row: pd.Series[Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    numbers = {name: _known(float(row[name])) for name in ("fid", "fid_se", "fid_corrected", "nfe")}
    others = {name: {"value": o.value, "error": o.error} for name, o in others_of(row["beside"]).items()}
    return {"key": row["key"]} | numbers | ({"metrics": others} if others else {})


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _failures(outcome: Outcome, console: Console) -> None:
    failed = outcome.frame[outcome.frame["state"] == "failed"]
    for _, row in failed.head(FAILURES_SHOWN).iterrows():
        console.print(f"failed: {row['key']}: {row['reason']}", style="red", highlight=False, markup=False)
    if len(failed) > FAILURES_SHOWN:
        _line(console, f"... and {len(failed) - FAILURES_SHOWN} more; MLflow has them all")


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
