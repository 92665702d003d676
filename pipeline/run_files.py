"""The files of a trial's run in MLflow: the card, the whole result, the steps of the plan, its first images."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.card import card, card_text
from pipeline.pictures import picture_grid
from pipeline.store import CARD, RESULT, SAMPLES, STEPS
from pipeline.whole_file import write_whole

if TYPE_CHECKING:
    from pipeline.portrait import Portrait
    from pipeline.result import TrialRecord

COLUMNS = ("evaluation", "sigma", "sigma_next", "solver", "kappa", "eta")
ACROSS = 4  # pictures in a row of the sample grid


@dataclass(frozen=True)
class RunFile:
    """A file that can be written. `digest`: eight hex digits of what decides its bytes."""

    digest: str
    write: Callable[[Path], object]


def run_files(record: TrialRecord, portrait: Portrait | None = None) -> dict[str, RunFile]:
    """A trial's files by name: what there is of it."""
    held = card(record.result) if record.result is not None else None
    files = {RESULT: _text(_json(_whole(record)))}
    if held is not None:
        files[CARD] = _text(card_text(held), held)
    steps = steps_csv(record, held, portrait)
    if steps:
        files[STEPS] = _text(steps)
    if portrait is not None and portrait.pixels is not None:
        pixels = portrait.pixels
        digest = _digest(str(pixels.shape).encode() + pixels.tobytes())
        files[SAMPLES] = RunFile(digest, lambda path: picture_grid(pixels, path, columns=ACROSS))
    return files


def steps_csv(record: TrialRecord, held: Mapping[str, Any] | None, portrait: Portrait | None) -> str:
    """One row an evaluation of the plan, the first is 1; what is not known is empty. Nothing without plan and portrait.

    `sigma_next` is where the next evaluation is, or where the plan ends. Kappa (per unit sigma) and eta (image L2 norm)
    compare the slope with that at the last evaluation of another sigma (Jo & Choi, 2026, arXiv 2602.12624), as means
    over the portrait's images; a plan that a rung stopped is known by its portrait alone, without its solvers.
    """
    plan = None if record.result is None else record.result.plan
    if plan is not None:
        sigmas = [*(stage.sigma for stage in plan.stages), plan.sigmas[-1]]
    elif portrait is not None:
        sigmas = list(portrait.sigmas)
    else:
        return ""
    count = len(sigmas) - 1
    steps = (held or {}).get("steps", {"solver": [], "evaluations": []})
    made = zip(steps["solver"], steps["evaluations"], strict=True)
    solvers = [solver for solver, evaluations in made for _ in range(evaluations)] or [""] * count
    unknown = (math.nan,) * count
    fits = portrait is not None and len(portrait.kappas) == count
    kappas, etas = (portrait.kappas, portrait.etas) if portrait is not None and fits else (unknown, unknown)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in zip(range(1, count + 1), sigmas, sigmas[1:], solvers, kappas, etas, strict=False):
        writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in row])
    return text.getvalue()


def _whole(record: TrialRecord) -> dict[str, Any]:
    """Everything that the study's storage holds of a trial."""
    names = ("key", "role", "state", "method", "budget", "reason", "same_as", "confirms", "waiting")
    return {name: getattr(record, name) for name in names} | {
        "params": dict(record.params),
        "constraints": dict(record.constraints),
        "result": None if record.result is None else record.result.to_json(),
        "evidence": None if record.evidence is None else record.evidence.to_json(),
    }


def _json(value: Any) -> str:
    # Keys sorted, for a record may have been through a storage; JSON has no word for numbers that are not finite.
    return json.dumps(_finite(value), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(text: str, content: Any = None) -> RunFile:
    """A text file. `content`: what it says, where the order of its keys is not part of that."""
    said = text if content is None else json.dumps(content, sort_keys=True)
    return RunFile(_digest(said.encode()), lambda path: write_whole(path, text.encode()))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]
