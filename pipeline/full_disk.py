"""A disk without space: one line that says what and where, instead of whatever the layers above made of it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
SAID_BY_SQLITE = ("database or disk is full", "disk quota exceeded")


class DiskFullError(RuntimeError):
    """There is no space left for what a study has to keep. What was told before is whole."""


@contextmanager
def space_for(folder: Path) -> Iterator[None]:
    """Where a study is written.

    Raises:
        DiskFullError: there is no space left for it.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise DiskFullError(
            f"no space is left on the disk of {folder}: the trials that are over are kept; make space and run the same "
            "command again"
        ) from None


def _is_full(error: BaseException | None) -> bool:
    """Whether it, or what it came from, is a write to a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(words in str(error).lower() for words in SAID_BY_SQLITE):
            return True
        error = error.__cause__ or error.__context__
    return False
