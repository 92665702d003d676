"""NFE as publications count it, as their code counts it, and as the network sees it: `sigmasearch report nfe`.

What is counted by whom is second-hand knowledge and stands here with its source. What is measured is measured: each
method's plan runs on a closed-form benchmark with a meter around the network.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from pipeline import benchmarks, trial
from pipeline.denoiser import Denoiser, Meter
from pipeline.methods import METHODS, Pair
from pipeline.trial import TrialSpec

BENCHMARK = "gmm"
IMAGES = 16

SDM = "aiimaginglab/sdm modules/sampler.py"
DIFF_SAMPLER = "zju-pi/diff-sampler gits-main/sample.py:226-243"
K_DIFFUSION = "crowsonkb/k-diffusion k_diffusion/sampling.py"


@dataclass(frozen=True)
class Convention:
    """A method at its usual settings, and what it is said to cost.

    `published` is the NFE that the publication prints, `code` the one that its code would print; None where it prints
    none. `note` says what differs and in which line. `guided` doubles the rows of each call, as classifier-free
    guidance does.
    """

    method: str
    setting: str
    solver: Mapping[str, Any]
    schedule: Mapping[str, Any]
    published: int | None
    code: int | None
    source: str
    note: str = ""
    afs: bool = False
    denoise_to_zero: bool = False
    guided: bool = False


@dataclass(frozen=True)
class Counted:
    """A convention beside the truth: network rows per image, set-up rows per calibration image, where it ends."""

    convention: Convention
    measured: float
    setup: float
    end: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = self.convention
        return {
            "method": told.method,
            "setting": told.setting,
            "published": told.published,
            "code": told.code,
            "measured": self.measured,
            "setup": self.setup,
            "end_sigma": self.end,
            "source": told.source,
            "note": told.note,
        }


class _TwoRows:
    """A network that is asked twice an image, as with classifier-free guidance; both answers are the same here."""

    def __init__(self, network: Denoiser) -> None:
        self.network = network

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        first, second = self.network(torch.cat([x, x]), sigma).chunk(2)
        return 0.5 * (first + second)


def conventions() -> list[Convention]:
    """Every row of the table, by source."""
    return [*_edm(), *_sdm(), *_diff_sampler(), *_dpm_solver(), *_k_diffusion()]


def count(convention: Convention) -> Counted:
    """Run the method on the closed-form benchmark and count what reaches the network."""
    held = benchmarks.load(BENCHMARK)
    spec = TrialSpec(
        BENCHMARK,
        convention.solver,
        convention.schedule,
        afs=convention.afs,
        denoise_to_zero=convention.denoise_to_zero,
    )
    prepared = trial.prepare(spec, held)
    seeds = range(IMAGES)
    meter = Meter(held.denoiser(seeds))
    trial.draw(prepared.plan, _TwoRows(meter) if convention.guided else meter, held.shape, seeds)
    return Counted(convention, meter.rows / IMAGES, prepared.setup_nfe, prepared.plan.sigmas[-1])


def show(rows: Sequence[Counted], console: Console) -> None:
    """Print the table, and below it what differs and why, numbered; a count that the network does not see is red.

    Fits 80 columns.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for name in ("published", "its code", "measured", "set-up", "end"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    notes: list[str] = []
    for setting, group in itertools.groupby(rows, key=lambda row: row.convention.setting):
        table.add_row(Text(setting, style="bold"))
        for row in group:
            told = row.convention
            if told.note and told.note not in notes:
                notes.append(told.note)
            table.add_row(
                "  " + told.method,
                *(_told(value, row.measured) for value in (told.published, told.code)),
                f"{row.measured:g}",
                f"{row.setup:g}" if row.setup else "–",
                f"{row.end:g}",
                Text(f"[{notes.index(told.note) + 1}]" if told.note else ""),
            )
    console.print("NFE: network rows an image", highlight=False)
    console.print(table)
    for number, note in enumerate(notes, 1):
        console.print(f"[{number}] {note}", highlight=False, markup=False)
    console.print(
        f"measured at the network on {BENCHMARK}, {IMAGES} images, seeds 0-{IMAGES - 1}; set-up: rows per calibration "
        "image, once a plan, never in the NFE; end: the sigma it ends at; –: none printed, or none spent. "
        "Sources: --json.",
        highlight=False,
        markup=False,
    )


def _told(value: int | None, measured: float) -> Text:
    return Text("–") if value is None else Text(f"{value}", style="" if value == measured else "bold red")


def _edm() -> list[Convention]:
    source = "Karras et al., 2022, arXiv 2206.00364; NVlabs/edm README"
    return [
        Convention("Heun", f"EDM, N = {n}", {"name": "heun"}, {"name": "edm", "num_steps": n}, 2 * n - 1, None, source)
        for n in (18, 40)
    ]


def _sdm() -> list[Convention]:
    source = "Jo & Choi, 2026, arXiv 2602.12624, Table 1 (second-hand)"
    edm = {"name": "edm", "num_steps": 18}
    multistep = {"name": "dpm_solver_pp", "order": 2, "lower_order_final": False}
    unipc = {"name": "unipc", "order": 2, "lower_order_final": False, "disable_corrector": [0]}
    note_switch = (
        "31 is CIFAR-10's and 66 AFHQv2's: the data decide the switch, and with it N + (moves by Heun). The code "
        "decides again in each batch, so that its count may change between batches."
    )
    return [
        Convention(
            "Euler", "SDM, N = 18", {"name": "euler"}, edm, 17, 18, source,
            "Table 1 prints 17 and 39; N = 18 and 40 moves to 0 make 18 and 40 calls.",
        ),
        Convention(
            "Heun", "SDM, N = 18", {"name": "heun"}, edm, 35, 18, source,
            f"{SDM}:324 counts one for Heun's two calls.",
        ),
        Convention(
            "Heun + COS", "SDM, N = 18", *_pair("heun_cos", 35), 35, 18, source,
            f"{SDM}:324 counts one for Heun's two calls.",
        ),
        Convention(
            "DPM-Solver++(2M)", "SDM, N = 18", multistep, edm, None, 34, "the code only",
            f"{SDM}:295 counts two for the one call of a second-order move (and :1119-1124 in its adaptive solver).",
        ),
        Convention("UniPC-2", "SDM, N = 18", unipc, edm, None, 18, "the code only"),
        Convention(
            "Euler > Heun, step", "SDM, N = 18, tau_k 2e-4", {"name": "switch", "tau_k": 2e-4}, edm, 31, None, source,
            note_switch,
        ),
        Convention(
            "Euler > Heun, step", "SDM, N = 40, tau_k 1e-4", {"name": "switch", "tau_k": 1e-4},
            {"name": "edm", "num_steps": 40}, 66, None, source, note_switch,
        ),
        Convention(
            "Euler", "SDM schedule, N = 18", {"name": "euler"}, {"name": "sdm", "num_steps": 18}, 17, 18, source,
            f"As [1]; and the line search of {SDM}:1148-1464 is set-up, which the paper's NFE leaves out.",
        ),
    ]  # fmt: skip


def _diff_sampler() -> list[Convention]:
    readme = f"zju-pi/diff-sampler README; {DIFF_SAMPLER}"
    table = f"Chen et al., 2024, arXiv 2405.11326, Table 1; {DIFF_SAMPLER}"
    stop = (
        "Counted by a formula from names, never measured; num_steps there are timestamps, one more than moves. It "
        "stops at sigma_min 0.002: EDM and SDM go on to 0, which would be one more."
    )
    walk = "The teacher's walk, 60 evaluations on each warm-up image, is set-up and not in the NFE."

    def of(name: str, published: int | None, source: str, note: str = stop) -> Convention:
        title = METHODS.get(name).title
        return Convention(title, "diff-sampler, NFE 6", *_pair(name, 6), published, 6, source, note)

    ipndm, edm = {"name": "ipndm", "order": 4}, {"name": "edm", "final": "sigma_min"}
    printed = ("ddim", "heun", "dpm_solver_2", "dpm_solver_pp_3m", "unipc_3", "deis", "ipndm", "ipndm_v")
    return [
        *(of(name, 6, readme) for name in printed),
        *(of(name, None, DIFF_SAMPLER) for name in ("dpm_solver_pp_2m", "unipc_2")),
        *(of(name, 6, table, walk) for name in ("ddim_gits", "ipndm_gits")),
        Convention(
            "iPNDM, AFS", "diff-sampler, 7 moves", ipndm, {**edm, "num_steps": 7}, None, 6, DIFF_SAMPLER,
            "The analytical first step calls no network.", afs=True,
        ),
        Convention(
            "iPNDM + GITS, AFS", "diff-sampler, 7 moves", ipndm, {"name": "gits", "num_steps": 7, "afs_search": True},
            None, 6, DIFF_SAMPLER,
            "The extra node is free; finding it costs the teacher's walk and a student's for each candidate.", afs=True,
        ),
        Convention(
            "iPNDM, denoise to zero", "diff-sampler, 6 moves + 1", ipndm, {**edm, "num_steps": 6}, None, 7,
            DIFF_SAMPLER, denoise_to_zero=True,
        ),
        Convention(
            "DPM-Solver++(2M), guided", "diff-sampler, SD, 5 moves", {"name": "dpm_solver_pp", "order": 2},
            {**edm, "rho": 1.0, "num_steps": 5}, 10, 10,
            f"Chen et al., 2024, arXiv 2405.11326, Table 2; {DIFF_SAMPLER}",
            "Guidance asks the network twice an image; its code doubles the count for ms_coco by name only.",
            guided=True,
        ),
    ]  # fmt: skip


def _dpm_solver() -> list[Convention]:
    source = "Lu et al., 2022, arXiv 2211.01095; LuChengTHU/dpm-solver dpm_solver_pytorch.py"
    note = "Its `steps` are evaluations: K moves, the last ones of lower order where the order does not divide them."
    return [
        Convention(f"DPM-Solver++({k}S)", "dpm-solver, 7 steps", *_pair(f"dpm_solver_pp_{k}s", 7), 7, 7, source, note)
        for k in (2, 3)
    ]


def _k_diffusion() -> list[Convention]:
    karras = {"name": "edm", "num_steps": 10}
    return [
        Convention(
            name, "k-diffusion, 10 moves to 0", solver, schedule, None, None, K_DIFFUSION,
            "It counts none; its users quote the number of steps.",
        )
        for name, solver, schedule in (("LMS-4", *_pair("lms", 10)), ("Heun", {"name": "heun"}, karras))
    ]  # fmt: skip


def _pair(name: str, nfe: int) -> Pair:
    """A registered method's solver and schedule at this NFE."""
    pair = METHODS.get(name).pair(nfe)
    if pair is None:
        raise ValueError(f"{name} has no setting at {nfe} evaluations")
    return pair
