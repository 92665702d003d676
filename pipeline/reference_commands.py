"""The command that makes a reference: the moments of a data set's features, in a file."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.registry import SpecError
from pipeline.terminal import AsJson, console, writing

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from pipeline.metrics.features import Extractor
    from pipeline.metrics.image_files import Resize, Shape

# Heavy imports are made inside the commands, as in `pipeline.cli`.
app = typer.Typer()


@app.command()
def reference(
    source: Annotated[str, typer.Argument(help="A folder or a zip of images, or the name of a data set: digits.")],
    features: Annotated[str, typer.Option(help="What measures them: inception, dinov2, digits-cnn or identity.")],
    out: Annotated[Path, typer.Option(help="The .npz to write.")] = Path("reference.npz"),
    images: Annotated[
        int | None, typer.Option(min=2, help="So many images, spread evenly over their names; all by default.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, max=4096, help="Resize to SIZE x SIZE; give --filter too.")] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", help="How PIL resizes: box, bilinear, bicubic or lanczos.")
    ] = None,
    inception_weights: Annotated[
        Path | None, typer.Option(help="Inception's weights; SIGMASEARCH_INCEPTION_WEIGHTS says the same.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where features are taken: cpu or cuda.")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Measure a data set once: mean and covariance of its features, for the `reference` of a benchmark's card.

    EDM's fid.py reads the file too. It says what made it, and a card that measures otherwise refuses it.

    Example: `sigmasearch reference digits --features digits-cnn --out digits.npz`
    """
    from pipeline.metrics import reference_files
    from pipeline.metrics.distances import Reference

    if out.suffix != ".npz" or not out.parent.is_dir():
        message = "is no .npz" if out.suffix != ".npz" else "is in no folder that there is"
        raise SpecError(message, path="--out", given=str(out), allowed="a path that ends in .npz, in a folder")
    extractor = _extractor(features, inception_weights)
    chosen = _chosen(source, images, _resize(size, filter_))
    try:
        dim = extractor.dim(chosen.shape)
        if dim > reference_files.MOST_FEATURES:
            allowed = f"{reference_files.MOST_FEATURES:,} or fewer"
            raise SpecError("has too many features of these images", given=dim, allowed=allowed)
    except SpecError as error:
        raise error.under("--features") from None
    screen = console(sys.stderr)
    moments = reference_files.moments_of(_shown(chosen, _device(device), screen), extractor)
    made = reference_files.StoredReference(
        Reference.of(moments),
        features=features,
        extractor=extractor.hash,
        shape=chosen.shape,
        source=chosen.name,
        source_sha256=chosen.sha256(),
        resized=None if size is None else f"{size} {filter_}",
    )
    with writing(out):
        reference_files.write(out, moments, made)
    written = reference_files.read(out)
    told = {
        "out": str(out),
        "sha256": written.sha256,
        "reference": written.reference.hash,
        "features": features,
        "extractor": extractor.hash,
        "dim": dim,
        "images": moments.n,
        "of": chosen.available,
        "shape": list(chosen.shape),
        "source": chosen.name,
        "source_sha256": made.source_sha256,
        "resized": made.resized,
    }
    if as_json:
        print(json.dumps(told, indent=1))
        return
    _tell(told)


@dataclass(frozen=True)
class _Chosen:
    """The images that are measured: in batches, uint8 (B, C, H, W), of so many that there are."""

    name: str
    count: int
    available: int
    shape: Shape
    batches: Callable[[], Iterable[Tensor]]
    sha256: Callable[[], str]


def _chosen(source: str, count: int | None, resize: Resize | None) -> _Chosen:
    import torch

    from pipeline.metrics.features import quantise
    from pipeline.metrics.image_files import ROWS, ImageFiles, sha256_of
    from pipeline.models import data

    path = Path(source)
    if not path.exists() and source in data.names():
        if resize is not None:
            raise SpecError("is for images in files", path="--size", given=resize.size)
        held = quantise(data.images(source))
        if count is not None and count > len(held):
            raise SpecError("does not hold so many images", path=source, given=count, allowed=f"2 to {len(held)}")
        pixels = held if count is None else held[[i * len(held) // count for i in range(count)]]
        digest = hashlib.sha256(held.numpy().tobytes())
        channels, height, width = held.shape[1:]
        shape = channels, height, width
        return _Chosen(source, len(pixels), len(held), shape, lambda: torch.split(pixels, ROWS), digest.hexdigest)
    if not path.exists():
        allowed = f"a folder or a zip of images, or a data set: {', '.join(data.names())}"
        raise SpecError("there is no such source", given=source, allowed=allowed)
    files = ImageFiles.found(path)
    names = files.chosen(count)
    listing = hashlib.sha256()
    channels, height, width = files.shape()
    shape = (channels, height, width) if resize is None else (channels, resize.size, resize.size)
    return _Chosen(
        path.resolve().name.encode(errors="replace").decode(),
        len(names),
        len(files.names),
        shape,
        lambda: files.batches(names, resize, listing.update),
        (lambda: sha256_of(path)) if path.is_file() else listing.hexdigest,
    )


def _shown(chosen: _Chosen, device: str, screen: Console) -> Iterator[Tensor]:
    """The batches on `device`, with a bar on a terminal; a log has no use for one."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("images", total=chosen.count)
        for batch in chosen.batches():
            yield batch.to(device)
            bar.advance(task, len(batch))


def _extractor(name: str, weights: Path | None) -> Extractor:
    from pipeline.metrics.features import FEATURES

    if weights is not None and name != "inception":
        raise SpecError("is for --features inception", path="--inception-weights", given=name)
    try:
        return FEATURES.build({"name": name} | ({} if weights is None else {"weights": str(weights)}))
    except SpecError as error:
        option = "--inception-weights" if error.path == "weights" and name == "inception" else "--features"
        raise SpecError(error.message, path=option, given=error.given, allowed=error.allowed) from None


def _resize(size: int | None, name: str | None) -> Resize | None:
    from pipeline.metrics.image_files import FILTERS, Resize

    if size is None and name is None:
        return None
    if size is None or name not in FILTERS:
        path = "--size" if size is None else "--filter"
        allowed = "a number of pixels, with --filter" if size is None else ", ".join(FILTERS)
        raise SpecError("is missing or unknown", path=path, given=name, allowed=allowed)
    return Resize(size, name)  # type: ignore[arg-type]  # one of FILTERS


def _device(name: str) -> str:
    import torch

    if name != "cpu" and not (name == "cuda" and torch.cuda.is_available()):
        allowed = "cpu, cuda" if torch.cuda.is_available() else "cpu; there is no CUDA device here"
        raise SpecError("cannot be used", path="--device", given=name, allowed=allowed)
    return name


def _tell(told: dict[str, Any]) -> None:
    channels, height, width = told["shape"]
    print(f"{told['images']:,} of {told['of']:,} images, {width} x {height}, {'grey' if channels == 1 else 'RGB'}")
    print(f"features: {told['features']} {told['extractor'][:16]}, {told['dim']:,} of them")
    if told["images"] <= told["dim"]:
        print("the covariance is singular: there are no more images than features")
    print(f"source: {told['source']} {told['source_sha256'][:16]}")
    print(f"reference: {told['out']} {told['sha256'][:16]}, moments {told['reference'][:16]}")
