"""Who tells MLflow while a search runs, and what an outage of MLflow costs: one warning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from pipeline.job import Status
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

    It is tried again once a minute, with what was missed; `sync` makes the record whole in the end.
    """

    RETRY_SECONDS = 60.0

    def __init__(self, open_record: Callable[[], Record], console: Console) -> None:
        self._open, self._console = open_record, console
        self._record: Record | None = None
        self._missed: list[TrialRecord] = []
        self._failed: float | None = None  # when, on the monotonic clock

    def open(self) -> None:
        """Find or begin the study's run; where MLflow does not answer, warn.

        Raises:
            SpecError: the address is wrong, rather than nobody at home.
        """
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
        """Log one trial, and those that were missed before."""
        del status
        self._missed.append(record)
        if self._failed is not None and time.monotonic() - self._failed < self.RETRY_SECONDS:
            return
        missed = len(self._missed)
        try:
            while self._missed:
                self.record.log(self._missed[0])
                self._missed.pop(0)
        except Exception as error:  # whatever the store's client raises must not end a search
            self._warn(error)
            return
        if self._failed is not None:
            self._failed = None
            self._console.print(f"MLflow answers again; {missed} trials that it missed are in the record")

    def waiting(self, status: Status) -> None:
        """Nothing to log."""

    def stopped(self) -> None:
        """The search was asked to stop: say so in the record, if MLflow answers."""
        if self._failed is not None or self._record is None:
            return
        try:
            self._record.finish("KILLED")
        except Exception as error:  # the search has ended all the same
            self._warn(error)

    def sync(self, records: Sequence[TrialRecord]) -> Record:
        """Make the record equal to the study's truth."""
        for record in records:
            self.record.log(record)
        return self.record

    def _warn(self, error: BaseException) -> None:
        if self._failed is None:
            text = f"warning: MLflow does not answer ({first_line(error)}); the search goes on"
            self._console.print(text, style="yellow", markup=False, soft_wrap=True)
        self._failed = time.monotonic()
