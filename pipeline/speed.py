"""How many network rows a second a study may count on: measured where it can be, else from the network's own size."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from pipeline import benchmarks
from pipeline.benchmarks import Benchmark
from pipeline.networks.flops import flops
from pipeline.networks.preconditioning import Preconditioner
from pipeline.registry import SpecError
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import SOLVERS
from pipeline.trial import BATCH_IMAGES, evaluate

PROBE_SECONDS = 0.5  # a run of the probe that takes as long is the last one; together they take about a second


@dataclass(frozen=True)
class Device:
    """What a GPU came to with such a network, in floating-point operations a second, and who says so."""

    name: str
    flops: float
    source: str


# By the README of NVlabs/edm (Karras et al., 2022, arXiv 2206.00364), its table of training runs; train.py's --duration
# is 200 million images where the table gives none, and a step of training is taken as three forward passes:
#   cifar10: 3 * 42.4 GFLOP * 200e6 / (8 V100 * 2 days) = 18.4 TFLOP/s; the ffhq and afhqv2 runs give 18.2. The peak of
#   a V100 in float32 is 15.7: cuDNN's Winograd convolutions multiply less often than is counted.
#   imagenet: 3 * 219 GFLOP * 2.5e9 / (32 A100 * 13 days) = 45.8 TFLOP/s, 15 % of an A100's peak in float16, 312.
FLOAT32 = Device("one NVIDIA V100, float32", 18e12, "117 % of its peak: EDM's training runs, README of NVlabs/edm")
FLOAT16 = Device("one NVIDIA A100, float16", 46e12, "15 % of its peak: EDM's training runs, README of NVlabs/edm")


@dataclass(frozen=True)
class Speed:
    """Rows a second of one worker, of which kind its hours are, and how that is known. None: it is not."""

    rows_per_second: float | None
    hours_of: str
    told: str


def speed(benchmark: str, gpus: float, threads: int, nfe: int, tflops: float | None = None) -> Speed:
    """The rate of one worker with these `gpus` and `threads`, at plans of `nfe` rows an image.

    Measured where everything that the card names is here and the device too; else, and where `tflops` is given, by the
    operations that the network takes.

    Raises:
        SpecError: a mistake in the card, other than that a file is not here; `tflops` for what has no layers to count.
    """
    card, folder = benchmarks.card_of(benchmark), benchmarks.find(benchmark).folder
    lacking = ", ".join(file.path.name for file in benchmarks.missing(card, folder))
    why = f"{lacking} not here" if lacking else ""
    if not why and gpus and not torch.cuda.is_available():
        why = "no CUDA device here"
    if not why and tflops is None:
        try:
            held = benchmarks.load(benchmark)
        except SpecError as error:
            if not error.path.startswith("features"):
                raise
            why = f"no {error.path.split('.')[-1]} of its features here"
        else:
            return _measured(replace(held, device="cuda" if gpus else "cpu"), threads, nfe)
    network: Preconditioner | None = getattr(benchmarks.model_of(benchmark), "outline", None)
    if network is None and tflops is not None:
        message = "is for a network whose layers are known"
        raise SpecError(message, path="--gpu-tflops", given=tflops, allowed="the model edm")
    if network is None:
        return Speed(None, "GPU" if gpus else "CPU", f"unknown: {why}, and its network cannot be counted")
    operations = flops(network)
    device = FLOAT16 if network.use_fp16 else FLOAT32
    if tflops is not None:
        device = Device("a GPU", tflops * 1e12, "--gpu-tflops")
    told = (
        f"{operations / 1e9:.1f} GFLOP a row, counted on the network's layers; {device.name} at "
        f"{device.flops / 1e12:g} TFLOP/s ({device.source}); features and noise not counted"
    )
    return Speed(device.flops / operations, "GPU", told + (f"; not measured: {why}" if why else ""))


def _measured(benchmark: Benchmark, threads: int, nfe: int) -> Speed:
    """Whole evaluations, features included, of four times as many images each time."""
    moves = max(1, nfe // benchmark.rows_per_image)
    plan = trace(SOLVERS.build({"name": "euler"}), EDM(moves, final="zero").sigmas().tolist())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        images, seconds, rows = 2, 0.0, 0
        evaluate(plan, benchmark, range(images))  # what is loaded and compiled once is no part of the rate
        while seconds < PROBE_SECONDS and 4 * images <= BATCH_IMAGES:
            images *= 4
            started = time.perf_counter()
            rows = evaluate(plan, benchmark, range(images))[0].rows
            seconds = time.perf_counter() - started
    finally:
        torch.set_num_threads(before)
    where = torch.cuda.get_device_name() if benchmark.device == "cuda" else f"{threads} CPU thread(s)"
    told = f"measured: {images:,} images at {rows // images} NFE in {seconds:.2f} s on {where}, features included"
    return Speed(rows / seconds, "GPU" if benchmark.device == "cuda" else "CPU", told)
