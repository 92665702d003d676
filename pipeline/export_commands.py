"""The command that takes a card elsewhere: export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.registry import SpecError
from pipeline.terminal import AsJson

# Heavy imports are made inside the command, as in `pipeline.cli`.
app = typer.Typer()


@app.command()
def export(
    card: Annotated[Path, typer.Argument(help="A card.")],
    to: Annotated[str, typer.Option("--to", help="Where it is to run: python, diffusers, k-diffusion or comfyui.")],
    out: Annotated[
        Path | None, typer.Option(help="The Python file to write; named after the target and the plan by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a card as Python code for another library. It computes what the card's plan does, evaluation by evaluation.

    Example: `sigmasearch export runs/digits/front/nfe-06.json --to k-diffusion --out sampler.py`
    """
    from pipeline.export.target import TARGETS, Source
    from pipeline.whole_file import write_whole

    try:
        target = TARGETS.get(to)()
    except SpecError as error:
        raise error.under("--to") from None
    source = Source.read(card)
    plan = source.plan
    try:
        text = target.render(source)
    except SpecError as error:
        raise error.under(file=str(card)) from None
    file = out or Path(f"plan_{plan.digest}_{to.replace('-', '_')}.py")
    if file.is_dir():
        raise SpecError("is a folder", path="--out", given=str(file), allowed="the name of a file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text.encode())
    except OSError as error:
        raise SpecError(f"cannot be written ({error.strerror})", path="--out", given=str(file)) from None
    if as_json:
        told = {"target": to, "file": str(file), "plan": plan.digest, "nfe": len(plan), "sigmas": list(plan.sigmas)}
        print(json.dumps(told, indent=1))
        return
    print(f"{file}: {target.summary}")
