"""One study, several drivers: what each may do, and what it learns of the others.

Optuna hands each trial to one driver only, but takes a driver that died for one that is still at work. So whatever a
driver works on it has taken before (`pipeline.leases`), and it tells only while it is known to be alive. Where two have
measured the same all the same, because one was frozen meanwhile, the first counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from sqlalchemy.engine import URL
from sqlalchemy.exc import ProgrammingError

from pipeline.evidence import Evidence
from pipeline.leases import LeaseLostError, Leases
from pipeline.ledger import OVER, Ledger
from pipeline.result import TrialRecord
from pipeline.server_storage import open_engine, optuna_arguments, server_name, unusable
from pipeline.sharing import Asked, Sharing
from pipeline.study_storage import Server
from pipeline.told import read_back
from search_spaces import Study

POLL_SECONDS = 0.5  # how old what is known of the others may be


class Driver:
    """This process as a driver of a study; on a server it may be one of several. Close it in the end."""

    def __init__(self, study: Study, url: URL | None, console: Console) -> None:
        self._study, self._url, self._console = study, url, console
        self._leases: Leases | None = None
        self._place = 0

    @property
    def shares(self) -> bool:
        """Whether others may be on the study."""
        return self._leases is not None

    def register(self, identity: Mapping[str, Any], *, join: bool) -> None:
        """Make it known on the server, if there is one; see `Leases.register`."""
        if self._url is None:
            return
        try:
            leases = Leases(open_engine(self._url), self._study.study)
        except ProgrammingError as error:
            raise unusable(self._url, error) from None
        terms = self._study.model_dump(mode="json", include={"trials", "baselines", "confirm", "optimizer"})
        text = f"{self._study.study}: a driver was on it; half a minute shows whether it is alive"
        try:
            self._place = leases.register(
                identity, terms, join=join, waiting=lambda: self._console.print(text, highlight=False, markup=False)
            )
        except BaseException:
            leases.close()
            raise
        self._leases = leases

    def alone(self, key: str) -> AbstractContextManager[None]:
        """What is done inside, the drivers of a study do one after the other."""
        return nullcontext() if self._leases is None else self._leases.alone(key)

    def open_ledger(self, run_dir: Path) -> Ledger:
        """The study's ledger, on the server or in the run directory."""
        optimizer, name, draw = self._study.optimizer, self._study.study, self._study.draw
        startup = optimizer.startup + len(self._study.published_points)
        if self._leases is None or self._url is None:
            return Ledger(run_dir, name, draw, optimizer.name, optimizer.seed, startup, optimizer.stopped)
        address = self._url.render_as_string(hide_password=False)
        server = Server(address, server_name(self._url), optuna_arguments(), self._place)
        with self._leases.turn():  # the tables are made once
            ledger = SharedLedger(None, name, draw, optimizer.name, optimizer.seed, startup, optimizer.stopped, server)
        ledger.leases = self._leases
        return ledger

    def sharing(self, ledger: Ledger) -> Sharing | None:
        """How to speak with the others; None where there can be none."""
        if self._leases is None or not isinstance(ledger, SharedLedger):
            return None
        return Shared(ledger, self._leases, self._study.trials)

    def close(self) -> None:
        """Leave the study to the others."""
        if self._leases is not None:
            self._leases.close()


class SharedLedger(Ledger):
    """A ledger that other drivers write too. One that they have buried tells nothing any more.

    `leases` is to be set before anything is told.
    """

    leases: Leases

    @contextmanager
    def telling(self, trial: Trial | None) -> Iterator[None]:
        """Refuse a driver that is buried, and one whose trial another has ended.

        Raises:
            LeaseLostError: so it is.
        """
        self.leases.check()
        try:
            yield
        except UpdateFinishedTrialError:
            raise LeaseLostError from None
        except ValueError:
            # Optuna's word for a trial that is over is no error of its own.
            if trial is not None and self._trial(trial.number).state.is_finished():
                raise LeaseLostError from None
            raise

    def reach(self, number: int, evidence: Evidence) -> None:
        """Let the others know what a trial that waited has come to before its last rung."""
        attrs = {"reached": number, "evidence": evidence.to_json()}
        with self.telling(None):
            self._measured.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attrs))

    def standing(self) -> tuple[list[FrozenTrial], int]:
        """The searched trials that are under way, and how many are over, at one moment."""
        trials = self._searched.get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        return running, sum(trial.state in OVER for trial in trials)

    def since(self, searched: set[int], measured: int) -> tuple[list[TrialRecord], dict[int, Evidence], int]:
        """What is new to somebody who knows the `searched` trials of these numbers and so many that were `measured`.

        Returns the records, what trials that waited have come to, and how many are measured by now. The numbers of the
        new searched trials are put into the set.
        """
        beside = self._measured.get_trials(deepcopy=False)
        records, reached = [], dict[int, Evidence]()
        for trial in self._searched.get_trials(deepcopy=False, states=OVER):
            if trial.number not in searched:
                searched.add(trial.number)
                records.append(read_back(trial))
        for trial in beside[measured:]:
            attrs = trial.user_attrs
            if "reached" in attrs:
                reached[attrs["reached"]] = Evidence.from_json(attrs["evidence"])
            elif "final" in attrs:
                records.append(read_back(self._trial(attrs["final"]), attrs))
            else:
                records.append(read_back(trial))
        return records, reached, len(beside)


class Shared:
    """A driver among those of its study; see `pipeline.sharing.Sharing` for what it is asked."""

    several = True

    def __init__(self, ledger: SharedLedger, leases: Leases, trials: int) -> None:
        self._ledger, self._leases, self._trials = ledger, leases, trials
        self.left = 0
        self._searched: set[int] = set()
        self._measured = 0
        self._new: list[TrialRecord] = []
        self._over: set[str] = set()
        self._own: set[str] = set()
        self._reached: dict[int, Evidence] = {}
        self._held: dict[str, str] = {}
        self._read = self._refused = -POLL_SECONDS

    def begin(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Queue the published settings once, whoever comes first, and find out what is left."""
        self._refresh()
        self._new.clear()
        with self._leases.turn():
            self.left = max(0, self._trials - self._ledger.standing()[1])
            if self.left:
                self._ledger.enqueue(points)

    def ask(self) -> Asked | None:
        """The next searched trial: one whose driver is dead, or a new one; there are never more than the study has."""
        if time.monotonic() - self._refused < POLL_SECONDS:
            return None
        with self._leases.turn() as turn:
            running, over = self._ledger.standing()
            held, claims = turn.held(), {_claim(trial.number) for trial in running}
            turn.give([key for key in held if key.startswith(_claim("")) and key not in claims])
            orphans = [trial for trial in running if _claim(trial.number) not in held]
            self.left = max(0, self._trials - over - (len(running) - len(orphans)))
            if not self.left:
                self._refused = time.monotonic()
                return None
            self.left -= 1
            asked = self._ledger.resume(orphans[0]) if orphans else self._ledger.ask()
            turn.take(_claim(asked[0].number))
        return asked

    def take(self, key: str, record: str = "") -> bool:
        """Take what no driver has who is alive, unless it is done."""
        if self._held.get(key, self._leases.driver) != self._leases.driver or not self._leases.take(key):
            return False
        self._refresh()  # it may have been done by somebody who gave it back since
        return not self.ended(record or key)

    def news(self) -> list[TrialRecord]:
        """What others have found out since this was asked last."""
        if time.monotonic() - self._read >= POLL_SECONDS:
            self._refresh()
        new, self._new = self._new, []
        return [record for record in new if record.key not in self._own]

    def told(self, record: TrialRecord) -> None:
        """It is no news to the driver that has told it."""
        self._own.add(record.key)

    def searching(self) -> bool:
        """Whether the searched trials of some driver are not over."""
        over = self._ledger.standing()[1]
        self._refresh()
        return over < self._trials

    def ended(self, key: str) -> bool:
        """Whether the trial `key` is over, last rungs and all."""
        return key in self._over

    def reached(self, number: int) -> Evidence | None:
        """What a trial that waited has come to before its last rung."""
        return self._reached.get(number)

    def _refresh(self) -> None:
        self._read = time.monotonic()
        self._held = self._leases.held()
        records, reached, self._measured = self._ledger.since(self._searched, self._measured)
        self._reached |= reached
        for record in records:
            if record.key not in self._over:
                self._new.append(record)
            if not record.waiting:
                self._over.add(record.key)


def _claim(number: object) -> str:
    return f"trial/{number}"
