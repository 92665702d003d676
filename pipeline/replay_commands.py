"""The command that replays a search on a stored table, and makes such a table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.terminal import AsJson, console, writing

# Heavy imports are made inside the commands, as in `pipeline.cli`.
app = typer.Typer()


@app.command()
def replay(
    table: Annotated[str, typer.Argument(help="A table's file, or the name of a shipped one.")] = "digits-kde",
    seeds: Annotated[int, typer.Option(min=1, help="Searches of each kind, with seeds 0, 1, ...")] = 10,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of a search; the table's study says by default.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Virtual workers.")] = None,
    optimizer: Annotated[
        list[str] | None, typer.Option(help="tpe, gp, nsga2, qmc or random; may be given often.")
    ] = None,
    stopped: Annotated[
        list[str] | None,
        typer.Option(help="How Optuna is told of a stopped trial: pruned, complete or constraint; may be given often."),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(help="Measure every point of this study's space into --out; run again, it goes on."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The table that --measure writes.")] = Path("table.zip"),
    as_json: AsJson = False,
) -> None:
    """Compare ways to search on a table of stored trials: nothing is sampled, and time is virtual.

    Each way is set beside the first optimizer's search with every trial at full size and nothing remembered.

    Example: `sigmasearch replay --seeds 3 --optimizer tpe --optimizer random --stopped pruned`
    """
    from pipeline.replay import show

    screen = console(sys.stderr if as_json or measure else sys.stdout)
    if measure is not None:
        with writing(out):
            show.measure(measure, out, screen)
        print(out)
        return
    compared = show.compare(table, seeds, trials, workers, optimizer or ["tpe"], stopped, screen)
    if as_json:
        print(json.dumps(compared.to_json(), indent=1))
    else:
        compared.show(screen)
