"""The commands that make a card and use one: plan, sample, evaluate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.registry import SpecError
from pipeline.terminal import AsJson, OtherModel, console, writing

# Heavy imports are made inside the commands, as in `pipeline.cli`.
app = typer.Typer()
Device = Annotated[
    str,
    typer.Option(help="cpu, cuda, cuda:N, mps or auto: CUDA, then MPS, then the CPU, but closed forms there."),
]


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
    denoise_to_zero: Annotated[
        bool, typer.Option("--denoise-to-zero", help="Go on to 0 where the schedule stops at sigma_min.")
    ] = False,
    churn: Annotated[str | None, typer.Option(help="EDM's churn: s_churn, or JSON with s_min, s_max, s_noise.")] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Measure the true local error of an Euler step at each sigma, beside SDM's estimate and bound.",
        ),
    ] = False,
    model: OtherModel = None,
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="The card to write.")] = Path("card.json"),
    as_json: AsJson = False,
) -> None:
    """Place the sigmas, take the solver's decision, trace, and write the plan's card.

    Example: `sigmasearch plan digits-kde --solver switch --schedule sdm --set schedule.num_steps=6 --out card.json`
    """
    from pipeline import plan_options, rerun, result, trial
    from pipeline.card import plan_card, write_card

    benchmark = rerun.replaced(benchmark, model)
    held = rerun.placed(rerun.load_benchmark(benchmark, "benchmark"), device)
    spec = plan_options.spec(
        benchmark,
        baseline,
        nfe,
        solver,
        schedule,
        set_ or [],
        afs=afs,
        denoise_to_zero=denoise_to_zero,
        churn=churn,
        rows_per_image=held.rows_per_image,
    )
    prepared = trial.prepare(spec, held)
    card = plan_card(spec, prepared, held)
    verified = None
    if verify:
        from pipeline import verification

        verified = verification.verify(spec.sampler().schedule, prepared.plan, held)
        card["verification"] = verified.to_json()
    write_card(out, card)
    if as_json:
        print(json.dumps(card))
        return
    sigmas = ", ".join(f"{sigma:.4g}" for sigma in prepared.plan.sigmas)
    each = prepared.rows_per_image
    rows = "" if each == 1 else f", {len(prepared.plan)} evaluations of {each} network rows"
    print(
        f"{result.describe(trial.TrialSpec(**{**spec.to_json(), 'solver': prepared.solver}))}: {prepared.nfe} NFE{rows}"
    )
    print(f"sigmas: {sigmas}")
    spent = f"{prepared.setup_nfe:g} evaluations a calibration image, {prepared.setup_rows:,} network rows"
    print(f"set-up: {spent if prepared.setup_rows else 'none'}")
    if prepared.walk:
        over = [step["eta"] / step["allowed"] for step in prepared.walk if not step["kept"]]
        worst = f", the worst by {max(over):.3g} times" if over else ""
        steps = "1 step" if len(prepared.walk) == 1 else f"{len(prepared.walk)} steps"
        print(f"walk: {steps}, {len(over)} with eta above its bound{worst}")
    if verified is not None:
        verification.show(verified, console(sys.stdout))
    print(f"card: {out}")


@app.command()
def sample(
    card: Annotated[Path, typer.Argument(help="A card.")],
    images: Annotated[int, typer.Option(min=1, max=4096, help="How many.")] = 64,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first image.")] = 0,
    model: OtherModel = None,
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("samples.png"),
    device: Device = "cpu",
) -> None:
    """Draw a picture grid with a card's plan.

    Example: `sigmasearch sample runs/digits/front/nfe-06.json --out samples.png`
    """
    from pipeline import rerun

    with writing(out):
        print(rerun.sample(card, out, images, first_seed, model, device))


@app.command()
def evaluate(
    card: Annotated[Path, typer.Argument(help="A card.")],
    images: Annotated[int | None, typer.Option(min=4, help="Images; the card's number by default.")] = None,
    first_seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the first image; the card's by default.")
    ] = None,
    shard_images: Annotated[int | None, typer.Option(min=1, help="Images a shard; a divisor of images.")] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Beside FID: kid, precision_recall, fd_dinov2; several with commas, or JSON.")
    ] = None,
    model: OtherModel = None,
    device: Device = "cpu",
    autocast: Annotated[
        str | None, typer.Option(help="What the network computes in: none, bfloat16 or float16; the card's by default.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="What the state is: float32 or float64; the card's by default.")
    ] = None,
    channels_last: Annotated[bool, typer.Option("--channels-last", help="Convolve with the channels last.")] = False,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the network by torch.compile.")] = False,
    cuda_graphs: Annotated[bool, typer.Option("--cuda-graphs", help="Replay the network's launches.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score a card's plan: FID with its error, NFE as measured at the network.

    Example: `sigmasearch evaluate runs/digits/front/nfe-06.json --first-seed 100000 --metrics kid`
    """
    from pipeline import rerun

    asked: dict[str, object] = {"autocast": autocast, "state": state}
    asked |= {"channels_last": channels_last, "compile": compile_, "cuda_graphs": cuda_graphs}
    network = {key: value for key, value in asked.items() if value}
    told = rerun.score(card, images, first_seed, shard_images, _metrics(metrics), model, device, network)
    if as_json:
        print(json.dumps(told, indent=1))
        return
    seeds = f"{told['first_seed']}-{told['first_seed'] + told['images'] - 1}"
    print(f"FID {told['fid']:.4f} ± {told['fid_se']:.4f} at {told['nfe']:g} NFE")
    for name, held in told.get("metrics", {}).items():
        error = "" if held["error"] is None else f" ± {held['error']:.2g} ({held['error_kind']})"
        against = held["reference_images"] or "an unknown number"
        print(f"{name} {held['value']:.4g}{error}, {held['images']} images against {against}")
    print(
        f"{told['images']} images, seeds {seeds}, {told['benchmark']} reference {told['reference'][:16]}, "
        f"plan {told['plan']}"
    )
    run = [told.get("device", "cpu"), *(f"{key} {value}" for key, value in told.get("network", {}).items())]
    run += [f"{told['images_at_once']} images at once: memory ran out"] if "images_at_once" in told else []
    if run != ["cpu"]:
        print(f"network on {', '.join(run)}")


def _metrics(given: str | None) -> list[Any]:
    """Names with commas between them, or a JSON list of what a study file has under `metrics`."""
    text = (given or "").strip()
    if not text.startswith("["):
        return [name.strip() for name in text.split(",")] if text else []
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"is no JSON ({error})", path="--metrics", given=text[:80]) from None
    return list(held)
