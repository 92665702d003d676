"""The MLflow store: where it lies, how it is opened quietly, what its tags are called.

`pipeline.tracking` writes by these names and `reports` reads by them. Imports neither torch nor, before a store is
opened, MLflow.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import ssl
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from pipeline.registry import SpecError

VARIABLE: Final = "MLFLOW_TRACKING_URI"
# Each with the port that its server listens on by default. MLflow 3.13 put its file store in maintenance mode: file
# paths raise there, so they are refused here with a better word.
PORTS: Final = {"http": 80, "https": 443, "sqlite": 0, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
TIMEOUT_SECONDS = 5.0

STUDY, FINGERPRINT = "sigmasearch.study", "sigmasearch.fingerprint"
KEY, FILES = "sigmasearch.key", "sigmasearch.files"
ROLE, STATE, METHOD = "sigmasearch.role", "sigmasearch.state", "sigmasearch.method"
FRONT, PLACE, BUDGET = "sigmasearch.front", "sigmasearch.place", "sigmasearch.budget"
PLAN, REFERENCE, VERSION = "sigmasearch.plan", "sigmasearch.reference", "sigmasearch.benchmark_version"
REVISION, SAME_AS, REASON = "sigmasearch.revision", "sigmasearch.same_as", "sigmasearch.reason"
LEAVE_ONE_OUT, CONFIRMS = "sigmasearch.leave_one_out", "sigmasearch.confirms"
FEASIBLE, STOPPED_AT = "sigmasearch.feasible", "sigmasearch.stopped_at"
OTHERS = "sigmasearch.beside"
PARENT, NOTE, RUN_NAME = "mlflow.parentRunId", "mlflow.note.content", "mlflow.runName"
# Files of a trial's run.
CARD, SAMPLES, STEPS, RESULT = "card.json", "samples.png", "steps.csv", "result.json"

# Metrics of a rung: the corrected FID at that many images.
FID_AT: Final = "fid_at_"
# On a trial itself, once it was scored again on seeds that the search never saw.
FID_CONFIRMED, FID_CONFIRMED_SE = "fid_confirmed", "fid_confirmed_se"
# Metrics beside FID, on a confirmation; on what it confirms, with a word behind.
BESIDE: Final = ("kid", "precision", "recall", "fd_dinov2")
CONFIRMED: Final = "_confirmed"

# The id of the shared view that `make ui` opens.
VIEW: Final = "leaderboard"

# A record must not keep a search waiting: MLflow's own settings try for about four minutes.
PATIENCE: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}

QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class StoreUnavailableError(SpecError):
    """The address is that of a store, but nobody answers there now."""


def store_uri(default_folder: Path) -> str:
    """The store's absolute address: MLFLOW_TRACKING_URI where it is set, else a sqlite file in `default_folder`.

    Raises:
        SpecError: MLFLOW_TRACKING_URI is no address of a store, or names a file that cannot be one. Nothing is written.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if not given:
        return f"sqlite:///{default_folder.resolve() / 'mlflow.db'}"
    scheme, separator, _ = given.partition("://")
    if not separator or scheme.split("+")[0] not in PORTS:
        raise SpecError(
            "is not the address of an MLflow store (file paths are refused by MLflow 3.13 and later)",
            path=VARIABLE,
            given=masked(given),
            allowed=", ".join(f"{name}://..." for name in PORTS),
        )
    if scheme.split("+")[0] != "sqlite":
        return given
    file = sqlite_file(given)
    if file is None:
        raise SpecError(
            "a store in memory would be lost", path=VARIABLE, given=given, allowed="sqlite:////path/to/file"
        )
    _check_sqlite(file, given)
    if not file.parent.is_dir():
        raise SpecError("the folder of this database does not exist", path=VARIABLE, given=given)
    _, question, query = given.partition("?")
    return f"{scheme}:///{file}{question}{query}"


def sqlite_file(uri: str) -> Path | None:
    """The absolute path of a sqlite store; None where the address is another kind of store or one in memory."""
    match = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", uri)
    return Path(match[1]).absolute() if match and match[1] != ":memory:" else None


def is_server(uri: str) -> bool:
    """Whether an MLflow server answers there, which then also keeps the artifacts."""
    return urlsplit(uri).scheme in ("http", "https")


def masked(text: str) -> str:
    """An address, or a line that names one, without its passwords and tokens."""
    text = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", text)
    text = re.sub(r"://[^:/@\s]+@", "://***@", text)
    return re.sub(r"(?i)([?&][a-z_]*(?:password|passwd|token|secret|key)=)[^&\s'\")]*", r"\1***", text)


def open_client(uri: str, *, create: bool) -> Any:
    """An `MlflowClient` on the store; with `create`, a sqlite file that does not exist is made.

    Raises:
        StoreUnavailableError: nobody answers there.
        SpecError: the store cannot be opened, or does not exist and is not to be created.
    """
    file, fresh = sqlite_file(uri), False
    if file is not None:
        _check_sqlite(file, uri)
        if not create and not file.exists():
            raise SpecError("there is no MLflow store here yet", path=_name(), given=uri)
        _make_folder(file.parent, uri)
        fresh = not file.exists()
    elif is_server(uri):
        _check_server(uri)
    else:
        _check_database(uri)
    for name, value in (QUIET | PATIENCE).items():
        os.environ.setdefault(name, value)
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        if file is not None and fresh:
            _create_sqlite(file)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    except (MlflowException, OSError, ImportError) as error:
        raise _unusable(uri, error) from None
    except Exception as error:
        # A driver's own errors have no common base here (sqlalchemy's is not ours to import).
        if type(error).__module__.split(".")[0] not in ("sqlalchemy", "sqlite3", "psycopg2", "psycopg", "pymysql"):
            raise
        raise _unusable(uri, error) from None
    return client


def server_command(uri: str, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """The command that serves a database store on 127.0.0.1 with one worker, and the environment to run it in.

    Raises:
        SpecError: the store is a server already.
    """
    if is_server(uri):
        raise SpecError("is a server already; open it in a browser", path=_name(), given=masked(uri))
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--workers", "1"]
    # Without job execution: 2 processes instead of 10, 430 MiB instead of 1.5 GiB (measured, MLflow 3.17.2).
    # Its own dependencies' deprecations are nothing that its user could mend.
    environment = os.environ | QUIET | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    # Not in argv, which every user of the machine can read, password and all.
    return argv, environment | {"MLFLOW_BACKEND_STORE_URI": uri}


def leaderboard_view(run_id: str = "") -> str:
    """The id of a study's view of its experiment; without its run, of the study that was published last."""
    return f"{VIEW}-{run_id[:8]}" if run_id else VIEW


def leaderboard_url(base: str, experiment_id: str, run_id: str = "") -> str:
    """The page that shows an experiment through the shared view of `Record.set_leaderboard_view`."""
    query = f"workflowType=machine_learning&viewStateShareKey={leaderboard_view(run_id)}"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def _name() -> str:
    return VARIABLE if os.environ.get(VARIABLE, "").strip() else "MLflow store"


def _unusable(uri: str, error: BaseException) -> SpecError:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    kind = SpecError if sqlite_file(uri) is not None else StoreUnavailableError
    return kind(f"the store cannot be opened ({masked(first)})", path=_name(), given=masked(uri))


def _check_sqlite(file: Path, uri: str) -> None:
    if file.is_dir():
        raise SpecError("is a folder, not a database file", path=_name(), given=uri)
    try:
        with file.open("rb") as opened:
            start = opened.read(16)
    except FileNotFoundError:
        _check_folder(file.parent, uri)
        return
    except OSError as error:
        raise _unusable(uri, error) from None
    if start not in (b"", b"SQLite format 3\0"):
        raise SpecError("is a file, but not a sqlite database", path=_name(), given=uri)
    if not os.access(file, os.W_OK):
        raise SpecError("is a database that cannot be written", path=_name(), given=uri)


def _check_folder(folder: Path, uri: str) -> None:
    """Whether a file can be made below the nearest folder that exists: MLflow would try for about two minutes."""
    held = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        if not held.is_dir():
            raise NotADirectoryError(f"{held} is no folder")
        # Permissions do not tell all, for root or on /proc: a file that vanishes when closed does.
        tempfile.TemporaryFile(dir=held).close()
    except OSError as error:
        raise _unusable(uri, error) from None


def _make_folder(folder: Path, uri: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(uri, error) from None


def _create_sqlite(file: Path) -> None:
    """Make MLflow's tables under another name first: a process that is killed meanwhile leaves no half of a store.

    MLflow takes a file that has some of its tables for an old store, and fails to bring it up to date ever after.
    """
    from mlflow.db import upgrade

    partial = f"{file.name}.partial-"
    for left in file.parent.glob(f"{partial}*"):  # of processes that were killed; nobody needs an hour for this
        if time.time() - left.stat().st_mtime > 3600:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=partial, dir=file.parent, ignore_cleanup_errors=True) as folder:
        made = Path(folder) / file.name
        assert upgrade.callback is not None
        upgrade.callback(f"sqlite:///{made}")
        try:
            os.link(made, file)  # unlike a rename it fails where another process was faster, whose store then stands
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            made.replace(file)


def _check_server(uri: str) -> None:
    # MLflow's own client retries for about four minutes before it says this.
    try:
        parts = urlsplit(uri)
        # urllib would take a password for a part of the host's name.
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        url = f"{bare.rstrip('/')}/health"
        urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS).close()  # nosec B310  # is_server has seen http or https
    except urllib.error.HTTPError:
        return  # it answers; what it permits shows in the first request
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return  # MLflow has settings of its own for certificates
        raise _unusable(uri, error) from None


def _check_database(uri: str) -> None:
    # MLflow tries ten times, for about a hundred seconds, before it says this.
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme.split("+")[0], 0)
        if host and port:
            socket.create_connection((unquote(host), port), timeout=TIMEOUT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _unusable(uri, error) from None
