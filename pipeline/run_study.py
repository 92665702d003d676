"""A whole study, from its file to the front: search, record, report. What `sigmasearch search` and `report` do."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

import search_spaces
from pipeline import benchmarks, store
from pipeline import fork as forking
from pipeline.benchmarks import Benchmark
from pipeline.cluster import InterruptiblePool, Pool, TellingPool, check_address, open_pool
from pipeline.device import chosen
from pipeline.interruption import InterruptedSearch, Interruption
from pipeline.job import Status
from pipeline.portrait_store import FOLDER as PORTRAITS
from pipeline.portrait_store import PortraitPool, PortraitStore
from pipeline.progress import Standings as Screen
from pipeline.progress import progress
from pipeline.publication import differences, publish, some, without_picture
from pipeline.publisher import Publisher, answering
from pipeline.ray_job import lasting
from pipeline.registry import SpecError
from pipeline.result import TrialRecord
from pipeline.run_folder import STORAGE_FILE, STUDY_FILE, claim
from pipeline.scoring import MomentScoring
from pipeline.search import Listener, Search
from pipeline.server_storage import ALLOWED, masked, server_answering, server_name, server_storage
from pipeline.shared_study import Driver
from pipeline.summary import Outcome
from pipeline.tracking import Record
from search_spaces import Study

MEMORY_FOLDER = "memory"


def search(
    file: str,
    *,
    trials: int | None,
    workers: int | None,
    run_dir: Path | None,
    console: Console,
    fork: str | None = None,
    storage: str | None = None,
    join: bool = False,
    model: str | None = None,
) -> Outcome:
    """Run or continue a study and publish it; with `fork` under that name, from the trials of the one in `run_dir`.

    `storage` is the address of a server that keeps the study in place of the run directory; with `join` other drivers
    may be on it. `model` takes the place of the card's, and makes it another study.

    Raises:
        SpecError: a mistake in the file, an option or MLFLOW_TRACKING_URI; nothing has been written then.
    """
    started = time.monotonic()
    server = server_storage(storage)
    if join and (server is None or fork is not None):
        what = "a study is shared on a server" if server is None else "a study is forked by one driver"
        raise SpecError(what, path="--join", allowed=f"--join with --storage {ALLOWED}, without --fork")
    changes = {"trials": trials, "workers": workers, "model": model}
    study = search_spaces.load(file, changes)
    folder = lasting(run_dir or Path("runs") / study.study)
    source = folder
    if fork is not None:
        forking.old_identity(source)
        study = search_spaces.load(file, changes | {"study": fork})
        folder = source.parent / study.study
        if folder == source:
            raise SpecError("is the name of the study itself", path="--fork", given=fork, allowed="another")
    uri = store.store_uri(folder.parent)
    if study.workers:
        check_address()
    else:
        _here(study)
    benchmark = replace(benchmarks.load(study.benchmark), acceleration=study.network)
    identity = _identity(study, benchmark)
    new = not folder.exists()
    portraits = PortraitStore(folder / PORTRAITS)
    publisher = Publisher(lambda: _record(study, uri), console, portraits)
    lock = claim(folder, identity, study.fingerprint, file, server_name(server) if server else "")
    driver = Driver(study, server, console)
    try:
        with server_answering(server):
            driver.register(identity, join=join)
        with driver.alone("record"), console.status("opening the record (a new MLflow store takes some seconds)"):
            publisher.open()
    except BaseException:
        driver.close()
        lock.close()
        if new:  # nothing but what `claim` has just written
            shutil.rmtree(folder)
        raise
    try:
        with server_answering(server):
            ledger = driver.open_ledger(folder)
        if fork is not None:
            told = forking.fork(source, study, json.loads(json.dumps(identity)), ledger)
            portraits.adopt(PortraitStore(source / PORTRAITS))
            console.print(f"{study.study}: {told}", highlight=False, markup=False, soft_wrap=True)
        before = len(ledger.records())
        run = Running(study, folder, publisher, console, portraits)
        with run.interruption, progress(console, Screen(study.budgets, ledger.records())) as screen:
            listeners: list[Listener] = [screen, publisher, run]
            with run.interruption.deferred(), server_answering(server):
                Search(
                    study, ledger, run.start, MomentScoring(benchmark), (benchmark.sigma_min, benchmark.sigma_max),
                    listeners, folder, json.dumps(identity, sort_keys=True), driver.sharing(ledger),
                ).run()  # fmt: skip
        records = ledger.records()
        if len(records) == before:
            console.print(f"all {len(records)} trials were done before; nothing to add", highlight=False)
        where = server_name(server) if server else folder
        with driver.alone("record"), answering(len(records), where), console.status("writing the report"):
            if driver.shares:
                publisher.open()  # others have written there since
            outcome = publish(study, publisher.sync(records), uri, folder, records)
        outcome.seconds, outcome.new_trials = time.monotonic() - started, len(records) - before
        return outcome
    finally:
        publisher.close()
        driver.close()
        lock.close()


class Running:
    """The search while it runs: opens its pool, and says one line where it is asked to stop."""

    def __init__(
        self, study: Study, folder: Path, publisher: Publisher, console: Console, portraits: PortraitStore
    ) -> None:
        self.study, self.folder, self.publisher, self.console = study, folder, publisher, console
        self.portraits = portraits
        self.interruption = Interruption()
        self._status = Status(total=0)

    def start(self) -> Pool:
        """The workers. Ray takes SIGTERM for itself when it starts, and has to give it back."""
        workers = self.study.workers
        text = f"{self.study.study}: starting {workers or 'no'} Ray workers on {self.study.benchmark}"
        self.console.print(text, highlight=False)
        given = self.study.resources
        memory = self.folder / MEMORY_FOLDER
        pool = open_pool(
            self.study.benchmark, workers, self.study.threads, memory,
            cpus=given.cpus, gpus=given.gpus, device=given.place, acceleration=self.study.network,
        )  # fmt: skip
        self.interruption.install()
        kept = TellingPool(PortraitPool(pool, self.portraits, self.study.first_seed), self._say)
        return InterruptiblePool(kept, self.interruption, self.tidy)

    def _say(self, text: str) -> None:
        self.console.print(f"{self.study.study}: {text}", highlight=False, markup=False, soft_wrap=True)

    def finished(self, record: TrialRecord, status: Status) -> None:
        """Remember how far the search is."""
        del record
        self._status = status

    def waiting(self, status: Status) -> None:
        """Remember how far the search is."""
        self._status = status

    def tidy(self, interrupted: InterruptedSearch) -> None:
        """Say how to go on, first of all, and close the record."""
        done = (
            f"{self._status.done} of {self._status.total} trials are over" if self._status.total else "nothing is lost"
        )
        command = masked(shlex.join(["sigmasearch", *sys.argv[1:]]))
        text = f"stopped by {interrupted}: {done}, what was sampled of others is kept; to go on: {command}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        interrupted.told = True
        self.publisher.stopped()


def sync(
    file: str, *, run_dir: Path | None, console: Console, storage: str | None = None, model: str | None = None
) -> Outcome:
    """Make MLflow's record of a study equal to its truth, and the report new; nothing is sampled.

    What others did to the record is put right, and told. `storage` is the address of the server that keeps the study,
    where the run directory does not.

    Raises:
        SpecError: a mistake in the file, or no such study.
        RecordUnavailableError: MLflow does not answer.
    """
    started = time.monotonic()
    with _opened(file, run_dir, console, storage, model) as truth:
        study, uri = truth.study, truth.uri
        publisher = Publisher(lambda: _record(study, uri), console, truth.portraits)
        with answering(len(truth.records), truth.where), console.status("writing the report"):
            told = publisher.mend(truth.records)
            outcome = publish(study, publisher.record, uri, truth.folder, truth.records)
    lacking = without_picture(study, truth.records, publisher.record)
    if lacking:
        told.append(f"trials without a sample grid, which {PORTRAITS} would have: {len(lacking)} ({some(lacking)})")
    for text in told:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    outcome.seconds = time.monotonic() - started
    return outcome


def check(
    file: str, *, run_dir: Path | None, console: Console, storage: str | None = None, model: str | None = None
) -> list[str]:
    """In what MLflow's record of a study differs from its truth, one line each; MLflow is only read.

    Raises:
        SpecError: a mistake in the file, or no such study.
        RecordUnavailableError: MLflow does not answer.
    """
    with _opened(file, run_dir, console, storage, model) as truth:
        if (store_file := store.sqlite_file(truth.uri)) is not None and not store_file.exists():
            return [f"{store_file}: there is no MLflow store"]
        with answering(len(truth.records), truth.where):
            return differences(truth.study, truth.uri, truth.records, truth.portraits)


@dataclass(frozen=True)
class _Truth:
    """A study that was searched before, as its storage has it. `where` names that storage."""

    study: Study
    folder: Path
    uri: str
    where: Path | str
    records: Sequence[TrialRecord]
    portraits: PortraitStore


@contextmanager
def _opened(
    file: str, run_dir: Path | None, console: Console, storage: str | None, model: str | None
) -> Iterator[_Truth]:
    """Hold a study of which nothing is sampled."""
    study = search_spaces.load(file, {"model": model})
    folder, server = lasting(run_dir or Path("runs") / study.study), server_storage(storage)
    if not (folder / (STUDY_FILE if server else STORAGE_FILE)).exists():
        raise SpecError("holds no study", path="--run-dir", given=str(folder), allowed="a run directory of `search`")
    uri = store.store_uri(folder.parent)
    identity, name = _identity(study, benchmarks.load(study.benchmark)), server_name(server) if server else ""
    driver = Driver(study, server, console)
    with claim(folder, identity, study.fingerprint, file, name), closing(driver), server_answering(server):
        driver.register(identity, join=False)  # two that write the record would write some of it twice
        records = driver.open_ledger(folder).records()
        yield _Truth(study, folder, uri, name or folder, records, PortraitStore(folder / PORTRAITS))


def _here(study: Study) -> None:
    """Raise a `SpecError` where images are to be sampled in this process, on a device that is not here."""
    try:
        chosen(study.resources.place)
    except SpecError as error:
        raise error.under("resources", study.study) from None


def _record(study: Study, uri: str) -> Record:
    record = Record.open(uri, benchmarks.load(study.benchmark).name, study.study, study.fingerprint)
    record.budgets = study.budgets
    return record


def _identity(study: Study, benchmark: Benchmark) -> dict[str, Any]:
    # Hashes of what the reference is made from, not of its bytes: another processor may round those otherwise.
    measured_by = {"model": benchmark.model_hash, "features": benchmark.extractor.hash}
    if benchmark.reference_sha256 is not None:
        measured_by["reference_file"] = benchmark.reference_sha256
    return study.identity() | {"benchmark_version": benchmark.version} | measured_by


def quiet_libraries() -> None:
    """Libraries that warn about themselves have nothing to tell the user of this command."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
