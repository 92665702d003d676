"""The tree of a search space: the shape of a trial's spec, with leaves and labelled choices in it.

What a label stands for may hold leaves and choices of its own, which are drawn where the label is and only there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pipeline.registry import SpecError
from search_spaces.leaves import Leaf, Place, is_leaf, read_choices, read_leaf


@dataclass(frozen=True)
class Fixed:
    """A value that is not searched."""

    place: Place
    value: Any


@dataclass(frozen=True)
class Group:
    """A mapping of the spec."""

    place: Place
    items: Mapping[str, Node]

    def resolve(self, built: dict[str, Any]) -> dict[str, Any]:
        """The mapping with every share in it turned into the value."""
        for key, item in self.shares():
            built[key] *= built[item.share_of]
        return built

    def shares(self) -> Iterator[tuple[str, Leaf]]:
        """The items that are shares of others."""
        for key, item in self.items.items():
            if isinstance(item, Leaf) and item.share_of:
                yield key, item


@dataclass(frozen=True)
class Choice:
    """A choice by label; `items` are what the labels stand for."""

    leaf: Leaf
    items: Mapping[str, Node]

    @property
    def place(self) -> Place:
        """Where the choice is."""
        return self.leaf.place


Node: TypeAlias = Fixed | Group | Choice | Leaf


def read_tree(value: Any, place: Place) -> Node:
    """The tree of what a study file says at a place.

    Raises:
        SpecError: a leaf that is none, a share of nothing, two parameters of one name.
    """
    if not isinstance(value, Mapping):
        return Fixed(place, value)
    if "choices" in value:
        leaf = read_choices(value, place)
        if not leaf.labelled:
            return leaf
        items = {str(label): read_tree(item, place.labelled(str(label))) for label, item in value["choices"].items()}
        for item in items.values():
            if isinstance(item, Leaf) and item.share_of:
                raise SpecError("has no siblings as an item", path=item.place.where + ".share_of", given=item.share_of)
        return Choice(leaf, items)
    if is_leaf(value):
        return read_leaf(value, place)
    group = Group(place, {str(key): read_tree(item, place.at(str(key))) for key, item in value.items()})
    for key, leaf in group.shares():
        _check_share(key, leaf, group.items)
    return group


def build(node: Node, draw: Callable[[Leaf], Any]) -> Any:
    """The value of the spec, asking for the parameter of each active leaf, a choice's before what is inside it."""
    match node:
        case Fixed():
            return node.value
        case Leaf():
            return node.value(draw(node))
        case Choice():
            return build(node.items[draw(node.leaf)], draw)
        case Group():
            return node.resolve({key: build(item, draw) for key, item in node.items.items()})


def leaves(node: Node) -> Iterator[Leaf]:
    """Every leaf, active or not, a choice before what is inside it."""
    match node:
        case Leaf():
            yield node
        case Choice():
            yield node.leaf
            for item in node.items.values():
                yield from leaves(item)
        case Group():
            for item in node.items.values():
                yield from leaves(item)
        case Fixed():
            return


def located(node: Node, path: str, params: Mapping[str, Any]) -> str:
    """Where in the study file a place of the spec is, at these parameters."""
    if isinstance(node, Choice):
        return located(node.items[params[node.leaf.name]], path, params)
    key, _, rest = path.partition(".")
    if isinstance(node, Group) and key in node.items:
        return located(node.items[key], rest, params)
    return ".".join(filter(None, (node.place.where, path)))


def _check_share(key: str, leaf: Leaf, siblings: Mapping[str, Node]) -> None:
    """A share is of a sibling that is a number, fixed or drawn, and no share itself."""
    possible = []
    for name, item in siblings.items():
        fixed = isinstance(item, Fixed) and isinstance(item.value, int | float) and not isinstance(item.value, bool)
        drawn = isinstance(item, Leaf) and item.is_number and not item.share_of
        if name != key and (fixed or drawn):
            possible.append(name)
    if leaf.share_of not in possible:
        path = f"{leaf.place.where}.share_of"
        raise SpecError("is no sibling with a number", path=path, given=leaf.share_of, allowed=sorted(possible))
