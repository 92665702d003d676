"""A trial on its way through a search, and where the search stands."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pipeline.comparison import Estimate
from pipeline.evidence import Evidence, TeacherDistance
from pipeline.metrics.distances import Part
from pipeline.metrics.scores import Score
from pipeline.panel import Panel, Portion
from pipeline.plan import Plan
from pipeline.pruning import Stop
from pipeline.result import Role, TrialResult
from pipeline.trial import Prepared, ShardResult, TrialSpec

if TYPE_CHECKING:
    from optuna.trial import Trial


class Fate(NamedTuple):
    """What became of a plan, and of the trial `key` that it was first met in: scored, or stopped for a reason."""

    key: str
    evidence: Evidence
    result: TrialResult | None = None
    stop: Stop | None = None


@dataclass
class Status:
    """Where the search stands. `total` counts searched trials, measured baselines and confirmations alike.

    `rows` are the network rows spent so far, `rows_left` an estimate of those to come.
    """

    total: int
    done: int = 0
    running: int = 0
    failed: int = 0
    stopped: int = 0
    rows: int = 0
    rows_left: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """From the rate of network rows so far; None while there is no rate."""
        return self.rows_left * self.seconds / self.rows if self.rows else None


@dataclass
class Job:
    """A trial on its way: its spec, what it has so far, and for a searched one Optuna's handle.

    `rung` is the number of images that it is being scored on, None while there is no such number. `final` is Optuna's
    number of a trial that has waited since it was told; it goes on to `goal` images. `paid` images are in `spent_rows`
    already, from before it waited or the driver was killed. `parts` are what workers measure for its rung's score, with
    the `distances` that have come. `panel`: metrics beside FID, each measured on its one of `portions`, with the scores
    `beside` that have come.
    """

    key: str
    role: Role
    spec: TrialSpec
    number: int
    method: str = ""
    budget: int | None = None
    trial: Trial | None = None
    confirms: str = ""
    final: int | None = None
    goal: int = 0
    prepared: Prepared | None = None
    teacher: TeacherDistance | None = None
    rung: int | None = None
    shards: list[ShardResult] = field(default_factory=list)
    scores: list[Estimate] = field(default_factory=list)
    spent_rows: int = 0
    paid: int = 0
    parts: list[Part] = field(default_factory=list)
    distances: dict[int, float] = field(default_factory=dict)
    panel: Panel | None = None
    portions: list[Portion] = field(default_factory=list)
    beside: dict[int, dict[str, Score]] = field(default_factory=dict)

    def recall(self, evidence: Evidence) -> None:
        """Take up what was known of it before it waited, or before the driver was killed."""
        self.teacher, self.scores, self.spent_rows = evidence.teacher, list(evidence.scores), evidence.spent_rows
        self.paid = evidence.scores[-1].images if evidence.scores else 0

    @property
    def measured(self) -> bool:
        """Whether all that workers measure for its rung's score has come."""
        return len(self.distances) == len(self.parts) and len(self.beside) == len(self.portions)

    @property
    def searched(self) -> bool:
        """Whether Optuna waits for it, so that a rung may stop it."""
        return self.trial is not None

    @property
    def plan(self) -> Plan:
        """Its plan, once it is prepared."""
        assert self.prepared is not None
        return self.prepared.plan

    @property
    def nfe(self) -> int:
        """Network rows that one of its images takes, once it is prepared."""
        assert self.prepared is not None
        return self.prepared.nfe

    @property
    def evidence(self) -> Evidence:
        """What is known of it by now."""
        assert self.prepared is not None
        held = self.prepared.setup_nfe, self.teacher, tuple(self.scores), self.spent_rows
        return Evidence(self.plan.digest, self.nfe, *held)

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds of one worker an image, the median over shards; None before any was sampled."""
        each = sorted(1000 * shard.seconds / len(shard.seeds) for shard in self.shards)
        return each[len(each) // 2] if each else None
