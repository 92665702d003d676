"""Numbers as a report prints them: an FID with its error, an NFE, what was measured on what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from pipeline.comparison import RESOLUTION
from reports.standings import Cell, Standings

NEVER_WITHIN = f"never within {100 * RESOLUTION:g} %"


def with_error(fid: float, se: float) -> tuple[str, str]:
    """FID and its error as text, the error to two digits and the FID to the same place; a negative FID shows as 0.

    No more than the six digits of an FID that the record holds.
    """
    fid = max(fid, 0.0)
    if not (math.isfinite(se) and se > 0):
        return f"{fid:.4g}", "?" if not math.isfinite(se) else "0"
    places = max(0, 1 - math.floor(math.log10(se)))
    if fid > 0:
        places = min(places, max(0, 5 - math.floor(math.log10(fid))))
    return f"{fid:.{places}f}", f"{se:.{places}f}"


def signed(value: float, error: float) -> str:
    """A difference of FIDs ± its error; a dash where it is unknown."""
    if not math.isfinite(value):
        return "–"
    size, width = with_error(abs(value), error)
    return ("-" if value < 0 and float(size) else "") + f"{size} ± {width}"


def spent(cell: Cell) -> str:
    """The measured NFE in brackets where it is not the whole budget."""
    return "" if float(cell.row["nfe"]) == cell.budget else f" ({count(cell.row['nfe'])})"


def plain(row: pd.Series[Any]) -> str:
    """FID ± se."""
    return " ± ".join(with_error(float(row["fid"]), float(row["fid_se"])))


def setup(cells: Sequence[Cell | None]) -> str:
    """The set-up NFE of a method: one number, or the range over its budgets."""
    held = sorted({float(cell.row["setup_nfe"]) for cell in cells if cell is not None})
    return "–".join(dict.fromkeys((count(held[0]), count(held[-1])))) if held else "–"


def concise(row: pd.Series[Any]) -> str:
    """FID with its error in units of the last digit: 0.0912(13); as it is where it reaches 1."""
    fid, se = with_error(float(row["fid"]), float(row["fid_se"]))
    small = se.startswith("0.")
    return f"{fid}({se.replace('.', '').lstrip('0') if small else se})"


def count(value: float) -> str:
    """A count that need not be whole, in as few digits as it takes."""
    return "?" if pd.isna(value) else f"{float(value):g}"


def conditions(group: pd.DataFrame) -> str:
    """What all FIDs of a group were measured on, e.g. "FID at 8,000 images, seeds 0-7999"."""
    return _measured(group.iloc[0])


def confirmed_conditions(standings: Standings) -> str:
    """The same of the confirmations; empty where there are none."""
    return " or ".join(dict.fromkeys(_measured(row) for row in standings.confirmed.values()))


def groups_left_out(rows: Iterable[pd.Series[Any]]) -> str:
    """How many groups of shards the standard errors are made of, e.g. "25 groups"."""
    held = sorted({len(row["leave_one_out"]) for row in rows} - {0})
    return f"{'-'.join(map(str, held))} groups" if held else "of unknown number"


def floor_sentence(standings: Standings) -> str:
    """Where the best baseline cannot be told from the fine solve; empty where it always can."""
    verdicts = list(standings.verdicts())
    held = [verdict.budget for verdict in verdicts if verdict.at_floor]
    if not held:
        return ""
    if held == [verdict.budget for verdict in verdicts[-len(held) :]]:
        where = f"From {held[0]} evaluations on"
    else:
        where = f"At {', '.join(map(str, held))} evaluations"
    return f"{where} the best baseline cannot be told from the fine solve: nothing is ranked there."


def _measured(row: pd.Series[Any]) -> str:
    if pd.isna(row["images"]) or pd.isna(row["first_seed"]):
        return "FID"
    first, images = int(row["first_seed"]), int(row["images"])
    return f"FID at {images:,} images, seeds {first}-{first + images - 1}"
