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
from pipeline.trial import describe

if TYPE_CHECKING:
    from pipeline.trial import TrialRecord, TrialResult

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
        result = record.result
        params = _flat("searched", dict(record.params))
        tags = {
            store.KEY: record.key,
            store.ROLE: record.role,
            store.STATE: record.state,
            store.METHOD: record.method,
            store.BUDGET: "" if record.budget is None else str(record.budget),
            store.SAME_AS: record.same_as,
            store.REASON: record.reason[:REASON_CHARACTERS],
        }
        if result is None:
            name, metrics, text = f"{record.method} · {record.state}", {}, ""
        else:
            name = f"{describe(result)} · {result.nfe:g} NFE"
            metrics, text = _metrics(result), card_text(card(result))
            params |= _params(result)
            tags |= {
                store.PLAN: result.plan.digest,
                store.REFERENCE: result.reference_hash,
                store.VERSION: str(result.benchmark_version),
                store.REVISION: result.git_revision,
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
    # Counts stay whole however large; the rest is rounded for reading.
    return {
        name: float(value) if isinstance(value, int) else float(f"{value:.{METRIC_DIGITS}g}")
        for name, value in exact.items()
        if math.isfinite(value)
    }


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
