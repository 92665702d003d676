"""The files of a trial's run: its card, its sample grid, its steps. Read from MLflow, like all else here."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from pipeline import store

LARGEST = 32 * 2**20  # bytes; far above what a trial writes, and nothing that a report could show


class Artifacts(Protocol):
    """Where a report finds the files of a run."""

    def get(self, run_id: str, name: str) -> bytes | None:
        """The file's bytes; None where there is none that can be read."""


class NoArtifacts:
    """A record without files."""

    def get(self, run_id: str, name: str) -> bytes | None:
        """Nothing."""
        return None


class RunArtifacts:
    """The files of an MLflow store; what is missing, larger than `largest` bytes or out of reach is None.

    Raises:
        SpecError: no such store.
    """

    def __init__(self, uri: str, *, largest: int = LARGEST) -> None:
        # A bar for each file of hundreds would be all that a terminal shows.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self._client = store.open_client(uri, create=False)
        self._largest = largest
        self._folder = functools.cache(self._local_folder)
        self._sizes = functools.cache(self._listed_sizes)

    def get(self, run_id: str, name: str) -> bytes | None:
        """The file `name` at the top of the run's artifacts."""
        if not run_id or Path(name).name != name:
            return None
        try:
            folder = self._folder(run_id)
            return self._fetched(run_id, name) if folder is None else self._read(folder / name)
        except Exception as error:  # the stores' clients have no error in common
            if not _theirs(error):
                raise
            return None

    def _local_folder(self, run_id: str) -> Path | None:
        """Where the run's files lie, if that is on this machine: ten times as fast as by way of MLflow."""
        place = urlsplit(str(self._client.get_run(run_id).info.artifact_uri))
        return Path(unquote(place.path)) if place.scheme in ("", "file") and not place.netloc else None

    def _read(self, file: Path) -> bytes | None:
        return file.read_bytes() if file.is_file() and file.stat().st_size <= self._largest else None

    def _fetched(self, run_id: str, name: str) -> bytes | None:
        size = self._sizes(run_id).get(name)
        if size is None or size > self._largest:
            return None
        with tempfile.TemporaryDirectory() as folder:
            # A store may have said less than it sends.
            return self._read(Path(self._client.download_artifacts(run_id, name, folder)))

    def _listed_sizes(self, run_id: str) -> dict[str, int]:
        return {item.path: int(item.file_size or 0) for item in self._client.list_artifacts(run_id) if not item.is_dir}


def _theirs(error: Exception) -> bool:
    """Whether an error is about the file or its store, and not about this code."""
    clients = ("mlflow", "requests", "urllib3", "sqlalchemy", "botocore", "azure", "google")
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in clients
