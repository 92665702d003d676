"""The leaves of a search space: ranges, ordered values, choices and shares, read from a study file.

Each becomes one parameter of Optuna's. Ordered values are drawn by index: of Optuna's distributions only the whole
numbers keep an order that is not even, a categorical one forgets it, and one of our own could not be read back from the
storage, which knows distributions by its own names. `Space.setting` tells a trial's parameters in values again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeGuard

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.registry import SpecError

RANGE_KEYS = {"low", "high", "log", "step"}
SHARE_KEYS = RANGE_KEYS | {"share_of"}
VALUES_KEYS = {"values", "share_of"}
ROUNDING = 1e-9  # relative; a share such as 0.01 / 0.4 may miss a number by as much


@dataclass(frozen=True)
class Place:
    """Where a node of the space is.

    `path` is its place in a trial's spec. `key` has the labels in it that lead there and is what users write, `where`
    is its place in the study file. `needs` are the labels, each with the key of its choice.
    """

    path: tuple[str, ...] = ()
    key: str = ""
    where: str = ""
    needs: tuple[tuple[str, str], ...] = ()

    def at(self, key: str) -> Place:
        """The place of an item of the mapping that is here."""
        return Place((*self.path, key), _joined(self.key, key), _joined(self.where, key), self.needs)

    def labelled(self, label: str) -> Place:
        """The place of what the label stands for in the choice that is here."""
        where = f"{self.where}.choices.{label}"
        return Place(self.path, _joined(self.key, label), where, (*self.needs, (self.key, label)))


@dataclass(frozen=True)
class Leaf:
    """A searched value: where it goes, its distribution, and what a draw of it means.

    `values`: the ordered values, where the draw is an index. `labelled`: whether the draw is a label.
    """

    place: Place
    distribution: BaseDistribution
    share_of: str = ""
    values: tuple[float, ...] = ()
    stepped: bool = False
    labelled: bool = False

    @property
    def name(self) -> str:
        """The parameter's name in Optuna and MLflow: its key, what it is a share of, and whether it is an index."""
        return "/".join([self.place.key, *filter(None, (self.share_of, "index" if self.values else ""))])

    @property
    def is_number(self) -> bool:
        """Whether it is drawn from numbers, and not from choices."""
        return not isinstance(self.distribution, CategoricalDistribution)

    def holds(self, drawn: Any) -> bool:
        """Whether Optuna's parameter is one of this leaf."""
        if self.is_number and not _is_number(drawn):
            return False
        if isinstance(self.distribution, IntDistribution) and not isinstance(drawn, int):
            return False
        try:
            return self.distribution._contains(self.distribution.to_internal_repr(drawn))
        except (ValueError, TypeError):
            return False

    def value(self, drawn: Any) -> Any:
        """What Optuna's parameter stands for; for a share still the share."""
        return self.values[drawn] if self.values else drawn

    def drawn(self, value: Any, whole: float = 1.0) -> Any:
        """Optuna's parameter for a written value, for a share of the `whole`.

        Raises:
            SpecError: there is none.
        """
        drawn = value
        if self.is_number and _is_number(value):
            share = (value / whole if whole else math.inf) if self.share_of else value
            drawn = self._nearest(share)
        if not self.holds(drawn):
            raise SpecError(
                "lies outside the space",
                path=self.place.key,
                given="null" if value is None else value,
                allowed=self.told(whole),
            )
        return drawn

    def _nearest(self, number: float) -> float | None:
        """The parameter that the number is but for rounding; None if it is no ordered value."""
        if self.values:
            near = (i for i, held in enumerate(self.values) if math.isclose(number, held, rel_tol=ROUNDING))
            return next(near, None)
        if isinstance(self.distribution, IntDistribution):
            return int(number) if float(number).is_integer() else number
        low, high = self.ends()
        inside = min(max(float(number), low), high)
        return inside if math.isclose(number, inside, rel_tol=ROUNDING) else number

    def ends(self) -> Sequence[Any]:
        """The lowest and the highest parameter, or all choices."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return (self.distribution.low, self.distribution.high)

    def told(self, whole: float = 1.0) -> str | list[str]:
        """What a person may write: the choices, or the numbers times the `whole`, which a share is of."""
        if isinstance(self.distribution, CategoricalDistribution):
            return [str(choice) for choice in self.distribution.choices]
        if self.values:
            return ", ".join(f"{value * whole:g}" for value in self.values)
        return self.span(whole)

    def span(self, whole: float = 1.0) -> str:
        """The lowest and the highest parameter times the `whole`, or all choices."""
        ends = self.ends()
        return f"{ends[0] * whole:g} to {ends[1] * whole:g}" if self.is_number else ", ".join(map(str, ends))


def is_leaf(value: Mapping[str, Any]) -> bool:
    """Whether a mapping describes a range, ordered values or a share; what has a name is a spec."""
    return "name" not in value and bool({"low", "high", "share_of", "values"} & set(value))


def read_leaf(value: Mapping[str, Any], place: Place) -> Leaf:
    """The range, the ordered values or the share that a mapping describes."""
    return _ordered(value, place) if "values" in value else _ranged(value, place)


def read_choices(value: Mapping[str, Any], place: Place) -> Leaf:
    """The choice that a mapping describes, of values or of labels."""
    _check_keys(value, place, {"choices"})
    choices = value["choices"]
    if isinstance(choices, list) and choices and all(isinstance(c, str | int | float | bool) for c in choices):
        for i, choice in enumerate(choices):
            if choice in choices[:i]:
                raise SpecError("is given twice", path=f"{place.where}.choices", given=choice)
        return Leaf(place, CategoricalDistribution(choices))
    if isinstance(choices, Mapping) and choices:
        return Leaf(place, CategoricalDistribution([str(label) for label in choices]), labelled=True)
    allowed = "a list of values, or labels with a value each"
    raise SpecError("is no choice", path=f"{place.where}.choices", given=_told(choices), allowed=allowed)


def _ordered(value: Mapping[str, Any], place: Place) -> Leaf:
    _check_keys(value, place, VALUES_KEYS)
    values, where = value["values"], f"{place.where}.values"
    if not isinstance(values, list) or not values:
        raise SpecError("is no list of numbers", path=where, given=_told(values), allowed="numbers that rise")
    for i, number in enumerate(values):
        _check_number(number, f"{where}[{i}]")
        if i and number <= values[i - 1]:
            raise SpecError("do not rise", path=f"{where}[{i}]", given=number, allowed=f"more than {values[i - 1]}")
    indices = IntDistribution(0, len(values) - 1)
    return Leaf(place, indices, share_of=str(value.get("share_of", "")), values=tuple(values))


def _ranged(value: Mapping[str, Any], place: Place) -> Leaf:
    _check_keys(value, place, SHARE_KEYS)
    where = place.where
    for key in ("low", "high"):
        if key not in value:
            raise SpecError("is required and missing", path=f"{where}.{key}", allowed="a number")
        _check_number(value[key], f"{where}.{key}")
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
        return Leaf(place, IntDistribution(low, high, log=log, step=step or 1), stepped=step is not None)
    return Leaf(place, FloatDistribution(float(low), float(high), log=log, step=step), share_of=share_of)


def _check_step(value: Mapping[str, Any], where: str, *, whole: bool) -> None:
    """A step is above 0, divides its range, and goes with no log; Optuna would shorten the range or raise."""
    step, kind = value["step"], "a whole number above 0" if whole else "a number above 0"
    right = isinstance(step, int if whole else int | float) and not isinstance(step, bool)
    if not right or not 0 < step < math.inf:
        raise SpecError("is no step", path=f"{where}.step", given=_told(step), allowed=kind)
    if value.get("log"):
        raise SpecError("cannot go with log", path=f"{where}.step", given=step, allowed="step or log: true, not both")
    low, high = Decimal(str(value["low"])), Decimal(str(value["high"]))
    if (high - low) % Decimal(str(step)):
        raise SpecError(
            "does not divide the range", path=f"{where}.step", given=step, allowed=f"a divisor of {high - low}"
        )


def _check_keys(value: Mapping[str, Any], place: Place, allowed: set[str]) -> None:
    for key in value:
        if key not in allowed:
            raise SpecError("unknown key", path=f"{place.where}.{key}", given=key, allowed=sorted(allowed))


def _check_number(number: object, where: str) -> None:
    if not _is_number(number):
        raise SpecError("is no number", path=where, given=_told(number), allowed="a number")


def _is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number of double precision."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _told(value: object) -> object:
    return "null" if value is None else value


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
