"""The options of `sigmasearch plan` as a trial's spec."""

from __future__ import annotations

import json
from typing import Any

from pipeline.methods import METHODS
from pipeline.registry import SpecError
from pipeline.trial import TrialSpec


def spec(
    benchmark: str,
    baseline: str | None,
    nfe: int | None,
    solver: str | None,
    schedule: str | None,
    settings: list[str],
    *,
    afs: bool = False,
    denoise_to_zero: bool = False,
    churn: str | None = None,
    rows_per_image: int = 1,
) -> TrialSpec:
    """The spec that `plan`'s options describe; `rows_per_image` are those of an evaluation, which NFE counts."""
    if baseline is not None and (solver is not None or schedule is not None):
        raise SpecError(
            "goes without --solver and --schedule, which it brings itself", path="--baseline", given=baseline
        )
    if nfe is not None and baseline is None:
        raise SpecError("goes with --baseline; elsewhere the schedule's num_steps decides", path="--nfe", given=nfe)
    if baseline is not None:
        try:
            method = METHODS.get(baseline)
        except SpecError as error:
            raise error.under("--baseline") from None
        if nfe is None:
            raise SpecError("needs --nfe with it", path="--baseline", given=baseline)
        pair = method.spending(nfe, rows_per_image)
        if pair is None:
            possible = [n for n in range(1, 1001) if method.spending(n, rows_per_image) is not None]
            raise SpecError(
                f"{method.title} cannot spend exactly that many evaluations",
                path="--nfe",
                given=nfe,
                allowed=_runs(possible),
            )
        parts: dict[str, dict[str, Any]] = {"solver": dict(pair[0]), "schedule": dict(pair[1])}
    elif solver is None or schedule is None:
        raise SpecError("give --baseline with --nfe, or --solver with --schedule")
    else:
        parts = {"solver": _part(solver, "--solver"), "schedule": _part(schedule, "--schedule")}
    if churn is not None:
        parts["churn"] = _churn(churn)
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.split(".")
        if not equals or len(keys) < 2 or keys[0] not in ("solver", "schedule", "churn"):
            raise SpecError(
                "is no setting",
                path="--set",
                given=setting,
                allowed="solver.FIELD=VALUE, schedule.FIELD=VALUE or churn.FIELD=VALUE",
            )
        inner: dict[str, Any] = parts.setdefault(keys[0], {})
        for key in keys[1:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise SpecError("is no setting", path="--set", given=setting, allowed="a field of a mapping")
        inner[keys[-1]] = _value(text)
    described = TrialSpec(
        benchmark,
        parts["solver"],
        parts["schedule"],
        afs=afs,
        denoise_to_zero=denoise_to_zero,
        churn=parts.get("churn"),
    )
    described.sampler()
    return described


def _runs(numbers: list[int]) -> str:
    """Whole numbers in words, neighbours taken together: 1-4, 6, 8-60."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _churn(text: str) -> dict[str, Any]:
    value = _value(text)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"s_churn": value}
    if not isinstance(value, dict):
        raise SpecError(
            "is neither a number nor JSON", path="--churn", given=text, allowed='40 or {"s_churn": 40, ...}'
        )
    return value


def _part(text: str, option: str) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return {"name": text}
    try:
        value: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise SpecError(f"is not JSON ({error})", path=option, given=text) from None
    return value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
