"""The same tables for a paper: booktabs, with every character of a name made harmless."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.numbers import (
    NEVER_WITHIN,
    concise,
    conditions,
    confirmed_conditions,
    count,
    floor_sentence,
    groups_left_out,
    setup,
    signed,
    spent,
)
from reports.standings import Cell, Standings, standings

ESCAPED_IN_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "·": r"\textperiodcentered{}",
    "±": r"$\pm$",
    "–": "--",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def latex(frame: pd.DataFrame, budgets: Sequence[int] | None = None) -> str:
    r"""Two booktabs tables a group, for `\input`; errors in brackets, in units of the last digit."""
    parts = [make(each) for each in standings(frame, budgets) for make in (_main_table, _verdict_table)]
    return "\n".join(parts)


def _main_table(standings: Standings) -> str:
    budgets, group = standings.budgets, standings.group
    caption = (
        f"{tex(conditions(group))} on {tex(group.iloc[0]['benchmark'])}, within each NFE budget. In round brackets "
        f"the leave-one-out standard error of the last digits ({_groups(standings)}), in square brackets the NFE taken "
        r"where less than the budget. Bold: lowest. $\sim$: inconclusive, not to be told from the lowest "
        rf"(bias-corrected FIDs, paired on the same shards, 95\,\%, {tex(NEVER_WITHIN)}). "
        + tex(floor_sentence(standings))
    )
    lines = [*_opening("table", r"\small", caption, f"lr{'r' * len(budgets)}")]
    lines += [_line("method", "set-up", *map(str, budgets)), r"\midrule"]
    floor = standings.floor
    if floor is not None:
        name = f"floor: {floor['method']} ({count(floor['nfe'])} NFE)"
        lines += [_line(tex(name), count(floor["setup_nfe"]), *[concise(floor)] * len(budgets)), r"\midrule"]
    for method, role in standings.methods:
        cells = [standings.cells.get((method, role, budget)) for budget in budgets]
        lines.append(_line(tex(method), tex(setup(cells)), *map(_cell, cells)))
    at_floor = [verdict.at_floor for verdict in standings.verdicts()]
    if any(at_floor):
        lines.append(_line("best baseline is", "", *("at the floor" if held else "" for held in at_floor)))
    return "\n".join([*lines, *closing("table")])


def _verdict_table(standings: Standings) -> str:
    confirmed = confirmed_conditions(standings)
    caption = (
        f"The best baseline and the search within each NFE budget: {tex(conditions(standings.group))}, and confirmed"
        + (f" ({tex(confirmed)})" if confirmed else " (nothing is)")
        + f", each with its leave-one-out standard error ({_groups(standings)}). Gap: baseline minus searched, of "
        r"bias-corrected FIDs, paired on the same shards, $\pm$ the half-width of its 95\,\% interval; of the "
        "confirmed ones where there are both. Optimism: how much closer to the floor the searched one was "
        "on the seeds it was chosen by than on the confirmation's."
    )
    names = ("NFE", "best baseline", "FID", "confirmed", "searched", "NFE", "set-up", "FID", "confirmed")
    lines = [*_opening("table*", r"\scriptsize", caption, "rlrrlrrrrrrl")]
    lines += [_line(*names, "optimism", "gap", "searched is"), r"\midrule"]
    for verdict in standings.verdicts():
        base, ours = verdict.baseline, verdict.searched
        theirs = "--" if base is None else tex(base.method + spent(base))
        mine = ["--"] * 3
        if ours is not None:
            mine = [tex(ours.row["key"]), count(ours.row["nfe"]), count(ours.row["setup_nfe"])]
        optimism = tex(signed(verdict.optimism.gap, verdict.optimism.error))
        gap = tex(signed(verdict.difference.gap, verdict.difference.error))
        told = [theirs, *_scores(base), *mine, *_scores(ours), optimism, gap, tex(verdict.words)]
        lines.append(_line(str(verdict.budget), *told))
    return "\n".join([*lines, *closing("table*")])


def _opening(environment: str, size: str, caption: str, columns: str) -> list[str]:
    return [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{{environment}}}",
        rf"\centering{size}\setlength{{\tabcolsep}}{{3pt}}",
        rf"\caption{{{caption.strip()}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
    ]


def closing(environment: str) -> list[str]:
    return [r"\bottomrule", r"\end{tabular}", rf"\end{{{environment}}}", ""]


def _line(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _groups(standings: Standings) -> str:
    return groups_left_out(row for _, row in standings.group.iterrows())


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    text = concise(cell.row)
    if cell.winner:
        text = rf"\textbf{{{text}}}"
    if cell.tied:
        text += r"$\sim$"
    return text + spent(cell).replace(" (", "~[").replace(")", "]")


def _scores(cell: Cell | None) -> tuple[str, str]:
    """Of the search and of the confirmation."""
    if cell is None:
        return "--", "--"
    return concise(cell.row), "--" if cell.confirmed is None else concise(cell.confirmed)


def tex(text: str) -> str:
    printable = (character for character in " ".join(text.split()) if character.isprintable())
    return "".join(ESCAPED_IN_LATEX.get(character, character) for character in printable)
