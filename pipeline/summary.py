"""What a search leaves behind: the front, the verdict at each budget, where everything lies; for people and scripts."""

from __future__ import annotations

import json
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
from reports.numbers import plain
from reports.record import complete, groups
from reports.standings import Cell, Standings
from search_spaces import Study

FAILURES_SHOWN = 5
PLACES = {
    "table.md": "report",
    "front.png": "figure",
    "front.html": "interactive",
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
        return Standings(groups(self.frame)[0], self.study.budgets)

    def front(self) -> pd.DataFrame:
        """The searched trials that no other one beats in both FID and NFE."""
        return pareto.front(complete(groups(self.frame)[0], "searched", "published"))

    def to_json(self) -> dict[str, Any]:
        """The summary that a script reads."""
        keep = ("key", "name", "fid", "fid_se", "nfe", "setup_nfe", "images", "first_seed", "plan")
        front = json.loads(self.front()[list(keep)].to_json(orient="records"))
        counts = {str(state): int(n) for state, n in self.frame["state"].value_counts().items()}
        return {
            "study": self.study.study,
            "benchmark": self.study.benchmark,
            "trials": counts,
            "new_trials": self.new_trials,
            "seconds": round(self.seconds, 1),
            "front": front,
            "budgets": [
                {
                    "budget": verdict.budget,
                    "searched": verdict.searched
                    and {"fid": verdict.searched.row["fid"], "key": verdict.searched.row["key"]},
                    "baseline": verdict.baseline
                    and {"fid": verdict.baseline.row["fid"], "key": verdict.baseline.row["key"]},
                    "verdict": verdict.words,
                }
                for verdict in self.standings().verdicts()
            ],
            "mlflow": store.masked(self.uri),
            "files": {name: str(path) for name, path in self.files.items()},
        }


def show(outcome: Outcome, console: Console) -> None:
    """Print the standings, the front and where everything lies; fits 80 columns."""
    if complete(outcome.frame).empty:
        console.print("no trial gave a result", style="red")
        _failures(outcome, console)
        return
    standings = outcome.standings()
    first, count = outcome.study.first_seed, outcome.study.images
    seeds = f"{count:,} images, seeds {first}-{first + count - 1}"
    _line(console, f"best FID within each NFE budget ± standard error; {seeds}")
    console.print(_standings(standings))
    if standings.floor is not None:
        if any(verdict.at_floor for verdict in standings.verdicts()):
            _line(console, "* here the best baseline cannot be told from the floor")
        _line(console, f"floor: {standings.floor['method']} scores {plain(standings.floor)} on the same images")
    _line(console, "front of the search:")
    for _, row in outcome.front().iterrows():
        name = str(row["name"]).rsplit(" · ", 1)[0]
        _line(console, f"  {row['nfe']:>4g} NFE   FID {plain(row):<14} {name}")
    counts = outcome.frame["state"].value_counts()
    told = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if state in counts)
    _line(console, f"trials: {told}; {outcome.new_trials} of them new, in {clock(outcome.seconds)}")
    _failures(outcome, console)
    for name, label in PLACES.items():
        _line(console, f"{label:>16}  {outcome.files[name]}")
    _line(console, f"{'MLflow':>16}  {store.masked(outcome.uri)}")
    _line(console, f"{'':>16}  `make ui` (or `sigmasearch ui --runs {outcome.run_dir.parent}`) opens the leaderboard")


def _standings(standings: Standings) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    for name in ("budget", "searched", "NFE", "best baseline"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("method", "searched is"):
        table.add_column(name, no_wrap=True)
    for verdict in standings.verdicts():
        baseline = verdict.baseline
        right = [plain(baseline.row), baseline.method] if baseline else ["–", "–"]
        table.add_row(str(verdict.budget), *_searched(verdict.searched), *right, _word(verdict.words))
    return table


def _searched(cell: Cell | None) -> tuple[str, str]:
    return ("–", "–") if cell is None else (plain(cell.row), f"{cell.row['nfe']:g}")


def _word(words: str) -> str:
    verdict, _, rest = words.partition("; ")
    return {"searched is lower": "lower", "baseline is lower": "higher"}.get(verdict, verdict) + ("*" if rest else "")


def _failures(outcome: Outcome, console: Console) -> None:
    failed = outcome.frame[outcome.frame["state"] == "failed"]
    for _, row in failed.head(FAILURES_SHOWN).iterrows():
        console.print(f"failed: {row['key']}: {row['reason']}", style="red", highlight=False, markup=False)
    if len(failed) > FAILURES_SHOWN:
        _line(console, f"... and {len(failed) - FAILURES_SHOWN} more; MLflow has them all")


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
