"""The `sigmasearch` command. A user's mistake is one line on stderr and exit status 2, never a traceback."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline import (
    card_commands,
    convert_commands,
    embed_commands,
    export_commands,
    reference_commands,
    replay_commands,
    report_commands,
    train_commands,
    transfer_commands,
)
from pipeline.registry import SpecError
from pipeline.terminal import AsJson, OtherModel, console

# Heavy imports (torch, ray, mlflow) are made inside the commands, so that --help answers at once.
app = typer.Typer(
    name="sigmasearch",
    help="Measure and search diffusion samplers: solver, switch and schedule, for FID against network evaluations.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Kind = Literal["benchmarks", "solvers", "schedules", "spaces", "baselines"]


def _version(asked: bool) -> None:
    if asked:
        from pipeline import __version__
        from pipeline.provenance import git_revision

        print(f"sigmasearch {__version__} ({git_revision()})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print version and revision.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command and turn mistakes into one line."""
    try:
        app(prog_name="sigmasearch", standalone_mode=True)
    except SpecError as error:
        # A file's name may hold a line break.
        print("error: " + " ".join(str(error).splitlines()), file=sys.stderr)
        raise SystemExit(2) from None


@app.command()
def search(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped one (`sigmasearch ls spaces`).")],
    trials: Annotated[int | None, typer.Option(min=0, help="Searched trials in all, earlier runs included.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Ray workers; 0 runs in this process.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the study lives; runs/NAME by default.")] = None,
    fork: Annotated[
        str | None,
        typer.Option(help="Begin a study of this name from the trials of the one in --run-dir that still hold."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="Keep the study on a server, postgresql://USER:PASSWORD@HOST:PORT/DATABASE, in place of a file in the "
            "run directory; SIGMASEARCH_STORAGE says the same and shows nobody the password."
        ),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Share the study with the drivers that are on it; needs a server storage.")
    ] = False,
    model: OtherModel = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, and do nothing: no weights are needed for it.")
    ] = False,
    gpu_tflops: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="With --dry-run: what a GPU comes to with the network. By default it is measured where network and "
            "device are here; else it is 18 (a V100, float32) or 46 (an A100, float16), as in EDM's training runs.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search a space for the Pareto front of FID against NFE, beside the published baselines.

    The same command continues a stopped study, and adds nothing to a finished one. A changed file is refused where it
    makes another study; `--fork NAME` begins that one from the old one's trials. A second search of the same study is
    refused; with `--storage` and `--join` several share one, each with a run directory and workers of its own.

    Example: `sigmasearch search search_spaces/digits.yaml --trials 200`
    """
    from pipeline import run_study, summary
    from pipeline.full_disk import DiskFullError, space_for
    from pipeline.interruption import InterruptedSearch
    from pipeline.leases import LeaseLostError
    from pipeline.publisher import RecordUnavailableError
    from pipeline.ray_job import lasting
    from pipeline.server_storage import StorageAwayError
    from pipeline.teaching import TeacherFailedError

    run_study.quiet_libraries()
    screen = console(sys.stderr if as_json else sys.stdout)
    if dry_run:
        _tell_cost(study, {"trials": trials, "workers": workers, "model": model}, gpu_tflops, as_json)
        return
    if gpu_tflops is not None:
        raise SpecError("is for --dry-run", path="--gpu-tflops", given=gpu_tflops)
    try:
        with space_for(lasting(run_dir or Path("runs"))):
            outcome = run_study.search(
                study, trials=trials, workers=workers, run_dir=run_dir, console=screen,
                fork=fork, storage=storage, join=join, model=model,
            )  # fmt: skip
    except (KeyboardInterrupt, InterruptedSearch) as error:
        if not getattr(error, "told", False):
            print("stopped; the same command goes on from here", file=sys.stderr)
        if isinstance(error, InterruptedSearch):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_status)  # the interpreter's own end takes two of the three seconds that a job has
        raise typer.Exit(getattr(error, "exit_status", 130)) from None
    except (RecordUnavailableError, TeacherFailedError, LeaseLostError, StorageAwayError, DiskFullError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(outcome.to_json(), indent=1))
    else:
        summary.show(outcome, screen)


def _tell_cost(file: str, overrides: dict[str, object], tflops: float | None, as_json: bool) -> None:
    from pipeline import dry_run

    told = dry_run.dry_run(file, overrides, tflops)
    if as_json:
        print(json.dumps(told.to_json(), indent=1))
    else:
        dry_run.show(told, console(sys.stdout))


@app.command()
def sync(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped one.")],
    run_dir: Annotated[Path | None, typer.Option(help="Where the study lives; runs/NAME by default.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="The server that keeps the study, as `search` was given it.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: say what differs, with exit status 1 if anything does.")
    ] = False,
    model: OtherModel = None,
    as_json: AsJson = False,
) -> None:
    """Make MLflow's record of a study equal to what its run directory holds, and its report new. Nothing is sampled.

    A search does so when it ends. Where MLflow was away then, its store was lost, or somebody changed or deleted runs
    by hand, this does it afterwards; runs that are not the study's are left alone. `--check` only compares.

    Example: `sigmasearch sync search_spaces/digits.yaml`
    """
    from pipeline import run_study, summary
    from pipeline.publisher import RecordUnavailableError
    from pipeline.server_storage import StorageAwayError

    run_study.quiet_libraries()
    screen = console(sys.stderr if as_json else sys.stdout)
    try:
        if check:
            differing = run_study.check(study, run_dir=run_dir, console=screen, storage=storage, model=model)
        else:
            outcome = run_study.sync(study, run_dir=run_dir, console=screen, storage=storage, model=model)
    except (RecordUnavailableError, StorageAwayError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if check:
        _tell_differences(differing, as_json)
    elif as_json:
        print(json.dumps(outcome.to_json(), indent=1))
    else:
        summary.show(outcome, screen)


def _tell_differences(differing: list[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"differences": differing}, indent=1))
    else:
        for text in differing:
            print(text)
        print(f"differences: {len(differing)}" if differing else "MLflow's record is the study's")
    if differing:
        raise typer.Exit(1)


@app.command(name="ls")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: AsJson = False) -> None:
    """List what can be named in a study file or on the command line.

    Example: `sigmasearch ls solvers`
    """
    from pipeline.catalogue import entries

    found = entries(kind)
    if as_json:
        print(json.dumps(dict(found), indent=1))
        return
    width = max(len(name) for name, _ in found)
    for name, text in found:
        print(f"{name:<{width}}  {text}")


@app.command()
def ui(
    runs: Annotated[
        Path, typer.Option(help="The folder whose mlflow.db is shown, if MLFLOW_TRACKING_URI is not set.")
    ] = Path("runs"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow on 127.0.0.1 with the leaderboard's address.

    Example: `sigmasearch ui --port 5055`
    """
    from pipeline import store
    from pipeline.ray_job import lasting
    from pipeline.serving import serve

    uri = store.store_uri(lasting(runs, "--runs"))
    client = store.open_client(uri, create=False)
    command, environment = store.server_command(uri, port)
    print("the server is ready in about ten seconds; Ctrl-C ends it. Leaderboards:", flush=True)
    for experiment in client.search_experiments():
        if experiment.name != "Default":
            address = store.leaderboard_url(f"http://127.0.0.1:{port}", experiment.experiment_id)
            print(f"  {experiment.name}: {address}", flush=True)
    raise SystemExit(serve(command, environment))


app.add_typer(card_commands.app)
app.add_typer(convert_commands.app)
app.add_typer(embed_commands.app)
app.add_typer(export_commands.app)
app.add_typer(reference_commands.app)
app.add_typer(replay_commands.app)
app.add_typer(train_commands.app)
app.add_typer(transfer_commands.app)
app.add_typer(report_commands.app, name="report")


if __name__ == "__main__":
    main()
