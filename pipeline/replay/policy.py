"""Search methods and pruning rules compared on one table: what they cost, and what they find."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from pipeline.agenda import leaders
from pipeline.comparison import verdict
from pipeline.ledger import Ledger, Stopped
from pipeline.replay.pool import TableScoring, VirtualPool
from pipeline.replay.table import Measured, Table
from pipeline.result import TrialRecord
from pipeline.search import Search
from pipeline.yaml_file import mistake
from reports.pareto import hypervolume
from search_spaces import Study

SEARCHED = ("published", "searched")


@dataclass(frozen=True)
class Policy:
    """A way to search: who proposes, whether rungs stop trials, and how the proposer is told of those."""

    optimizer: str = "tpe"
    rungs: bool = True
    stopped: Stopped = "pruned"

    @property
    def name(self) -> str:
        """In a few words."""
        return f"{self.optimizer}, " + (f"rungs, told as {self.stopped}" if self.rungs else "all at full size")


@dataclass(frozen=True)
class Run:
    """One search by a policy. `rows`: network rows of its searched trials and the teacher.

    `hypervolume` is that of the front's (log NFE, log FID), FID at all images and from the floor up, below the study's
    last budget and the worst plan at the first one. `winners`: the plan that leads within each budget. `stopped`:
    trials by the rung that stopped them. `seconds` are virtual.
    """

    rows: int
    hypervolume: float
    winners: Mapping[int, Measured]
    stopped: Mapping[str, int]
    seconds: float


@dataclass
class Comparison:
    """Runs of a policy beside those of the reference with the same seeds."""

    policy: Policy
    runs: list[Run] = field(default_factory=list)

    def rows_share(self, reference: Sequence[Run]) -> float:
        """Network rows as a share of the reference's; median over seeds."""
        pairs = zip(self.runs, reference, strict=True)
        return statistics.median(_share(run.rows, other.rows) for run, other in pairs)

    def hypervolume_share(self, reference: Sequence[Run]) -> list[float]:
        """Hypervolume as a share of the reference's, one a seed, rising."""
        pairs = zip(self.runs, reference, strict=True)
        return sorted(_share(run.hypervolume, other.hypervolume) for run, other in pairs)

    def winners(self, reference: Sequence[Run]) -> dict[str, int]:
        """How many winners, over budgets and seeds, are the reference's own plan, better, inconclusive or worse.

        On seeds that no search saw, paired; on the search's own where the table has no such score.
        """
        words: dict[str, int] = {"same": 0, "better": 0, "inconclusive": 0, "worse": 0}
        for run, other in zip(self.runs, reference, strict=True):
            for budget in sorted(run.winners.keys() | other.winners.keys()):
                words[_compared(run.winners.get(budget), other.winners.get(budget))] += 1
        return words


def _share(ours: float, reference: float) -> float:
    return ours / reference if reference else 1.0  # all of nothing


def _compared(ours: Measured | None, theirs: Measured | None) -> str:
    if theirs is None or ours is None:
        return "better" if theirs is None else "worse"
    if ours.digest == theirs.digest:
        return "same"
    if ours.confirmed is not None and theirs.confirmed is not None:
        return verdict(ours.confirmed, theirs.confirmed)
    # What was not confirmed lies far behind the front, and the search's own seeds tell it from what does not.
    return verdict(ours.scores[-1], theirs.scores[-1])


def study_of(table: Table, overrides: Mapping[str, Any]) -> Study:
    """The table's study with some of its keys replaced; nothing is confirmed in a replay.

    Raises:
        SpecError: they make no study.
    """
    try:
        return Study.model_validate(table.study | {"confirm": "none", "metrics": []} | dict(overrides))
    except ValidationError as error:
        raise mistake(error, Study) from None


def run(table: Table, policy: Policy, seed: int, trials: int | None = None, workers: int | None = None) -> Run:
    """Search the table once.

    Raises:
        SpecError: the table lacks what the study asks for.
    """
    held = dict(table.study.get("optimizer", {}))
    overrides: dict[str, Any] = {
        "optimizer": held | {"name": policy.optimizer, "seed": seed, "stopped": policy.stopped}
    }
    if not policy.rungs:
        overrides["rungs"] = "none"
    overrides |= {name: value for name, value in (("trials", trials), ("workers", workers)) if value is not None}
    study = study_of(table, overrides)
    pool = VirtualPool(table, max(1, study.workers))
    startup = study.optimizer.startup + len(study.published_points)
    ledger = Ledger(None, study.study, study.draw, policy.optimizer, seed, startup, policy.stopped)
    Search(study, ledger, lambda: pool, TableScoring(table, study.first_seed), _sigma_range(table)).run()
    return _judged(table, study, policy, ledger.records(), pool.clock)


def _judged(table: Table, study: Study, policy: Policy, records: Sequence[TrialRecord], seconds: float) -> Run:
    searched = [record for record in records if record.role in SEARCHED]
    most, images = study.budgets[-1], study.images
    if policy.rungs:
        teacher = study.teacher_images * table.find(study.floor_spec()).plan.nfe
        rows = teacher + sum(record.evidence.spent_rows for record in searched if record.evidence is not None)
    else:  # every trial pays its own set-up and all its images, whoever had the plan before
        rows = sum(whole_price(record, images, most) for record in searched)
    stopped: dict[str, int] = {}
    for record in searched:
        if record.state == "pruned" and record.evidence is not None:
            rung = _rung(record)
            stopped[rung] = stopped.get(rung, 0) + 1
    scored = [record for record in searched if record.result is not None]
    floor = table.find(study.floor_spec()).plan.scores[-1].fid
    area = front_area(scored, floor, _corner(table, study))
    return Run(rows, area, _winners(table, study, scored), stopped, seconds)


def whole_price(record: TrialRecord, images: int, most: int) -> int:
    """Network rows of a trial that pays its own set-up and all images, whatever others had found out before."""
    evidence, result = record.evidence, record.result
    if evidence is None:
        return 0
    return (result.setup_rows if result else 0) + (evidence.nfe * images if evidence.nfe <= most else 0)


def _rung(record: TrialRecord) -> str:
    assert record.evidence is not None
    if record.evidence.scores:
        return f"{record.evidence.scores[-1].images}"
    return "teacher" if record.evidence.teacher is not None else "plan"


def _corner(table: Table, study: Study) -> tuple[float, float]:
    """The point that hypervolumes are measured from: past the last budget, at the worst plan of the first."""
    scores = []
    for entry in table:
        if entry.plan.nfe <= study.budgets[0]:
            scores.append(entry.plan.scores[-1].fid)
    return study.budgets[-1] + 1.0, max(scores, default=1.0)


def front_area(records: Sequence[TrialRecord], floor: float, corner: tuple[float, float]) -> float:
    """Hypervolume of the searched trials' (log NFE, log FID), FID at all images, seen from `corner` (NFE, FID).

    Below the floor there is nothing but luck, so a lower FID counts as the floor's.
    """
    results = [record.result for record in records if record.role in SEARCHED and record.result is not None]
    held = [(math.log(result.nfe), math.log(max(result.fid, floor, 1e-12))) for result in results]
    return hypervolume(held, (math.log(corner[0]), math.log(corner[1])))


def _winners(table: Table, study: Study, scored: Sequence[TrialRecord]) -> dict[int, Measured]:
    found = {}
    front = [record for record in leaders(scored, []) if record.result is not None]
    for budget in study.budgets:
        within = [record for record in front if record.result is not None and record.result.nfe <= budget]
        if within:
            best = min(within, key=lambda record: _fid(record))
            assert best.result is not None
            found[budget] = table.measured(best.result.plan)
    return found


def _fid(record: TrialRecord) -> float:
    assert record.result is not None
    return record.result.score.ranked


def _sigma_range(table: Table) -> tuple[float, float]:
    low, high = table.about["sigma_range"]
    return float(low), float(high)
