"""What comes of a trial: its result, its record in a study, and its name in a few words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline.comparison import Estimate
from pipeline.evidence import Evidence
from pipeline.metrics.scores import Score
from pipeline.plan import Plan
from pipeline.provenance import git_revision, versions
from pipeline.trial import TrialSpec

Role = Literal["floor", "baseline", "published", "searched", "confirmed"]
State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TrialResult:
    """A trial scored on all its images: everything that a report prints about it, and the plan itself.

    `score` is at `spec.images` images; `fid_infinity` its extrapolation to infinitely many, where there are shards
    enough. `setup_rows` and `setup_nfe` are the method's own, also where they were recalled and cost nothing. `seconds`
    is worker time, summed over shards. `metrics`: what else was measured of the same images, by name.
    """

    spec: TrialSpec
    plan: Plan
    solver: Mapping[str, Any]
    score: Estimate
    fid_infinity: float | None
    nfe: float
    setup_nfe: float
    setup_rows: int
    rows: int
    seconds: float
    benchmark_version: int
    reference_hash: str
    model_hash: str
    walk: tuple[Mapping[str, Any], ...] = ()
    metrics: Mapping[str, Score] = field(default_factory=dict)
    git_revision: str = field(default_factory=git_revision)
    versions: Mapping[str, str] = field(default_factory=versions)

    @property
    def fid(self) -> float:
        """FID at `spec.images` images, biased up by about B / images."""
        return self.score.fid

    @property
    def fid_se(self) -> float:
        """Its leave-one-out standard error."""
        return self.score.se

    @property
    def fid_corrected(self) -> float:
        """FID with the bias of the number of images taken off."""
        return self.score.corrected

    @property
    def rows_per_image(self) -> int:
        """Network rows of one evaluation of an image: 2 of a guided network."""
        return round(self.nfe / len(self.plan)) if len(self.plan) else 1

    @property
    def images_per_second(self) -> float:
        """Images a second of one worker."""
        return self.spec.images / self.seconds if self.seconds else math.nan

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` gives an equal result."""
        value = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "metrics"}
        metrics = {"metrics": {name: score.to_json() for name, score in self.metrics.items()}} if self.metrics else {}
        return (
            value
            | metrics
            | {
                "spec": self.spec.to_json(),
                "plan": self.plan.to_json(),
                "solver": dict(self.solver),
                "score": asdict(self.score),
                "walk": [dict(step) for step in self.walk],
                "versions": dict(self.versions),
            }
        )

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TrialResult:
        """Read a result back."""
        held = {name: value[name] for name in TrialResult.__dataclass_fields__ if name != "metrics"}
        metrics = {name: Score.from_json(held) for name, held in value.get("metrics", {}).items()}
        score = value["score"] | {"leave_one_out": tuple(value["score"]["leave_one_out"])}
        read = {"spec": TrialSpec.from_json(value["spec"]), "plan": Plan.from_json(value["plan"])}
        read["metrics"] = metrics
        return TrialResult(**held | read | {"score": Estimate(**score), "walk": tuple(held["walk"])})


@dataclass(frozen=True)
class TrialRecord:
    """One line of a study: what the truth (Optuna's storage) holds of a trial, and all that MLflow is told.

    `key` names it within its study for ever, e.g. "searched/17" or "baseline/ipndm/8". `budget` is the NFE that a
    baseline was run for. A pruned or failed trial has a reason and no result; one that a rung stopped has the evidence
    that stopped it. A trial whose plan equals an earlier one's shares its result and names it in `same_as`.
    `constraints`: by how much each is exceeded, feasible where all are 0 or less. `confirms` names the trial that this
    one scores again, on seeds that the search never saw. `waiting`: it came through the rungs but for the last one,
    which is for the end of the search.
    """

    key: str
    role: Role
    state: State
    method: str
    result: TrialResult | None = None
    budget: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    same_as: str = ""
    evidence: Evidence | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)
    confirms: str = ""
    waiting: bool = False

    @property
    def feasible(self) -> bool:
        """Whether no constraint is exceeded."""
        return all(value <= 0 for value in self.constraints.values())


def describe(spec: TrialSpec | TrialResult) -> str:
    """A method in a few words: solver, where it switches, schedule and its moves, what the loop adds.

    What is SDM's begins with its name: its schedule is the Wasserstein-bounded one, "wasserstein" here.
    """
    asked = spec if isinstance(spec, TrialSpec) else spec.spec
    solver, name = _solver_words(spec.solver), str(asked.schedule.get("name", "?"))
    steps = asked.schedule.get("num_steps")
    words = f"{solver} {'wasserstein' if name == 'sdm' else name}{'' if steps is None else f' {steps}'}"
    if name == "sdm" or ">" in solver:
        words = f"sdm {words}"
    if asked.denoise_to_zero:
        words += " to 0"
    if asked.afs:
        words += " · afs"
    if asked.churn is not None:
        words += f" · churn {asked.churn.get('s_churn', math.nan):.3g}"
    return words


def _solver_words(solver: Mapping[str, Any]) -> str:
    name = str(solver.get("name", "?"))
    if name != "switch":
        order = solver.get("order")
        return f"{name}{'' if order is None else f'-{order}'}"
    low, high = (
        _solver_words(solver.get(key, {"name": default})) for key, default in (("low", "euler"), ("high", "heun"))
    )
    if low == high:
        return low
    rule = solver.get("rule", "step")
    at = solver.get("switch_at")
    return f"{low}>{high}" + (f"@{at}" if rule == "step" and at is not None else "" if rule == "step" else f" {rule}")
