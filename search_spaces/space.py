"""A search space: the tree of a trial's spec with distributions at its leaves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, IntDistribution

from pipeline.methods import Pair
from pipeline.registry import SpecError
from pipeline.sampler import Sampler
from pipeline.schedules import SIGMA_MAX, SIGMA_MIN
from pipeline.trial import TrialSpec
from search_spaces.fewest import fewest_evaluations
from search_spaces.leaves import Leaf, Place
from search_spaces.pairs import point_of
from search_spaces.settings import points_of, points_of_methods
from search_spaces.tree import build, leaves, located, read_tree

PARTS = ("solver", "schedule", "afs", "denoise_to_zero", "churn")


class Space:
    """Distributions by parameter name, and the way from drawn parameters to a trial's solver and schedule.

    A parameter inside a labelled choice is active where its label is drawn. A point of the space is the parameters that
    are active there, and no others.
    """

    def __init__(self, tree: Mapping[str, Any]) -> None:
        for key in tree:
            if key not in PARTS:
                raise SpecError("unknown key", path=str(key), given=key, allowed=PARTS)
        for key in ("solver", "schedule"):
            if key not in tree:
                raise SpecError("is required and missing", path=key, allowed="a mapping with a name")
            if not isinstance(tree[key], Mapping):
                raise SpecError("has the wrong type", path=key, given=tree[key], allowed="a mapping with a name")
            if not {"name", "choices"} & set(tree[key]):
                raise SpecError("is required and missing", path=f"{key}.name", allowed=f"the name of a {key}")
        self._tree = read_tree(tree, Place())
        self.leaves: dict[str, Leaf] = {}
        keys: dict[str, str] = {}
        for leaf in leaves(self._tree):
            key, where = leaf.place.key, leaf.place.where
            if key in keys:
                raise SpecError(f"has the name of the parameter at {keys[key]}", path=where, given=key)
            keys[key] = where
            self.leaves[leaf.name] = leaf

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Parameter name -> Optuna distribution, of every parameter, active or not."""
        return {name: leaf.distribution for name, leaf in self.leaves.items()}

    @property
    def is_conditional(self) -> bool:
        """Whether some parameters are active at some points only."""
        return any(leaf.place.needs for leaf in self.leaves.values())

    def draw(self, suggest: Callable[[str, BaseDistribution], Any]) -> dict[str, Any]:
        """A point of the space: `suggest` gives each active parameter, a choice's before those inside it."""
        params: dict[str, Any] = {}

        def drawn(leaf: Leaf) -> Any:
            params[leaf.name] = suggest(leaf.name, leaf.distribution)
            return params[leaf.name]

        build(self._tree, drawn)
        return params

    def assemble(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The spec's parts at these parameters: solver, schedule, and of the loop's options those that the tree has.

        Parameters that are not active here are left alone.

        Raises:
            SpecError: an active parameter is missing, or lies outside its distribution.
        """

        def drawn(leaf: Leaf) -> Any:
            if leaf.name not in params:
                raise SpecError("is required and missing", path=leaf.name)
            held = params[leaf.name]
            if not leaf.holds(held):
                raise SpecError("lies outside the space", path=leaf.name, given=held, allowed=leaf.span())
            return held

        return {"afs": False, **build(self._tree, drawn)}

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Whether the parameters are a point of this space; those that are not active do not matter."""
        try:
            self.assemble(params)
        except SpecError:
            return False
        return True

    def setting(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The point as a published setting would say it: by key, values for indices and shares."""
        built, active = self.assemble(params), self._active(params)
        return {
            leaf.place.key: params[name] if leaf.labelled else _at(built, leaf.place.path)
            for name, leaf in self.leaves.items()
            if name in active
        }

    def corners(self) -> Iterator[dict[str, Any]]:
        """Points at the ends of their parameters: what a wrong range shows up in.

        Every pair of parameters that can be active together is there in every combination of its ends, the others at
        their first.
        """
        seen = set()
        first = {name: leaf.ends()[0] for name, leaf in self.leaves.items()}
        for one, two in itertools.combinations_with_replacement(self.leaves.values(), 2):
            for ends in itertools.product(one.ends(), two.ends()):
                held = dict(zip((one.name, two.name), ends, strict=True))
                # Where the two cannot be active together, this is a point of which the other pairs are seen anyway.
                corner = self._active(first | dict([*one.place.needs, *two.place.needs]) | held)
                if (point := tuple(corner.items())) not in seen:
                    seen.add(point)
                    yield corner
        if not self.leaves:
            yield {}

    def _active(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters without those that are not active."""
        return self.draw(lambda name, _: params[name])

    def check(self, benchmark: str) -> int | None:
        """Build the sampler at every corner, so that a wrong name, key or range fails before anything runs.

        Returns:
            The smallest NFE that a point of the space can have; None where only a walk would tell the number of moves.
        """
        return fewest_evaluations([self._sampler(benchmark, params) for params in self.corners()])

    def _sampler(self, benchmark: str, params: Mapping[str, Any]) -> Sampler:
        built = self.assemble(params)
        try:
            for key in ("afs", "denoise_to_zero"):
                if not isinstance(built.get(key, False), bool):
                    raise SpecError("has the wrong type", path=key, given=built[key], allowed="true or false")
            if not isinstance(built.get("churn"), Mapping | None):
                allowed = "a mapping, or null"
                raise SpecError("has the wrong type", path="churn", given=built["churn"], allowed=allowed)
            sampler = TrialSpec(benchmark=benchmark, **built).sampler()
        except SpecError as error:
            where = located(self._tree, error.path, params)
            raise SpecError(error.message, path=where, given=error.given, allowed=error.allowed) from None
        for name in params:
            _check_whole(self.leaves[name], sampler)
        return sampler

    def points(
        self,
        setting: Mapping[str, Any],
        budgets: Sequence[int] = (),
        sigma_range: tuple[float, float] = (SIGMA_MIN, SIGMA_MAX),
        rows_per_image: int = 1,
    ) -> list[dict[str, Any]]:
        """The points of a published setting: values by key, or methods by name (see `search_spaces.settings`)."""
        if "method" in setting:
            return points_of_methods(self._tree, setting, budgets, sigma_range, rows_per_image)
        return points_of(self._tree, setting)

    def point_of(self, pair: Pair) -> dict[str, Any]:
        """The point at which the space is this solver on this schedule; a `SpecError` names what it lacks."""
        return point_of(self._tree, pair)


def _check_whole(leaf: Leaf, sampler: Sampler) -> None:
    """Refuse a range such as 0 to 3 for a field of real numbers: nothing between its whole numbers would be tried.

    With a step, or as a list of values, the whole numbers are meant.
    """
    distribution, path = leaf.distribution, leaf.place.path
    if not isinstance(distribution, IntDistribution) or leaf.stepped or leaf.values or len(path) != 2:
        return
    if distribution.low < distribution.high and isinstance(getattr(getattr(sampler, path[0]), path[1], None), float):
        raise SpecError(
            "is a number, but a range with whole ends draws whole numbers only",
            path=leaf.place.where,
            given=f"{distribution.low} to {distribution.high}",
            allowed=f"low: {float(distribution.low)}, high: {float(distribution.high)}, or the same with a step",
        )


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree[part]
    return tree
