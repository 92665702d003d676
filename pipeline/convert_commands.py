"""The command that takes a checkpoint out of its pickle: convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.registry import SpecError
from pipeline.terminal import AsJson, writing

# Heavy imports are made inside the command, as in `pipeline.cli`.
app = typer.Typer()


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of NVlabs/edm or edm2, as network.pkl.")],
    out: Annotated[
        Path | None, typer.Option(help="The safetensors file to write; the checkpoint's name by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take a network out of a pickle: its weights as safetensors, its constructor arguments as JSON beside them.

    Nothing in the pickle is run: the source that it carries is left alone, and a name that no network is stored with is
    refused. The model `edm` of a card reads either file, and gives the same network and the same hash.

    Example: `sigmasearch convert edm-cifar10-32x32-uncond-vp.pkl --out cifar10.safetensors`
    """
    from pipeline.networks.checkpoint import read_checkpoint, write_checkpoint

    file = out or checkpoint.with_suffix(".safetensors")
    if file.suffix != ".safetensors":
        raise SpecError("is no name for weights", path="--out", given=str(file), allowed="a name with .safetensors")
    if file.is_dir() or file.with_suffix(".json").is_dir():
        raise SpecError("is a folder", path="--out", given=str(file), allowed="the name of a file")
    read = read_checkpoint(checkpoint)
    try:
        network = read.network()
    except SpecError as error:
        raise error.under(file=str(checkpoint)) from None
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = write_checkpoint(read, file)
    weights = sum(parameter.numel() for parameter in network.parameters())
    if as_json:
        told = {"file": str(file), "arguments": str(beside), "kind": read.kind, "weights": weights, "hash": read.hash}
        print(json.dumps(told, indent=1))
        return
    unet = type(next(network.children())).__name__
    print(f"{file}: {weights:,} weights of {read.kind} ({unet}), {network.label_dim} classes")
    print(f"{beside}: its constructor arguments")
