"""Files that appear whole or not at all, whoever is killed and whichever disk is full meanwhile."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path


def write_whole(file: Path, content: bytes) -> None:
    """Write `content` under another name in the same folder, and rename it.

    Raises:
        OSError: it cannot be written; what was there before stands, and nothing is left beside it.
    """
    partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        partial.write_bytes(content)
        os.replace(partial, file)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
