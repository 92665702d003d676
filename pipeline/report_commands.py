"""The commands that print from the record: a study's report, the papers' tables of it, how evaluations are counted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.terminal import AsJson, console, writing

if TYPE_CHECKING:
    import pandas as pd

    from reports.artifacts import Artifacts

# Heavy imports are made inside the commands, as in `pipeline.cli`.
STUDY = "STUDY"
Benchmark = Annotated[str | None, typer.Option(help="Its benchmark (the experiment); found by itself if only one.")]
RunsFolder = Annotated[
    Path, typer.Option("--runs", help="The folder whose mlflow.db is read, if MLFLOW_TRACKING_URI is not set.")
]


class ReportGroup(TyperGroup):
    """A word that is no report of its own is a study: `search_spaces.study.RESERVED` keeps the two apart."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the study's own command before anything but a subcommand, in place of an error."""
        words = [name for name in self.list_commands(ctx) if name != STUDY]
        if not args or args[0] not in (*words, "--help"):
            args = [STUDY, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=ReportGroup, rich_markup_mode="markdown")


@app.callback()
def report() -> None:
    """Rebuild reports from MLflow alone. Same record, same bytes.

    `report digits` writes a study's tables and figures, `report tables digits` those of the papers, and `report nfe`
    prints each method's evaluations as its publication counts them, as its code does, and as measured.

    Example: `sigmasearch report digits --out report`
    """


@app.command(STUDY)
def study(
    study: Annotated[str, typer.Argument(help="The study's name.")] = "digits",
    benchmark: Benchmark = None,
    out: Annotated[Path, typer.Option(help="Folder for report.html, the tables and the figures.")] = Path("report"),
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Rebuild the tables and figures of a study: its name stands in place of the word STUDY.

    Example: `sigmasearch report digits --out report`
    """
    from reports.artifacts import RunArtifacts
    from reports.record import read

    uri, experiment = _store(study, benchmark, runs)
    frame = read(uri, experiment, study)
    with writing(out):
        paths = _write(frame, out, RunArtifacts(uri))
    if as_json:
        print(json.dumps({"study": study, "trials": len(frame), "files": [str(path) for path in paths]}, indent=1))
        return
    for path in paths:
        print(path)


@app.command()
def nfe(as_json: AsJson = False) -> None:
    """Print each method's evaluations as its publication counts them, as its code does, and as measured.

    Example: `sigmasearch report nfe`
    """
    from pipeline import accounting

    counted = [accounting.count(convention) for convention in accounting.conventions()]
    if as_json:
        print(json.dumps([row.to_json() for row in counted], indent=1))
    else:
        accounting.show(counted, console(sys.stdout))


@app.command()
def tables(
    study: Annotated[str, typer.Argument(help="The study's name.")] = "papers",
    benchmark: Benchmark = None,
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("tables"),
    runs: RunsFolder = Path("runs"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: fail where --out is not what the record gives, to the byte.")
    ] = False,
    links: Annotated[
        bool, typer.Option("--links", help="Name each cell's run in MLflow: in links.csv and in footnotes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fill the papers' tables from a study: Markdown, CSV and LaTeX, with the published numbers beside it.

    With --check, exit status 1 where a file is missing or differs; it is named, with its first line that does.

    Example: `sigmasearch report tables papers --out tables`
    """
    from reports import paper_tables

    uri, experiment = _store(study, benchmark, runs)
    files, told = paper_tables.build(uri, experiment, study, linked=links)
    for line in told:
        print(f"note: {' '.join(line.split())}", file=sys.stderr)
    if check:
        wrong = paper_tables.differences(files, out)
        for line in wrong:
            print(f"error: {line}", file=sys.stderr)
        paths = [out / name for name in files]
    else:
        wrong = []
        with writing(out):
            paths = paper_tables.write(files, out)
    if as_json:
        held = {"study": study, "benchmark": experiment, "notes": told, "files": [str(path) for path in paths]}
        print(json.dumps(held | ({"differences": wrong} if check else {}), indent=1))
    elif not wrong:
        for path in [f"{len(paths)} files of {out} are what the record gives"] if check else paths:
            print(path)
    if wrong:
        raise typer.Exit(1)


def _store(study: str, benchmark: str | None, runs: Path) -> tuple[str, str]:
    """The store's address and the experiment of the study."""
    from pipeline import run_study, store
    from pipeline.ray_job import lasting
    from reports.record import find_experiment

    run_study.quiet_libraries()
    uri = store.store_uri(lasting(runs, "--runs"))
    return uri, benchmark or find_experiment(uri, study)


def _write(frame: pd.DataFrame, out: Path, artifacts: Artifacts) -> list[Path]:
    from reports import figures, page, path_figures, tables

    paths = tables.write(frame, out)
    paths += [figures.front_png(frame, out / "front.png"), figures.front_svg(frame, out / "front.svg")]
    paths += path_figures.write(frame, out, artifacts)
    return [*paths, page.write(frame, out / "report.html", artifacts)]
