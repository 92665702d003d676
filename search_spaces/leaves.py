"""The leaves of a search space: ranges, choices and shares, read from a study file into Optuna's distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.registry import SpecError

RANGE_KEYS = {"low", "high", "log", "step"}
SHARE_KEYS = RANGE_KEYS | {"share_of"}


@dataclass(frozen=True)
class Leaf:
    """A searched value: where it goes, its distribution, and how the drawn value becomes the spec's."""

    path: tuple[str, ...]
    distribution: BaseDistribution
    choices: Mapping[str, Any] | None = None
    share_of: str = ""
    stepped: bool = False

    @property
    def name(self) -> str:
        """The parameter's name in Optuna and MLflow: the dotted path, and for a share what it is a share of."""
        return ".".join(self.path) + (f"/{self.share_of}" if self.share_of else "")


def is_range(value: Any) -> bool:
    return isinstance(value, Mapping) and "name" not in value and bool({"low", "high", "share_of"} & set(value))


def is_choice(value: Any) -> bool:
    return isinstance(value, Mapping) and "choices" in value


def leaves(value: Any, path: tuple[str, ...]) -> Iterator[Leaf]:
    if is_choice(value):
        yield _choice(value, path)
    elif is_range(value):
        yield _ranged(value, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, (*path, str(key)))


def _choice(value: Mapping[str, Any], path: tuple[str, ...]) -> Leaf:
    where = ".".join(path)
    for key in value:
        if key != "choices":
            raise SpecError("unknown key", path=f"{where}.{key}", given=key, allowed=["choices"])
    choices = value["choices"]
    if isinstance(choices, list) and choices and all(isinstance(c, str | int | float | bool) for c in choices):
        for i, choice in enumerate(choices):
            if choice in choices[:i]:
                raise SpecError("is given twice", path=f"{where}.choices", given=choice)
        return Leaf(path, CategoricalDistribution(choices))
    if isinstance(choices, Mapping) and choices:
        labelled = {str(label): item for label, item in choices.items()}
        return Leaf(path, CategoricalDistribution(list(labelled)), labelled)
    raise SpecError(
        "is no choice", path=f"{where}.choices", given=choices, allowed="a list of values, or labels with a value each"
    )


def _ranged(value: Mapping[str, Any], path: tuple[str, ...]) -> Leaf:
    where = ".".join(path)
    for key in value:
        if key not in SHARE_KEYS:
            raise SpecError("unknown key", path=f"{where}.{key}", given=key, allowed=sorted(SHARE_KEYS))
    for key in ("low", "high"):
        if key not in value:
            raise SpecError("is required and missing", path=f"{where}.{key}", allowed="a number")
        number = value[key]
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise SpecError(
                "is no number", path=f"{where}.{key}", given="null" if number is None else number, allowed="a number"
            )
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    if not isinstance(log, bool):
        raise SpecError("has the wrong type", path=f"{where}.log", given=log, allowed="true or false")
    if low > high:
        raise SpecError("is above high", path=f"{where}.low", given=low, allowed=f"at most {high}")
    if log and low <= 0:
        raise SpecError("needs to be above 0 on a log scale", path=f"{where}.low", given=low, allowed="above 0")
    share_of, whole = str(value.get("share_of", "")), isinstance(low, int) and isinstance(high, int)
    if "step" in value:
        _check_step(value, where, whole=whole and not share_of)
    if whole and not share_of:
        return Leaf(path, IntDistribution(low, high, log=log, step=step or 1), stepped=step is not None)
    return Leaf(path, FloatDistribution(float(low), float(high), log=log, step=step), share_of=share_of)


def _check_step(value: Mapping[str, Any], where: str, *, whole: bool) -> None:
    """A step is above 0, divides its range, and goes with no log; Optuna would shorten the range or raise."""
    step, kind = value["step"], "a whole number above 0" if whole else "a number above 0"
    right = isinstance(step, int if whole else int | float) and not isinstance(step, bool)
    if not right or not 0 < step < math.inf:
        raise SpecError("is no step", path=f"{where}.step", given="null" if step is None else step, allowed=kind)
    if value.get("log"):
        raise SpecError("cannot go with log", path=f"{where}.step", given=step, allowed="step or log: true, not both")
    low, high = Decimal(str(value["low"])), Decimal(str(value["high"]))
    if (high - low) % Decimal(str(step)):
        raise SpecError(
            "does not divide the range", path=f"{where}.step", given=step, allowed=f"a divisor of {high - low}"
        )


def ends_of(distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return (distribution.low, distribution.high)


def told_range(distribution: BaseDistribution, whole: float = 1.0) -> str:
    """What a person may write: the choices, or the ends of the range times `whole`, which a share is of."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    low, high = ends_of(distribution)
    return f"{low * whole:g} to {high * whole:g}"
