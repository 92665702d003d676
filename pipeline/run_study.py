"""A whole study, from its file to the front: search, record, report. What `sigmasearch search` and `report` do."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import search_spaces
from pipeline import benchmarks, rerun, store
from pipeline import fork as forking
from pipeline.card import write_card
from pipeline.cluster import Pool, check_address, open_pool
from pipeline.job import Status
from pipeline.ledger import Ledger
from pipeline.progress import Standings as Screen
from pipeline.progress import progress
from pipeline.registry import SpecError
from pipeline.result import TrialRecord
from pipeline.run_folder import claim
from pipeline.scoring import MomentScoring
from pipeline.search import Listener, Search
from pipeline.summary import Outcome
from pipeline.tracking import Record
from reports import figures, interactive, tables
from reports.record import complete, read
from search_spaces import Study

MEMORY_FOLDER = "memory"


class RecordUnavailableError(RuntimeError):
    """MLflow went away during a search: nothing is lost, but nothing can be reported."""


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


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
            text = f"warning: MLflow does not answer ({_first_line(error)}); the search goes on"
            self.console.print(text, style="yellow", markup=False)

    def waiting(self, status: Status) -> None:
        """Nothing to log."""

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Make the record equal to the study's truth."""
        for record in records:
            self.record.log(record)


def search(
    file: str,
    *,
    trials: int | None,
    workers: int | None,
    run_dir: Path | None,
    console: Console,
    fork: str | None = None,
) -> Outcome:
    """Run or continue a study and publish it; with `fork` under that name, from the trials of the one in `run_dir`.

    Raises:
        SpecError: a mistake in the file, an option or MLFLOW_TRACKING_URI; nothing has been written then.
    """
    started = time.monotonic()
    study = search_spaces.load(file, {"trials": trials, "workers": workers})
    folder = (run_dir or Path("runs") / study.study).absolute()
    source = folder
    if fork is not None:
        forking.old_identity(source)
        study = search_spaces.load(file, {"trials": trials, "workers": workers, "study": fork})
        folder = source.parent / study.study
        if folder == source:
            raise SpecError("is the name of the study itself", path="--fork", given=fork, allowed="another")
    uri = store.store_uri(folder.parent)
    if store.sqlite_file(uri) is None:
        store.open_client(uri, create=False)
    if study.workers:
        check_address()
    benchmark = benchmarks.load(study.benchmark)
    # Hashes of what the reference is made from, not of its bytes: another processor may round those otherwise.
    measured_by = {"model": benchmark.model_hash, "features": benchmark.extractor.hash}
    identity = study.identity() | {"benchmark_version": benchmark.version} | measured_by
    new = not folder.exists()
    lock = claim(folder, identity, study.fingerprint, file)
    try:
        with console.status("opening the record (a new MLflow store takes some seconds)"):
            publisher = Publisher(Record.open(uri, benchmark.name, study.study, study.fingerprint), console)
    except BaseException:
        lock.close()
        if new:  # nothing but what `claim` has just written
            shutil.rmtree(folder)
        raise
    try:
        optimizer = study.optimizer
        startup = optimizer.startup + len(study.published_points)
        ledger = Ledger(folder, study.study, study.draw, optimizer.name, optimizer.seed, startup, optimizer.stopped)
        if fork is not None:
            told = forking.fork(source, study, json.loads(json.dumps(identity)), ledger)
            console.print(f"{study.study}: {told}", highlight=False, markup=False, soft_wrap=True)
        before = len(ledger.records())

        def start() -> Pool:
            console.print(
                f"{study.study}: starting {study.workers or 'no'} Ray workers on {study.benchmark}", highlight=False
            )
            return open_pool(study.benchmark, study.workers, study.threads, folder / MEMORY_FOLDER)

        with progress(console, Screen(study.budgets, ledger.records())) as screen:
            listeners: list[Listener] = [screen, publisher]
            Search(
                study, ledger, start, MomentScoring(benchmark), (benchmark.sigma_min, benchmark.sigma_max), listeners,
                folder, json.dumps(identity, sort_keys=True),
            ).run()  # fmt: skip
        records = ledger.records()
        if len(records) == before:
            console.print(f"all {len(records)} trials were done before; nothing to add", highlight=False)
        try:
            publisher.sync(records)
        except Exception as error:  # whatever the store's client raises; the truth is in the run directory
            raise RecordUnavailableError(
                f"MLflow does not answer ({_first_line(error)}); all {len(records)} trials are kept in {folder}: "
                "run the same command again when it is back"
            ) from None
        with console.status("writing the report"):
            outcome = publish(study, publisher.record, uri, folder, records)
        outcome.seconds, outcome.new_trials = time.monotonic() - started, len(records) - before
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
            rerun.sample(card, card.with_suffix(".png"))
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


def quiet_libraries() -> None:
    """Libraries that warn about themselves have nothing to tell the user of this command."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
