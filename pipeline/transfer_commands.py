"""The command that measures a front elsewhere: transfer."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.registry import SpecError
from pipeline.terminal import AsJson, console

if TYPE_CHECKING:
    from pipeline.benchmarks import Benchmark

# Heavy imports are made inside the command, as in `pipeline.cli`.
app = typer.Typer()


@app.command()
def transfer(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped one; it has been searched.")],
    to: Annotated[str, typer.Option("--to", help="The benchmark to measure on.")],
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="What goes over. plan, the default: sigmas and coefficients as they are, where both benchmarks have "
            "the same range of sigmas. spec: sigmas are placed and decisions taken again.",
        ),
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Images for each; the study's number by default.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Ray workers; 0 runs in this process.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the table; transfer/BENCHMARK in the run directory by default.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the study lives; runs/NAME by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score the front that a study found on one benchmark on another, beside the best baselines, in one table.

    Example: `sigmasearch transfer digits --to gmm`
    """
    from pipeline import run_study, transfer_report
    from pipeline import transfer as transferring
    from pipeline.transfer_table import to_json

    run_study.quiet_libraries()
    screen = console(sys.stderr if as_json else sys.stdout)
    folder: list[Path] = []

    def begin(home: Path, away: Benchmark) -> None:
        # A card of anybody's may be called anything.
        folder.append(out or home / "transfer" / re.sub(r"[^A-Za-z0-9_-]+", "-", away.name))
        if folder[0].exists() and not folder[0].is_dir():
            raise SpecError("is no folder", path="--out", given=str(folder[0]))

    found = transferring.transfer(
        study, to, carried=as_, images=images, workers=workers, run_dir=run_dir, console=screen, begin=begin
    )
    files = transfer_report.write(found, folder[0])
    if as_json:
        print(json.dumps(to_json(found) | {"files": [str(file) for file in files]}, indent=1))
        return
    transfer_report.show(found, screen)
    for file in files:
        print(file)
