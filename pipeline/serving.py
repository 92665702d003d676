"""A server in the foreground: it ends when we are asked to, and takes its own children with it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType

PATIENCE_SECONDS = 10.0  # for the server to end by itself


def serve(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the server until it ends; its exit status, 0 where somebody asked for the end.

    MLflow's command starts the server that listens as a child and does not end it with itself. So both are a process
    group of their own, which is told together.
    """
    asked = False
    # Our own argv, and no shell.
    process = subprocess.Popen(command, env=dict(environment), start_new_session=True)  # nosec B603

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal asked
        asked = True
        _tell(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        while True:
            try:
                status = process.wait(timeout=PATIENCE_SECONDS if asked else 0.5)
                break
            except subprocess.TimeoutExpired:
                if asked:
                    _tell(process.pid, signal.SIGKILL)
        return 0 if asked else status
    finally:
        _tell(process.pid, signal.SIGKILL)  # a child that has outlived it
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
