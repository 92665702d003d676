"""Shortest paths with a given number of moves, all numbers from one table of values."""

from __future__ import annotations

import math

import numpy as np

from pipeline.registry import SpecError, require


class ShortestPaths:
    """The cheapest paths from the first node to the last, for every number of moves; nodes only ever go up.

    value[k, j] = min over i > j of cost[j, i] + coeff * value[k - 1, i] is the cost of going on from j in k moves: each
    move costs coeff times more than the one before it (Chen et al., 2024, arXiv 2405.11326; zju-pi/diff-sampler
    gits-main/gits_utils.py:185). Of equally cheap next nodes the first is taken.

    Args:
        cost: (nodes, nodes); only cost[j, i] with i > j is read, and may be negative.
        coeff: above 0.

    Raises:
        SpecError: a cost that is read is not finite.
    """

    def __init__(self, cost: np.ndarray, coeff: float) -> None:
        nodes = len(cost)
        upward = np.triu(np.ones((nodes, nodes), dtype=bool), 1)
        if not np.isfinite(cost[upward]).all():
            j, i = np.argwhere(upward & ~np.isfinite(cost))[0].tolist()
            raise SpecError(f"the cost of moving from node {j} to node {i} is not finite", given=float(cost[j, i]))
        edges = np.where(upward, cost, math.inf)
        value = edges[:, -1]
        # following[k - 1][j]: the node after j on the cheapest way that still has k moves.
        self.following = [np.full(nodes, nodes - 1)]
        for _ in range(2, nodes):
            total = edges + coeff * value
            self.following.append(total.argmin(1))
            value = total.min(1)

    def indices(self, num_steps: int) -> list[int]:
        """The `num_steps` + 1 nodes of the cheapest path with exactly `num_steps` moves.

        Raises:
            SpecError: fewer than one move, or more than there are nodes for.
        """
        require(1 <= num_steps <= len(self.following), "num_steps", num_steps, f"1 to {len(self.following)}")
        path = [0]
        for k in range(num_steps, 0, -1):
            path.append(int(self.following[k - 1][path[-1]]))
        return path
