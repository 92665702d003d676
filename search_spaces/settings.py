"""Settings that people write, as points of a space: values by key, and published methods by name."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.methods import METHODS, Pair
from pipeline.registry import SpecError
from search_spaces.leaves import Leaf
from search_spaces.pairs import point_of
from search_spaces.tree import Choice, Fixed, Group, Node, leaves

Params = dict[str, Any]
METHOD_KEYS = ("method", "nfe")


def points_of(tree: Node, setting: Mapping[str, Any]) -> list[Params]:
    """The points of a setting by key; a value that is a list stands for each of its items.

    A share is written as the value itself: eta_min, not eta_min / eta_max.
    """
    axes = {key: _listed(key, value) for key, value in setting.items()}
    active, inactive = _by_key(tree, axes)
    for key in setting:
        if key in inactive:
            labels = ", ".join(f"{choice}: {label}" for choice, label in inactive[key].place.needs)
            raise SpecError("is searched elsewhere only", path=key, given=key, allowed=f"beside {labels}")
        if key not in active:
            raise SpecError("is not a searched parameter", path=key, given=key, allowed=sorted(active))
    missing = [key for key in active if key not in setting]
    if missing:
        raise SpecError("is required and missing", path=missing[0])
    return [params for _, params in _expanded(tree, axes)]


def _by_key(tree: Node, axes: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Leaf], dict[str, Leaf]]:
    """The leaves that are active under one of the labels that are given, and the others."""
    active: dict[str, Leaf] = {}
    inactive: dict[str, Leaf] = {}
    for leaf in leaves(tree):
        key, needs = leaf.place.key, leaf.place.needs
        reached = all(label in axes.get(choice, ()) for choice, label in needs)
        (active if reached else inactive)[key] = leaf
        if reached and leaf.labelled:
            for label in axes.get(key, ()):
                leaf.drawn(label)  # a wrong label is told before what is inside it
    return active, inactive


def _expanded(node: Node, axes: Mapping[str, Sequence[Any]]) -> list[tuple[Any, Params]]:
    """Each combination of what is given here: the value of the spec, and its parameters. The first key varies last."""
    match node:
        case Fixed():
            return [(node.value, {})]
        case Leaf():
            written = axes[node.place.key]
            if node.share_of:  # only the mapping around it knows the whole
                return [(value, {}) for value in written]
            drawn = [node.drawn(value) for value in written]
            return [(node.value(one), {node.name: one}) for one in drawn]
        case Choice():
            labels = [node.leaf.drawn(label) for label in axes[node.place.key]]
            return [
                (value, {node.leaf.name: label} | params)
                for label in labels
                for value, params in _expanded(node.items[label], axes)
            ]
        case Group():
            combinations = itertools.product(*(_expanded(item, axes) for item in node.items.values()))
            return [_merged(node, combination) for combination in combinations]


def _merged(group: Group, items: Sequence[tuple[Any, Params]]) -> tuple[dict[str, Any], Params]:
    built = dict(zip(group.items, (value for value, _ in items), strict=True))
    params: Params = {}
    for (key, item), (_, found) in zip(group.items.items(), items, strict=True):
        params |= found
        if isinstance(item, Leaf) and item.share_of:
            params[item.name] = item.drawn(built[key], built[item.share_of])
    return built, params


def points_of_methods(
    tree: Node,
    setting: Mapping[str, Any],
    budgets: Sequence[int],
    sigma_range: tuple[float, float],
    rows_per_image: int = 1,
) -> list[Params]:
    """The points of published methods at each NFE that they can spend; at the study's `budgets` if none is given.

    `sigma_range`: sigma_min and sigma_max of the benchmark, between which a method runs that does not say otherwise.
    `rows_per_image`: those of an evaluation, which NFE counts.
    """
    for key in setting:
        if key not in METHOD_KEYS:
            raise SpecError("does not go with a method", path=key, given=key, allowed=METHOD_KEYS)
    names, given = _listed("method", setting["method"]), _listed("nfe", setting.get("nfe", list(budgets)))
    for nfe in given:
        if not isinstance(nfe, int) or isinstance(nfe, bool) or nfe < 1:
            raise SpecError("is no NFE", path="nfe", given="null" if nfe is None else nfe, allowed="1 or more")
    return [params for name in names for params in _method_points(tree, name, given, sigma_range, rows_per_image)]


def _method_points(
    tree: Node, name: Any, given: Sequence[int], sigma_range: tuple[float, float], rows_per_image: int
) -> list[Params]:
    if not isinstance(name, str) or name not in METHODS:
        raise SpecError("unknown method", path="method", given=_told(name), allowed=METHODS.names())
    found = []
    for nfe in given:
        pair = METHODS.get(name).spending(nfe, rows_per_image)
        if pair is None:
            continue
        try:
            found.append(point_of(tree, within(pair, sigma_range)))
        except SpecError as error:
            raise SpecError(f"is not in the space at NFE {nfe} ({error})", path="method", given=name) from None
    if not found:
        spent = ", ".join(map(str, given))
        raise SpecError(f"cannot make exactly so many evaluations ({spent})", path="method", given=name)
    return found


def within(pair: Pair, sigma_range: tuple[float, float]) -> Pair:
    """The pair with its schedule between these sigmas, where it does not say otherwise."""
    solver, schedule = pair
    return solver, {"sigma_min": sigma_range[0], "sigma_max": sigma_range[1]} | schedule


def _listed(key: str, value: Any) -> list[Any]:
    if value == []:
        raise SpecError("holds no value", path=key, given=value, allowed="a value, or a list of values")
    return value if isinstance(value, list) else [value]


def _told(value: object) -> object:
    return "null" if value is None else value
