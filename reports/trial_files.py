"""What was kept with the trials, read with care: a file may be missing, cut short, foreign or hostile."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.store import CARD, SAMPLES, STEPS
from reports.artifacts import Artifacts
from reports.numbers import count
from reports.record import complete, ranked
from reports.standings import Standings

MOST_SIGMAS = 4096


@dataclass(frozen=True)
class Card:
    """What a page needs of a trial's card: its sigmas, falling, and where it came from."""

    sigmas: tuple[float, ...]
    versions: Mapping[str, str]
    model_hash: str


@dataclass(frozen=True)
class Step:
    """One evaluation along the path; kappa, eta and the next sigma are nan where they are not defined."""

    evaluation: str
    sigma: float
    sigma_next: float
    solver: str
    kappa: float
    eta: float


@dataclass(frozen=True)
class Schedule:
    """Where one method puts its sigmas. `method`: the baseline's name, empty for the searched one."""

    name: str
    method: str
    nfe: float
    sigmas: tuple[float, ...]


class TrialFiles:
    """The files of a record's trials. A trial without one has that of another run of the same plan, if there is one."""

    def __init__(self, frame: pd.DataFrame, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        scored = complete(frame)
        scored = scored[scored["plan"].ne("")]
        self._runs = {str(plan): [str(run) for run in rows["run_id"]] for plan, rows in scored.groupby("plan")}
        self._cards: dict[str, Card | None] = {}

    def card(self, row: pd.Series[Any]) -> Card | None:
        """Its card, if there is one that can be read."""
        run = str(row["run_id"])
        if run not in self._cards:
            content = self._content(row, CARD)
            self._cards[run] = None if content is None else _card(content)
        return self._cards[run]

    def steps(self, row: pd.Series[Any]) -> list[Step]:
        """Its steps, none where they are not there or cannot be read."""
        content = self._content(row, STEPS)
        return [] if content is None else _steps(content)

    def samples(self, row: pd.Series[Any]) -> bytes | None:
        """Its sample grid, or whatever else has its name."""
        return self._content(row, SAMPLES)

    def schedules(self, standings: Standings, budget: int) -> tuple[list[Schedule], list[str]]:
        """Those of the best of each method within a budget, the searched one first, then by FID.

        Beside them the names of the methods without a card that can be read.
        """
        cells = [cell for cell in standings.at(budget) if cell.role in ("searched", "baseline")]
        fids = ranked(pd.DataFrame([cell.row for cell in cells])).tolist() if cells else []
        order = sorted(range(len(cells)), key=lambda k: (cells[k].role != "searched", fids[k], cells[k].method))
        found, lacking = [], []
        for cell in (cells[k] for k in order):
            card, ours = self.card(cell.row), cell.role == "searched"
            name = short_name(cell.row) if ours else cell.method
            if card is None:
                lacking.append(name)
            else:
                found.append(Schedule(name, "" if ours else cell.method, float(cell.row["nfe"]), card.sigmas))
        return found, lacking

    @property
    def cards(self) -> list[Card]:
        """Those that have been read so far."""
        return [card for card in self._cards.values() if card is not None]

    def _content(self, row: pd.Series[Any], name: str) -> bytes | None:
        for run in dict.fromkeys([str(row["run_id"]), *self._runs.get(str(row["plan"]), [])]):
            content = self._artifacts.get(run, name)
            if content is not None:
                return content
        return None


def short_name(row: pd.Series[Any]) -> str:
    """A trial's name without the NFE, for where that stands beside it."""
    return str(row["name"]).removesuffix(f" · {count(row['nfe'])} NFE")


def _card(content: bytes) -> Card | None:
    try:
        value = json.loads(content)
        sigmas = tuple(float(sigma) for sigma in value["plan"]["sigmas"])
        versions = {str(name): str(version) for name, version in dict(value.get("versions", {})).items()}
        model = str(value["benchmark"].get("model_hash", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    finite = all(math.isfinite(sigma) and sigma >= 0 for sigma in sigmas)
    return Card(sigmas, versions, model) if finite and 0 < len(sigmas) <= MOST_SIGMAS else None


def _steps(content: bytes) -> list[Step]:
    try:
        rows = list(csv.DictReader(io.StringIO(content.decode())))[:MOST_SIGMAS]
        return [
            Step(
                str(row["evaluation"]), _number(row["sigma"]), _number(row["sigma_next"]), str(row["solver"]),
                _number(row["kappa"]), _number(row["eta"]),
            )
            for row in rows
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError, csv.Error):
        return []


def _number(text: str | None) -> float:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else math.nan
