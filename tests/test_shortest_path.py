"""The cheapest paths are the cheapest of all paths, and the first of equally cheap ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.registry import SpecError
from pipeline.shortest_path import ShortestPaths


def price(cost, path, coeff):
    return sum(coeff**k * cost[a, b] for k, (a, b) in enumerate(itertools.pairwise(path)))


def every_path(nodes, num_steps):
    return ([0, *inner, nodes - 1] for inner in itertools.combinations(range(1, nodes - 1), num_steps - 1))


def matrices(elements):
    return st.integers(2, 9).flatmap(lambda n: arrays.arrays(np.float64, (n, n), elements=elements))


@given(cost=matrices(st.floats(-10, 10)), coeff=st.floats(0.5, 1.5))
def test_no_path_is_cheaper(cost, coeff):
    """Also below 0: the cost "dev" is signed."""
    paths, nodes = ShortestPaths(cost, coeff), len(cost)
    for num_steps in range(1, nodes):
        path = paths.indices(num_steps)
        assert len(path) == num_steps + 1
        assert (path[0], path[-1]) == (0, nodes - 1)
        assert all(a < b for a, b in itertools.pairwise(path))
        cheapest = min(price(cost, other, coeff) for other in every_path(nodes, num_steps))
        assert price(cost, path, coeff) <= cheapest + 1e-9


@given(cost=matrices(st.integers(-2, 2)), coeff=st.sampled_from([0.5, 1.0, 1.5]))
def test_of_equally_cheap_paths_the_first(cost, coeff):
    """Small integers and coefficients without rounding, so that ties are ties."""
    paths = ShortestPaths(cost, coeff)
    for num_steps in range(1, len(cost)):
        priced = [(price(cost, path, coeff), path) for path in every_path(len(cost), num_steps)]
        assert paths.indices(num_steps) == min(priced)[1]


def test_each_move_weighs_coeff_times_the_one_before():
    """0-1-3 costs 1 + 3 coeff, 0-2-3 costs 3 + coeff: they change places at coeff 1."""
    cost = np.zeros((4, 4))
    cost[0, 1], cost[1, 3], cost[0, 2], cost[2, 3] = 1, 3, 3, 1
    assert ShortestPaths(cost, 0.9).indices(2) == [0, 1, 3]
    assert ShortestPaths(cost, 1.1).indices(2) == [0, 2, 3]


def test_one_move_goes_straight_and_all_moves_stop_everywhere():
    cost = np.random.default_rng(0).normal(size=(6, 6))
    paths = ShortestPaths(cost, 1.15)
    assert paths.indices(1) == [0, 5]
    assert paths.indices(5) == [0, 1, 2, 3, 4, 5]


def test_only_moves_forward_are_read():
    cost = np.random.default_rng(0).normal(size=(7, 7))
    below = np.where(np.tri(7, dtype=bool), math.nan, cost)
    assert [ShortestPaths(below, 1.1).indices(k) for k in range(1, 7)] == [
        ShortestPaths(cost, 1.1).indices(k) for k in range(1, 7)
    ]


@pytest.mark.parametrize("num_steps", [0, 7])
def test_the_range_is_named(num_steps):
    with pytest.raises(SpecError, match=r"num_steps.*1 to 6"):
        ShortestPaths(np.zeros((7, 7)), 1.0).indices(num_steps)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_cost_that_is_not_finite_is_named(value):
    cost = np.zeros((5, 5))
    cost[2, 3] = value
    with pytest.raises(SpecError, match="from node 2 to node 3 is not finite"):
        ShortestPaths(cost, 1.0)
