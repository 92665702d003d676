"""Replays for people: which ways to search are compared, and the table of what came out."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as Screen

import search_spaces
from pipeline import benchmarks
from pipeline.ledger import Stopped
from pipeline.progress import clock
from pipeline.registry import SpecError
from pipeline.replay.build import Builder, points
from pipeline.replay.policy import Comparison, Policy, Run, run, study_of
from pipeline.replay.table import Table, load, save
from pipeline.trial import NotFiniteError
from search_spaces.protocol import Optimizer

SUFFIX = ".replay.zip"


def shipped() -> list[str]:
    """The tables that the project ships, by name."""
    names = (item.name for item in resources.files("search_spaces").iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))


def opened(name: str) -> Table:
    """A shipped table by name, or the file of another one.

    Raises:
        SpecError: there is none, or it is no table.
    """
    file = Path(str(resources.files("search_spaces"))) / f"{name}{SUFFIX}" if name in shipped() else Path(name)
    if not os.path.exists(file):  # unlike Path.exists, for a name of any length
        raise SpecError("no such table", given=name, allowed=[*shipped(), "a file that --measure wrote"])
    table = load(file)
    try:
        study_of(table, {})
    except SpecError as error:
        raise error.under(file=str(file)) from None
    return table


@dataclass(frozen=True)
class Compared:
    """Ways to search, each beside the reference with the same seeds: the first optimizer, every trial at full size."""

    name: str
    table: Table
    seeds: int
    trials: int
    workers: int
    reference: list[Run]
    comparisons: list[Comparison]
    seconds: float

    def rows(self) -> list[dict[str, Any]]:
        """One row a policy."""
        found = []
        for comparison in self.comparisons:
            volumes = comparison.hypervolume_share(self.reference)
            runs = comparison.runs
            stops: dict[str, float] = {}
            for one in runs:
                for rung, count in one.stopped.items():
                    stops[rung] = stops.get(rung, 0) + count / len(runs)
            found.append(
                {
                    "policy": comparison.policy.name,
                    "optimizer": comparison.policy.optimizer,
                    "rungs": comparison.policy.rungs,
                    "stopped": comparison.policy.stopped if comparison.policy.rungs else None,
                    "network_rows": statistics.median(one.rows for one in runs),
                    "rows_share": comparison.rows_share(self.reference),
                    "hypervolume_share": statistics.median(volumes),
                    "hypervolume_share_lowest": volumes[0],
                    "winners": comparison.winners(self.reference),
                    "stopped_at": stops,
                    "virtual_seconds": statistics.median(one.seconds for one in runs),
                }
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """What a script reads."""
        held = {"table": self.name, "entries": len(self.table), "seeds": self.seeds, "trials": self.trials}
        return held | {"workers": self.workers, "seconds": round(self.seconds, 1), "policies": self.rows()}

    def show(self, console: Console) -> None:
        """Print the table."""
        screen = Screen(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        screen.add_column("search", no_wrap=True)
        for name in ("rows", "of full", "hypervolume", "lowest", "winners", "virtual"):
            screen.add_column(name, justify="right", no_wrap=True)
        for row in self.rows():
            words = row["winners"]
            fine = words["same"] + words["better"] + words["inconclusive"]
            screen.add_row(
                row["policy"],
                f"{row['network_rows'] / 1e6:.2f} M",
                f"1/{1 / row['rows_share']:.1f}" if row["rows_share"] else "0",
                f"{100 * row['hypervolume_share']:.1f} %",
                f"{100 * row['hypervolume_share_lowest']:.1f} %",
                f"{fine}/{sum(words.values())}",
                clock(row["virtual_seconds"]),
            )
        console.print(screen)
        text = (
            f"{self.name}: {len(self.table)} stored trials; {self.seeds} searches of {self.trials} trials each, "
            "medians, beside the first one: every trial at full size and nothing remembered. rows: network rows of "
            "searched trials, their set-up and the teacher. hypervolume: of (log NFE, log FID at all images). winners: "
            "over budgets and seeds, those that are the reference's own plan, or not worse than it on seeds that no "
            f"search saw (paired, 95 %). virtual: on {self.workers} workers, baselines included. {self.seconds:.0f} s."
        )
        console.print(text, highlight=False, markup=False)


def compare(
    name: str,
    seeds: int,
    trials: int | None,
    workers: int | None,
    optimizers: Sequence[str],
    stopped: Sequence[str] | None,
    console: Console,
) -> Compared:
    """Replay every way that is asked for, and for each optimizer the search at full size.

    Raises:
        SpecError: a table, an optimizer or a way to tell that there is not.
    """
    started = time.monotonic()
    known = get_args(Optimizer.model_fields["name"].annotation)
    for given, allowed, option in ((optimizers, known, "--optimizer"), (stopped or [], get_args(Stopped), "--stopped")):
        for word in given:
            if word not in allowed:
                raise SpecError("is not one of the choices", path=option, given=word, allowed=list(allowed))
    table = opened(name)
    told: list[Stopped] = [word for word in get_args(Stopped) if stopped is None or word in stopped]
    comparisons: list[Comparison] = []
    for optimizer in dict.fromkeys(optimizers):
        policies = [Policy(optimizer, rungs=False), *(Policy(optimizer, stopped=word) for word in told)]
        for policy in policies:
            with console.status(f"{policy.name}: {seeds} searches"):
                runs = [run(table, policy, seed, trials, workers) for seed in range(seeds)]
            comparisons.append(Comparison(policy, runs))
    size = workers or max(1, int(table.study["workers"]))
    count = trials or int(table.study["trials"])
    seconds = time.monotonic() - started
    return Compared(name, table, seeds, count, size, comparisons[0].runs, comparisons, seconds)


def measure(file: str, out: Path, console: Console) -> Table:
    """Measure every point of a study's space, in this process, and write the table.

    What is measured is kept in a folder beside `out` until that is written: the same command goes on from there.

    Raises:
        SpecError: a mistake in the study file, a space that has no finite number of points, or nowhere to write.
    """
    study = search_spaces.load(file)
    for _ in points(study.draw):  # what cannot be finished is not begun
        pass
    if not out.parent.is_dir():
        raise SpecError("no such folder", path="--out", given=str(out.parent))
    if out.is_dir():
        raise SpecError("is a folder", path="--out", given=str(out))
    kept = out.with_name(f"{out.name}.partial")
    kept.mkdir(exist_ok=True)
    builder = Builder(study, benchmarks.load(study.benchmark), kept)
    specs = list(builder.specs())
    lost = 0
    with console.status("measuring") as status:
        for i, spec in enumerate(specs):
            status.update(f"measuring {i:,} of {len(specs):,}")
            try:
                builder.add(spec)
            except (SpecError, NotFiniteError):
                lost += 1
        builder.confirm(lambda at, count: status.update(f"confirming {at:,} of {count:,}"))
    table = builder.table()
    save(table, out)
    shutil.rmtree(kept)
    console.print(f"{len(table):,} trials measured, {lost} could not be sampled", highlight=False)
    return table
