"""Who tells MLflow while a search runs, and what an outage of MLflow costs: one warning."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from pipeline.entry import Entry
from pipeline.job import Status
from pipeline.portrait_store import PortraitStore
from pipeline.result import TrialRecord
from pipeline.store import StoreUnavailableError, masked
from pipeline.tracking import Record


class RecordUnavailableError(RuntimeError):
    """MLflow is not there when it is needed: nothing is lost, but nothing can be reported."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line and without passwords: clients name the address that they called."""
    return masked(next(iter(str(error).splitlines()), "")) or type(error).__name__


@contextmanager
def answering(trials: int, folder: Path | str) -> Iterator[None]:
    """Where MLflow is needed. `folder`, or the server of that name, is named as where the truth is.

    Raises:
        RecordUnavailableError: it does not answer.
    """
    try:
        yield
    except Exception as error:
        # Clients and drivers have no error in common.
        theirs = type(error).__module__.split(".")[0] in ("mlflow", "requests", "urllib3", "sqlalchemy")
        if not theirs and not isinstance(error, StoreUnavailableError | ConnectionError):
            raise
        raise RecordUnavailableError(
            f"MLflow does not answer ({first_line(error)}); all {trials} trials are kept in {folder}: run the same "
            "command again, or `sigmasearch sync`, when it is back"
        ) from None


class Publisher:
    """Tells MLflow of each trial as it ends, and goes on without it where it does not answer.

    A thread does it, one trial after the other in the order that they ended in: a store takes its time, and the search
    has others to ask. MLflow is tried again once a minute, with what was missed; `sync` makes the record whole in the
    end.
    """

    RETRY_SECONDS = 60.0
    STOP_SECONDS = 1.0  # that a trial which is being told may still take when the search is asked to stop

    def __init__(self, open_record: Callable[[], Record], console: Console, portraits: PortraitStore) -> None:
        self._open, self._console, self._portraits = open_record, console, portraits
        self._record: Record | None = None
        self._missed: list[TrialRecord] = []
        self._said: dict[str, TrialRecord] = {}
        self._failed: float | None = None  # when, on the monotonic clock
        self._ended: queue.Queue[TrialRecord] = queue.Queue()
        self._telling = threading.Lock()  # held while MLflow is spoken to
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Find or begin the study's run; where MLflow does not answer, warn.

        Raises:
            SpecError: the address is wrong, rather than nobody at home.
        """
        self._ended.join()
        self._said.clear()
        try:
            self._record = self._open()
        except StoreUnavailableError as error:
            self._warn(error)

    @property
    def record(self) -> Record:
        """The study's run, once it is open."""
        if self._record is None:
            self._record = self._open()
        return self._record

    def finished(self, record: TrialRecord, status: Status) -> None:
        """Log one trial, and those that were missed before; soon."""
        del status
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell, name="record", daemon=True)
            self._thread.start()
        self._ended.put(record)

    def waiting(self, status: Status) -> None:
        """Nothing to log."""

    def stopped(self) -> None:
        """The search was asked to stop: say so in the record, if MLflow answers. What is not told yet is left."""
        self.close()
        if self._failed is not None or self._record is None:
            return
        if not self._telling.acquire(timeout=self.STOP_SECONDS):
            return
        try:
            self._record.finish("KILLED")
        except Exception as error:  # the search has ended all the same
            self._warn(error)
        finally:
            self._telling.release()

    def close(self) -> None:
        """Tell no more of those that have ended; `sync` will."""
        while True:
            try:
                self._ended.get_nowait()
            except queue.Empty:
                return
            self._ended.task_done()

    def sync(self, records: Sequence[TrialRecord]) -> Record:
        """Make the record equal to the study's truth."""
        self._ended.join()
        for record in records:
            if self._said.get(record.key) != record:
                self._log(record)
        return self.record

    def mend(self, records: Sequence[TrialRecord]) -> list[str]:
        """What `sync` does, and what others did to the record put right; what that was, one line each."""
        self._ended.join()
        told = [f"deleted {what}" for what in self.record.tidy(record.key for record in records)]
        before = len(self.record)
        written = sum(self._log(record) for record in records)
        new = len(self.record) - before
        if written:
            told.append(f"runs written: {written}, new ones among them: {new}")
        for record in records:
            lost = self.record.restore_files(record.key, Entry.of(record, self._portraits.of(record)))
            told += [f"{record.key}: file {name} written again" for name in lost]
        return told + [f"left alone {run}, which is none of ours" for run in self.record.foreign()]

    def _tell(self) -> None:
        while True:
            record = self._ended.get()
            with self._telling:
                self._take(record)
            self._ended.task_done()

    def _take(self, record: TrialRecord) -> None:
        self._missed.append(record)
        if self._failed is not None and time.monotonic() - self._failed < self.RETRY_SECONDS:
            return
        missed = len(self._missed)
        try:
            while self._missed:
                self._log(self._missed[0])
                self._missed.pop(0)
        except Exception as error:  # whatever the store's client raises must not end a search
            self._warn(error)
            return
        if self._failed is not None:
            self._failed = None
            self._console.print(f"MLflow answers again; {missed} trials that it missed are in the record")

    def _log(self, record: TrialRecord) -> bool:
        new = self.record.log(record, self._portraits.of(record))
        self._said[record.key] = record
        return new

    def _warn(self, error: BaseException) -> None:
        if self._failed is None:
            text = f"warning: MLflow does not answer ({first_line(error)}); the search goes on"
            self._console.print(text, style="yellow", markup=False, soft_wrap=True)
        self._failed = time.monotonic()
