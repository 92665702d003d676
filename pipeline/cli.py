"""The `sigmasearch` command. A user's mistake is one line on stderr and exit status 2, never a traceback."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.registry import SpecError

# Heavy imports (torch, ray, mlflow) are made inside the commands, so that --help answers at once.
app = typer.Typer(
    name="sigmasearch",
    help="Measure and search diffusion samplers: solver, switch and schedule, for FID against network evaluations.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
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


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What cannot be written is a mistake of the option."""
    try:
        yield
    except OSError as error:
        given = error.filename or path
        raise SpecError(f"cannot be written ({error.strerror or error})", path="--out", given=str(given)) from None


@app.command()
def search(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped one (`sigmasearch ls spaces`).")],
    trials: Annotated[int | None, typer.Option(min=0, help="Searched trials in all, earlier runs included.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Ray workers; 0 runs in this process.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the study lives; runs/NAME by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search a space for the Pareto front of FID against NFE, beside the published baselines.

    The same command continues a stopped study, and adds nothing to a finished one.

    Example: `sigmasearch search search_spaces/digits.yaml --trials 200`
    """
    from rich.console import Console

    from pipeline import run_study, summary

    run_study.quiet_libraries()
    stream = sys.stderr if as_json else sys.stdout
    # A job's log has no width of its own, and 80 columns would cut its lines.
    console = Console(file=stream, width=None if stream.isatty() else 120)
    try:
        outcome = run_study.search(study, trials=trials, workers=workers, run_dir=run_dir, console=console)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None
    except run_study.RecordUnavailableError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(outcome.to_json(), indent=1))
    else:
        summary.show(outcome, console)


@app.command()
def report(
    study: Annotated[str, typer.Argument(help="The study's name.")] = "digits",
    benchmark: Annotated[
        str | None, typer.Option(help="Its benchmark (the experiment); found by itself if only one.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for table.md, table.csv, table.tex and the figures.")] = Path(
        "report"
    ),
    runs: Annotated[
        Path, typer.Option(help="The folder whose mlflow.db is read, if MLFLOW_TRACKING_URI is not set.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Rebuild the tables and figures of a study from MLflow alone. Same record, same bytes.

    Example: `sigmasearch report digits --out report`
    """
    from pipeline import run_study, store
    from reports import figures, interactive, tables
    from reports.record import find_experiment, read

    run_study.quiet_libraries()
    uri = store.store_uri(runs)
    frame = read(uri, benchmark or find_experiment(uri, study), study)
    with _writing(out):
        paths = tables.write(frame, out)
        paths += [figures.front_png(frame, out / "front.png"), figures.front_svg(frame, out / "front.svg")]
        paths.append(interactive.front_html(frame, out / "front.html"))
    if as_json:
        print(json.dumps({"study": study, "trials": len(frame), "files": [str(path) for path in paths]}, indent=1))
        return
    for path in paths:
        print(path)


@app.command()
def plan(
    benchmark: Annotated[str, typer.Argument(help="The benchmark to calibrate on.")],
    baseline: Annotated[str | None, typer.Option(help="A published method; give --nfe with it.")] = None,
    nfe: Annotated[int | None, typer.Option(min=1, help="Network evaluations for --baseline.")] = None,
    solver: Annotated[str | None, typer.Option(help="A solver's name, or its JSON.")] = None,
    schedule: Annotated[str | None, typer.Option(help="A schedule's name, or its JSON.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A field, as solver.tau_k=0.1 or schedule.num_steps=8.")
    ] = None,
    afs: Annotated[bool, typer.Option("--afs", help="Analytical first step: the first evaluation is free.")] = False,
    out: Annotated[Path, typer.Option(help="The card to write.")] = Path("card.json"),
    as_json: AsJson = False,
) -> None:
    """Place the sigmas, take the solver's decision, trace, and write the plan's card.

    Example: `sigmasearch plan digits-kde --solver switch --schedule sdm --set schedule.num_steps=6 --out card.json`
    """
    from pipeline import plan_options, rerun, trial
    from pipeline.card import plan_card, write_card

    held = rerun.load_benchmark(benchmark, "benchmark")
    spec = plan_options.spec(benchmark, baseline, nfe, solver, schedule, set_ or [], afs)
    prepared = trial.prepare(spec, held)
    card = plan_card(spec, prepared, held)
    write_card(out, card)
    if as_json:
        print(json.dumps(card))
        return
    sigmas = ", ".join(f"{sigma:.4g}" for sigma in prepared.plan.sigmas)
    print(
        f"{trial.describe(trial.TrialSpec(**{**spec.to_json(), 'solver': prepared.solver}))}: {len(prepared.plan)} NFE"
    )
    print(f"sigmas: {sigmas}")
    print(f"set-up: {prepared.setup_nfe:g} evaluations on each of {prepared.setup_images} calibration images")
    print(f"card: {out}")


@app.command()
def sample(
    card: Annotated[Path, typer.Argument(help="A card.")],
    images: Annotated[int, typer.Option(min=1, max=4096, help="How many.")] = 64,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first image.")] = 0,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("samples.png"),
) -> None:
    """Draw a picture grid with a card's plan.

    Example: `sigmasearch sample runs/digits/front/nfe-06.json --out samples.png`
    """
    from pipeline import rerun

    with _writing(out):
        print(rerun.sample(card, out, images, first_seed))


@app.command()
def evaluate(
    card: Annotated[Path, typer.Argument(help="A card.")],
    images: Annotated[int | None, typer.Option(min=4, help="Images; the card's number by default.")] = None,
    first_seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the first image; the card's by default.")
    ] = None,
    shard_images: Annotated[int | None, typer.Option(min=1, help="Images a shard; a divisor of images.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score a card's plan: FID with its error, NFE as measured at the network.

    Example: `sigmasearch evaluate runs/digits/front/nfe-06.json --first-seed 100000`
    """
    from pipeline import rerun

    told = rerun.score(card, images, first_seed, shard_images)
    if as_json:
        print(json.dumps(told, indent=1))
        return
    seeds = f"{told['first_seed']}-{told['first_seed'] + told['images'] - 1}"
    print(f"FID {told['fid']:.4f} ± {told['fid_se']:.4f} at {told['nfe']:g} NFE")
    print(
        f"{told['images']} images, seeds {seeds}, {told['benchmark']} reference {told['reference'][:16]}, "
        f"plan {told['plan']}"
    )


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
def train(
    what: Annotated[Literal["digits-cnn"], typer.Argument(help="What to train.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")] = Path("digits-cnn.safetensors"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, the weights and the order.")] = 0,
) -> None:
    """Train the feature network of the digits again; the shipped weights were made by this, with these defaults.

    Example: `sigmasearch train digits-cnn --out digits-cnn.safetensors`
    """
    del what
    from pipeline.metrics import classifier
    from pipeline.metrics.features import quantise
    from pipeline.models import data

    images, labels = data.labelled("digits")
    with _writing(out):
        trained = classifier.train(quantise(images), labels, seed=seed)
        classifier.save(trained, out)
    print(f"{out}: {100 * trained.accuracy:.2f} % of the held-out digits right")


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
    import subprocess

    from pipeline import store

    uri = store.store_uri(runs)
    client = store.open_client(uri, create=False)
    command, environment = store.server_command(uri, port)
    print("the server is ready in about ten seconds; Ctrl-C ends it. Leaderboards:", flush=True)
    for experiment in client.search_experiments():
        if experiment.name != "Default":
            address = store.leaderboard_url(f"http://127.0.0.1:{port}", experiment.experiment_id)
            print(f"  {experiment.name}: {address}", flush=True)
    raise SystemExit(subprocess.call(command, env=environment))


if __name__ == "__main__":
    main()
