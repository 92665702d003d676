"""The address of a server that keeps a study in place of a file in its run directory: PostgreSQL.

Several drivers may share such a study. A password never leaves the address: messages show it masked.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipeline.registry import SpecError

OPTION: Final = "--storage"
VARIABLE: Final = "SIGMASEARCH_STORAGE"
ALLOWED: Final = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
DIALECT, DRIVER, PORT = "postgresql", "psycopg", 5432
TIMEOUT_SECONDS = 5
# A connection whose other end is gone is noticed in half a minute, not in hours.
CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": TIMEOUT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# A driver that is frozen while it has its turn gives it up after so long.
TURN_SECONDS = 120


class StorageAwayError(RuntimeError):
    """The server went away while a study was under way: nothing is lost."""


def masked(text: str) -> str:
    """The text without the password of an address in it, fit for a message."""
    start = "://" if "://" in text else "^"
    text = re.sub(rf"({start}[^:/@\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"(password=)[^&\s]*", r"\1***", text)


def server_storage(option: str | None) -> URL | None:
    """The server's address from the option or SIGMASEARCH_STORAGE; None where neither is given.

    Raises:
        SpecError: no address of PostgreSQL, nobody answers there, or its driver is not installed.
    """
    given = (os.environ.get(VARIABLE, "") if option is None else option).strip()
    name = VARIABLE if option is None else OPTION
    if not given and option is None:
        return None
    try:
        url = sqlalchemy.make_url(given)
    except (ArgumentError, ValueError):
        raise _refused("is not the address of a server storage", name, given) from None
    if url.drivername not in (DIALECT, f"{DIALECT}+{DRIVER}"):
        file = " (a file is what the run directory has without it)" if url.drivername.startswith("sqlite") else ""
        raise _refused(f"is not the address of a server storage{file}", name, given)
    if "@" in (url.host or ""):
        raise _refused("holds an @ too many: in a password it is written %40", name, given)
    if not url.database:
        raise _refused("names no database", name, given)
    if importlib.util.find_spec(DRIVER) is None:
        raise _refused(f"needs {DRIVER}: pip install 'sigmasearch[postgres]'", name, given)
    url = url.set(drivername=f"{DIALECT}+{DRIVER}")
    _check(url, name, given)
    return url


def server_name(url: URL) -> str:
    """Which database it is, without who opens it."""
    port = f":{url.port}" if url.port else ""
    return f"{DIALECT}://{url.host or url.query.get('host', '')}{port}/{url.database}"


def open_engine(url: URL) -> Engine:
    """Connections for what is ours beside Optuna's tables; one that the server has closed is replaced."""
    # A turn is a transaction: see `pipeline.leases`.
    options = {"options": f"-c idle_in_transaction_session_timeout={1000 * TURN_SECONDS}"}
    return sqlalchemy.create_engine(url, pool_pre_ping=True, connect_args=CONNECT | options)


def optuna_arguments() -> dict[str, Any]:
    """How Optuna is to open its own connections."""
    return {"pool_pre_ping": True, "connect_args": dict(CONNECT)}


@contextmanager
def server_answering(url: URL | None) -> Iterator[None]:
    """Where the server is needed.

    Raises:
        StorageAwayError: it does not answer.
    """
    try:
        yield
    except Exception as error:
        # Optuna wraps what SQLAlchemy raises, and is not imported for that.
        wrapped = type(error).__name__ == "StorageInternalError"
        if url is None or not (wrapped or isinstance(error, SQLAlchemyError)):
            raise
        raise StorageAwayError(
            f"the storage {server_name(url)} does not answer ({_first_line(error.__cause__ or error)}); what was told "
            "is kept there, and the same command goes on when it is back"
        ) from None


def unusable(url: URL, error: BaseException) -> SpecError:
    """The mistake that the server refuses what a study needs there, a table say."""
    message = f"{server_name(url)} cannot keep a study ({_first_line(error)})"
    return SpecError(message, path=OPTION, allowed="a database in which its user may make tables")


def _check(url: URL, name: str, given: str) -> None:
    try:
        if url.host:
            socket.create_connection((url.host, url.port or PORT), timeout=TIMEOUT_SECONDS).close()
        engine = open_engine(url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()
    except (OSError, SQLAlchemyError) as error:
        raise _refused(f"the storage cannot be opened ({_first_line(error)})", name, given, allowed="") from None


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    lines = [line.strip() for line in masked(str(cause)).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


def _refused(message: str, name: str, given: str, allowed: str = ALLOWED) -> SpecError:
    return SpecError(message, path=name, given=masked(given), allowed=allowed or None)
