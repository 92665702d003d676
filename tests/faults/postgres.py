"""A PostgreSQL server of the test's own, on 127.0.0.1, with a password."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

USER, PASSWORD = "searcher", "p:ss w@rd"
URL_PASSWORD = "p%3Ass%20w%40rd"


def missing() -> str:
    """Why there can be no server here; nothing where there can be one."""
    absent = [name for name in ("initdb", "postgres") if shutil.which(name) is None]
    return f"PostgreSQL is not installed: no {' and no '.join(absent)}" if absent else ""


class Server:
    """A server that runs. `address` names one of its databases, which `create` makes."""

    def __init__(self, folder: Path, port: int, user: str | None) -> None:
        self.folder, self.port, self._user = folder, port, user
        self.start()

    def start(self) -> None:
        command = ["postgres", "-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port)]
        command += ["-k", str(self.folder), "-c", "fsync=off"]
        log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(command, user=self._user, cwd=self.folder, stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + 60
        while True:
            try:
                self.connect("postgres").close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def stop(self) -> None:
        """At once, whoever is connected."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=database, autocommit=True
        )

    def create(self, database: str) -> str:
        """The address of a new database."""
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        return self.address(database)

    def address(self, database: str, password: str = URL_PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"


@contextmanager
def server() -> Iterator[Server]:
    """Started as another user where this one is root, which PostgreSQL refuses."""
    user = pwd.getpwnam("nobody").pw_name if os.getuid() == 0 else None
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="sigmasearch-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        command = ["initdb", "-D", str(folder / "data"), "-U", USER, "-A", "scram-sha-256", "-E", "UTF8"]
        command += ["--no-sync", "--no-locale", "--pwfile", str(folder / "password")]
        subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        held = Server(folder, port, user)
        try:
            yield held
        finally:
            if held.process.poll() is None:
                held.stop()
