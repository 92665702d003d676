"""The card: a plan with all that is needed to run it again and to know what it scored, as one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.plan import Plan
from pipeline.provenance import git_revision, versions
from pipeline.registry import SpecError
from pipeline.result import TrialResult, describe
from pipeline.steps import Step, steps
from pipeline.trial import TrialSpec
from pipeline.whole_file import write_whole

if TYPE_CHECKING:
    from pipeline.benchmarks import Benchmark
    from pipeline.trial import Prepared

FAMILY, REVISION = "sigmasearch/card-", 1
SCHEMA = f"{FAMILY}{REVISION}"
REQUIRED = ("schema", "method", "benchmark", "spec", "solver", "plan")


def card(result: TrialResult, confirmed: TrialResult | None = None) -> dict[str, Any]:
    """The card of a scored trial, plain JSON values.

    `confirmed` is the same plan's result on seeds that the search never saw: its score is not the lowest of many.
    """
    score = {
        "fid": result.fid,
        "fid_se": result.fid_se,
        "fid_corrected": result.fid_corrected,
        "fid_infinity": result.fid_infinity,
        "images": result.spec.images,
        "first_seed": result.spec.first_seed,
        "shard_images": result.spec.shard_images,
        "nfe": result.nfe,
        "setup_nfe": result.setup_nfe,
        "setup_rows": result.setup_rows,
        "network_rows": result.rows,
        "worker_seconds": result.seconds,
    } | _metrics(result)
    benchmark: dict[str, Any] = {
        "name": result.spec.benchmark,
        "version": result.benchmark_version,
        "model_hash": result.model_hash,
        "reference_hash": result.reference_hash,
    }
    if result.rows_per_image != 1:
        benchmark["rows_per_image"] = result.rows_per_image
    written = _card(describe(result), benchmark, result.spec, result.solver, result.plan, result.walk)
    if confirmed is not None:
        names = ("fid", "fid_se", "fid_corrected", "fid_infinity")
        again = {name: getattr(confirmed, name) for name in names}
        seeds = {"images": confirmed.spec.images, "first_seed": confirmed.spec.first_seed}
        written["confirmed"] = again | seeds | _metrics(confirmed)
    return written | {"result": score, "revision": result.git_revision, "versions": dict(result.versions)}


def _metrics(result: TrialResult) -> dict[str, Any]:
    """What was measured beside FID; nothing where nothing was."""
    held = {name: score.to_json() for name, score in result.metrics.items()}
    return {"metrics": held} if held else {}


def plan_card(spec: TrialSpec, prepared: Prepared, benchmark: Benchmark) -> dict[str, Any]:
    """The card of a plan that has not been scored: no "result", but what setting it up cost."""
    held: dict[str, Any] = {
        "name": spec.benchmark,
        "version": benchmark.version,
        "model_hash": benchmark.model_hash,
        "reference_hash": benchmark.reference_hash,
    }
    if prepared.rows_per_image != 1:
        held["rows_per_image"] = prepared.rows_per_image
    written = _card(
        describe(replace(spec, solver=prepared.solver)), held, spec, prepared.solver, prepared.plan, prepared.walk
    )
    setup = {"setup_nfe": prepared.setup_nfe, "setup_rows": prepared.setup_rows}
    return written | setup | {"revision": git_revision(), "versions": versions()}


def _card(
    method: str,
    benchmark: Mapping[str, Any],
    spec: TrialSpec,
    solver: Mapping[str, Any],
    plan: Plan,
    walk: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    last = plan.sigmas[-1]
    return {
        "schema": SCHEMA,
        "method": method,
        "nfe": len(plan) * int(benchmark.get("rows_per_image", 1)),
        "terminal": {"rule": "sigma_min" if last else "zero", "sigma": last},
        "benchmark": dict(benchmark),
        "spec": spec.to_json(),
        "solver": dict(solver),
        "plan_digest": plan.digest,
        "plan": plan.to_json(),
        **_columns("steps", [step._asdict() for step in steps(spec, solver, plan)]),
        **_columns("walk", walk),
    }


def _columns(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows as columns, since there may be hundreds; nothing where there are none."""
    return {name: {key: [row[key] for row in rows] for key in rows[0]}} if rows else {}


def card_text(value: Mapping[str, Any]) -> str:
    """The file's text: indented, and refused where a number is not finite (JSON has no word for it)."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_card(path: Path, value: TrialResult | Mapping[str, Any]) -> None:
    """Write a result's card, or one made by `plan_card`: the whole file or none of it.

    Raises:
        SpecError: the file cannot be written.
    """
    text = card_text(card(value) if isinstance(value, TrialResult) else value)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        raise SpecError(f"the card cannot be written ({error.strerror})", file=str(path)) from None


def read_card(path: Path) -> tuple[TrialSpec, Plan, dict[str, Any]]:
    """Read a card: the spec, the plan and the whole card.

    Raises:
        SpecError: no such file, not JSON, not a card, a newer card, a key missing or wrong; names the file and the key.
    """
    value = _json(path)
    schema = value.get("schema")
    if not isinstance(schema, str) or not schema.startswith(FAMILY):
        raise SpecError("this JSON is not a card", path="schema", given=schema, allowed=SCHEMA, file=str(path))
    if schema != SCHEMA:
        number = schema.removeprefix(FAMILY)
        newer = number.isdecimal() and int(number) > REVISION
        message = "the card was written by a newer sigmasearch" if newer else "this kind of card is not known"
        raise SpecError(message, path="schema", given=schema, allowed=SCHEMA, file=str(path))
    for key in REQUIRED:
        if key not in value:
            raise SpecError("is required and missing", path=key, file=str(path))
    for key in ("benchmark", "spec", "solver", "plan"):
        if not isinstance(value[key], dict):
            raise SpecError("has the wrong type", path=key, given=value[key], allowed="a mapping", file=str(path))
    try:
        spec = TrialSpec.from_json(value["spec"])
    except SpecError as error:
        raise error.under("" if error.path.startswith("spec") else "spec", str(path)) from None
    try:
        plan = Plan.from_json(value["plan"])
    except SpecError as error:
        raise error.under(file=str(path)) from None
    rows = value["benchmark"].get("rows_per_image", 1)
    if type(rows) is not int or rows < 1:
        raise SpecError("is no number of rows", path="benchmark.rows_per_image", given=rows, allowed="1 or more",
                        file=str(path))  # fmt: skip
    nfe = len(plan) * rows
    if value.get("nfe", nfe) != nfe:
        message = "is not the number of the plan's evaluations"
        raise SpecError(message, path="nfe", given=value["nfe"], allowed=str(nfe), file=str(path))
    if value.get("plan_digest", plan.digest) != plan.digest:
        message = "is not the plan's: the card was changed by hand, or cut and pasted"
        raise SpecError(message, path="plan_digest", given=value["plan_digest"], allowed=plan.digest, file=str(path))
    for key in ("solver", "schedule"):
        if not isinstance(getattr(spec, key), Mapping):
            given = getattr(spec, key)
            raise SpecError("has the wrong type", path=f"spec.{key}", given=given, allowed="a mapping", file=str(path))
    try:
        told_steps(value, plan)
    except SpecError as error:
        raise error.under(file=str(path)) from None
    return spec, plan, value


def told_steps(value: Mapping[str, Any], plan: Plan) -> list[Step]:
    """What a card tells of its plan's steps; empty where it tells nothing, as older cards do.

    Raises:
        SpecError: they are not columns of the right types, or not the steps of this plan.
    """
    if "steps" not in value:
        return []
    columns = value["steps"]
    try:
        rows = [Step(*row) for row in zip(*(columns[key] for key in Step._fields), strict=True)]
        sigmas = (rows[0].sigma, *(row.to for row in rows))
        fits = sigmas == plan.sigmas and sum(row.evaluations for row in rows) == len(plan)
    except (IndexError, KeyError, TypeError, ValueError):
        fits = False
    if not fits or not all(isinstance(row.solver, str) and type(row.evaluations) is int for row in rows):
        message = "are not the steps of the plan: the card was changed by hand, or cut and pasted"
        raise SpecError(message, path="steps", allowed=f"columns {', '.join(Step._fields)}")
    return rows


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"the card cannot be read ({error.strerror})", file=str(path)) from None
    except (ValueError, RecursionError) as error:
        # JSONDecodeError and UnicodeDecodeError are both ValueErrors.
        raise SpecError(f"the card is not JSON, or only the start of it ({error})", file=str(path)) from None
    if not isinstance(value, dict):
        raise SpecError("a card is a JSON object", given=type(value).__name__, file=str(path))
    return value
