"""What a transfer found, as rows: ranks, verdicts, rank correlation; as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.benchmarks import Benchmark
from pipeline.comparison import difference, verdict
from pipeline.provenance import git_revision, versions
from pipeline.result import TrialResult, describe
from pipeline.transfer import Moved, Pairing, Transfer
from pipeline.worker import Failure

LEAST_PLANS = 5  # with fewer, a rank correlation says nothing
SCORES = ("nfe", "setup_nfe", "fid", "fid_se", "fid_corrected", "images", "first_seed", "plan", "method")
COLUMNS = (
    "key", "method", *(f"{side}_{name}" for side in ("home", "away") for name in SCORES), "away_failed", "home_rank",
    "away_rank", "away_on_front",
)  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """A pairing and where its plan stands among the transferred ones, by corrected FID: 1 is the lowest."""

    pairing: Pairing
    home: int
    away: int | None
    on_front: bool


def to_json(transfer: Transfer) -> dict[str, Any]:
    """All numbers, with what they were measured on."""
    ranked = standing(transfer)
    plans, everything = correlations(transfer)
    return {
        "study": transfer.study.study,
        "as": transfer.carried,
        "from": _benchmark(transfer.home),
        "to": _benchmark(transfer.away),
        "images": transfer.asked.images,
        "first_seed": transfer.asked.first_seed,
        "shard_images": transfer.asked.shard_images,
        "plans": [_row(each) for each in ranked],
        "rank_correlation": {
            "front": {"rho": _known(plans[0]), "plans": plans[1]},
            "front and baselines": {"rho": _known(everything[0]), "plans": everything[1]},
        },
        "revision": git_revision(),
        "versions": dict(versions()),
    }


def standing(transfer: Transfer) -> list[Ranked]:
    """The front by rising NFE, each plan with its rank at home, its rank away, and whether it is on the front there."""
    pairings = transfer.pairings
    home = _ranks([each.plan.home.score.ranked for each in pairings])
    away = _ranks([_fid(each.plan) for each in pairings])
    points = [(_nfe(each.plan), _fid(each.plan)) for each in pairings]
    ranked = []
    for at, each in enumerate(pairings):
        nfe, fid = points[at]
        beaten = any(
            (n <= nfe and f <= fid) and ((n, f) != (nfe, fid) or k < at) for k, (n, f) in enumerate(points) if k != at
        )
        known = math.isfinite(fid)
        ranked.append(Ranked(each, home[at], away[at] if known else None, known and not beaten))
    return ranked


def correlations(transfer: Transfer) -> tuple[tuple[float, int], tuple[float, int]]:
    """Spearman's rho of corrected FIDs here and there, and over how many distinct plans.

    Of the front alone, whose FIDs fall as NFE rises, and of the front and the baselines beside it.
    """
    front = [each.plan for each in transfer.pairings]
    beside = [each.baseline for each in transfer.pairings if each.baseline is not None]
    return _rho(front), _rho([*front, *beside])


def csv_text(transfer: Transfer) -> str:
    """One plan a line, numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rows = [_flat(_row(each)) for each in standing(transfer)]
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow("" if value is None else value for value in row.values())
    return out.getvalue()


def _row(each: Ranked) -> dict[str, Any]:
    plan, rival = each.pairing.plan, each.pairing.baseline
    word, gap, error = judged(each.pairing)
    return {
        "key": plan.record.key,
        "method": describe(plan.record.result or plan.home),
        **_numbers(plan),
        "home_rank": each.home,
        "away_rank": each.away,
        "away_on_front": each.on_front,
        "baseline": rival and {"key": rival.record.key, "method": rival.record.method, **_numbers(rival)},
        "verdict": word,
        "gap": _known(gap),
        "gap_error": _known(error),
    }  # fmt: skip


def _numbers(moved: Moved) -> dict[str, Any]:
    held = {f"home_{name}": value for name, value in _scores(moved.home).items()}
    if isinstance(moved.away, Failure):
        return held | {"away_failed": moved.away.reason}
    return held | {f"away_{name}": value for name, value in _scores(moved.away).items()}


def _scores(result: TrialResult) -> dict[str, Any]:
    return {
        "nfe": result.nfe,
        "setup_nfe": result.setup_nfe,
        "fid": result.fid,
        "fid_se": _known(result.fid_se),
        "fid_corrected": _known(result.fid_corrected),
        "images": result.spec.images,
        "first_seed": result.spec.first_seed,
        "plan": result.plan.digest,
        "method": describe(result),
    }


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the baseline's numbers beside the plan's, the same columns in every one."""
    flat = {name: row.get(name) for name in COLUMNS}
    beside = row["baseline"] or {}
    flat |= {f"baseline_{name}": beside.get(name) for name in COLUMNS[: COLUMNS.index("home_rank")]}
    return flat | {name: row[name] for name in ("verdict", "gap", "gap_error")}


def judged(pairing: Pairing) -> tuple[str, float, float]:
    """The verdict on the plan away, and baseline minus plan with the half-width of its interval."""
    rival, plan = pairing.baseline, pairing.plan
    if rival is None or isinstance(rival.away, Failure) or isinstance(plan.away, Failure):
        return "nothing to compare", math.nan, math.nan
    gap, _, error, _ = difference(rival.away.score, plan.away.score)
    return verdict(plan.away.score, rival.away.score), gap, error


def _benchmark(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "name": benchmark.name,
        "version": benchmark.version,
        "reference_hash": benchmark.reference_hash,
        "model_hash": benchmark.model_hash,
        "sigma_min": benchmark.sigma_min,
        "sigma_max": benchmark.sigma_max,
    }


def _ranks(values: Sequence[float]) -> list[int]:
    """1 for the lowest; equal values share the better rank, and what is not known comes last."""
    return [
        1 + sum(other < value or (math.isnan(value) and not math.isnan(other)) for other in values) for value in values
    ]


def _rho(moved: Sequence[Moved]) -> tuple[float, int]:
    distinct = {each.home.plan.digest: each for each in moved if not isinstance(each.away, Failure)}
    frame = pd.DataFrame(
        {"home": [e.home.score.ranked for e in distinct.values()], "away": [_fid(e) for e in distinct.values()]}
    )
    # The ranks of what is equal are their mean; Pearson's correlation of ranks is Spearman's.
    ranks = frame.rank()
    return float(ranks["home"].corr(ranks["away"])) if len(frame) >= LEAST_PLANS else math.nan, len(frame)


def _fid(moved: Moved) -> float:
    return math.nan if isinstance(moved.away, Failure) else moved.away.score.ranked


def _nfe(moved: Moved) -> float:
    return math.nan if isinstance(moved.away, Failure) else moved.away.nfe


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
