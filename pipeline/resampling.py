"""N-step resampling: a walk's sigmas thinned out to as many as are wanted (Jo & Choi, 2026, arXiv 2602.12624).

What is resampled keeps the shape of the walk, not its bound: N fixed steps cost what they cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator

from pipeline.registry import SpecError, require


def resample(
    sigmas: Sequence[float], eta: Sequence[float], nodes: int, *, power: float = 0.5, q: float = 0.1, rho: float = 7.0
) -> list[float]:
    """N-step resampling: `nodes` sigmas at equal shares of the weighted length of a walk; the last 0 is left out.

    Each step weighs eta^power * (sigma_max / sigma_next)^q; sigma^(1/rho) is interpolated over the cumulative weight by
    a monotone cubic (Jo & Choi, 2026, section 3; aiimaginglab/sdm modules/utils.py:403).

    Differs from aiimaginglab/sdm modules/utils.py:442: `rho` is a parameter, where that is always 7.

    Args:
        sigmas: the walk, strictly decreasing, with or without a final 0.
        eta: its steps' local errors, image L2 norm; steps to 0 are ignored.
        nodes: how many sigmas, ends included.
        power: how strongly error attracts sigmas.
        q: how strongly low noise attracts sigmas.
        rho: exponent of the interpolated coordinate.

    Raises:
        SpecError: fewer than one node, no step with an error above 0, or weights beyond double precision.
    """
    require(nodes >= 1, "num_steps", nodes, "1 or more")
    walk = [sigma for sigma in sigmas if sigma > 0]
    tiny = 1e-12  # aiimaginglab/sdm modules/utils.py:403, its eps
    errors = [max(e, 0.0) for e, _ in zip(eta, walk[1:], strict=False)]
    try:
        weights = [
            e**power * ((walk[0] + tiny) / (after + tiny)) ** q for e, after in zip(errors, walk[1:], strict=True)
        ]
    except OverflowError:
        weights = [math.inf]
    total = sum(weights)
    if not math.isfinite(total) or (total == 0 and any(errors)):
        raise SpecError(
            "the weights of the walk are not finite or vanish",
            path="power and q",
            given=(power, q),
            allowed="values nearer to 0",
        )
    if total == 0:
        raise SpecError(
            "every step of the walk has zero error: there is nothing to resample by",
            path="num_steps",
            allowed="null, for the walk itself, or power: 0, which leaves the errors out",
        )
    if nodes == 1:
        return [walk[0]]
    length = np.concatenate([[0.0], np.cumsum(weights)])
    coordinate = np.asarray(walk) ** (1 / rho)
    # A step without weight would repeat a knot, which the interpolation cannot take; its end stands for both.
    keep = np.concatenate([[True], np.diff(length) > 0])
    keep[-1] = True
    length, coordinate = length[keep], coordinate[keep]
    if len(length) > 1 and length[-1] <= length[-2]:
        length, coordinate = np.delete(length, -2), np.delete(coordinate, -2)
    at = np.linspace(0.0, length[-1], nodes)
    placed = np.asarray(PchipInterpolator(length, coordinate)(at)) ** rho
    placed[0], placed[-1] = walk[0], walk[-1]
    return [float(value) for value in placed]
