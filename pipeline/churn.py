"""EDM's churn: fresh noise that lifts a step's starting point before its evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.registry import SpecError, require
from pipeline.solvers import Solver


@dataclass(frozen=True)
class Churn:
    """Stochastic sampling of Karras et al. (2022, arXiv 2206.00364, Algorithm 2, lines 4 to 6).

    Before the evaluation at a sigma between `s_min` and `s_max`, x is lifted to sigma (1 + gamma) with
    gamma = min(s_churn / N, sqrt(2) - 1), N the number of moves, by fresh noise of standard deviation `s_noise`. It
    costs no evaluation. `s_max` null is no upper end.

    Differs from aiimaginglab/sdm modules/sampler.py:264: fresh noise is a function of the image's seed and of the step,
    not of a global generator, so that it does not depend on the batch.
    """

    s_churn: float
    s_min: float = 0.0
    s_max: float | None = None
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.s_churn < math.inf, "s_churn", self.s_churn, "0 or more and finite")
        require(0 <= self.s_min < math.inf, "s_min", self.s_min, "0 or more and finite")
        high = self.s_max is None or self.s_min <= self.s_max < math.inf
        require(high, "s_max", self.s_max, f"{self.s_min} or more and finite, or null for no upper end")
        require(0 <= self.s_noise < math.inf, "s_noise", self.s_noise, "0 or more and finite")

    def lifted(self, sigma: float, num_steps: int) -> float:
        """The sigma that a step at `sigma` starts from, one of `num_steps`; `sigma` itself where nothing is added."""
        inside = self.s_min <= sigma and (self.s_max is None or sigma <= self.s_max)
        return sigma * (1 + min(self.s_churn / num_steps, math.sqrt(2) - 1)) if inside else sigma

    def require_one_step(self, solver: Solver) -> None:
        """Raise a `SpecError` if `solver` reads earlier points: their path is not the one that x is on now."""
        if self.s_churn > 0 and not solver.one_step:
            raise SpecError(
                "needs a solver that starts each step afresh",
                path="churn",
                given=getattr(solver, "registry_name", type(solver).__name__),
                allowed="a one-step solver: euler, heun, dpm_solver_2, dpm_solver_pp_singlestep, a switch between such",
            )
