"""A search space: the tree of a trial's spec with distributions at its leaves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.registry import SpecError
from pipeline.sampler import Sampler, trace
from pipeline.schedules import EDM, Given, Schedule
from pipeline.sdm import Switch
from pipeline.solvers import Solver
from pipeline.trial import TrialSpec
from search_spaces.leaves import Leaf, ends_of, is_range, leaves, told_range

PARTS = ("solver", "schedule", "afs", "denoise_to_zero", "churn")


class Space:
    """Distributions by parameter name, and the way from drawn parameters to a trial's solver and schedule."""

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
        self._tree = dict(tree)
        self.leaves = {leaf.name: leaf for leaf in leaves(self._tree, ())}
        for leaf in self.leaves.values():
            if leaf.share_of:
                _check_share(leaf, _at(self._tree, leaf.path[:-1]))

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Parameter name -> Optuna distribution."""
        return {name: leaf.distribution for name, leaf in self.leaves.items()}

    def assemble(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The spec's parts at these parameters: solver, schedule, and of the loop's options those that the tree has."""
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
        ends = {name: ends_of(leaf.distribution) for name, leaf in self.leaves.items()}
        low = {name: values[0] for name, values in ends.items()}
        yield low
        for one, two in itertools.combinations_with_replacement(ends, 2):
            for a, b in itertools.product(ends[one], ends[two]):
                yield low | {one: a, two: b}

    def check(self, benchmark: str) -> int | None:
        """Build the sampler at every corner, so that a wrong name, key or range fails before anything runs.

        Returns:
            The smallest NFE that a point of the space can have; None where only a walk would tell the number of moves.
        """
        samplers = [self._sampler(benchmark, params) for params in self.corners()]
        moves = [_moves(sampler.schedule) for sampler in samplers]
        if None in moves:
            return None
        # More moves never cost less, so the corners with the fewest are traced.
        least = min(n for n in moves if n is not None)
        ends = [end for sampler, n in zip(samplers, moves, strict=True) if n == least for end in _ends_of(sampler, n)]
        different = {repr(end): end for end in ends}
        return min(
            len(trace(end.solver, end.schedule.sigmas().tolist(), afs=end.afs, churn=end.churn))
            for end in different.values()
        )

    def _sampler(self, benchmark: str, params: Mapping[str, Any]) -> Sampler:
        built = self.assemble(params)
        for key in ("afs", "denoise_to_zero"):
            if not isinstance(built.get(key, False), bool):
                raise SpecError("has the wrong type", path=key, given=built[key], allowed="true or false")
        if not isinstance(built.get("churn"), Mapping | None):
            raise SpecError("has the wrong type", path="churn", given=built["churn"], allowed="a mapping, or null")
        try:
            sampler = TrialSpec(benchmark=benchmark, **built).sampler()
        except SpecError as error:
            raise self._within_choice(error, params) from None
        for leaf in self.leaves.values():
            self._check_whole(leaf, sampler)
        return sampler

    def _within_choice(self, error: SpecError, params: Mapping[str, Any]) -> SpecError:
        """The error, with its path leading through the labelled choice that it is about."""
        for name, leaf in self.leaves.items():
            where = ".".join(leaf.path)
            if leaf.choices is not None and (error.path == where or error.path.startswith(f"{where}.")):
                inside = SpecError(
                    error.message, given=error.given, allowed=error.allowed, path=error.path[len(where) + 1 :]
                )
                return inside.under(f"{where}.choices.{params[name]}")
        return error

    @staticmethod
    def _check_whole(leaf: Leaf, sampler: Sampler) -> None:
        """Refuse a range such as 0 to 3 for a field of real numbers: nothing between its whole numbers would be tried.

        With a step the whole numbers are meant.
        """
        distribution = leaf.distribution
        if not isinstance(distribution, IntDistribution) or leaf.stepped or len(leaf.path) != 2:
            return
        if distribution.low < distribution.high and isinstance(
            getattr(getattr(sampler, leaf.path[0]), leaf.path[1], None), float
        ):
            raise SpecError(
                "is a number, but a range with whole ends draws whole numbers only",
                path=".".join(leaf.path),
                given=f"{distribution.low} to {distribution.high}",
                allowed=f"low: {float(distribution.low)}, high: {float(distribution.high)}, or the same with a step",
            )

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
        for key, value in setting.items():
            if value == []:
                raise SpecError("holds no value", path=key, given=value, allowed="a value, or a list of values")
        axes = [value if isinstance(value, list) else [value] for value in setting.values()]
        return [self._point(dict(zip(setting, values, strict=True)), by_path) for values in itertools.product(*axes)]

    def _point(self, values: Mapping[str, Any], by_path: Mapping[str, Leaf]) -> dict[str, Any]:
        point = {}
        for key, value in values.items():
            leaf = by_path[key]
            if not leaf.share_of:
                point[leaf.name] = _inside(leaf, key, value, 1.0)
        for key, value in values.items():
            leaf = by_path[key]
            if leaf.share_of:
                sibling = (*leaf.path[:-1], leaf.share_of)
                # Checked above where it is searched, and by `_check_share` where it is fixed.
                whole = values.get(".".join(sibling), _at(self._tree, sibling))
                point[leaf.name] = _inside(leaf, key, value, whole)
        return point


def _inside(leaf: Leaf, key: str, value: Any, whole: float) -> Any:
    """The value as Optuna's parameter, for a share divided by the `whole`; a `SpecError` if it is not in its range."""
    distribution, drawn = leaf.distribution, value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(distribution, FloatDistribution) and is_number:
        drawn = float(value) / whole if whole else math.inf
        # A share such as 0.01 / 0.4 may miss an end of its range by a rounding.
        for end in (distribution.low, distribution.high):
            drawn = end if math.isclose(drawn, end, rel_tol=1e-9) else drawn
    elif isinstance(distribution, IntDistribution) and is_number and value == int(value):
        drawn = int(value)
    try:
        fits = is_number or isinstance(distribution, CategoricalDistribution)
        inside = fits and distribution._contains(distribution.to_internal_repr(drawn))
    except (ValueError, TypeError):
        inside = False
    if not inside:
        allowed = told_range(distribution, whole)
        raise SpecError("lies outside the space", path=key, given="null" if value is None else value, allowed=allowed)
    return drawn


def _moves(schedule: Schedule) -> int | None:
    if isinstance(schedule, Given):
        return len(schedule.values) - 1
    moves: int | None = getattr(schedule, "num_steps", None)
    return moves


def _ends_of(sampler: Sampler, moves: int) -> list[Sampler]:
    """The sampler on a grid that needs no network, its switch at the first and past the last step.

    How many evaluations a sampler makes depends on the number of its moves and on whether the last one goes to 0.
    """
    zero = getattr(sampler.schedule, "final", "zero") != "sigma_min"
    if isinstance(sampler.schedule, Given):
        zero = sampler.schedule.values[-1] == 0
    moves += sampler.denoise_to_zero
    zero = zero or sampler.denoise_to_zero
    solver, grid = sampler.solver, EDM(moves, final="zero" if zero else "sigma_min")
    ends: list[Solver] = [solver]
    if isinstance(solver, Switch) and solver.rule == "step" and solver.switch_at is None:
        ends = [replace(solver, switch_at=at, tau_k=0.0) for at in (0, moves)]
    return [replace(sampler, solver=end, schedule=grid, denoise_to_zero=False) for end in ends]


def _check_share(leaf: Leaf, owner: Mapping[str, Any]) -> None:
    """A share is of a sibling that is a number, fixed or drawn, and no share itself."""
    possible = []
    for key, item in owner.items():
        fixed = isinstance(item, int | float) and not isinstance(item, bool)
        if key != leaf.path[-1] and (fixed or (is_range(item) and "share_of" not in item)):
            possible.append(str(key))
    if leaf.share_of not in possible:
        raise SpecError(
            "is no sibling with a number",
            path=".".join((*leaf.path, "share_of")),
            given=leaf.share_of,
            allowed=sorted(possible),
        )


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
