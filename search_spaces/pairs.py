"""The point of a space at which it holds a given pair of solver and schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pipeline.methods import Pair
from pipeline.registry import Registry, SpecError, to_spec
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from search_spaces.leaves import Leaf
from search_spaces.tree import Choice, Fixed, Group, Node

PARTS: dict[str, Registry[Any]] = {"solver": SOLVERS, "schedule": SCHEDULES}


def point_of(tree: Node, pair: Pair) -> dict[str, Any]:
    """The parameters at which the space is the pair, in every field of both; of several points the first.

    Raises:
        SpecError: there is none; it names the part that the space lacks.
    """
    assert isinstance(tree, Group)
    parts: dict[str, Any] = {"afs": False, "denoise_to_zero": False, "churn": None}
    parts |= {key: _full(spec, PARTS[key]) for key, spec in zip(PARTS, pair, strict=True)}
    params: dict[str, Any] = {}
    for key, item in tree.items.items():
        params |= _matched(item, parts[key], PARTS.get(key, SOLVERS))
    return params


def _full(spec: Mapping[str, Any], registry: Registry[Any]) -> dict[str, Any]:
    """The spec with every field in it; specs inside it are of solvers."""
    held = to_spec(registry.build(spec))
    return {key: _full(value, SOLVERS) if isinstance(value, Mapping) else value for key, value in held.items()}


def _matched(node: Node, target: Any, registry: Registry[Any], whole: float = 1.0) -> dict[str, Any]:
    """The parameters at which the node is the target; a `SpecError` if there are none."""
    match node:
        case Fixed():
            if node.value != target:
                raise SpecError("is fixed", path=node.place.where, given=_told(target), allowed=str(_told(node.value)))
            return {}
        case Leaf():
            return {node.name: node.drawn(target, whole)}
        case Choice():
            return _matched_choice(node, target, registry)
        case Group():
            return _matched_group(node, target, registry)


def _matched_group(group: Group, target: Any, registry: Registry[Any]) -> dict[str, Any]:
    if not isinstance(target, Mapping):
        raise SpecError("is not part of the method", path=group.place.where)
    # The name first: what fields there are depends on it.
    keys = sorted(group.items, key=lambda key: key != "name")
    params: dict[str, Any] = {}
    for key in keys:
        item = group.items[key]
        if key not in target:
            raise SpecError("is not part of the method", path=item.place.where)
        whole = target[item.share_of] if isinstance(item, Leaf) and item.share_of else 1.0
        params |= _matched(item, target[key], SOLVERS, whole)
    defaults = _defaults(target["name"], registry)
    for key in target:
        if key not in group.items and target[key] != defaults[key]:
            where = f"{group.place.where}.{key}"
            raise SpecError("is not searched", path=where, given=target[key], allowed=str(_told(defaults[key])))
    return params


def _matched_choice(choice: Choice, target: Any, registry: Registry[Any]) -> dict[str, Any]:
    near = []
    for label, item in choice.items.items():
        try:
            return {choice.leaf.name: label} | _matched(item, target, registry)
        except SpecError as error:
            if isinstance(target, Mapping) and _name(item) == target["name"]:
                near.append(error)
    if len(near) == 1:
        raise near[0]
    given = _short(target, registry) if isinstance(target, Mapping) else _told(target)
    raise SpecError("has no such item", path=f"{choice.place.where}.choices", given=given, allowed=list(choice.items))


def _name(node: Node) -> Any:
    """The name of the spec that a node is, if it is fixed."""
    name = node.items.get("name") if isinstance(node, Group) else None
    return name.value if isinstance(name, Fixed) else None


def _short(spec: Mapping[str, Any], registry: Registry[Any]) -> Any:
    """The spec without what its defaults say; its name alone if that is all."""
    defaults = _defaults(spec["name"], registry)
    said = {key: value for key, value in spec.items() if key == "name" or value != defaults[key]}
    return spec["name"] if len(said) == 1 else said


def _defaults(name: str, registry: Registry[Any]) -> dict[str, Any]:
    """The default of each field, in full; `MISSING` where there is none."""
    found: dict[str, Any] = {"name": name}
    for field in dataclasses.fields(registry.get(name)):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        value = list(value) if isinstance(value, tuple) else value
        found[field.name] = _full(value, SOLVERS) if isinstance(value, Mapping) else value
    return found


def _told(value: object) -> object:
    return "null" if value is None else value
