"""A search space: the tree of a trial's spec with distributions at its leaves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.registry import SpecError
from pipeline.trial import TrialSpec

RANGE_KEYS = {"low", "high", "log", "step"}
SHARE_KEYS = RANGE_KEYS | {"share_of"}
PARTS = ("solver", "schedule", "afs")


@dataclass(frozen=True)
class Leaf:
    """A searched value: where it goes, its distribution, and how the drawn value becomes the spec's."""

    path: tuple[str, ...]
    distribution: BaseDistribution
    choices: Mapping[str, Any] | None = None
    share_of: str = ""

    @property
    def name(self) -> str:
        """The parameter's name in Optuna and MLflow: the dotted path, and for a share what it is a share of."""
        return ".".join(self.path) + (f"/{self.share_of}" if self.share_of else "")


class Space:
    """Distributions by parameter name, and the way from drawn parameters to a trial's solver and schedule."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        for key in tree:
            if key not in PARTS:
                raise SpecError("unknown key", path=str(key), given=key, allowed=PARTS)
        for key in ("solver", "schedule"):
            if key not in tree:
                raise SpecError("is required and missing", path=key, allowed="a mapping with a name")
        self._tree = dict(tree)
        self.leaves = {leaf.name: leaf for leaf in _leaves(self._tree, ())}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Parameter name -> Optuna distribution."""
        return {name: leaf.distribution for name, leaf in self.leaves.items()}

    def assemble(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The spec's solver, schedule and afs at these parameters."""
        drawn = {leaf.path: _value(leaf, params[name]) for name, leaf in self.leaves.items()}
        built = _fill(self._tree, (), drawn)
        for leaf in self.leaves.values():
            if leaf.share_of:
                owner = built
                for part in leaf.path[:-1]:
                    owner = owner[part]
                owner[leaf.path[-1]] *= owner[leaf.share_of]
        return {"afs": False, **built}

    def corners(self) -> Iterator[dict[str, Any]]:
        """Parameters at their ends, every pair of them in every combination: what a wrong range shows up in."""
        ends = {name: _ends(leaf.distribution) for name, leaf in self.leaves.items()}
        low = {name: values[0] for name, values in ends.items()}
        yield low
        for one, two in itertools.combinations_with_replacement(ends, 2):
            for a, b in itertools.product(ends[one], ends[two]):
                yield low | {one: a, two: b}

    def check(self, benchmark: str) -> None:
        """Build the sampler at every corner, so that a wrong name, key or range fails before anything runs."""
        for params in self.corners():
            TrialSpec(benchmark=benchmark, **self.assemble(params)).sampler()

    def points(self, setting: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The parameter points of a published setting; a value that is a list stands for each of its items.

        A share is written as the value itself: eta_min, not eta_min / eta_max.
        """
        by_path = {".".join(leaf.path): leaf for leaf in self.leaves.values()}
        for key in setting:
            if key not in by_path:
                raise SpecError("is not a searched parameter", path=key, given=key, allowed=sorted(by_path))
        missing = sorted(set(by_path) - set(setting))
        if missing:
            raise SpecError("is required and missing", path=missing[0])
        axes = [value if isinstance(value, list) else [value] for value in setting.values()]
        return [self._point(dict(zip(setting, values, strict=True)), by_path) for values in itertools.product(*axes)]

    def _point(self, values: Mapping[str, Any], by_path: Mapping[str, Leaf]) -> dict[str, Any]:
        point = {}
        for key, value in values.items():
            leaf = by_path[key]
            if leaf.share_of:
                sibling = ".".join((*leaf.path[:-1], leaf.share_of))
                whole = values.get(sibling, _at(self._tree, (*leaf.path[:-1], leaf.share_of)))
                value = value / whole
            distribution = leaf.distribution
            if isinstance(distribution, FloatDistribution) and isinstance(value, int | float):
                # A share such as 0.01 / 0.4 may miss an end of its range by a rounding.
                value = float(value)
                for end in (distribution.low, distribution.high):
                    value = end if math.isclose(value, end, rel_tol=1e-9) else value
            try:
                inside = distribution._contains(distribution.to_internal_repr(value))
            except (ValueError, TypeError):
                inside = False
            if not inside:
                raise SpecError("lies outside the space", path=key, given=values[key], allowed=_range(distribution))
            point[leaf.name] = value
        return point


def _is_range(value: Any) -> bool:
    return isinstance(value, Mapping) and "name" not in value and bool({"low", "high", "share_of"} & set(value))


def _is_choice(value: Any) -> bool:
    return isinstance(value, Mapping) and "choices" in value


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[Leaf]:
    if _is_choice(value):
        yield _choice(value, path)
    elif _is_range(value):
        yield _ranged(value, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))


def _choice(value: Mapping[str, Any], path: tuple[str, ...]) -> Leaf:
    where = ".".join(path)
    for key in value:
        if key != "choices":
            raise SpecError("unknown key", path=f"{where}.{key}", given=key, allowed=["choices"])
    choices = value["choices"]
    if isinstance(choices, list) and choices and all(isinstance(c, str | int | float | bool) for c in choices):
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
        number = value.get(key)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise SpecError("is no number", path=f"{where}.{key}", given=number, allowed="a number")
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    if not isinstance(log, bool):
        raise SpecError("has the wrong type", path=f"{where}.log", given=log, allowed="true or false")
    if low > high:
        raise SpecError("is above high", path=f"{where}.low", given=low, allowed=f"at most {high}")
    if log and low <= 0:
        raise SpecError("needs to be above 0 on a log scale", path=f"{where}.low", given=low, allowed="above 0")
    share_of = str(value.get("share_of", ""))
    try:
        if isinstance(low, int) and isinstance(high, int) and not share_of:
            return Leaf(path, IntDistribution(low, high, log=log, step=step or 1))
        return Leaf(path, FloatDistribution(float(low), float(high), log=log, step=step), share_of=share_of)
    except ValueError as error:
        raise SpecError(f"is no range ({error})", path=where, given=dict(value)) from None


def _value(leaf: Leaf, drawn: Any) -> Any:
    return leaf.choices[drawn] if leaf.choices is not None else drawn


def _fill(value: Any, path: tuple[str, ...], drawn: Mapping[tuple[str, ...], Any]) -> Any:
    if path in drawn:
        return drawn[path]
    if isinstance(value, Mapping):
        return {str(key): _fill(item, (*path, str(key)), drawn) for key, item in value.items()}
    return value


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _ends(distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return (distribution.low, distribution.high)


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    ends = _ends(distribution)
    return f"{ends[0]:g} to {ends[1]:g}"
