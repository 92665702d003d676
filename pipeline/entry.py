"""What MLflow is told of one trial: its name, params, metrics, tags and files, all of it a function of the trial."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import store
from pipeline.result import describe
from pipeline.run_files import RunFile, run_files

if TYPE_CHECKING:
    from pipeline.evidence import Evidence
    from pipeline.metrics.scores import Score
    from pipeline.portrait import Portrait
    from pipeline.result import TrialRecord, TrialResult

GROUP_DIGITS = 10  # differences of these are taken
METRIC_DIGITS = 6  # MLflow's table shows all digits it is given; the card holds them all
REASON_CHARACTERS = 500
STATUS = {"complete": "FINISHED", "failed": "FAILED", "pruned": "KILLED"}


@dataclass(frozen=True)
class Entry:
    """What MLflow is told of one trial.

    `points` are metrics by name and step; of one name the last step is what MLflow's tables show. The step is the
    number of images where a metric was measured on several: its chart shows it fall as they grow. `seen`: there was a
    portrait; without one the files say less than those that somebody may have written who had it.
    """

    name: str
    status: str
    params: Mapping[str, str]
    points: Mapping[tuple[str, int], float]
    tags: Mapping[str, str]
    files: Mapping[str, RunFile]
    seen: bool = False

    @staticmethod
    def of(record: TrialRecord, portrait: Portrait | None = None) -> Entry:
        """The entry of a trial; one that was pruned or failed has neither a FID on all images nor a card."""
        result, evidence = record.result, record.evidence
        params = flat(record.params, "searched")
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
        points = {} if evidence is None else _climbed(evidence)
        if result is None:
            reached = "" if evidence is None else f" · {evidence.nfe} NFE"
            name = f"{record.method}{reached} · {'stopped' if record.state == 'pruned' else record.state}"
            tags[store.STOPPED_AT] = _stopped_at(record)
        else:
            name = f"{describe(result)} · {result.nfe:g} NFE" + (" · confirmed" if record.confirms else "")
            points |= _scored(result)
            params |= _params(result)
            tags |= {
                store.PLAN: result.plan.digest,
                store.REFERENCE: result.reference_hash,
                store.VERSION: str(result.benchmark_version),
                store.REVISION: result.git_revision,
                store.OTHERS: _beside(result.metrics),
                store.LEAVE_ONE_OUT: json.dumps(
                    [_rounded(value, GROUP_DIGITS) for value in result.score.leave_one_out]
                ),
            }
        files = run_files(record, portrait)
        tags[store.FILES] = files_tag({name: file.digest for name, file in files.items()})
        tags[store.RUN_NAME] = name
        tags = {key: value for key, value in tags.items() if value != ""}
        return Entry(name, STATUS[record.state], params, points, tags, files, portrait is not None)

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        """What MLflow's tables show: of each metric the value at its last step."""
        return {name: self.points[name, step] for name, step in sorted(self.points)}


def files_tag(digests: Mapping[str, str]) -> str:
    """The tag that says which files a run has; `file_digests` reads it."""
    return " ".join(f"{name}:{digests[name]}" for name in sorted(digests))


def file_digests(tags: Mapping[str, str]) -> dict[str, str]:
    """The digests of a run's files, as one of its tags keeps them."""
    pairs = (held.rpartition(":") for held in tags.get(store.FILES, "").split())
    return {name: digest for name, _, digest in pairs}


def _scored(result: TrialResult) -> dict[tuple[str, int], float]:
    images = result.spec.images
    exact = {
        "fid_se": result.fid_se,
        "nfe": result.nfe,
        "setup_nfe": result.setup_nfe,
        "setup_rows": result.setup_rows,
        "images": images,
        "images_per_s": result.images_per_second,
        "network_rows": result.rows,
        "worker_seconds": result.seconds,
    }
    if result.fid_infinity is not None:
        exact["fid_infinity"] = result.fid_infinity
    whole = {("fid", images): result.fid, ("fid_corrected", images): result.fid_corrected}
    for name, score in result.metrics.items():
        whole[name, score.images] = score.value
        if score.error is not None:
            whole[f"{name}_{score.error_kind}", score.images] = score.error
    return _finite({(name, 0): value for name, value in exact.items()} | whole)


def _beside(metrics: Mapping[str, Score]) -> str:
    """What was measured beside FID, and on what; nothing where nothing was."""
    held = {name: score.to_json() for name, score in metrics.items()}
    for told in held.values():
        told |= {key: _rounded(told[key], METRIC_DIGITS) for key in ("value", "error") if told[key] is not None}
    return json.dumps(held, sort_keys=True) if held else ""


def _climbed(evidence: Evidence) -> dict[tuple[str, int], float]:
    """What the rungs said: distances to the teacher, and FID at each number of images."""
    exact: dict[tuple[str, int], float] = {
        ("nfe", 0): evidence.nfe,
        ("setup_nfe", 0): evidence.setup_nfe,
        ("spent_rows", 0): evidence.spent_rows,
    }
    teacher = evidence.teacher
    if teacher is not None:
        images = len(teacher.features)
        exact["teacher_distance", images] = teacher.mean
        exact["teacher_distance_se", images] = teacher.se
        exact["teacher_distance_pixels", images] = teacher.mean_pixels
    for score in evidence.scores:
        exact["fid", score.images], exact["fid_corrected", score.images] = score.fid, score.corrected
        exact[f"{store.FID_AT}{score.images}", score.images] = score.corrected
        exact["images", 0] = score.images
    return _finite(exact)


def _finite(exact: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """Counts stay whole however large; the rest is rounded for reading."""
    return {
        at: float(value) if isinstance(value, int) else _rounded(value, METRIC_DIGITS)
        for at, value in exact.items()
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
    parts = flat(result.solver, "solver") | flat(spec.schedule, "schedule") | flat(spec.churn or {}, "churn")
    plain = {
        "afs": spec.afs,
        "denoise_to_zero": spec.denoise_to_zero,
        "images": spec.images,
        "first_seed": spec.first_seed,
        "shard_images": spec.shard_images,
    }
    terminal = "zero" if result.plan.sigmas[-1] == 0 else "sigma_min"
    parts |= flat(result.network, "network")
    return parts | {name: _word(value) for name, value in plain.items()} | {"terminal": terminal}


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted names; null is left out."""
    found: dict[str, str] = {}
    for key, item in value.items():
        name = re.sub(r"[^\w\-. /]", "_", f"{prefix}.{key}" if prefix else key)
        if isinstance(item, Mapping):
            found |= flat(item, name)
        elif item is not None:
            found[name] = _word(item)
    return found


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
