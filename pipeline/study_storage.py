"""Where Optuna keeps a study: a file of its run directory, a server, or the memory of this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from pipeline.file_storage import FileStorage
from pipeline.run_folder import STORAGE_FILE


@dataclass(frozen=True)
class Server:
    """Where a study is kept that is not in its run directory. `place`: the driver's among those that share it.

    `url` is never printed, for it holds a password; `name` is.
    """

    url: str = field(repr=False)
    name: str
    arguments: Mapping[str, Any]
    place: int = 0


def open_storage(run_dir: Path | None, server: Server | None) -> optuna.storages.BaseStorage:
    """The storage on a server, in a run directory, or where there is neither in memory."""
    if server is not None:
        opened = optuna.storages.RDBStorage(server.url, engine_kwargs=dict(server.arguments))
        return optuna.storages.get_storage(opened)
    if run_dir is None:
        return optuna.storages.InMemoryStorage()
    return FileStorage(run_dir.resolve() / STORAGE_FILE)
