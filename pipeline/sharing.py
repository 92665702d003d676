"""What a search has to ask the other drivers of its study; one that has the study to itself is told yes at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from optuna.trial import FrozenTrial, Trial

from pipeline.evidence import Evidence
from pipeline.ledger import Ledger
from pipeline.result import TrialRecord

Asked = tuple[Trial, dict[str, Any]]


class Sharing(Protocol):
    """A driver's place among those of its study. `left`: how many searched trials are still to be asked for."""

    left: int
    several: bool

    def begin(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Queue the published settings, and find out what is left."""
        ...

    def ask(self) -> Asked | None:
        """The next searched trial, and its parameters: one that was left under way, or a new one."""
        ...

    def take(self, key: str, record: str = "") -> bool:
        """Whether this driver may do what is called `key`; not where it is done, under `record` or else that name."""
        ...

    def news(self) -> list[TrialRecord]:
        """What is over, or waits, since this was asked last, and was not told here."""
        ...

    def told(self, record: TrialRecord) -> None:
        """This driver has told a trial."""
        ...

    def searching(self) -> bool:
        """Whether others have searched trials under way, once nothing is left to ask for; if not, all is in `news`."""
        ...

    def ended(self, key: str) -> bool:
        """Whether another driver has ended the trial `key`."""
        ...

    def reached(self, number: int) -> Evidence | None:
        """What a trial that waited has come to by now, in another driver's hands."""
        ...


class Alone:
    """A driver that has the study to itself: what is under way in the storage was left there by one before it."""

    several = False

    def __init__(self, ledger: Ledger, trials: int) -> None:
        self._ledger, self._trials = ledger, trials
        self._resumed: deque[FrozenTrial] = deque()
        self.left = 0

    def begin(self, points: Iterable[Mapping[str, Any]]) -> None:
        """As of `Sharing`."""
        self._resumed = deque(self._ledger.running())
        self.left = max(0, self._trials - self._ledger.spent)
        if self.left:
            self._ledger.enqueue(points)

    def ask(self) -> Asked | None:
        """As of `Sharing`."""
        if not self.left:
            return None
        self.left -= 1
        return self._ledger.resume(self._resumed.popleft()) if self._resumed else self._ledger.ask()

    def take(self, key: str, record: str = "") -> bool:
        """Nobody else does anything."""
        del key, record
        return True

    def news(self) -> list[TrialRecord]:
        """Nobody else tells anything."""
        return []

    def told(self, record: TrialRecord) -> None:
        """Nobody has to know."""

    def searching(self) -> bool:
        """Nobody else searches."""
        return False

    def ended(self, key: str) -> bool:
        """Nobody else ends anything."""
        del key
        return False

    def reached(self, number: int) -> Evidence | None:
        """Nobody else has any."""
        del number
        return None
