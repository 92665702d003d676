"""How `digits-unet` is trained: its network, its data, and what is logged on the way."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.metrics.classifier import split
from pipeline.metrics.distances import Reference, jackknife
from pipeline.metrics.features import DigitsCNN, quantise
from pipeline.metrics.moments import Moments
from pipeline.models import data
from pipeline.models.classes import drawn_classes
from pipeline.models.unet import UNetDenoiser
from pipeline.networks.preconditioning import EDMPrecond
from pipeline.networks.trained import Description, Trained, patches
from pipeline.noise import noise
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import Heun
from pipeline.training import Average, Batch, Draws, Settings, loss_of, reproducible, train
from pipeline.whole_file import write_whole

DATA = "digits"
# A pixel of the network is 2 x 2 of the image: a third of the time that as many weights take at 8 x 8 and 4 x 4.
PATCH = 2
NETWORK: dict[str, Any] = {
    "model_type": "SongUNet",
    "img_resolution": 4,
    "img_channels": 4,
    "label_dim": 10,
    "model_channels": 32,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
    "sigma_data": 0.75,  # the standard deviation of the digits' pixels is 0.752
}
SETTINGS = Settings()
# What the benchmark's card has; the log's FID is at it.
GUIDANCE = 1.25
POINTS = 8
# The log's FID: 25 groups of 80 images, Heun on EDM's schedule, 15 evaluations.
IMAGES, GROUPS, MOVES = 2000, 25, 8
# Noise that each logged loss is measured with: this many draws for each held-out image.
REPEATS = 4


@dataclass(frozen=True)
class Logged:
    """One line of the log. `loss` is the mean over the batches since the last line, of the weights in training.

    The others are of the averaged weights: the loss on images that were held out and on as many that were not, with the
    same noise; FID of 2,000 guided samples to all the data, without the bias of their number, and its error.
    """

    rows: int
    loss: float
    trained_loss: float
    held_out_loss: float
    fid: float
    fid_se: float


@dataclass(frozen=True)
class Run:
    """A trained network and its log."""

    trained: Trained
    log: list[Logged]


def run(
    settings: Settings = SETTINGS,
    *,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    tell: Callable[[Batch, Logged | None], None] = lambda batch, logged: None,
) -> Run:
    """Train the network: on the CPU the same bytes each time, on the same machine with as many threads.

    A fifth of each class is held out, the same that the classifier did not see.
    """
    images, labels = data.labelled(DATA)
    kept, held = split(labels, 0)
    with torch.random.fork_rng(devices=[]):
        network = EDMPrecond(**NETWORK).to(device)
    seen, classes = patches(images, PATCH).to(device), labels.to(device)
    reference = Reference.of(Moments.of(DigitsCNN()(quantise(images))))
    log: list[Logged] = []
    losses: list[float] = []
    marks = [settings.steps * point // POINTS * settings.batch for point in range(1, POINTS + 1)]

    def each(batch: Batch, average: Average) -> None:
        losses.append(batch.loss)
        logged = None
        if batch.rows in marks:
            averaged = average.network().eval()
            loss = sum(losses) / len(losses)
            others = kept[:: len(kept) // len(held)]
            before, after = (_loss(averaged, seen, classes, chosen) for chosen in (others, held))
            logged = Logged(batch.rows, loss, before, after, *_fid(averaged, reference, device))
            log.append(logged)
            losses.clear()
        tell(batch, logged)

    with reproducible(threads, device):
        average = train(network, seen[kept], classes[kept], settings, seed=seed, tell=each)
    return Run(_trained(average, images, labels, held, settings, seed, threads, device), log)


def write_log(log: list[Logged], out: Path) -> None:
    """The log as CSV, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in dataclasses.fields(Logged)])
    for line in log:
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in dataclasses.astuple(line)])
    write_whole(out, text.getvalue().encode())


def _loss(network: EDMPrecond, images: Tensor, classes: Tensor, chosen: Tensor) -> float:
    generator = torch.Generator().manual_seed(0)
    settings = Settings(label_dropout=0.0)
    total, count = 0.0, 0
    with torch.no_grad():
        for part in torch.split(chosen.repeat(REPEATS), settings.batch):
            draws = Draws.of(settings, (len(part), *images.shape[1:]), generator).to(images.device)
            total += float(loss_of(network, images[part], classes[part], draws).double().sum())
            count += len(part)
    return total / count


def _fid(network: EDMPrecond, reference: Reference, device: str) -> tuple[float, float]:
    plan, seeds = trace(Heun(), EDM(num_steps=MOVES).sigmas().tolist()), range(IMAGES)
    size = network.img_resolution * PATCH
    denoise = UNetDenoiser(network, drawn_classes(seeds, network.label_dim), PATCH, GUIDANCE)
    samples = plan.run(denoise, noise(seeds, (network.img_channels // PATCH**2, size, size)).to(device))
    features = DigitsCNN()(quantise(samples))
    found = jackknife([Moments.of(part) for part in features.chunk(GROUPS)], reference)
    return found.corrected, found.se


def _trained(
    average: Average, images: Tensor, labels: Tensor, held: Tensor, settings: Settings, seed: int, threads: int,
    device: str,
) -> Trained:  # fmt: skip
    digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes())
    training = {
        "seed": seed,
        "held_out": len(held),
        "data_sha256": digest.hexdigest(),
        "device": device,
        "threads": threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        **dataclasses.asdict(settings),
    }
    description = Description(kind="EDMPrecond", arguments=NETWORK, patch=PATCH, data=DATA, training=training)
    return Trained(description, average.weights)
