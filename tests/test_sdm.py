"""The sdm schedule: what it makes of its walk, and what it refuses. Its published sigmas: test_conformance_sdm.py."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from pipeline.denoiser import Meter
from pipeline.registry import SpecError
from pipeline.resampling import resample
from pipeline.sampler import Learned, Sampler, trace
from pipeline.schedules import SCHEDULES
from pipeline.sdm import SDM, Switch
from pipeline.wasserstein import Walk, measured_eta
from tests.conformance_problem import CALIBRATION_LATENTS, MIXTURE
from tests.exact_flows import BATCH

SMALL = {"eta_min": 1e-4, "eta_max": 2e-3, "calibration_images": 32}


def placed(**fields):
    return SDM(**{**SMALL, **fields}).sigmas(MIXTURE, BATCH)


def test_final_decides_only_where_the_last_move_ends():
    zero, short = placed(num_steps=7), placed(num_steps=6, final="sigma_min")
    assert zero[-1] == 0
    assert torch.equal(zero[:-1], short)
    assert short[-1] == 0.002
    assert len(zero) == 8


@pytest.mark.parametrize(("final", "expected"), [("zero", [80.0, 0.0]), ("sigma_min", [80.0, 0.002])])
def test_one_step_goes_straight_to_the_end(final, expected):
    assert placed(num_steps=1, final=final).tolist() == expected


@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_without_num_steps_it_is_the_walk_itself(final):
    walked = [step.sigma for step in Walk(1e-4, 2e-3).path(MIXTURE, BATCH)]
    assert len(walked) > 10
    end = [0.002, 0.0] if final == "zero" else [0.002]
    assert placed(final=final).tolist() == [*walked, *end]


def test_the_global_generators_do_not_matter():
    answers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # the global generator is what must not matter
        random.seed(seed)
        answers.append(placed(num_steps=6).numpy().tobytes())
    assert answers[0] == answers[1]


def test_every_field_of_the_walk_is_taken_over():
    fields = {
        "eta_min": 0.003, "eta_max": 0.03, "eta_p": 0.5, "base_steps": 9, "rho": 5.0, "sigma_min": 0.01,
        "sigma_max": 50.0, "mover": "heun", "grid_snap": True, "gamma_step": 0.5, "c_shrink": 0.25,
        "max_expand_bins": 1, "max_shrink_iters": 3,
    }  # fmt: skip
    assert SDM(**fields).walk == Walk(**fields)


def test_an_enforced_bound_is_the_walks_too():
    assert SDM(enforce_bound=True).walk == Walk(0.01, 0.40, enforce_bound=True)
    assert not SDM().walk.enforce_bound


@pytest.mark.parametrize("mover", ["euler", "heun"])
@pytest.mark.parametrize("num_steps", [None, 6])
def test_placing_gives_the_sigmas_and_what_the_walk_behind_them_cost(num_steps, mover):
    schedule = SDM(num_steps, 5e-4, 2e-3, mover=mover, calibration_images=32)
    meter, again = Meter(MIXTURE), Meter(MIXTURE)
    sigmas, steps = schedule.place(meter, BATCH)
    assert isinstance(schedule, Learned)
    assert torch.equal(sigmas, schedule.sigmas(again, BATCH))
    assert meter.calls == again.calls
    assert steps == schedule.walk.path(MIXTURE, BATCH)
    assert all(math.isfinite(value) for step in steps for value in step)
    assert {step.kept for step in steps} == {True, False}
    if num_steps is None:
        assert [step.sigma for step in steps] == sigmas[:-2].tolist()


def test_an_enforced_schedule_keeps_its_bound_and_a_resampled_one_promises_none():
    schedule = SDM(None, 1e-3, 2e-2, enforce_bound=True, final="sigma_min")
    sigmas, steps = schedule.place(MIXTURE, BATCH)
    assert all(step.kept for step in steps)
    etas, _ = measured_eta(MIXTURE, BATCH, sigmas.tolist())
    assert all(eta <= schedule.walk.allowed(sigma) for eta, sigma in zip(etas, sigmas.tolist()[:-1], strict=True))
    few = SDM(8, 1e-3, 2e-2, enforce_bound=True, final="sigma_min")
    resampled, behind = few.place(MIXTURE, BATCH)
    assert behind == steps
    etas, _ = measured_eta(MIXTURE, BATCH, resampled.tolist())
    assert max(eta / schedule.walk.allowed(sigma) for eta, sigma in zip(etas, resampled.tolist()[:-1], strict=True)) > 2


def test_a_path_without_any_error_is_its_own_schedule_but_cannot_be_resampled():
    def standing(x, sigma):
        return x

    assert SDM().sigmas(standing, BATCH).tolist() == [80.0, 0.002, 0.0]
    with pytest.raises(SpecError, match=r"num_steps: .* zero error.*; allowed: null"):
        SDM(4).sigmas(standing, BATCH)


def test_it_is_learned_and_says_so():
    with pytest.raises(ValueError, match="needs a denoiser and calibration noise"):
        SDM(num_steps=4).sigmas()


def test_a_sampler_hands_each_part_as_many_images_as_it_wants():
    sampler = Sampler(Switch(calibration_images=8), SDM(num_steps=5, **{**SMALL, "calibration_images": 16}))
    assert sampler.calibration_images == 16
    sizes = set()

    def denoise(x, sigma):
        sizes.add(len(x))
        return MIXTURE(x, sigma)

    decided, plan = sampler.prepare(denoise, BATCH[:16])
    assert sizes == {8, 16}
    assert decided.solver.switch_at is not None
    assert plan.digest == trace(decided.solver, plan.sigmas).digest


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"eta_min": 0.5, "eta_max": 0.4}, "eta_min"),
        ({"eta_min": 0.0}, "eta_min"),
        ({"eta_min": math.nan}, "eta_min"),
        ({"eta_max": math.nan}, "eta_max"),
        ({"eta_max": math.inf}, "eta_max"),
        ({"eta_p": -1.0}, "eta_p"),
        ({"power": math.inf}, "power"),
        ({"q": math.nan}, "q"),
        ({"rho": 0.0}, "rho"),
        ({"max_expand_bins": -1}, "max_expand_bins"),
        ({"max_shrink_iters": -1}, "max_shrink_iters"),
        ({"grid_snap": True, "enforce_bound": True}, "grid_snap"),
        ({"enforce_bound": 1}, "enforce_bound"),
        ({"sigma_max": math.inf}, "sigma_max"),
        ({"num_steps": 0}, "num_steps"),
        ({"base_steps": 1}, "base_steps"),
        ({"gamma_step": 0.0}, "gamma_step"),
        ({"gamma_step": 1.5}, "gamma_step"),
        ({"c_shrink": 1.0}, "c_shrink"),
        ({"sigma_min": 80.0}, "sigma_min"),
        ({"calibration_images": 0}, "calibration_images"),
        ({"mover": "rk4"}, "mover"),
        ({"final": "0"}, "final"),
        ({"num_steps": 4.0}, "num_steps"),
    ],
)
def test_a_mistake_in_a_schedule_names_its_key(fields, path):
    with pytest.raises(SpecError) as caught:
        SCHEDULES.build({"name": "sdm", **fields})
    assert caught.value.path == path


def test_eta_min_above_eta_max_says_by_how_much():
    with pytest.raises(SpecError, match=r"eta_min: is above eta_max, given 0\.5; allowed: at most 0\.4"):
        SDM(eta_min=0.5)


def test_a_walk_by_heun_is_resampled_by_the_errors_of_an_euler_walk():
    """As published (n_step_resampling.py:91): a Heun walk's own secants belong to other states."""
    schedule = SDM(6, eta_min=0.001, eta_max=0.01, mover="heun")
    steps = schedule.walk.path(MIXTURE, CALIBRATION_LATENTS)
    walked = [step.sigma for step in steps] + [schedule.sigma_min]
    etas, _ = measured_eta(MIXTURE, CALIBRATION_LATENTS, walked)
    expected = resample(walked, etas, 6, power=schedule.power, q=schedule.q, rho=schedule.rho)
    assert schedule.sigmas(MIXTURE, CALIBRATION_LATENTS).tolist() == [*expected, 0.0]
    assert etas != pytest.approx([step.eta for step in steps], rel=1e-6)
