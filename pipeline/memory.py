"""Nothing is learned twice: what calibration has found out, by the inputs that decide it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.whole_file import write_whole


class Memory:
    """What calibration has learned, by its inputs: in this process, and in a folder where one is given.

    The folder holds one JSON file an entry. Processes may share it: a file appears whole or not at all, and one that is
    torn, edited or another entry's is learned anew and written over. A folder that cannot be read or written costs
    nothing but the memory that lasts.

    `rows_saved` counts the network rows that recalled entries cost when they were learned. With those that are spent
    now it makes a method's own set-up cost, whoever paid it.

    Args:
        folder: made when the first entry is written; without it the memory ends with the process.
        context: what decides every entry beside its own inputs, plain JSON: the network and the calibration noise.
    """

    def __init__(self, folder: Path | None = None, context: Mapping[str, Any] = {}) -> None:
        self.folder, self.context = folder, dict(context)
        self.rows_saved = 0
        self._held: dict[str, tuple[str, int]] = {}

    def recall(self, kind: str, inputs: Mapping[str, Any], learn: Callable[[], tuple[Any, int]]) -> Any:
        """The value that `learn` gave for these inputs, as JSON keeps it; it is called only if that is not known.

        `learn` gives the value, plain JSON, and its cost in network rows. What it raises, and a value with a number
        that is not finite, is not kept.
        """
        asked = {"context": self.context, "kind": kind, "inputs": dict(inputs)}
        key = _digest(asked)
        known = self._held.get(key) or self._read(key, asked)
        if known is None:
            value, rows = learn()
            try:
                known = json.dumps(value, allow_nan=False), rows
            except ValueError:
                return value
            self._write(key, {**asked, "value": value, "rows": rows})
        else:
            self.rows_saved += known[1]
        self._held[key] = known
        # Parsed each time, so that nobody shares a list with anybody.
        return json.loads(known[0])

    def _read(self, key: str, asked: Mapping[str, Any]) -> tuple[str, int] | None:
        if self.folder is None:
            return None
        try:
            held = json.loads(self._file(self.folder, key).read_text(encoding="utf-8"))
            entry = held["entry"]
            sound = held["digest"] == _digest(entry) and _digest({name: entry[name] for name in asked}) == key
            return (json.dumps(entry["value"]), entry["rows"]) if sound else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def _write(self, key: str, entry: Mapping[str, Any]) -> None:
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            held = json.dumps({"entry": entry, "digest": _digest(entry)})
            write_whole(self._file(self.folder, key), held.encode())

    @staticmethod
    def _file(folder: Path, key: str) -> Path:
        return folder / f"{key}.json"


def _digest(value: Any) -> str:
    """SHA-256 of the canonical JSON: sorted keys, no spaces, floats to their last bit."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
