"""The report as Markdown: the table of FID at each budget, the verdicts, the rank check, the cost."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

import pandas as pd

from pipeline.comparison import CONFIDENCE
from reports.beside import HEADING, INTRODUCTION, BesideTable
from reports.cost import Cost, rung_words
from reports.numbers import (
    NEVER_WITHIN,
    conditions,
    confirmed_conditions,
    count,
    floor_sentence,
    groups_left_out,
    plain,
    setup,
    signed,
    spent,
)
from reports.rank_check import LEAST_IN_BAND, LEAST_PLANS, TEACHER, TRUSTED, RankCheck, RankCorrelation, band_words
from reports.record import complete
from reports.standings import SEARCHED, Cell, Standings, Verdict, standings

INTERVAL = f"the half-width of its {100 * CONFIDENCE:g} % interval"


def markdown(frame: pd.DataFrame, budgets: Sequence[int] | None = None) -> str:
    """The whole report: FID at each budget, the verdicts, what the numbers are, the rank check, the cost."""
    parts, found = [counted(frame)], standings(frame, budgets)
    for each in found:
        parts += [heading(each), _main_table(each), _main_line(each), _verdict_table(each), _verdict_line(each)]
        parts += [_beside(each), floor_sentence(each), _notes(each.group)]
    check = RankCheck(frame)
    if check.climbed:
        parts += ["### Rank check", _rank_table(check), _rank_line(check), *_warnings(check)]
    if found and frame["spent_rows"].notna().any():
        parts += ["### Cost", _cost(frame, found[0].budgets)]
    return "\n\n".join(filter(None, parts)) + "\n"


def counted(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "No trials."
    counts = frame["state"].value_counts().to_dict()
    order = ("complete", "pruned", "failed", "broken", "foreign")
    told = ", ".join(f"{counts[state]} {state}" for state in order if state in counts)
    studies = [name for name in frame["study"].unique() if name]
    return f"Study {', '.join(map(md, studies))}: {told}." if studies else f"Runs: {told}."


def heading(standings: Standings) -> str:
    return f"### {md(standings.group.iloc[0]['benchmark'])}: {conditions(standings.group)}"


def _main_table(standings: Standings) -> str:
    budgets = standings.budgets
    lines = [line("method", "set-up NFE", *map(str, budgets)), "|:--|--:|" + "--:|" * len(budgets)]
    floor = standings.floor
    if floor is not None:
        name = f"floor: {md(floor['method'])} ({count(floor['nfe'])} NFE)"
        lines.append(line(name, count(floor["setup_nfe"]), *[plain(floor)] * len(budgets)))
    for method, role in standings.methods:
        cells = [standings.cells.get((method, role, budget)) for budget in budgets]
        lines.append(line(md(method), setup(cells), *map(_cell, cells)))
    at_floor = [verdict.at_floor for verdict in standings.verdicts()]
    if any(at_floor):
        lines.append(line("best baseline is", "", *("at the floor" if held else "" for held in at_floor)))
    return "\n".join(lines)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = plain(cell.row)
    if cell.winner:
        text = f"**{text}**"
    if cell.tied:
        text += " ~"
    return text + spent(cell)


def _main_line(standings: Standings) -> str:
    rows = [row for _, row in standings.group.iterrows()]
    trials = int(complete(standings.group, "searched", "published")["feasible"].sum())
    confirmed = "the next table has its confirmation" if standings.confirmed else "nothing confirms it yet"
    searched = (
        f"`{SEARCHED}` is the best of {trials} trials scored on the same seeds as everything else, and the lowest of "
        f"many is a little too low: {confirmed}."
        if trials
        else f"There is no row `{SEARCHED}`: no searched trial was scored on all images and keeps every constraint."
    )
    return (
        f"{conditions(standings.group)}, ± its leave-one-out standard error ({groups_left_out(rows)}): the method's "
        "lowest within the budget; in brackets the NFE it took, where that is less. Bold: the lowest. `~`: "
        "inconclusive, the lowest and this one cannot be told apart (bias-corrected FIDs, paired on the same shards, "
        f"95 %, {NEVER_WITHIN}). {searched}"
    )


def _verdict_table(standings: Standings) -> str:
    names = (
        *("NFE", "best baseline", "FID ± se", "confirmed ± se"),
        *(SEARCHED, "its NFE", "set-up", "FID ± se", "confirmed ± se"),
        *("optimism ± error", "gap ± error", f"{SEARCHED} is"),
    )
    lines = [line(*names), "|--:|:--|--:|--:|:--|--:|--:|--:|--:|--:|--:|:--|"]
    for verdict in standings.verdicts():
        base, ours = verdict.baseline, verdict.searched
        theirs = ["–"] if base is None else [md(base.method) + spent(base)]
        mine = ["–"] * 3
        if ours is not None:
            name = f"{md(ours.row['name'])} [{md(ours.row['key'])}]"
            mine = [name, count(ours.row["nfe"]), count(ours.row["setup_nfe"])]
        optimism = signed(verdict.optimism.gap, verdict.optimism.error)
        told = [*theirs, *_scores(base), *mine, *_scores(ours), optimism, _gap(verdict), verdict.words]
        lines.append(line(str(verdict.budget), *told))
    return "\n".join(lines)


def _beside(standings: Standings) -> str:
    """The table of what was measured beside FID, with what it was measured on; empty where nothing was."""
    found = BesideTable.of(standings)
    if found is None:
        return ""
    lines = [line("", "method", "NFE", *found.names), "|:--|:--|--:|" + "--:|" * len(found.names)]
    lines += [line(row.role, md(row.name), count(row.nfe), *row.cells) for row in found.rows]
    notes = "\n".join(f"- {_md_light(note)}" for note in (INTRODUCTION, *found.notes))
    return f"#### {HEADING}\n\n" + "\n".join(lines) + f"\n\n{notes}"


def _scores(cell: Cell | None) -> tuple[str, str]:
    """Of the search and of the confirmation."""
    if cell is None:
        return "–", "–"
    return plain(cell.row), "–" if cell.confirmed is None else plain(cell.confirmed)


def _gap(verdict: Verdict) -> str:
    gap, _, error, paired = verdict.difference
    return signed(gap, error) + (" (unpaired)" if math.isfinite(error) and not paired else "")


def _verdict_line(standings: Standings) -> str:
    rows = [row for _, row in standings.group.iterrows()]
    lines = [
        f"{conditions(standings.group)}, ± its leave-one-out standard error ({groups_left_out(rows)}).",
        confirmed_line(standings),
        f"Gap: baseline minus {SEARCHED}, of bias-corrected FIDs, paired on the same shards, ± {INTERVAL}; of the "
        "confirmed ones where there are both, else of the search's own, which is said as unconfirmed. Better and worse "
        f"are called outside that interval, and {NEVER_WITHIN} of the baseline's FID.",
        f"Optimism: how much closer to the floor {SEARCHED} was on the seeds it was chosen by than on the "
        f"confirmation's (bias-corrected, paired with the floor, ± {INTERVAL}).",
    ]
    floor = standings.floor
    if floor is not None:
        again = standings.confirmed.get(floor["key"])
        lines.append(f"Floor: {plain(floor)}" + ("." if again is None else f", confirmed {plain(again)}."))
    return " ".join(lines)


def confirmed_line(standings: Standings) -> str:
    if not standings.confirmed:
        return "Nothing is confirmed yet."
    groups = groups_left_out(standings.confirmed.values())
    return f"Confirmed: {confirmed_conditions(standings)}, which chose nothing ({groups})."


def _notes(group: pd.DataFrame) -> str:
    row = group.iloc[0]
    ends = sorted({{"zero": "0", "sigma_min": "sigma_min"}.get(end, end) for end in group["terminal"] if end})
    revisions = sorted({name for name in group["revision"] if name})
    lines = [
        f"One reference ({row['reference'] or 'unknown'}, benchmark version {row['benchmark_version'] or 'unknown'}).",
        "NFE is counted at the network, per image. Set-up NFE is what placing the sigmas and taking a solver's "
        "decision cost once, per calibration image; it is not in NFE.",
        f"Methods end at sigma = {' or '.join(ends) or 'unknown'}.",
        f"Code revision: {', '.join(revisions) or 'unknown'}."
        + (" (`+`: with changes that are not committed.)" if any(name.endswith("+") for name in revisions) else ""),
    ]
    excluded = int((~group["feasible"]).sum())
    if excluded:
        lines.append(f"Trials that exceed a constraint, and so neither lead nor are on the front: {excluded}.")
    return "\n".join(f"- {_md_light(line)}" for line in lines)


def _rank_table(check: RankCheck) -> str:
    bands = [f"NFE {band_words(band)}" for band in check.bands]
    lines = [line("rung", "with the next rung", f"with {check.words(check.last)}", *bands)]
    lines.append("|:--|--:|--:|" + "--:|" * len(bands))
    for rung in check.rungs:
        following = check.correlation(rung, check.following(rung))
        whole = [check.correlation(rung, check.last, band) for band in (None, *check.bands)]
        lines.append(line(check.words(rung), *map(_rho, (following, *whole))))
    return "\n".join(lines)


def _rho(found: RankCorrelation) -> str:
    return f"{found.rho:.2f} ({found.n})" if math.isfinite(found.rho) else f"– ({found.n})"


def _rank_line(check: RankCheck) -> str:
    return (
        "Spearman's rank correlation (number of distinct plans) of each rung with the next one and with all images, "
        "over the searched trials and baselines that reached both; FIDs are bias-corrected. 1: the rung puts plans in "
        "the order that all images do. More evaluations are better on every rung, which raises the correlation over "
        "all plans: the bands of NFE say how equals in cost are ranked. Stopped trials are missing from later rungs. "
        f"Not told of fewer than {LEAST_PLANS} plans, nor within a band of fewer than {LEAST_IN_BAND}."
    )


def _warnings(check: RankCheck) -> list[str]:
    return [
        f"**Warning**: {check.told(found)}. Below {TRUSTED:g}, this rung may have stopped good trials."
        for found in check.doubtful()
    ]


def _cost(frame: pd.DataFrame, budgets: Sequence[int]) -> str:
    cost = Cost.of(frame, budgets[-1] if budgets else math.inf)
    stopped = ", ".join(f"{rung_words(rung)} {number}" for rung, number in cost.stopped.items()) or "none"
    rows = ", ".join(f"{part} {_rows(number)}" for part, number in cost.rows.items())
    full = f"The {cost.trials} searched trials at full size, each on its own: {_rows(cost.full_size)} network rows"
    if math.isfinite(cost.share):
        full += f"; they took {100 * cost.share:.3g} % of that"
    lines = [
        f"Trials stopped, by rung: {stopped}. (`plan`: before anything was sampled.)",
        f"Network rows: {rows}."
        + (" The fine solve that the teacher's rung compares with is in none." if frame[TEACHER].notna().any() else ""),
        f"{full}. (NFE times images, and the set-up where it is known; trials beyond the last budget or a constraint "
        "are not sampled in either.)",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _rows(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else "unknown"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def md(text: str) -> str:
    """Text that Markdown and the HTML in it show as it is, on one line of a table."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def _md_light(text: str) -> str:
    return html.escape(text, quote=False)
