"""What was found, in a sentence: how many budgets the search wins, and by how much at the best of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.figures import SMALLEST
from reports.numbers import conditions, confirmed_conditions, count, groups_left_out, plain, signed
from reports.standings import Standings, Verdict

SYMBOLS = {"better": "▲", "worse": "▼", "inconclusive": "≈", "floor": "≈", "none": "–"}


@dataclass(frozen=True)
class Tile:
    """One budget in a few words. `kind` is a key of `SYMBOLS`."""

    budget: int
    kind: str
    symbol: str
    words: str
    searched: str
    baseline: str


@dataclass(frozen=True)
class Headline:
    """Who wins where; the largest win in numbers, and at which budget; what was measured; a tile a budget."""

    sentence: str
    gain: str
    measured: str
    tiles: Sequence[Tile]
    largest: int | None = None

    @staticmethod
    def of(frame: pd.DataFrame, found: Standings | None) -> Headline:
        """The headline of a record and of its largest group."""
        if found is None:
            return Headline(_nothing(frame), "", "", ())
        verdicts = list(found.verdicts())
        tiles = [_tile(verdict) for verdict in verdicts]
        best = _largest(verdicts)
        gain, largest = ("", None) if best is None else (_gain(best), best.budget)
        return Headline(_sentence(verdicts), gain, _measured(found, verdicts), tiles, largest)


def kind_of(verdict: Verdict) -> str:
    """A verdict as one of five: better, worse, inconclusive, floor, none."""
    if verdict.word is None:
        return "none"
    return "floor" if verdict.at_floor else verdict.word


def shown(verdict: Verdict) -> tuple[pd.Series[Any] | None, pd.Series[Any] | None]:
    """The rows of the search and of the best baseline that the verdict is told by."""
    ours, theirs = verdict.searched, verdict.baseline
    rows = []
    for cell in (ours, theirs):
        confirmed = cell is not None and cell.confirmed is not None and (verdict.confirmed or verdict.word is None)
        rows.append(None if cell is None else cell.confirmed if confirmed else cell.row)
    return rows[0], rows[1]


def listed(items: Iterable[object]) -> str:
    """3, 4 and 5."""
    words = [str(item) for item in items]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _nothing(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "The record holds no trial yet."
    return f"None of the {len(frame)} runs in the record has a score, so nothing can be said yet."


def _tile(verdict: Verdict) -> Tile:
    kind = kind_of(verdict)
    ours, theirs = shown(verdict)
    numbers = ["no plan" if row is None else plain(row) for row in (ours, theirs)]
    return Tile(verdict.budget, kind, SYMBOLS[kind], verdict.words, *numbers)


def _sentence(verdicts: Sequence[Verdict]) -> str:
    budgets = [verdict.budget for verdict in verdicts]
    at = {kind: [v.budget for v in verdicts if kind_of(v) == kind] for kind in SYMBOLS}
    if len(at["none"]) == len(verdicts):
        if any(verdict.searched is not None for verdict in verdicts):
            return "The search has a front, but no baseline was scored beside it: there is nothing to compare it with."
        return "Only baselines are scored so far: no searched trial has a score on all images within a budget."
    told = [f"{word} at {_of(at[word], budgets)}" for word in ("better", "worse", "inconclusive") if at[word]]
    if at["better"] and not at["worse"]:
        told.append("worse at none")
    text = f"Beside the best published baseline, the search is {listed(told)}." if told else ""
    if at["inconclusive"] and not (at["better"] or at["worse"]):
        where = _of(at["inconclusive"], budgets)
        text = f"The search cannot be told from the best published baseline at {where}: inconclusive."
    if at["floor"]:
        where = "At every budget" if len(at["floor"]) == len(verdicts) else _where(at["floor"], budgets)
        text += f" {where} the best baseline cannot be told from the fine solve, so nothing is ranked there."
    if at["none"]:
        text += f" {_where(at['none'], budgets)} there is nothing to compare."
    return text.strip()


def _where(held: Sequence[int], budgets: Sequence[int]) -> str:
    if len(held) > 1 and list(held) == list(budgets[-len(held) :]):
        return f"From {held[0]} evaluations on"
    return f"At {spans(held, budgets)}"


def _of(held: Sequence[int], budgets: Sequence[int]) -> str:
    return f"{len(held)} of {len(budgets)} NFE budgets ({spans(held, budgets)})"


def spans(held: Sequence[int], budgets: Sequence[int]) -> str:
    """Budgets in few words: three or more that follow each other among `budgets` are one span, "3 to 7"."""
    runs: list[list[int]] = []
    for budget in held:
        follows = runs and budgets.index(budget) == budgets.index(runs[-1][-1]) + 1
        if follows:
            runs[-1].append(budget)
        else:
            runs.append([budget])
    return listed(word for run in runs for word in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run)))


def _largest(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The budget called better where the baseline's FID is the largest multiple of the search's."""
    best, most = None, 0.0
    for verdict in verdicts:
        ours, theirs = shown(verdict)
        if kind_of(verdict) != "better" or ours is None or theirs is None:
            continue
        ratio = float(theirs["fid"]) / max(float(ours["fid"]), SMALLEST)
        if ratio > most:
            best, most = verdict, ratio
    return best


def _gain(best: Verdict) -> str:
    ours, theirs = shown(best)
    assert ours is not None
    assert theirs is not None
    seeds = "on seeds that chose nothing" if best.confirmed else "on the search's own seeds, unconfirmed"
    return (
        f"Largest gain: within {best.budget} evaluations FID {plain(ours)}, where {theirs['method']} has "
        f"{plain(theirs)} ({seeds}; gap {signed(best.difference.gap, best.difference.error)} of bias-corrected FIDs, "
        f"{'' if best.difference.paired else 'un'}paired, 95 % interval)."
    )


def _measured(found: Standings, verdicts: Sequence[Verdict]) -> str:
    rows = [row for _, row in found.group.iterrows()]
    text = f"Chosen by {conditions(found.group)}, ± leave-one-out standard error ({groups_left_out(rows)})."
    if not found.confirmed:
        return f"{text} Nothing is confirmed on other seeds yet."
    groups = groups_left_out(found.confirmed.values())
    text += f" Shown: {confirmed_conditions(found)}, which chose nothing ({groups})."
    lacking = [verdict.budget for verdict in verdicts if verdict.word is not None and not verdict.confirmed]
    return f"{text} Not confirmed: at {listed(lacking)}." if lacking else text


def trials_sentence(frame: pd.DataFrame) -> str:
    """How many trials there are, by state; none is left out."""
    counts = frame["state"].value_counts()
    told = [f"{counts[s]} {s}" for s in ("complete", "pruned", "failed", "broken", "foreign") if s in counts]
    return listed(told)


def floor_line(found: Standings) -> str:
    """What the fine solve scores."""
    if found.floor is None:
        return ""
    again = found.confirmed.get(found.floor["key"])
    text = (
        f"The floor, {found.floor['method']} with {count(found.floor['nfe'])} evaluations, scores {plain(found.floor)}"
    )
    return text + ("." if again is None else f", confirmed {plain(again)}.")
