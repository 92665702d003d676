"""What the commands share: the option for scripts, the screen, and the mistake of a place that cannot be written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from pipeline.registry import SpecError

if TYPE_CHECKING:
    from rich.console import Console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
OtherModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="In place of the card's: edm:PATH.pkl, diffusers:PATH-OR-ID, python:package.module:function.",
    ),
]


def console(stream: TextIO) -> Console:
    """Rich's console on `stream`. A job's log has no width of its own, and 80 columns would cut its lines."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else 120)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What cannot be written is a mistake of the option."""
    try:
        yield
    except OSError as error:
        given = error.filename or path
        raise SpecError(f"cannot be written ({error.strerror or error})", path="--out", given=str(given)) from None
