"""What MLflow is told of one trial: its name, params, metrics, tags and card, all of it a function of the trial."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import store
from pipeline.card import card, card_text
from pipeline.result import describe

if TYPE_CHECKING:
    from pipeline.evidence import Evidence
    from pipeline.result import TrialRecord, TrialResult

GROUP_DIGITS = 10  # differences of these are taken
METRIC_DIGITS = 6  # MLflow's table shows all digits it is given; the card holds them all
REASON_CHARACTERS = 500
STATUS = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}


@dataclass(frozen=True)
class Entry:
    """What MLflow is told of one trial. Equal entries are one entry: `digest` names the content."""

    name: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    card: str

    @staticmethod
    def of(record: TrialRecord) -> Entry:
        """The entry of a trial; one that was pruned or failed has neither metrics nor a card."""
        result, evidence = record.result, record.evidence
        params = _flat("searched", dict(record.params))
        tags = {
            store.KEY: record.key,
            store.ROLE: record.role,
            store.STATE: record.state,
            store.METHOD: record.method,
            store.BUDGET: "" if record.budget is None else str(record.budget),
            store.SAME_AS: record.same_as,
            store.REASON: record.reason[:REASON_CHARACTERS],
            store.CONFIRMS: record.confirms,
            store.FEASIBLE: "" if record.feasible else "false",
            store.PLAN: "" if evidence is None else evidence.digest,
        }
        metrics = {} if evidence is None else _climbed(evidence)
        if result is None:
            name, text = f"{record.method} · {record.state}", ""
            tags[store.STOPPED_AT] = _stopped_at(record)
        else:
            name = f"{describe(result)} · {result.nfe:g} NFE" + (" · confirmed" if record.confirms else "")
            metrics |= _metrics(result)
            text = card_text(card(result))
            params |= _params(result)
            tags |= {
                store.PLAN: result.plan.digest,
                store.REFERENCE: result.reference_hash,
                store.VERSION: str(result.benchmark_version),
                store.REVISION: result.git_revision,
                store.LEAVE_ONE_OUT: json.dumps(
                    [_rounded(value, GROUP_DIGITS) for value in result.score.leave_one_out]
                ),
            }
        return Entry(name, STATUS[record.state], params, metrics, {k: v for k, v in tags.items() if v != ""}, text)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of everything in it."""
        # The card is read back because key order is not content: a result may have been through a storage.
        held = json.loads(self.card) if self.card else None
        content = [self.name, self.status, self.params, self.metrics, self.tags, held]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _metrics(result: TrialResult) -> dict[str, float]:
    exact = {
        "fid": result.fid,
        "fid_se": result.fid_se,
        "fid_corrected": result.fid_corrected,
        "nfe": result.nfe,
        "setup_nfe": result.setup_nfe,
        "setup_rows": result.setup_rows,
        "images": result.spec.images,
        "images_per_s": result.images_per_second,
        "network_rows": result.rows,
        "worker_seconds": result.seconds,
    }
    if result.fid_infinity is not None:
        exact["fid_infinity"] = result.fid_infinity
    return _finite(exact)


def _climbed(evidence: Evidence) -> dict[str, float]:
    """What the rungs said: distances to the teacher, and the corrected FID at each number of images."""
    exact: dict[str, float] = {
        "nfe": evidence.nfe,
        "setup_nfe": evidence.setup_nfe,
        "spent_rows": evidence.spent_rows,
    }
    if evidence.teacher is not None:
        exact["teacher_distance"] = evidence.teacher.mean
        exact["teacher_distance_se"] = evidence.teacher.se
        exact["teacher_distance_pixels"] = evidence.teacher.mean_pixels
    return _finite(exact | {f"{store.FID_AT}{score.images}": score.corrected for score in evidence.scores})


def _finite(exact: Mapping[str, float]) -> dict[str, float]:
    """Counts stay whole however large; the rest is rounded for reading."""
    return {
        name: float(value) if isinstance(value, int) else _rounded(value, METRIC_DIGITS)
        for name, value in exact.items()
        if math.isfinite(value)
    }


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _stopped_at(record: TrialRecord) -> str:
    """The last rung of a trial that one stopped: its images, or the teacher's."""
    evidence = record.evidence
    if record.state != "pruned" or evidence is None:
        return ""
    if evidence.scores:
        return str(evidence.scores[-1].images)
    return "teacher" if evidence.teacher is not None else "plan"


def _params(result: TrialResult) -> dict[str, str]:
    spec = result.spec
    flat = _flat("solver", dict(result.solver)) | _flat("schedule", dict(spec.schedule))
    flat |= _flat("churn", dict(spec.churn or {}))
    plain = {
        "afs": spec.afs,
        "denoise_to_zero": spec.denoise_to_zero,
        "images": spec.images,
        "first_seed": spec.first_seed,
        "shard_images": spec.shard_images,
    }
    terminal = "zero" if result.plan.sigmas[-1] == 0 else "sigma_min"
    return flat | {name: _word(value) for name, value in plain.items()} | {"terminal": terminal}


def _flat(prefix: str, value: Mapping[str, Any]) -> dict[str, str]:
    """Nested mappings as dotted names; null is left out."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        name = re.sub(r"[^\w\-. /]", "_", f"{prefix}.{key}")
        if isinstance(item, Mapping):
            flat |= _flat(name, item)
        elif item is not None:
            flat[name] = _word(item)
    return flat


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
