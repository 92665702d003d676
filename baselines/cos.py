"""COS: the score-optimal schedule (Williams, Campbell, Doucet & Syed, 2024, arXiv 2412.07877).

With the corrector-optimised cost, as Jo & Choi (2026, arXiv 2602.12624) re-implement it for their comparison.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from pipeline.denoiser import Denoiser
from pipeline.methods import METHODS, Method, Pair
from pipeline.registry import SpecError, require
from pipeline.sampler import Lesson, integrate
from pipeline.schedules import (
    EDM,
    MOST_STEPS,
    SCHEDULES,
    SIGMA_MAX,
    SIGMA_MIN,
    Final,
    check_calibration_images,
    check_sigmas,
)
from pipeline.solvers import Heun, Point

Knots = Literal["published", "all"]
# Moves of Heun that sample CIFAR-10 well: 35 evaluations (Karras et al., 2022, arXiv 2206.00364, Table 2).
LEAST_WALK = 18


def score_cost(denoise: Denoiser, point: Point, lower: float) -> float:
    """Root mean square over images of sigma |s(x; sigma) - s(x; lower)|, s(x; sigma) = (D(x; sigma) - x) / sigma^2.

    x and sigma are `point`'s; one evaluation. The square is L_c of Williams et al., 2024, section 2.3.
    """
    x = point.x.double()
    here = (point.denoised.double() - x) / point.sigma**2
    there = (denoise(point.x, lower).double() - x) / lower**2
    return point.sigma * float((here - there).flatten(1).square().sum(1).mean().sqrt())


def equal_costs(
    probe: Sequence[float], costs: Sequence[float], nodes: int, *, rho: float = 7.0, knots: Knots = "all"
) -> list[float]:
    """`nodes` sigmas at equal shares of the cumulated cost (Williams et al., 2024, Algorithm 1), ends included.

    Args:
        probe: (P,) sigmas, strictly decreasing.
        costs: (P - 1,) of the intervals between them, in the same order; their unit does not matter.
        nodes: how many sigmas, 2 or more.
        rho: sigma^(1/rho) is interpolated over the cost, by a monotone cubic.
        knots: "published" leaves out the lowest probe sigma, where the cost is 0, and extrapolates below the next.

    Raises:
        SpecError: no interval costs anything, or the extrapolation leaves the range.
    """
    reached = np.cumsum(np.asarray(costs, dtype=np.float64)[::-1])
    if not reached[-1] > 0:
        raise SpecError("schedule 'cos' has nothing to place by: every cost is 0, the score is the same at every sigma")
    time = np.asarray(probe, dtype=np.float64)[::-1] ** (1 / rho)
    at, held = (reached, time[1:]) if knots == "published" else (np.concatenate([[0.0], reached]), time)
    # An interval that costs nothing would repeat a knot, which the interpolation cannot take.
    kept = np.diff(at, prepend=-1.0) > 0
    wanted = np.linspace(0.0, at[-1], nodes)
    placed = PchipInterpolator(at[kept], held[kept])(wanted) if kept.sum() > 1 else np.full(nodes, math.nan)
    placed[0], placed[-1] = time[0], time[-1]
    if knots == "published" and not np.all(np.diff(placed) > 0):
        raise SpecError(
            "leaves out the lowest probe sigma, and here extrapolates out of the range of the sigmas",
            path="knots",
            given=knots,
            allowed="all, or more probe_steps",
        )
    sigmas = np.asarray(placed**rho)
    return [float(probe[0]), *map(float, sigmas[-2:0:-1]), float(probe[-1])]


@SCHEDULES.register("cos")
@dataclass(frozen=True)
class COS:
    """Equal steps of the corrector-optimised cost (Williams et al., 2024, arXiv 2412.07877, sections 2.3 and 3).

    Going from sigma_r down to sigma_l costs sigma_r |s(x; sigma_r) - s(x; sigma_l)|, root mean square over x at noise
    level sigma_r. It is measured on a probe grid, `probe_steps` sigmas of EDM's with `rho`, or where that is null as
    many as are to be placed, and cumulated; `equal_costs` then places the sigmas. Defaults: aiimaginglab/sdm
    optimize_schedules.sh, which places 18, 40 or 256. A coarser grid overprices its lowest interval: to place fewer,
    probe more. The paper weighs by its velocity at the end of the move, sigma_l, where that repository has sigma_r; on
    a fine grid they are the same.

    As published: `knots` "published" keeps that repository's interpolation (modules/utils.py:344), which leaves out the
    knot of zero cost at the lowest probe sigma and extrapolates there. "all" takes it in, as the paper's Algorithm 1
    does.

    Set-up: a Heun walk of the probe grid, of 18 moves or more, and one evaluation more at each of its nodes.

    Differs from aiimaginglab/sdm modules/utils.py:309: a schedule here sees no data, so x is not a noisy training image
    but the model's own, walked down from the calibration noise; where the model is exact it has the same distribution.
    Differs from aiimaginglab/sdm modules/utils.py:298: one batch, not the mean over 50 of them.
    Differs from aiimaginglab/sdm modules/utils.py:343: `rho` is also the interpolation's, where that is always 7.
    Differs from aiimaginglab/sdm modules/utils.py:250: sigmas extrapolated below sigma_min are refused, not repeated.
    """

    num_steps: int
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    final: Final = "zero"
    rho: float = 7.0
    probe_steps: int | None = None
    knots: Knots = "published"
    calibration_images: int = 128

    registry_name: ClassVar[str]

    def __post_init__(self) -> None:
        EDM(self.num_steps, self.sigma_min, self.sigma_max, self.final, self.rho)  # these five are its own
        in_range = self.probe_steps is None or 3 <= self.probe_steps <= MOST_STEPS
        require(in_range, "probe_steps", self.probe_steps, f"3 to {MOST_STEPS}, or null")
        require(self.knots in ("published", "all"), "knots", self.knots, "published, all")
        check_calibration_images(self.calibration_images)

    @property
    def nodes(self) -> int:
        """How many sigmas above 0 are placed."""
        return self.num_steps + (self.final == "sigma_min")

    def probe(self) -> list[float]:
        """The probe grid, from sigma_max to sigma_min."""
        walk, stride = self._walk()
        return walk[::stride]

    def costs(self, denoise: Denoiser, noise: Tensor) -> list[float]:
        """The cost of each interval of the probe grid, from the highest; `noise` (B, C, H, W) unit normal.

        Raises:
            SpecError: a cost that is not finite; it names the sigma.
        """
        walk, stride = self._walk()
        costs: list[float] = []
        visited = itertools.count()

        def measure(point: Point) -> None:
            i = next(visited)
            if i % stride == 0:
                costs.append(score_cost(denoise, point, walk[i + stride]))
                if not math.isfinite(costs[-1]):
                    raise SpecError(
                        "the score along the calibration path is not finite",
                        path=f"sigma {point.sigma:.4g}",
                        given=costs[-1],
                    )

        # Nothing is measured below the last interval's upper end, and the move to 0 costs nothing.
        integrate(denoise, walk[0] * noise, [*walk[:-stride], 0.0], Heun(), observe=measure)
        return costs

    def sigmas(self, denoise: Denoiser | None = None, noise: Tensor | None = None) -> Tensor:
        """(N + 1,) float64; measures the costs on `noise` (`calibration_images`, C, H, W) unit normal.

        Raises:
            SpecError: no denoiser or no noise, since this schedule is learned; costs that are not finite or all 0.
        """
        if denoise is None or noise is None or len(noise) == 0:
            raise SpecError("schedule 'cos' is learned and needs a denoiser and calibration noise")
        lesson = self.lesson()
        return self.placed(None if lesson is None else lesson.learn(denoise, noise))[0]

    def lesson(self) -> Lesson | None:
        """The costs, which serve whatever is placed by the same probe grid; None where there is nothing to place."""
        if self.nodes <= 2:
            return None
        inputs = {
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "rho": self.rho,
            "intervals": self._intervals,
            "calibration_images": self.calibration_images,
        }
        return Lesson("cos costs", inputs, self.costs)

    def placed(self, learned: Sequence[float] | None) -> tuple[Tensor, tuple[()]]:
        """What `sigmas` gives by these costs; without any the ends are all there is."""
        placed = [self.sigma_max, self.sigma_min][: self.nodes]
        if learned is not None:
            placed = equal_costs(self.probe(), learned, self.nodes, rho=self.rho, knots=self.knots)
        if self.final == "zero":
            placed = [*placed, 0.0]
        return check_sigmas(torch.tensor(placed, dtype=torch.float64), self.registry_name), ()

    @property
    def _intervals(self) -> int:
        """Of the probe grid."""
        return max(self.nodes if self.probe_steps is None else self.probe_steps, 3) - 1

    def _walk(self) -> tuple[list[float], int]:
        """The walk's grid, and of how many of its moves an interval of the probe grid is made."""
        intervals = self._intervals
        stride = math.ceil(LEAST_WALK / intervals)
        grid = EDM(intervals * stride, self.sigma_min, self.sigma_max, "sigma_min", self.rho).sigmas()
        return [float(sigma) for sigma in grid], stride


def _heun_on_cos(nfe: int) -> Pair | None:
    """Odd budgets, whose last move goes to 0 for one evaluation; below five the ends are all that there is to place.

    Differs from aiimaginglab/sdm optimize_schedules.sh:26: probes 40 sigmas at least (as it does for 40), and all knots
    count. With no more than it places, COS at few moves is far worse than EDM's sigmas, or the interpolation fails.
    """
    if nfe < 5 or nfe % 2 == 0:
        return None
    moves = (nfe + 1) // 2
    return {"name": "heun"}, {"name": "cos", "num_steps": moves, "probe_steps": max(moves, 40), "knots": "all"}


METHODS.register(
    Method(
        name="heun_cos",
        title="Heun + COS",
        source="Williams et al., 2024, arXiv 2412.07877; with Heun: Jo & Choi, 2026, arXiv 2602.12624, Table 1",
        pair=_heun_on_cos,
    )
)
