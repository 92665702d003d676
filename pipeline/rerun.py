"""Use a card: score its plan again, on any seeds, and draw with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline import benchmarks, trial
from pipeline.acceleration import AS_IS, Acceleration
from pipeline.benchmarks import Benchmark
from pipeline.card import network_of, read_card
from pipeline.device import CPU
from pipeline.metrics.features import quantise
from pipeline.panel import Bench, Panel
from pipeline.pictures import picture_grid
from pipeline.plan import Plan
from pipeline.registry import SpecError, build_dataclass
from pipeline.scoring import finish, portions
from pipeline.trial import TrialSpec

PICTURES = 64  # images in a sample grid: 8 rows of 8
SHARDS = 20  # about as many as a study has, where neither the card nor the user says


def load_benchmark(name: str, key: str) -> Benchmark:
    """The benchmark, or a `SpecError` about `key`."""
    try:
        return benchmarks.load(name)
    except SpecError as error:
        raise error if error.file else error.under(key) from None


def replaced(benchmark: str, model: str | None) -> str:
    """The benchmark with the model of the option --model in its card's place, if one is given."""
    try:
        return benchmarks.with_model(benchmark, model)
    except SpecError as error:
        raise error.under("--model") from None


def opened(
    card: Path, model: str | None = None, device: str = CPU, network: Mapping[str, Any] | None = None
) -> tuple[TrialSpec, Plan, Benchmark]:
    """A card's spec and plan, and its benchmark, which must be the version and the network that the card was made for.

    `model` says where that network is now, if not where the card says. Its images are sampled on `device`, by the
    network run as the card says, but for what `network` says otherwise.

    Raises:
        SpecError: an unreadable card, an unknown benchmark, or one that is another by now; no such device, or a network
            that cannot be run so.
    """
    spec, plan, written = read_card(card)
    with _about(card):
        held = load_benchmark(replaced(spec.benchmark, model), "spec.benchmark")
        made_for = written["benchmark"]
        now = {"name": spec.benchmark, "version": held.version, "model_hash": held.model_hash}
        for key, value in now.items():
            if made_for.get(key) != value:
                message = f"the card was made for another {spec.benchmark}"
                raise SpecError(message, path=f"benchmark.{key}", given=made_for.get(key), allowed=str(value))
    try:
        asked = build_dataclass(Acceleration, network_of(written).to_json() | dict(network or {}))
    except SpecError as error:
        raise _of_option(error) from None
    return spec, plan, placed(held, device, asked)


def placed(held: Benchmark, device: str, acceleration: Acceleration = AS_IS) -> Benchmark:
    """The benchmark on the device of the option --device, its network run so.

    Raises:
        SpecError: there is no such device here, or the network cannot be run so there.
    """
    try:
        return held.placed(device, acceleration)
    except SpecError as error:
        raise _of_option(error) from None


def score(
    card: Path,
    images: int | None,
    first_seed: int | None,
    shard_images: int | None,
    metrics: Sequence[Any] = (),
    model: str | None = None,
    device: str = CPU,
    network: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate the card's plan in this process; its own images, seeds and shards where none are given.

    `metrics` beside FID are measured on the same images, as a study file names them.

    Raises:
        SpecError: the card is unreadable, images and shards do not fit, a metric cannot be measured, or samples are not
            finite; and as of `opened`.
    """
    spec, plan, held = opened(card, model, device, network)
    count = images or spec.images
    # The card's own shards where they fit, so that its own images give its own numbers to the last digit.
    own = spec.shard_images if count % spec.shard_images == 0 and count >= 2 * spec.shard_images else _shard(count)
    size = shard_images or own
    try:
        asked = replace(spec, images=count, shard_images=size, first_seed=_or(first_seed, spec.first_seed))
    except SpecError as error:
        raise _of_option(error) from None
    try:
        panel = Panel.of(metrics) if metrics else None
        if panel is not None:
            panel.check(held, count)
    except SpecError as error:
        path = f"--metrics{error.path}"
        raise SpecError(error.message, path=path, given=error.given, allowed=error.allowed) from None
    prepared = trial.Prepared(plan, spec.solver, 0, 0.0, 0.0, rows_per_image=held.rows_per_image)
    with _about(card):
        try:
            parts = [
                trial.evaluate(plan, held, seeds, size, panel=panel, first_seed=asked.first_seed)
                for seeds in asked.batches()
            ]
        except trial.NotFiniteError as error:
            raise SpecError(str(error)) from None
    shards = [shard for part in parts for shard in part]
    result = finish(asked, prepared, shards, held)
    bench = Bench(held)
    beside = {
        name: score.to_json()
        for portion in (portions(panel, shards) if panel else ())
        for name, score in bench.score(portion).items()
    }
    told = {
        "fid": result.fid,
        "fid_se": result.fid_se,
        "fid_corrected": result.fid_corrected,
        "nfe": result.nfe,
        "images": count,
        "first_seed": asked.first_seed,
        "shard_images": size,
        "reference": result.reference_hash,
        "benchmark": spec.benchmark,
        "plan": plan.digest,
        "images_per_second": round(result.images_per_second, 1),
    }
    return told | ({"metrics": beside} if beside else {}) | _run_so(held)


def sample(
    card: Path,
    out: Path,
    images: int = PICTURES,
    first_seed: int = 0,
    model: str | None = None,
    device: str = CPU,
) -> Path:
    """Draw a card's samples as one picture."""
    _, plan, held = opened(card, model, device)
    seeds = range(first_seed, first_seed + images)
    dtype = held.acceleration.state_dtype
    samples = trial.draw(plan, held.denoiser(seeds), held.shape, seeds, held.device, dtype)
    shown = held.images(samples.nan_to_num())
    pixels = shown if shown.dtype == torch.uint8 else quantise(shown)
    return picture_grid(pixels.movedim(1, -1).cpu().numpy(), out)


def _run_so(held: Benchmark) -> dict[str, Any]:
    """Where and how the network was run, where not on the CPU as it is."""
    device = {"device": held.device} if held.device != "cpu" else {}
    network = {"network": held.acceleration.to_json()} if held.acceleration != AS_IS else {}
    room = {"images_at_once": held.images_at_once} if held.images_at_once is not None else {}
    return device | network | room


def _of_option(error: SpecError) -> SpecError:
    option = f"--{error.path.replace('_', '-')}"
    return SpecError(error.message, path=option, given=error.given, allowed=error.allowed)


def _shard(count: int) -> int:
    """The divisor of `count` that comes nearest to `SHARDS` equal shards, and makes two at least."""
    divisors = [size for size in range(1, count // 2 + 1) if count % size == 0]
    return min(divisors, key=lambda size: abs(size - count / SHARDS))


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


@contextlib.contextmanager
def _about(card: Path) -> Iterator[None]:
    """A mistake that names no file is the card's."""
    try:
        yield
    except SpecError as error:
        raise error if error.file else error.under(file=str(card)) from None
