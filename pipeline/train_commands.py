"""The command that trains what ships: the feature network of the digits, and the U-Net of `digits-unet`."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.registry import SpecError
from pipeline.terminal import console, writing

if TYPE_CHECKING:
    from pipeline.digits_unet import Logged
    from pipeline.training import Batch, Settings

# Heavy imports are made inside the command, as in `pipeline.cli`.
app = typer.Typer()


@app.command()
def train(
    what: Annotated[Literal["digits-cnn", "digits-unet"], typer.Argument(help="What to train.")],
    out: Annotated[
        Path | None, typer.Option(help="The safetensors file to write; WHAT.safetensors by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights, the order and the noise.")] = 0,
    rows: Annotated[
        int | None, typer.Option(min=256, help="Of digits-unet: images to show the network in all.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of digits-unet: threads on the CPU; 2 by default.")
    ] = None,
) -> None:
    """Train what ships again: the shipped weights were made by this, with these defaults.

    digits-cnn is the network whose features measure digits, a minute's work; digits-unet the one that draws them, seven
    minutes of one core, or on the GPU where there is one. Its log is written beside it, as CSV.

    Example: `sigmasearch train digits-unet --out digits-unet.safetensors`
    """
    file = out or Path(f"{what}.safetensors")
    for option, given in (("--rows", rows), ("--threads", threads)):
        if given is not None and what != "digits-unet":
            raise SpecError("is for digits-unet", path=option, given=given)
    # Before the work, not after it.
    if file.is_dir() or not file.absolute().parent.is_dir() or not os.access(file.absolute().parent, os.W_OK):
        raise SpecError("cannot be written", path="--out", given=str(file), allowed="a file in a folder that there is")
    try:
        if what == "digits-cnn":
            _classifier(file, seed)
        else:
            _unet(file, seed, rows, threads or 1)
    except KeyboardInterrupt:
        print("stopped; nothing is written", file=sys.stderr)
        raise typer.Exit(130) from None


def _classifier(out: Path, seed: int) -> None:
    from pipeline.metrics import classifier
    from pipeline.metrics.features import quantise
    from pipeline.models import data

    images, labels = data.labelled("digits")
    with writing(out):
        trained = classifier.train(quantise(images), labels, seed=seed)
        classifier.save(trained, out)
    print(f"{out}: {100 * trained.accuracy:.2f} % of the held-out digits right")


def _unet(out: Path, seed: int, rows: int | None, threads: int) -> None:
    import torch

    from pipeline import digits_unet
    from pipeline.networks.trained import save

    settings = digits_unet.SETTINGS
    if rows is not None:
        settings = dataclasses.replace(settings, rows=rows)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with _shown(settings) as tell:
        run = digits_unet.run(settings, seed=seed, threads=threads, device=device, tell=tell)
    log = out.with_suffix(".csv")
    with writing(out):
        # The weights last: a file of weights has its log beside it.
        digits_unet.write_log(run.log, log)
        save(run.trained, out)
    last = run.log[-1]
    print(f"{out}: {sum(tensor.numel() for tensor in run.trained.tensors.values()):,} weights, log {log}")
    print(
        f"loss {last.held_out_loss:.4f} on held-out digits, {last.trained_loss:.4f} on others; FID {last.fid:.2f} ± "
        f"{last.fid_se:.2f}, {digits_unet.IMAGES} images, seeds 0-{digits_unet.IMAGES - 1}, "
        f"guidance {digits_unet.GUIDANCE:g}, Heun, {2 * digits_unet.MOVES - 1} evaluations"
    )


@contextmanager
def _shown(settings: Settings) -> Iterator[Callable[[Batch, Logged | None], None]]:
    """A bar on a terminal; in a log, a line for each line of the training log."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = console(sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("images", total=settings.steps * settings.batch)

        def tell(batch: Batch, logged: Logged | None) -> None:
            bar.update(task, completed=batch.rows)
            if logged is not None:
                held, fid = f"{logged.held_out_loss:.4f}", f"{logged.fid:.2f} ± {logged.fid_se:.2f}"
                screen.print(f"{logged.rows:,} images: loss {logged.loss:.4f}, held out {held}, FID {fid}")

        yield tell
