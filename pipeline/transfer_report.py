"""What a transfer found, for people: one table as Markdown and on the screen. Same measurements, same bytes."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.comparison import CONFIDENCE, RESOLUTION
from pipeline.provenance import git_revision, versions
from pipeline.registry import SpecError
from pipeline.result import TrialResult, describe
from pipeline.transfer import Moved, Transfer
from pipeline.transfer_table import Ranked, correlations, csv_text, judged, standing, to_json
from pipeline.whole_file import write_whole
from pipeline.worker import Failure
from reports.numbers import signed, with_error

FILES = ("transfer.md", "transfer.csv", "transfer.json")
WAYS = {
    "plan": "the frozen plans, sigmas and coefficients as they were found",
    "spec": "the specs, their sigmas placed and their decisions taken again",
}


def write(transfer: Transfer, folder: Path) -> list[Path]:
    """Write the three files.

    Raises:
        SpecError: they cannot be written.
    """
    texts = (markdown(transfer), csv_text(transfer), json.dumps(to_json(transfer), indent=1, allow_nan=False) + "\n")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(FILES, texts, strict=True):
            write_whole(folder / name, text.encode())
    except OSError as error:
        raise SpecError(f"cannot be written ({error.strerror})", path="--out", given=str(folder)) from None
    return [folder / name for name in FILES]


def markdown(transfer: Transfer) -> str:
    """The table, and below it what its numbers are."""
    home, away = _md(transfer.home.name), _md(transfer.away.name)
    titles = ("plan", "NFE", f"FID on {home}", "rank", "NFE there", f"FID on {away}", "rank", "best baseline", "NFE",
              f"FID on {away}", "plan is", "baseline - plan")  # fmt: skip
    rows = standing(transfer)
    table = [_line(*titles), "|:--|--:|--:|--:|--:|--:|--:|:--|--:|--:|:--|--:|"]
    table += [_line(*map(_md, _cells(each))) for each in rows]
    parts = [
        f"### {_md(transfer.study.study)}: from {home} to {away}",
        f"What went over: {WAYS[transfer.carried]}.",
        "\n".join(table),
        *map(_md, _remarks(transfer)),
        "\n".join(f"- no result of {_md(m.record.key)}: {_md(failure.reason)}" for m, failure in _failed(transfer)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def show(transfer: Transfer, console: Console) -> None:
    """Print the table; fits 120 columns."""
    title = f"{transfer.study.study}: from {transfer.home.name} to {transfer.away.name}, {WAYS[transfer.carried]}"
    console.print(title, highlight=False, markup=False)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for title in ("plan", "FID here", "rank", "NFE", "FID there", "rank", "best baseline", "FID there"):
        left = title in ("plan", "best baseline")
        table.add_column(title, justify="left" if left else "right", no_wrap=not left)
    table.add_column("plan is", no_wrap=True)
    for each in standing(transfer):
        plan, _, *rest, baseline, _, beside, word, _ = _cells(each)
        table.add_row(*(Text(cell) for cell in (plan, *rest, baseline, beside, word)))
    console.print(table)
    for text in _remarks(transfer):
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    for moved, failure in _failed(transfer):
        console.print(f"no result of {moved.record.key}: {failure.reason}", style="red", highlight=False, markup=False)


def _cells(each: Ranked) -> list[str]:
    plan, rival = each.pairing.plan, each.pairing.baseline
    word, gap, error = judged(each.pairing)
    rank = "–" if each.away is None else f"{each.away}{'' if each.on_front else '*'}"
    beside = ["–"] * 3 if rival is None else [rival.record.method, _count(rival), _score(rival.away)]
    home = [describe(plan.record.result or plan.home), f"{plan.home.nfe:g}", _score(plan.home), str(each.home)]
    return [*home, _count(plan), _score(plan.away), rank, *beside, word, signed(gap, error)]


def _failed(transfer: Transfer) -> Iterator[tuple[Moved, Failure]]:
    both = (moved for each in transfer.pairings for moved in (each.plan, each.baseline) if moved is not None)
    for moved in {moved.record.key: moved for moved in both}.values():
        if isinstance(moved.away, Failure):
            yield moved, moved.away


def _remarks(transfer: Transfer) -> Iterator[str]:
    home, away, asked = transfer.home, transfer.away, transfer.asked
    measured = dict.fromkeys(_seeds(each.plan.home) for each in transfer.pairings)
    yield (
        f"FID ± standard error, of leaving groups of shards out. On {home.name}: {' or '.join(measured)}; the "
        f"confirmation where there is one. On {away.name}: {asked.images:,} images, seeds {asked.first_seed}-"
        f"{asked.first_seed + asked.images - 1}, the same for all."
    )
    yield (
        "Rank: among these plans, by FID with the bias of the number of images taken off; *: not on the front there. "
        f"Best baseline: the lowest such FID on {home.name} of those that make no more evaluations than the plan does "
        f"on {away.name}, where both are judged: paired on the same shards, {100 * CONFIDENCE:g} %, never within "
        f"{100 * RESOLUTION:g} %. The difference is of such FIDs too, ± the half-width of its interval."
    )
    front, both = (_rho(*found) for found in correlations(transfer))
    yield (
        f"Rank correlation between the two (Spearman): {front} of the front, {both} with the baselines. A front's FIDs "
        "fall as its NFE rises, so that a high one is no surprise."
    )
    for each in (home, away):
        yield (
            f"{each.name} version {each.version}: reference {each.reference_hash[:16]}, "
            f"network {each.model_hash[:16]}, sigma {each.sigma_min:g} to {each.sigma_max:g}."
        )
    packages = ", ".join(f"{name} {number}" for name, number in sorted(versions().items()))
    yield f"Measured by sigmasearch at revision {git_revision()}; {packages}."


def _seeds(result: TrialResult) -> str:
    first, images = result.spec.first_seed, result.spec.images
    return f"{images:,} images, seeds {first}-{first + images - 1}"


def _rho(rho: float, count: int) -> str:
    return f"{rho:.2f} ({count} plans)" if math.isfinite(rho) else f"unknown ({count} plans are too few)"


def _count(moved: Moved) -> str:
    return "–" if isinstance(moved.away, Failure) else f"{moved.away.nfe:g}"


def _score(result: TrialResult | Failure) -> str:
    return "failed" if isinstance(result, Failure) else " ± ".join(with_error(result.fid, result.fid_se))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _md(text: str) -> str:
    """Text that Markdown and the HTML in it show as it is, on one line of a table."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))
