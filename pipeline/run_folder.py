"""A run directory belongs to one study, which its identity names, and to one driver at a time."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from pipeline.registry import SpecError
from pipeline.whole_file import write_whole

STUDY_FILE, STORAGE_FILE = "study.json", "study.db"


def claim(run_dir: Path, identity: Mapping[str, Any], fingerprint: str, file: str = "", server: str = "") -> IO[str]:
    """Take the run directory for this study and this driver; keep the returned file open for as long as it runs.

    `server` names the storage of a study that is not kept in the directory itself.

    Raises:
        SpecError: the directory holds another study (the first differing key is named), or another driver has it.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / "driver.lock").open("a")
    except OSError as error:
        raise SpecError(f"cannot be written ({error.strerror})", path="--run-dir", given=str(run_dir)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise SpecError("another search is running there", path="--run-dir", given=str(run_dir)) from None
    try:
        _identify(run_dir, json.loads(json.dumps(identity)), fingerprint, server)
    except SpecError as error:
        lock.close()
        raise error if error.file else error.under(file=file) from None
    except BaseException:
        lock.close()
        raise
    return lock


def _identify(run_dir: Path, mine: dict[str, Any], fingerprint: str, server: str) -> None:
    """Write the study's identity into a new run directory, or compare it with the one that is there."""
    file = run_dir / STUDY_FILE
    if not file.exists():
        if (run_dir / STORAGE_FILE).exists():
            raise SpecError(f"holds a {STORAGE_FILE} but no {STUDY_FILE}", path="--run-dir", given=str(run_dir))
        kept = {"storage": server} if server else {}
        text = json.dumps({"fingerprint": fingerprint, "identity": mine} | kept, indent=1, sort_keys=True)
        write_whole(file, text.encode())
        return
    try:
        content = dict(json.loads(file.read_text()))
        held, there = dict(content["identity"]), str(content.get("storage", ""))
    except (OSError, ValueError, KeyError, TypeError):
        raise SpecError("is unreadable", file=str(file)) from None
    if bool(there) != bool(server):  # the same server may have other names
        here = f"{STORAGE_FILE} there; leave --storage and SIGMASEARCH_STORAGE out"
        where = f"{there}; give it with --storage" if there else here
        raise SpecError(f"the study of this directory is kept in {where}", path="--run-dir", given=str(run_dir))
    for key in (*mine, *(held.keys() - mine.keys())):
        value = mine.get(key)
        if held.get(key) != value:
            path, there, here = first_difference(key, held.get(key), value)
            told = "not set" if there is None else repr(there)
            raise SpecError(
                f"differs from the study in {run_dir}: {path} is {told} there; "
                "use another --run-dir or name for the study, or --fork NAME to go on from its trials",
                path=path,
                given=here,
            )


def first_difference(path: str, held: Any, mine: Any) -> tuple[str, Any, Any]:
    """The path of the first key in which two values differ, and what it is in each; a dict is gone into."""
    if isinstance(held, dict) and isinstance(mine, dict):
        for key in sorted(held.keys() | mine.keys()):
            if held.get(key) != mine.get(key):
                return first_difference(f"{path}.{key}", held.get(key), mine.get(key))
    return path, held, mine
