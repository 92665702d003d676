"""Our solvers against huggingface/diffusers' schedulers, on our sigmas and in double precision.

Where a scheduler ends otherwise than our solver does, the test says how, and compares with ours made to do the same.
"""

from __future__ import annotations

import pytest
import torch

from pipeline.sampler import trace
from pipeline.schedules import EDM, LogSNR
from pipeline.solvers import SOLVERS
from tests.conformance_problem import LATENTS, MIXTURE
from tests.peers.comparison import TO_SIGMA_MIN, TO_ZERO, check, error, in_turn, ours
from tests.peers.diffusers_loop import OLD_HABITS, TOLERANCE, run

pytestmark = OLD_HABITS
LONG = EDM(16, final="sigma_min").sigmas().tolist()
to_zero = pytest.mark.parametrize("sigmas", TO_ZERO.values(), ids=TO_ZERO.keys())
to_sigma_min = pytest.mark.parametrize("sigmas", TO_SIGMA_MIN.values(), ids=TO_SIGMA_MIN.keys())
every_order = pytest.mark.parametrize("order", [1, 2, 3])
either_variant = pytest.mark.parametrize("variant", ["midpoint", "heun"])
either_prediction = pytest.mark.parametrize("prediction", ["sample", "epsilon"])
lowered_or_not = pytest.mark.parametrize("lower", [True, False], ids=["lowered", "full"])


def nearly_to_0(sigmas):
    """Diffusers counts the move to 0 among the last moves, of lower order, and we do not. To this we count it too."""
    return [*sigmas[:-1], 1e-300]


# One formula each --------------------------------------------------------------------------------------------------

LMS = {"name": "lms", "extrapolate_to_zero": True}
PLAIN = [
    ("EulerDiscreteScheduler", {"name": "euler"}),
    ("HeunDiscreteScheduler", {"name": "heun"}),
    ("LMSDiscreteScheduler", LMS),
]


@to_zero
@either_prediction
@pytest.mark.parametrize(("name", "spec"), PLAIN, ids=[name for name, _ in PLAIN])
def test_euler_heun_lms(build, name, spec, prediction, sigmas):
    expected = run(build(name, prediction_type=prediction), sigmas)
    check(ours(spec, sigmas), expected, TOLERANCE)
    assert expected[1] == (2 * len(sigmas) - 3 if spec["name"] == "heun" else len(sigmas) - 1)


@to_zero
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_of_each_order(build, order, sigmas):
    check(ours(LMS | {"order": order}, sigmas), run(build("LMSDiscreteScheduler"), sigmas, order=order), TOLERANCE)


@to_zero
def test_k_dpm_2(build, sigmas):
    check(ours({"name": "dpm_solver_2"}, sigmas), run(build("KDPM2DiscreteScheduler"), sigmas), TOLERANCE)


@to_zero
def test_edm_euler(build, sigmas):
    check(ours({"name": "euler"}, sigmas), run(build("EDMEulerScheduler"), sigmas), TOLERANCE)


# DPM-Solver and DPM-Solver++, multistep ------------------------------------------------------------------------------

either_scheduler = pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"])


def multistep(order, variant, lower, *, predict_x0=True):
    """The same solver in their words and in ours."""
    config = {"solver_order": order, "solver_type": variant, "lower_order_final": lower}
    spec = {"name": "dpm_solver_pp", "order": order, "variant": variant, "lower_order_final": lower}
    return config, spec | {"predict_x0": predict_x0}


@to_zero
@lowered_or_not
@either_variant
@every_order
@either_scheduler
def test_multistep_to_0(build, name, order, variant, lower, sigmas):
    config, spec = multistep(order, variant, lower)
    expected = run(build(name, **config), sigmas)
    check(ours(spec, nearly_to_0(sigmas) if lower else sigmas), expected, TOLERANCE)
    if order == 2:
        # Their move to 0 is of order 1 either way, so that at this order they lower nothing else.
        check(ours(spec | {"lower_order_final": False}, sigmas), expected, TOLERANCE)


@to_sigma_min
@lowered_or_not
@either_variant
@every_order
@either_scheduler
def test_multistep_to_sigma_min(build, name, order, variant, lower, sigmas):
    config, spec = multistep(order, variant, lower)
    check(ours(spec, sigmas), run(build(name, final_sigmas_type="sigma_min", **config), sigmas), TOLERANCE)


@to_sigma_min
@lowered_or_not
@either_prediction
@either_variant
@every_order
def test_multistep_in_noise_prediction(build, order, variant, prediction, lower, sigmas):
    config, spec = multistep(order, variant, lower, predict_x0=False)
    config |= {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "prediction_type": prediction}
    check(ours(spec, sigmas), run(build("DPMSolverMultistepScheduler", **config), sigmas), TOLERANCE)


@pytest.mark.parametrize("sigmas", [TO_SIGMA_MIN["edm-7-to-sigma-min"], LONG], ids=["7", "16"])
@every_order
@either_scheduler
def test_multistep_with_euler_at_final(build, name, order, sigmas):
    """Theirs alone: the last move of order 1, the one before it of full order."""
    config, spec = multistep(order, "midpoint", lower=False)
    expected = run(build(name, final_sigmas_type="sigma_min", euler_at_final=True, **config), sigmas)
    solver = in_turn([spec] * (len(sigmas) - 2) + [{"name": "euler"}])
    check(ours(solver, sigmas), expected, TOLERANCE)


@every_order
@either_scheduler
def test_they_lower_no_order_from_15_moves_on(build, name, order):
    config, spec = multistep(order, "midpoint", lower=True)
    expected = run(build(name, final_sigmas_type="sigma_min", **config), LONG)
    check(ours(spec | {"lower_order_final": False}, LONG), expected, TOLERANCE)
    if order > 1:
        assert error(ours(spec, LONG)[0], expected[0]) > 1e-3


# UniPC -------------------------------------------------------------------------------------------------------------


@to_sigma_min
@lowered_or_not
@pytest.mark.parametrize("skip", [[], [0, 2]], ids=["corrected", "skip-0-2"])
@pytest.mark.parametrize("predict_x0", [True, False], ids=["x0", "noise"])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@every_order
def test_unipc_to_sigma_min(build, order, variant, predict_x0, skip, lower, sigmas):
    both = {"predict_x0": predict_x0, "lower_order_final": lower, "disable_corrector": skip}
    scheduler = build("UniPCMultistepScheduler", solver_order=order, solver_type=variant, **both)
    check(ours({"name": "unipc", "order": order, "variant": variant} | both, sigmas), run(scheduler, sigmas), TOLERANCE)


@to_zero
@either_prediction
@every_order
def test_unipc_to_0(build, order, prediction, sigmas):
    """Only with bh2, x0 and lowered orders are theirs finite: B(h) is -h in bh1, and h is infinite in a move to 0."""
    spec = {"name": "unipc", "order": order}
    expected = run(build("UniPCMultistepScheduler", solver_order=order, prediction_type=prediction), sigmas)
    check(ours(spec, nearly_to_0(sigmas)), expected, TOLERANCE)
    if order < 3:
        check(ours(spec | {"lower_order_final": False}, sigmas), expected, TOLERANCE)


# DEIS --------------------------------------------------------------------------------------------------------------


def deis(points):
    """Their order is the number of points, ours the degree of the polynomial."""
    return {"name": "deis", "order": points - 1, "mode": "logrho"} if points > 1 else {"name": "euler"}


@pytest.mark.parametrize("sigmas", [*TO_SIGMA_MIN.values(), LONG], ids=[*TO_SIGMA_MIN, "edm-16-to-sigma-min"])
@lowered_or_not
@either_prediction
@every_order
def test_deis(build, order, prediction, lower, sigmas):
    """To 0 their logarithms are not finite. On the way to sigma_min the lowered orders, below 15 moves, are theirs."""
    config = {"solver_order": order, "lower_order_final": lower, "prediction_type": prediction}
    expected = run(build("DEISMultistepScheduler", **config), sigmas)
    solver = SOLVERS.build(deis(order))
    if lower and (moves := len(sigmas) - 1) < 15:
        solver = in_turn([deis(min(order, moves - i)) for i in range(moves)])
    check(ours(solver, sigmas), expected, TOLERANCE)


# Schedules, and single precision -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("num_steps", [2, 9, 40])
def test_edm_schedules(build, name, num_steps):
    for rule, schedule in (("karras", EDM(num_steps)), ("exponential", LogSNR(num_steps))):
        scheduler = build(name, sigma_schedule=rule)
        scheduler.set_timesteps(num_steps)
        torch.testing.assert_close(schedule.sigmas(), scheduler.sigmas.double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        *PLAIN,
        ("KDPM2DiscreteScheduler", {"name": "dpm_solver_2"}),
        ("EDMEulerScheduler", {"name": "euler"}),
        ("EDMDPMSolverMultistepScheduler", {"name": "dpm_solver_pp", "lower_order_final": False}),
        ("DPMSolverMultistepScheduler", {"name": "dpm_solver_pp", "lower_order_final": False}),
        ("UniPCMultistepScheduler", {"name": "unipc", "lower_order_final": False}),
    ],
)
def test_as_shipped_in_single_precision(build, name, spec):
    """Their defaults, both sides in float32; by rounding alone ours is up to 5e-7 from our samples in float64."""
    sigmas = TO_ZERO["edm-11"]
    theirs, _ = run(build(name, single=True), sigmas, torch.float32)

    def denoise(x, sigma):
        return MIXTURE(x.double(), sigma).float()

    samples = trace(SOLVERS.build(spec), sigmas).run(denoise, LATENTS.float())
    assert samples.dtype == torch.float32
    assert error(samples.double(), theirs) <= 2e-6
