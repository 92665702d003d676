"""SIGTERM and Ctrl-C as a wish to stop: the search ends between two answers, with everything it has put away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class InterruptedSearch(BaseException):
    """Somebody wants the process to stop. No `Exception`, so that nobody takes it for a failure of theirs."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.told = False  # whether the user has been told how to go on

    @property
    def exit_status(self) -> int:
        """128 and the signal, as a shell would say."""
        return 128 + self.signum


class Interruption:
    """Inside `with`, the first signal raises `InterruptedSearch`; while deferred it is kept until `check` is called.

    A second one raises at once. Signals that are ignored, as nohup's children ignore some, stay ignored. Only the main
    thread can have it otherwise; elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._deferred = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        self.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal.signal` gave
        self._before.clear()

    def install(self) -> None:
        """Take the signals; again after `ray.init`, which takes SIGTERM for itself."""
        for number in SIGNALS:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                before = signal.signal(number, self._heard)
            except ValueError:  # not the main thread
                return
            self._before.setdefault(number, before)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """The first signal waits for `check`: Ray turns what is raised inside its calls into something else."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def check(self) -> None:
        """Raise `InterruptedSearch` where a signal has come."""
        if self._asked is not None:
            raise InterruptedSearch(self._asked)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del frame
        again, self._asked = self._asked is not None, number
        if again or not self._deferred:
            raise InterruptedSearch(number)
