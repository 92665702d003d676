"""The same tables for a paper: booktabs, with every character of a name made harmless."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.numbers import concise, conditions, count, setup, spent
from reports.record import groups
from reports.standings import Cell, Standings

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
} | {character: f"\\{character}" for character in "&%$#_{}"}


def latex(frame: pd.DataFrame, budgets: Sequence[int] | None = None) -> str:
    r"""One booktabs table a group, for `\input`; errors in brackets, in units of the last digit."""
    return "\n".join(_latex_table(group, Standings(group, budgets)) for group in groups(frame))


def _latex_table(group: pd.DataFrame, standings: Standings) -> str:
    budgets = standings.budgets
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_tex(conditions(group))} on {_tex(group.iloc[0]['benchmark'])}, within each NFE budget. In round "
        r"brackets the leave-one-shard-out standard error of the last digits, in square brackets the NFE taken where "
        r"less than the budget. Bold: lowest. $\sim$: inconclusive, within the error of the lowest.}",
        rf"\begin{{tabular}}{{lr{'r' * len(budgets)}}}",
        r"\toprule",
        " & ".join(["method", "set-up", *map(str, budgets)]) + r" \\",
        r"\midrule",
    ]
    floor = standings.floor
    if floor is not None:
        name = f"floor: {floor['method']} ({count(floor['nfe'])} NFE)"
        lines.append(" & ".join([_tex(name), count(floor["setup_nfe"]), *[concise(floor)] * len(budgets)]) + r" \\")
        lines.append(r"\midrule")
    for method, role in standings.methods:
        cells = [standings.cells.get((method, role, budget)) for budget in budgets]
        cost = setup(cells).replace("–", "--")
        lines.append(" & ".join([_tex(method), cost, *map(_latex_cell, cells)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    text = concise(cell.row)
    if cell.winner:
        text = rf"\textbf{{{text}}}"
    if cell.tied:
        text += r"$\sim$"
    return text + spent(cell).replace(" (", "~[").replace(")", "]")


def _tex(text: str) -> str:
    printable = (character for character in " ".join(text.split()) if character.isprintable())
    return "".join(ESCAPED_IN_LATEX.get(character, character) for character in printable)
