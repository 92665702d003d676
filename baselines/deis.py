"""DEIS: an exponential integrator that extrapolates the noise prediction (Zhang & Chen, 2023, arXiv 2204.13902)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.lagrange import adams_bashforth, gauss, lagrange_weights
from pipeline.methods import METHODS, Method, Pair
from pipeline.registry import require
from pipeline.schedules import LARGEST_SIGMA, SIGMA_MAX, SIGMA_MIN, vp_betas
from pipeline.solvers import SOLVERS, Evaluate, Point, State, along_slopes, euler_move

# Enough for any step: in log sigma the integrand has no singularity nearer to the real axis than pi / 2, so that even
# one step over the whole of EDM's range is exact to rounding.
QUADRATURE = 64


@SOLVERS.register("deis")
@dataclass(frozen=True)
class DEIS:
    """AB-DEIS: the slope as a polynomial of degree `order` through the last `order` + 1 points, integrated exactly.

    `order` is the paper's, as in tAB1 to tAB3: one below the number of points, which is the order of accuracy. The
    first moves use what points there are. `mode` is what the polynomial is in: the VP process's time ("tab") or sigma
    ("rhoab"), both Zhang & Chen (2023, arXiv 2204.13902, section 3), or log sigma ("logrho", what diffusers'
    DEISMultistepScheduler does). The VP process has `sigma_min` at time `epsilon_s` and `sigma_max` at time 1; only
    "tab" uses it.

    Differs from zju-pi/diff-sampler diff-solvers-main/solver_utils.py get_deis_coeff_list: exact integrals instead of
    sums over 10,000 points.
    """

    order: Literal[1, 2, 3] = 3
    mode: Literal["tab", "rhoab", "logrho"] = "tab"
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    epsilon_s: float = 1e-3  # Karras et al. (2022), Table 1, VP column

    one_step: ClassVar[bool] = False
    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        require(self.order in (1, 2, 3), "order", self.order, "1, 2 or 3")
        require(self.mode in ("tab", "rhoab", "logrho"), "mode", self.mode, "tab, rhoab, logrho")
        require(0 < self.sigma_max <= LARGEST_SIGMA, "sigma_max", self.sigma_max, f"above 0, at most {LARGEST_SIGMA:g}")
        below = f"1e-100 or more, below {self.sigma_max}"
        require(1e-100 <= self.sigma_min < self.sigma_max, "sigma_min", self.sigma_min, below)
        # At this or less beta_d is not positive, and the time of sigmas above sigma_max not defined.
        least = math.log1p(self.sigma_min**2) / math.log1p(self.sigma_max**2)
        require(least < self.epsilon_s < 1, "epsilon_s", self.epsilon_s, f"above {least:.3g} and below 1")

    def step(
        self, denoise: Evaluate, points: Sequence[Point], sigmas: Sequence[float], i: int, state: State
    ) -> tuple[Any, State]:
        """One evaluation, the loop's."""
        del denoise, state
        here, target = points[-1], sigmas[i + 1]
        if target == 0 or len(points) == 1:
            return euler_move(here, target), None
        used = list(points)[-self.order - 1 :]
        return along_slopes(used, self.weights([point.sigma for point in reversed(used)], target)), None

    def weights(self, sigmas: Sequence[float], target: float) -> list[float]:
        """Weights of the slopes at `sigmas`, newest first, for the move from sigmas[0] to `target`; they sum to it."""
        if self.mode == "rhoab":
            return adams_bashforth(sigmas, target)
        logs, measure = gauss(math.log(sigmas[0]), math.log(target), QUADRATURE)
        places = np.exp(logs)
        measure = measure * places
        if self.mode == "logrho":
            return lagrange_weights(np.log(sigmas), logs, measure)
        return lagrange_weights(self._time(np.asarray(sigmas)), self._time(places), measure)

    @cached_property
    def _betas(self) -> tuple[float, float]:
        return vp_betas(self.sigma_min, self.sigma_max, self.epsilon_s)

    def _time(self, sigmas: np.ndarray) -> np.ndarray:
        """The VP process's time at `sigmas` (Karras et al., 2022, arXiv 2206.00364, Table 1)."""
        beta_d, beta_min = self._betas
        return np.asarray((np.sqrt(beta_min**2 + 2 * beta_d * np.log1p(sigmas**2)) - beta_min) / beta_d)


def _deis(nfe: int) -> Pair | None:
    if nfe < 1:
        return None
    schedule = {"name": "time_uniform", "num_steps": nfe, "rho": 2.0, "final": "sigma_min"}
    return {"name": "deis", "order": 3, "mode": "tab"}, schedule


METHODS.register(
    Method(
        name="deis",
        title="DEIS-tAB3",
        source="Zhang & Chen, 2023, arXiv 2204.13902; on uniform VP time, rho 2, to sigma_min: zju-pi/diff-sampler, "
        "README",
        pair=_deis,
    )
)
