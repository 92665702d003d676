"""A whole study, from its file to the front: search, record, report. What `sigmasearch search` and `report` do."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table

import search_spaces
from pipeline import benchmarks, store
from pipeline.card import read_card, write_card
from pipeline.cluster import Pool, open_pool
from pipeline.ledger import Ledger, claim
from pipeline.metrics.features import quantise
from pipeline.noise import noise
from pipeline.progress import Standings as Screen
from pipeline.progress import clock, progress
from pipeline.search import Listener, Search, Status
from pipeline.tracking import Record
from pipeline.trial import TrialRecord
from reports import figures, interactive, pareto, tables
from reports.numbers import plain
from reports.record import complete, groups, read
from reports.standings import Standings
from search_spaces import Study

PICTURES = 64  # images in a sample grid: 8 rows of 8


@dataclass
class Publisher:
    """Tells MLflow of each trial as it ends. An outage costs one warning: `sync` makes the record whole afterwards."""

    record: Record
    console: Console
    behind: bool = False

    def finished(self, record: TrialRecord, status: Status) -> None:
        """Log one trial, unless the store has failed before."""
        del status
        if self.behind:
            return
        try:
            self.record.log(record)
        except Exception as error:  # whatever the store's client raises must not end a search
            self.behind = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.console.print(f"warning: MLflow does not answer ({reason}); the search goes on", style="yellow")

    def waiting(self, status: Status) -> None:
        """Nothing to log."""

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Make the record equal to the study's truth."""
        for record in records:
            self.record.log(record)


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


def search(
    file: str,
    *,
    trials: int | None,
    workers: int | None,
    run_dir: Path | None,
    console: Console,
    pool: Pool | None = None,
) -> Outcome:
    """Run or continue a study and publish it.

    Raises:
        SpecError: a mistake in the file, an option or MLFLOW_TRACKING_URI; nothing has been written then.
    """
    started = time.monotonic()
    study = search_spaces.load(file, {"trials": trials, "workers": workers})
    folder = (run_dir or Path("runs") / study.study).absolute()
    uri = store.store_uri(folder.parent)
    if store.is_server(uri):
        store.open_client(uri, create=False)
    benchmark = benchmarks.load(study.benchmark)
    identity = study.identity() | {"benchmark_version": benchmark.version, "reference": benchmark.reference_hash}
    lock = claim(folder, identity, study.fingerprint)
    try:
        space, optimizer = study.parsed_space, study.optimizer
        ledger = Ledger(folder, study.study, space.distributions, optimizer.name, optimizer.seed)
        publisher = Publisher(Record.open(uri, benchmark.name, study.study, study.fingerprint), console)
        before = len(ledger.records())
        if pool is None:
            console.print(
                f"{study.study}: starting {study.workers or 'no'} workers on {study.benchmark}", highlight=False
            )
        workforce = pool or open_pool(study.benchmark, study.workers, study.threads)
        try:
            with progress(console, Screen(study.budgets, ledger.records())) as screen:
                listeners: list[Listener] = [screen, publisher]
                status = Search(study, ledger, workforce, benchmark, listeners).run()
        finally:
            if pool is None:
                workforce.close()
        records = ledger.records()
        if len(records) == before:
            console.print(f"all {len(records)} trials were done before; nothing to add", highlight=False)
        publisher.sync(records)
        outcome = publish(study, publisher.record, uri, folder, records)
        outcome.seconds, outcome.new_trials = time.monotonic() - started, len(records) - before
        del status
        return outcome
    finally:
        lock.close()


def publish(study: Study, record: Record, uri: str, folder: Path, records: Sequence[TrialRecord]) -> Outcome:
    """Read the record back, mark its front, and make the report, the pictures and the cards from it."""
    frame = read(uri, benchmarks.load(study.benchmark).name, study.study)
    outcome = Outcome(study, folder, uri, 0.0, 0, frame)
    if complete(frame).empty:
        record.finish("FAILED")
        return outcome
    front = [str(key) for key in outcome.front()["key"]]
    record.mark_front(front)
    outcome.frame = frame = read(uri, benchmarks.load(study.benchmark).name, study.study)
    report = folder / "report"
    outcome.files = {path.name: path for path in tables.write(frame, report, study.budgets)}
    outcome.files["front.png"] = figures.front_png(frame, report / "front.png")
    outcome.files["front.svg"] = figures.front_svg(frame, report / "front.svg")
    outcome.files["front.html"] = interactive.front_html(frame, report / "front.html")
    results = {item.key: item.result for item in records}
    cards = []
    for key in front:
        result = results[key]
        if result is None:
            continue
        card = folder / "front" / f"nfe-{result.nfe:02g}.json"
        write_card(card, result)
        cards.append(card)
        if benchmarks.load(study.benchmark).spec.quantise:
            sample(card, card.with_suffix(".png"))
    keep = {card.with_suffix(suffix) for card in cards for suffix in (".json", ".png")}
    for old in (folder / "front").glob("nfe-*"):
        if old not in keep:  # a trial that a better one has pushed off the front
            old.unlink()
    outcome.files["front"] = folder / "front"
    for name in ("table.md", "table.csv", "table.tex", "front.png", "front.html"):
        record.attach(outcome.files[name], name)
    record.describe_study(tables.leaderboard(frame))
    record.set_leaderboard_view()
    record.finish()
    return outcome


def sample(card: Path, out: Path, images: int = PICTURES, first_seed: int = 0) -> Path:
    """Draw a card's samples as one picture."""
    spec, plan, _ = read_card(card)
    benchmark = benchmarks.load(spec.benchmark)
    samples = plan.run(benchmark.denoiser(), noise(range(first_seed, first_seed + images), benchmark.shape))
    pixels = quantise(samples if torch.isfinite(samples).all() else samples.nan_to_num())
    return figures.picture_grid(pixels.movedim(1, -1).numpy(), out)


def show(outcome: Outcome, console: Console) -> None:
    """Print the front, the verdict at each budget, and where everything lies."""
    if complete(outcome.frame).empty:
        console.print("no trial gave a result; see the reasons above", style="red")
        return
    standings = outcome.standings()
    floor = standings.floor
    first, count = outcome.study.first_seed, outcome.study.images
    images = f"{count:,} images, seeds {first}-{first + count - 1}"
    table = Table(title=f"FID within each NFE budget ({images}; ± leave-one-shard-out error)", title_justify="left")
    for name, justify in (("budget", "right"), ("searched", "right"), ("NFE", "right"), ("plan", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich's own literals
    for name, justify in (("best baseline", "right"), ("method", "left"), ("verdict", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for verdict in standings.verdicts():
        searched, baseline = verdict.searched, verdict.baseline
        left = (
            [plain(searched.row), f"{searched.row['nfe']:g}", str(searched.row["name"]).rsplit(" · ", 1)[0]]
            if searched
            else ["–"] * 3
        )
        right = [plain(baseline.row), baseline.method] if baseline else ["–"] * 2
        table.add_row(str(verdict.budget), *left, *right, verdict.words)
    console.print(table)
    if floor is not None:
        console.print(f"floor: {floor['method']} scores {plain(floor)} on the same images", highlight=False)
    counts = outcome.frame["state"].value_counts()
    told = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if state in counts)
    console.print(f"{told}; {outcome.new_trials} new in {clock(outcome.seconds)}", highlight=False)
    for row in outcome.frame[outcome.frame["state"] == "failed"].head(5).itertuples():
        console.print(f"failed: {row.key}: {row.reason}", style="red", highlight=False)
    for name in ("table.md", "front.png", "front.html", "front"):
        label = {
            "table.md": "report",
            "front.png": "figure",
            "front.html": "figure, interactive",
            "front": "cards and pictures",
        }[name]
        console.print(f"{label:>20}  {outcome.files[name]}", highlight=False, soft_wrap=True)
    console.print(
        f"{'MLflow':>20}  {store.masked(outcome.uri)}   (`make ui` or `sigmasearch ui` opens the leaderboard)",
        highlight=False,
        soft_wrap=True,
    )


def quiet_libraries() -> None:
    """Libraries that warn about themselves have nothing to tell the user of this command."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
