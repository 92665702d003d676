from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from baselines.deis import DEIS
from baselines.dpm_solver import DPMSolverPP
from baselines.ipndm import WEIGHTS
from pipeline.lagrange import adams_bashforth, gauss, taylor_weights
from pipeline.sampler import integrate, trace
from pipeline.schedules import EDM, TimeUniform
from pipeline.solvers import SOLVERS, Point, Solver
from tests.conformance_problem import LATENTS, MIXTURE

MODES = ("tab", "rhoab", "logrho")
# The newest sigma, and the ratios of the older ones and of the target to their neighbours.
walks = st.builds(
    lambda newest, down, ups: (list(np.cumprod([newest, *ups])), newest * down),
    st.floats(0.01, 200),
    st.floats(1e-4, 0.9),
    st.lists(st.floats(1.1, 20), max_size=3),
)


def integral(f: Callable[[float], float], start: float, end: float) -> float:
    """By adaptive quadrature, which is what the weights are held against."""
    return float(quad(f, start, end, epsabs=0, epsrel=1e-12, limit=500, full_output=1)[0])


def basis(nodes: list[float], j: int, u: float) -> float:
    return math.prod((u - other) / (nodes[j] - other) for k, other in enumerate(nodes) if k != j)


class Process:
    """A VP process: sigma as a function of its time, and time by bisection of that."""

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, epsilon_s: float = 1e-3) -> None:
        low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
        self.beta_d = 2 * (low / epsilon_s - high) / (epsilon_s - 1)
        self.beta_min = high - self.beta_d / 2

    def sigma(self, t: float) -> float:
        return math.sqrt(math.expm1(self.beta_d * t**2 / 2 + self.beta_min * t))

    def speed(self, t: float) -> float:
        return (self.beta_d * t + self.beta_min) * (1 + self.sigma(t) ** 2) / (2 * self.sigma(t))

    def time(self, sigma: float) -> float:
        # Where beta_min is negative, as it is for EDM's range, sigma is 0 at a later time than 0.
        low, high = max(0.0, -2 * self.beta_min / self.beta_d), 4.0
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if self.sigma(middle) < sigma else (low, middle)
        return middle

    def weights(self, sigmas: list[float], target: float) -> list[float]:
        """The integrals over time of the basis in time."""
        times, end = [self.time(s) for s in sigmas], self.time(target)
        return [integral(lambda t, j=j: basis(times, j, t) * self.speed(t), times[0], end) for j in range(len(sigmas))]


PROCESS = Process()


def test_process_is_that_of_the_schedule():
    sigmas = TimeUniform(9, final="sigma_min").sigmas().tolist()
    assert [PROCESS.sigma(t) for t in np.linspace(1, 1e-3, 10)] == pytest.approx(sigmas, rel=1e-12)


# Weights ----------------------------------------------------------------------------------------------------------


@given(walks)
def test_deis_weights_are_the_integrals(walk):
    sigmas, target = walk
    logs, span = [math.log(s) for s in sigmas], (math.log(sigmas[0]), math.log(target))
    expected = {
        "tab": PROCESS.weights(sigmas, target),
        "rhoab": [integral(lambda s, j=j: basis(sigmas, j, s), sigmas[0], target) for j in range(len(sigmas))],
        "logrho": [integral(lambda u, j=j: basis(logs, j, u) * math.exp(u), *span) for j in range(len(sigmas))],
    }
    for mode in MODES:
        weights = DEIS(mode=mode).weights(sigmas, target)
        assert weights == pytest.approx(expected[mode], rel=1e-8, abs=1e-9 * sigmas[0])


def test_the_process_of_deis_can_be_told():
    sigmas, target = [3.0, 5.0, 9.0], 1.0
    settings = {"sigma_min": 0.1, "sigma_max": 20.0, "epsilon_s": 0.05}
    weights = DEIS(**settings).weights(sigmas, target)
    assert weights == pytest.approx(Process(**settings).weights(sigmas, target), rel=1e-10)
    assert weights != pytest.approx(DEIS().weights(sigmas, target), rel=1e-5)


@given(walks, st.sampled_from(MODES))
def test_weights_sum_to_the_step(walk, mode):
    sigmas, target = walk
    weights = DEIS(mode=mode).weights(sigmas, target)
    assert sum(weights) == pytest.approx(target - sigmas[0], rel=1e-12, abs=1e-14 * sum(map(abs, weights)))


def test_weights_are_exact_over_the_whole_range_in_one_step():
    """Where the integrand varies most: 64 places are enough, since 200 give the same."""
    sigmas, target = [80.0, 200.0, 500.0, 900.0], 0.002
    times = np.array([PROCESS.time(s) for s in sigmas])
    logs, measure = gauss(math.log(sigmas[0]), math.log(target), 200)
    at = np.array([PROCESS.time(s) for s in np.exp(logs)])
    expected = [float(sum(measure * np.exp(logs) * [basis(list(times), j, t) for t in at])) for j in range(4)]
    assert DEIS().weights(sigmas, target) == pytest.approx(expected, rel=1e-11)


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(1, 6))
def test_gauss_is_exact_up_to_its_degree(start, end, count):
    places, measure = gauss(start, end, count)
    assert len(places) == count
    for power in range(2 * count):
        exact = (end ** (power + 1) - start ** (power + 1)) / (power + 1)
        assert float(measure @ places**power) == pytest.approx(exact, rel=1e-11, abs=1e-11 * 5**power)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_on_equal_steps_the_weights_are_ipndm_constants(order):
    sigmas = [3 + 0.7 * k for k in range(order)]
    assert [w / -0.7 for w in adams_bashforth(sigmas, 2.3)] == pytest.approx(WEIGHTS[order], rel=0, abs=1e-12)


@given(st.floats(0.01, 100), st.floats(0.05, 0.95), st.booleans())
def test_taylor_weights_are_the_integrals(sigma, ratio, predict_x0):
    """At sigma(s) = sigma ratio^s data prediction adds target D d(1/sigma), noise prediction n dsigma."""
    target, h = sigma * ratio, -math.log(ratio)
    at = lambda s: sigma * ratio**s  # noqa: E731  # a formula
    measure = (lambda s: target * h / at(s)) if predict_x0 else (lambda s: -h * at(s))
    expected = [integral(lambda s, k=k: s**k / math.factorial(k) * measure(s), 0, 1) for k in range(3)]
    assert taylor_weights(sigma, target, predict_x0=predict_x0) == pytest.approx(expected, rel=1e-9)


# Whole solvers ----------------------------------------------------------------------------------------------------


def end_of(solver: Solver, sigmas: list[float], x: Callable[[float], float], denoise: Any, given: int) -> float:
    """Where the solver ends on a path that is known, with its first `given` points exact."""
    points: list[Point] = []
    state = None
    at = x(sigmas[0])
    for i, sigma in enumerate(sigmas[:-1]):
        at = x(sigma) if i < given else at
        points = [*points, Point(sigma, at, denoise(at, sigma))][-4:]
        at, state = solver.step(denoise, points, sigmas, i, state)
    return float(at)


GRID = [9.0, 6.5, 5.0, 3.0, 0.8]
# A solver, the coordinate u of its polynomial, and the highest power of u for which it is exact.
EXACT_IN = [
    *(({"name": "lms", "order": k}, lambda s: s, k - 1) for k in (1, 2, 3, 4)),
    *(({"name": "ipndm_v", "order": k, "coefficients": "exact"}, lambda s: s, k - 1) for k in (1, 2, 3, 4)),
    *(({"name": "deis", "order": k, "mode": "tab"}, PROCESS.time, k) for k in (1, 2, 3)),
    *(({"name": "deis", "order": k, "mode": "rhoab"}, lambda s: s, k) for k in (1, 2, 3)),
    *(({"name": "deis", "order": k, "mode": "logrho"}, math.log, k) for k in (1, 2, 3)),
    (
        {"name": "dpm_solver_pp", "order": 2, "predict_x0": False, "variant": "heun", "lower_order_final": False},
        math.log,
        1,
    ),
    (
        {"name": "dpm_solver_pp", "order": 3, "predict_x0": False, "third_order": "exact", "lower_order_final": False},
        math.log,
        2,
    ),
]


@pytest.mark.parametrize(("spec", "u", "degree"), EXACT_IN, ids=[str(list(case[0].values())) for case in EXACT_IN])
def test_slopes_that_are_polynomials_are_integrated_exactly(spec, u, degree):
    def path(power: int) -> Callable[[float], float]:
        return lambda sigma: 1 + integral(lambda s: u(s) ** power, GRID[0], sigma)

    solver = SOLVERS.build(spec)
    errors = []
    for power in range(degree + 2):
        end = end_of(solver, GRID, path(power), lambda x, s, power=power: x - s * u(s) ** power, len(GRID))
        errors.append(abs(end / path(power)(GRID[-1]) - 1))
    assert max(errors[:-1]) < 1e-9
    assert errors[-1] > 1e-6, "one power more is beyond it"


@pytest.mark.parametrize(("third_order", "share"), [("published", 0.5), ("exact", 1.0)])
def test_the_published_third_order_takes_half_of_the_second_derivative(third_order, share):
    """Outputs D = lambda^2 in data prediction: x = sigma times the integral of D d(1/sigma)."""
    sigmas = GRID[1:]
    solver = DPMSolverPP(order=3, third_order=third_order, lower_order_final=False)
    sigma, target = sigmas[-2:]
    moved = target / sigma + target * integral(lambda r: math.log(r) ** 2, 1 / sigma, 1 / target)
    bend = taylor_weights(sigma, target, predict_x0=True)[2] * 2 * math.log(sigma / target) ** 2
    end = end_of(solver, sigmas, lambda s: 1.0, lambda x, s: math.log(s) ** 2, len(sigmas))
    assert end == pytest.approx(moved - (1 - share) * bend, rel=1e-12)
    assert abs(bend) > 0.01


def gaussian_order(solver: Solver, given: int, variance: float = 0.5) -> float:
    """The observed order on data N(0, variance), whose path is known, from exact starting points."""
    errors = []
    for num_steps in (48, 96):
        sigmas = EDM(num_steps, sigma_min=1.0, sigma_max=10.0, rho=3.0, final="sigma_min").sigmas().tolist()
        path = lambda s: math.sqrt((s**2 + variance) / (100 + variance))  # noqa: E731  # a formula
        end = end_of(solver, sigmas, path, lambda x, s: x * variance / (s**2 + variance), given)
        errors.append(abs(end - path(1.0)))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_accuracy_is_one_above_the_degree(order, mode):
    assert gaussian_order(DEIS(order=order, mode=mode), order + 1, variance=3.0) > order + 0.75


@pytest.mark.parametrize("predict_x0", [True, False])
def test_published_third_order_is_second(predict_x0):
    published, exact = (
        gaussian_order(DPMSolverPP(order=3, third_order=form, predict_x0=predict_x0, lower_order_final=False), 3)
        for form in ("published", "exact")
    )
    assert published < 2.4
    assert exact > 2.7


def samples(spec: dict[str, Any], sigmas: list[float]) -> Any:
    return integrate(MIXTURE, sigmas[0] * LATENTS, sigmas, SOLVERS.build(spec))


SAME = [
    ({"name": "deis", "order": 3, "mode": "rhoab"}, {"name": "lms", "order": 4}),
    ({"name": "lms", "order": 3}, {"name": "ipndm_v", "order": 3, "coefficients": "exact"}),
    ({"name": "lms", "order": 2}, {"name": "ipndm_v", "order": 2, "coefficients": "published"}),
    (
        {"name": "deis", "order": 1, "mode": "logrho"},
        {"name": "dpm_solver_pp", "order": 2, "predict_x0": False, "variant": "heun", "lower_order_final": False},
    ),
    (
        {"name": "deis", "order": 2, "mode": "logrho"},
        {
            "name": "dpm_solver_pp",
            "order": 3,
            "predict_x0": False,
            "variant": "heun",
            "third_order": "exact",
            "lower_order_final": False,
        },
    ),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=[f"{a['name']}-{b['name']}-{b['order']}" for a, b in SAME])
def test_different_names_of_the_same_method_agree(one, other):
    sigmas = EDM(9, rho=5).sigmas().tolist()
    assert (samples(one, sigmas) - samples(other, sigmas)).abs().max().item() < 1e-9


@pytest.mark.parametrize("mode", MODES)
def test_deis_starts_on_euler(mode):
    sigmas = [80.0, 0.002]
    assert trace(DEIS(mode=mode), sigmas).digest == trace(SOLVERS.build({"name": "euler"}), sigmas).digest


def test_lms_extrapolates_to_zero_when_asked():
    """Slopes 2 sigma + 3 sigma^2: the path is sigma^2 + sigma^3, 0 in the end; the denoised there is not."""
    sigmas = [4.0, 3.0, 1.5, 1.0, 0.0]
    path = lambda s: s**2 + s**3  # noqa: E731  # a formula
    denoise = lambda x, s: x - s * (2 * s + 3 * s**2)  # noqa: E731  # a formula
    there = end_of(SOLVERS.build({"name": "lms", "extrapolate_to_zero": True}), sigmas, path, denoise, 5)
    here = end_of(SOLVERS.build({"name": "lms"}), sigmas, path, denoise, 5)
    assert there == pytest.approx(0, abs=1e-12)
    assert here == pytest.approx(2 - 5)
