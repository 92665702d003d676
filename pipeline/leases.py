"""Who works on what in a study that several drivers share, kept in tables of its server beside Optuna's.

A driver is alive while its beat moves. The others look at it every few seconds and bury it when it has not moved at
several looks in a row: looks are counted and no two clocks are compared, so that a clock that jumps buries nobody. What
a driver has taken is its own for as long as it is not buried, and anybody's afterwards.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from pipeline.registry import SpecError
from pipeline.run_folder import first_difference

_TABLES: Final = sql.MetaData()
_STUDIES: Final = sql.Table(
    "sigmasearch_studies",
    _TABLES,
    sql.Column("study", sql.String(512), primary_key=True),
    sql.Column("turns", sql.BigInteger, nullable=False),
    sql.Column("identity", sql.Text, nullable=False),
    sql.Column("terms", sql.Text, nullable=False),
)
_DRIVERS: Final = sql.Table(
    "sigmasearch_drivers",
    _TABLES,
    sql.Column("study", sql.String(512), primary_key=True),
    sql.Column("driver", sql.String(512), primary_key=True),
    sql.Column("place", sql.Integer, nullable=False),
    sql.Column("beat", sql.BigInteger, nullable=False),
)
_CLAIMS: Final = sql.Table(
    "sigmasearch_claims",
    _TABLES,
    sql.Column("study", sql.String(512), primary_key=True),
    sql.Column("key", sql.String(512), primary_key=True),
    sql.Column("driver", sql.String(512), nullable=False),
)


class LeaseLostError(RuntimeError):
    """This driver was silent for so long that the others have buried it, and taken over what it was at."""

    def __init__(self) -> None:
        super().__init__(
            "the other drivers of the study have heard nothing of this one for half a minute, and have taken over its "
            "trials; nothing is lost, and the same command joins them again"
        )


class Turn:
    """What only one driver at a time may do; see `Leases.turn`."""

    def __init__(self, connection: Connection, study: str, driver: str) -> None:
        self._connection, self._study, self._driver = connection, study, driver

    def held(self) -> dict[str, str]:
        """The driver of each key that one who is not buried has taken."""
        both = (_CLAIMS.c.study == _DRIVERS.c.study) & (_CLAIMS.c.driver == _DRIVERS.c.driver)
        query = sql.select(_CLAIMS.c.key, _CLAIMS.c.driver).join(_DRIVERS, both).where(_CLAIMS.c.study == self._study)
        return dict(map(tuple, self._connection.execute(query)))

    def take(self, key: str) -> bool:
        """Take what nobody has; False where another driver has it, True where it is one's own by now or before.

        Raises:
            LeaseLostError: this driver is buried.
        """
        held = self.held()
        if key in held:
            return held[key] == self._driver
        stale = (_CLAIMS.c.study == self._study) & (_CLAIMS.c.key == key)
        self._connection.execute(sql.delete(_CLAIMS).where(stale))
        row = {"study": self._study, "key": key, "driver": self._driver}
        self._connection.execute(sql.insert(_CLAIMS).values(row))
        self.check()
        return True

    def give(self, keys: Iterable[str]) -> None:
        """Give back what is over."""
        mine = (_CLAIMS.c.study == self._study) & (_CLAIMS.c.driver == self._driver)
        self._connection.execute(sql.delete(_CLAIMS).where(mine & _CLAIMS.c.key.in_(list(keys))))

    def places(self) -> dict[str, int]:
        """The place of each driver that is not buried."""
        query = sql.select(_DRIVERS.c.driver, _DRIVERS.c.place).where(_DRIVERS.c.study == self._study)
        return dict(map(tuple, self._connection.execute(query)))

    def compare(self, identity: Mapping[str, Any]) -> None:
        """Raise a `SpecError` that names the first key in which the storage's study of this name is another one."""
        held = self._row().identity
        there_held = json.loads(held) if held else {}
        for key in (*identity, *(there_held.keys() - identity.keys())) if held else ():
            path, there, here = first_difference(key, there_held.get(key), identity.get(key))
            if there != here:
                raise SpecError(
                    f"differs from the study of this name in the storage: {path} is "
                    f"{'not set' if there is None else repr(there)} there; use another name for the study",
                    path=path,
                    given=here,
                )

    def enter(self, identity: Mapping[str, Any], terms: Mapping[str, Any]) -> int:
        """Add this driver; returns its place.

        Raises:
            SpecError: there are others, and they do not agree to the terms.
        """
        others, held = self.places(), self._row().terms
        for key, mine in terms.items() if others else ():
            path, there, here = first_difference(key, json.loads(held).get(key), mine)
            if there != here:
                message = f"the drivers of a study have to agree; it is {there!r} for those that are on it"
                raise SpecError(message, path=path, given=here)
        if not others:  # nobody is alive whom a claim could be of
            self._connection.execute(sql.delete(_CLAIMS).where(_CLAIMS.c.study == self._study))
        told = {"identity": json.dumps(identity), "terms": json.dumps(terms)}
        self._connection.execute(sql.update(_STUDIES).where(_STUDIES.c.study == self._study).values(told))
        place = min(set(range(len(others) + 1)) - set(others.values()))
        row = {"study": self._study, "driver": self._driver, "place": place, "beat": 0}
        self._connection.execute(sql.insert(_DRIVERS).values(row))
        return place

    def _row(self) -> Any:
        return self._connection.execute(sql.select(_STUDIES).where(_STUDIES.c.study == self._study)).one()

    def check(self) -> None:
        """Raise `LeaseLostError` where this driver is buried."""
        me = (_DRIVERS.c.study == self._study) & (_DRIVERS.c.driver == self._driver)
        if self._connection.execute(sql.select(_DRIVERS.c.place).where(me)).first() is None:
            raise LeaseLostError


class Leases:
    """One driver among those of a study. `register` makes it known, a thread keeps it alive, `close` takes it off."""

    BEAT_SECONDS = 5.0
    LOOKS = 6  # so many looks in a row without a beat, and a driver is buried

    def __init__(self, engine: Engine, study: str) -> None:
        self._engine, self._study = engine, study
        self.driver = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._me = (_DRIVERS.c.study == study) & (_DRIVERS.c.driver == self.driver)
        self._silent: dict[str, tuple[int, int]] = {}  # of each other driver its beat, and looks since it moved
        self._buried = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._create()

    def register(
        self, identity: Mapping[str, Any], terms: Mapping[str, Any], *, join: bool, waiting: Callable[[], None]
    ) -> int:
        """Become a driver of the study; returns its place, the lowest that no other one has.

        `identity` is what the study is; `terms` are what its drivers must agree on while there are several. Without
        `join` there may be no other, and where one is known `waiting` is called, once, before it is seen to be dead.

        Raises:
            SpecError: the server has another study of this name, another driver is alive and `join` is not set, or the
                drivers do not agree.
        """
        mine, told = json.loads(json.dumps(identity)), False
        while True:
            with self.turn() as turn:
                turn.compare(mine)
                if join or not turn.places():
                    place = turn.enter(mine, json.loads(json.dumps(terms)))
                    break
            if not told:
                waiting()
                told = True
            if moved := self.look():
                message = f"another driver is on this study, {moved[0]}; with --join it is shared"
                raise SpecError(message, path="study", given=self._study)
            time.sleep(self.BEAT_SECONDS)
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)
        self._thread.start()
        return place

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """What is done inside, no other driver does at the same time. Nothing slow belongs there."""
        with self._engine.begin() as connection:
            row = _STUDIES.c.study == self._study
            connection.execute(sql.update(_STUDIES).where(row).values(turns=_STUDIES.c.turns + 1))
            yield Turn(connection, self._study, self.driver)

    def take(self, key: str) -> bool:
        """As of `Turn`, in a turn of its own."""
        with self.turn() as turn:
            return turn.take(key)

    def held(self) -> dict[str, str]:
        """As of `Turn`, as it is now."""
        with self._engine.connect() as connection:
            return Turn(connection, self._study, self.driver).held()

    def check(self) -> None:
        """Raise `LeaseLostError` where this driver is buried: what it has taken may be another's."""
        if self._buried:
            raise LeaseLostError
        with self._engine.connect() as connection:
            Turn(connection, self._study, self.driver).check()

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """What is done inside takes long, and one driver after the other does it."""
        while not self.take(key):
            time.sleep(min(1.0, self.BEAT_SECONDS))
        try:
            yield
        finally:
            with self.turn() as turn:
                turn.give([key])

    def beat(self) -> None:
        """Show that this driver is alive."""
        with self._engine.begin() as connection:
            done = connection.execute(sql.update(_DRIVERS).where(self._me).values(beat=_DRIVERS.c.beat + 1))
        self._buried = done.rowcount == 0

    def look(self) -> list[str]:
        """Look at the other drivers, and bury those that were silent for too many looks; returns who has moved."""
        others = (_DRIVERS.c.study == self._study) & (_DRIVERS.c.driver != self.driver)
        moved, seen = [], dict[str, tuple[int, int]]()
        with self._engine.begin() as connection:
            for driver, beat in connection.execute(sql.select(_DRIVERS.c.driver, _DRIVERS.c.beat).where(others)).all():
                before, looks = self._silent.get(driver, (beat, -1))
                seen[driver] = (beat, 0 if beat != before else looks + 1)
                if beat != before:
                    moved.append(driver)
                elif seen[driver][1] >= self.LOOKS:
                    silent = others & (_DRIVERS.c.driver == driver) & (_DRIVERS.c.beat == beat)
                    connection.execute(sql.delete(_DRIVERS).where(silent))
        self._silent = seen
        return moved

    def close(self) -> None:
        """Leave the study: what is not over may be taken by others at once."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            try:
                with self._engine.begin() as connection:
                    connection.execute(sql.delete(_DRIVERS).where(self._me))
            except SQLAlchemyError:
                pass  # the server is away; the others will see that this driver is silent
        self._engine.dispose()

    def _create(self) -> None:
        """Make the tables and the study's row, unless another driver does so at the same moment."""
        row = {"study": self._study, "turns": 0, "identity": "", "terms": ""}
        for left in (2, 1, 0):
            try:
                _TABLES.create_all(self._engine)
                with self._engine.begin() as connection:
                    if connection.execute(sql.select(_STUDIES).where(_STUDIES.c.study == self._study)).first() is None:
                        connection.execute(sql.insert(_STUDIES).values(row))
                return
            except SQLAlchemyError as error:
                if not left or not isinstance(error, IntegrityError | sql.exc.ProgrammingError):
                    raise
                time.sleep(0.2)

    def _live(self) -> None:
        while not self._closed.wait(self.BEAT_SECONDS):
            try:
                self.beat()
                self.look()
            except SQLAlchemyError:
                continue  # while the server is away nobody beats and nobody is looked at
