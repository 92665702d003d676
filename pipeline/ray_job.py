"""What is different inside a Ray job: its working directory is a throw-away copy of what was sent."""

from __future__ import annotations

from pathlib import Path

from pipeline.registry import SpecError

_UPLOADS = ("runtime_resources", "working_dir_files")  # below Ray's folder of the session


def uploaded_copy() -> Path | None:
    """The copy of `--working-dir` that this process runs in, or None where it runs in a folder of its user's."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if folder.parts[-3:-1] == _UPLOADS:
            return folder
    return None


def lasting(path: Path, option: str = "--run-dir") -> Path:
    """The absolute path of something to keep: in a Ray job a relative one starts at the home of the head's user.

    `option` is the one that gave it.

    Raises:
        SpecError: the path lies in the job's throw-away copy.
    """
    copy = uploaded_copy()
    kept = path.absolute() if copy is None else (Path.home() / path)
    if copy is not None and kept.resolve().is_relative_to(copy.resolve()):
        message = "lies in the job's copy of the working directory, which is thrown away"
        raise SpecError(message, path=option, given=str(path))
    return kept
