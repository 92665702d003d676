"""What a polynomial through known outputs adds over one step: weights shared by multistep and exponential rules."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np


@functools.cache
def _legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    places, measure = np.polynomial.legendre.leggauss(count)
    return places, measure


def gauss(start: float, end: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre places and weights on the way from `start` to `end`, (count,) each.

    Exact for polynomials of degree 2 count - 1; the weights sum to end - start, whatever its sign.
    """
    places, measure = _legendre(count)
    half = (end - start) / 2
    return start + half * (1 + places), half * measure


def lagrange_weights(nodes: Sequence[float] | np.ndarray, places: np.ndarray, measure: np.ndarray) -> list[float]:
    """The integrals of the Lagrange basis polynomials of `nodes` (k,), by the quadrature `places`, `measure` (count,).

    Nodes and places are in the coordinate that the polynomials are in, whatever variable `measure` integrates over.
    """
    weights = []
    for j, node in enumerate(nodes):
        basis = measure
        for m, other in enumerate(nodes):
            if m != j:
                basis = basis * ((places - other) / (node - other))
        weights.append(float(basis.sum()))
    return weights


def adams_bashforth(sigmas: Sequence[float], target: float) -> list[float]:
    """Weights of the slopes at `sigmas`, newest first and at most four, for the move from sigmas[0] to `target`.

    They integrate the polynomial in sigma through the slopes exactly and sum to target - sigmas[0] (Hairer, Norsett &
    Wanner, 1993, section III.5).
    """
    places, measure = gauss(sigmas[0], target, 2)
    return lagrange_weights(sigmas, places, measure)


def taylor_weights(sigma: float, target: float, *, predict_x0: bool) -> tuple[float, float, float]:
    """Weights of f, f' and f'' for the move from `sigma` to `target` in lambda = -log sigma.

    f is the denoised (`predict_x0`) or the noise, its derivatives are per move, and the weights integrate
    f + s f' + s^2 f'' / 2, s in [0, 1], exactly: phi_1, phi_2, phi_3 of Lu et al. (2022, arXiv 2206.00927, section
    3.2; arXiv 2211.01095, section 4).
    """
    h = math.log(sigma / target)
    sign = -1.0 if predict_x0 else 1.0
    phi_1 = math.expm1(sign * h)
    phi_2 = phi_1 / h - sign
    phi_3 = phi_2 / h - 0.5
    if predict_x0:
        # In data prediction the integrals of e^lambda run the other way: signs alternate with the order.
        return -phi_1, phi_2, -phi_3
    return -target * phi_1, -target * phi_2, -target * phi_3
