"""GITS: the published schedule, one walk for every budget, the analytical first step's node, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from baselines.gits import GITS, state_at_sigma_min
from pipeline.denoiser import Meter
from pipeline.registry import SpecError, to_spec
from pipeline.sampler import integrate, trace
from pipeline.schedules import SCHEDULES
from pipeline.sdm import Switch
from pipeline.shortest_path import ShortestPaths
from pipeline.solvers import SOLVERS
from tests.conformance_problem import CALIBRATION_LATENTS, MIXTURE

NOISE = CALIBRATION_LATENTS[:40]
IPNDM = {"name": "ipndm", "order": 4}
ends = pytest.mark.parametrize("final", ["sigma_min", "zero"])


def gits(**changes):
    return GITS(**{"num_steps": 5, "teacher_steps": 20, "warmup": len(NOISE), **changes})


def rows_of(schedule):
    meter = Meter(MIXTURE)
    schedule.sigmas(meter, NOISE)
    return meter.rows


def test_published_schedule_lies_on_the_teacher_grid():
    """CIFAR-10, iPNDM, 6 NFE, as printed in the README of zju-pi/diff-sampler, gits-main."""
    grid = GITS(num_steps=6).teacher_sigmas()
    assert len(grid) == 61
    picked = [round(grid[j], 4) for j in (0, 19, 27, 33, 39, 45, 60)]
    assert picked == [80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002]


@ends
def test_every_budget_up_to_the_teacher_moves(final):
    most = 12 if final == "sigma_min" else 13
    for num_steps in range(1, most + 1):
        sigmas = gits(num_steps=num_steps, teacher_steps=12, final=final).sigmas(MIXTURE, NOISE).tolist()
        assert len(sigmas) == num_steps + 1
        assert (sigmas[0], sigmas[-1]) == (80.0, 0.0 if final == "zero" else 0.002)
    with pytest.raises(SpecError, match=rf"num_steps.*1 to {most}"):
        gits(num_steps=most + 1, teacher_steps=12, final=final)


def test_one_calibration_costs_the_teacher_alone():
    assert rows_of(gits()) == 20 * len(NOISE)
    assert rows_of(gits(teacher={"name": "heun"})) == 40 * len(NOISE)
    assert rows_of(gits(num_steps=1, final="zero")) == 0, "there is nothing to learn"


def test_cost_does_not_depend_on_how_the_images_are_split(monkeypatch):
    whole = gits().cost(MIXTURE, NOISE)
    monkeypatch.setattr("baselines.gits.IMAGES_AT_ONCE", 7)
    assert torch.allclose(gits().cost(MIXTURE, NOISE), whole, rtol=0, atol=1e-12)


def test_a_teacher_that_needs_calibration_is_calibrated_on_the_warm_up_noise():
    asked = {"name": "switch", "tau_k": 0.05, "calibration_images": 16}
    schedule = gits(teacher=asked)
    decided = Switch(tau_k=0.05).calibrate(MIXTURE, NOISE[:16], schedule.teacher_sigmas())
    assert 0 < decided.switch_at < 20, "the switch has to be somewhere to tell"
    given = gits(teacher=to_spec(decided))
    assert torch.equal(schedule.sigmas(MIXTURE, NOISE), given.sigmas(MIXTURE, NOISE))
    assert rows_of(schedule) == rows_of(given) + 20 * 16


def test_a_switch_without_a_decision_to_take_needs_no_calibration():
    """Both solvers run in every move but the first, which is Euler's alone."""
    assert rows_of(gits(teacher={"name": "switch", "rule": "linear"})) == (1 + 2 * 19) * len(NOISE)


# Every budget from one walk --------------------------------------------------------------------------------------


@ends
@pytest.mark.parametrize("afs_search", [False, True])
def test_budgets_together_are_the_budgets_one_by_one(final, afs_search):
    budgets = range(1 + afs_search, 13)
    schedule, meter, alone = gits(teacher_steps=12, final=final, afs_search=afs_search), Meter(MIXTURE), Meter(MIXTURE)
    together = schedule.schedules(meter, NOISE, budgets)
    assert list(together) == list(budgets)
    walks = 0
    for budget in budgets:
        before = alone.rows
        one = gits(teacher_steps=12, final=final, afs_search=afs_search, num_steps=budget).sigmas(alone, NOISE)
        assert torch.equal(together[budget], one), budget
        walks += alone.rows > before
    assert meter.rows == alone.rows - (walks - 1) * 12 * len(NOISE)
    if not afs_search:
        assert meter.rows == 12 * len(NOISE)


def test_a_budget_that_could_not_be():
    with pytest.raises(SpecError, match=r"num_steps.*given 21.*1 to 20"):
        gits().schedules(MIXTURE, NOISE, [5, 21])
    assert gits().schedules(MIXTURE, NOISE, []) == {}


# The node for the analytical first step --------------------------------------------------------------------------


@ends
@pytest.mark.parametrize("student", [IPNDM, {"name": "heun"}, {"name": "dpm_solver_pp", "order": 3}], ids=str)
def test_afs_search_finds_the_nearest_end(final, student):
    """Every node tried in the open: the student's path to sigma_min beside the teacher's, each walked by the loop."""
    last = [0.0] if final == "zero" else []
    schedule = gits(num_steps=5, final=final, afs_search=True, student=student)
    grid, start = schedule.teacher_sigmas(), 80 * NOISE
    path = ShortestPaths(schedule.cost(MIXTURE, NOISE).numpy(), 1.15).indices(4 - len(last))
    goal = integrate(MIXTURE, start, grid, SOLVERS.build(IPNDM))
    misses, solver = {}, SOLVERS.build(student)
    for node in range(1, path[1]):
        tried = [grid[j] for j in (0, node, *path[1:])] + last
        points = []
        end = integrate(MIXTURE, start, tried, solver, afs=True, observe=points.append)
        end = points[-1].x if last else end
        misses[node] = (end - goal).flatten(1).norm(dim=1).mean().item()
    best = min(misses, key=misses.get)
    assert len(misses) > 3
    assert schedule.sigmas(MIXTURE, NOISE).tolist() == [grid[j] for j in (0, best, *path[1:])] + last
    evaluations = len(trace(solver, tried, afs=True)) - len(last)  # none for the move to 0
    assert rows_of(schedule) == (20 + len(misses) * evaluations) * len(NOISE)


@pytest.mark.parametrize("student", [IPNDM, {"name": "heun"}, {"name": "unipc", "order": 3}], ids=lambda s: s["name"])
def test_state_at_sigma_min(student):
    solver, sigmas, meter = SOLVERS.build(student), [*gits().teacher_sigmas()[::4], 0.0], Meter(MIXTURE)
    points = []
    integrate(MIXTURE, 80 * NOISE, sigmas, solver, observe=points.append)
    plan = trace(solver, sigmas)
    reached = state_at_sigma_min(plan, meter, NOISE)
    assert points[-1].sigma == 0.002
    assert torch.allclose(reached, points[-1].x, rtol=1e-12, atol=1e-12)
    assert meter.calls == len(plan) - 1


def test_afs_search_with_a_student_that_needs_calibration():
    schedule = gits(afs_search=True, student={"name": "switch", "tau_k": 0.05, "calibration_images": 16})
    sigmas = schedule.sigmas(MIXTURE, NOISE)
    assert len(sigmas) == 6
    assert set(sigmas.tolist()) <= set(schedule.teacher_sigmas())


def test_afs_search_does_not_depend_on_how_the_images_are_split(monkeypatch):
    whole = gits(afs_search=True).sigmas(MIXTURE, NOISE)
    monkeypatch.setattr("baselines.gits.IMAGES_AT_ONCE", 7)
    assert torch.equal(gits(afs_search=True).sigmas(MIXTURE, NOISE), whole)


@ends
def test_afs_search_with_no_node_to_try_is_the_plain_path(final):
    """With a small coeff the first move is all that counts, so it is the shortest there is."""
    plain = gits(coeff=1e-3, metric="l2", final=final).sigmas(MIXTURE, NOISE)
    grid = gits().teacher_sigmas()
    assert plain[1] == grid[1]
    searched = gits(coeff=1e-3, metric="l2", final=final, afs_search=True)
    assert torch.equal(searched.sigmas(MIXTURE, NOISE), plain)
    assert rows_of(searched) == 20 * len(NOISE)


def test_afs_search_with_one_node_to_try_runs_no_student():
    schedule = gits(num_steps=2, teacher_steps=2, afs_search=True)
    assert schedule.sigmas(MIXTURE, NOISE).tolist() == schedule.teacher_sigmas()
    assert rows_of(schedule) == 2 * len(NOISE)


# Mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"name": "ipndn"}}, r"^teacher\.name: unknown solver.*did you mean 'ipndm'"),
        ({"student": {"name": "hein"}}, r"^student\.name: unknown solver.*did you mean 'heun'"),
        ({"teacher": {"name": "ipndm", "order": 5}}, r"^teacher\.order"),
        ({"student": {"order": 4}}, r"^student\.name: a solver needs a name"),
        ({"metric": "l3"}, r"^metric.*dev, l1, l2"),
        ({"final": "end"}, r"^final.*sigma_min, zero"),
        ({"coeff": 0.0}, "^coeff"),
        ({"coeff": math.nan}, "^coeff"),
        ({"coeff": math.inf}, "^coeff"),
        ({"sigma_min": 90.0}, "^sigma_min"),
        ({"sigma_max": math.inf}, "^sigma_max"),
        ({"warmup": 0}, "^warmup.*1 to 100000"),
        ({"teacher_steps": 0}, "^teacher_steps.*given 0.*1 to 10000"),
        ({"teacher_steps": 10_001}, "^teacher_steps.*1 to 10000"),
        ({"teacher_rho": 0.0}, "^teacher_rho"),
        ({"num_steps": 0}, r"^num_steps.*given 0.*1 to 20"),
        ({"num_steps": 21}, r"^num_steps.*given 21.*1 to 20, the teacher's moves$"),
        ({"num_steps": 22, "final": "zero"}, r"^num_steps.*1 to 21, the teacher's moves and the one to 0"),
        ({"num_steps": 1, "afs_search": True}, r"^num_steps.*given 1.*2 to 20"),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(SpecError, match=message):
        gits(**changes)


def test_an_unknown_metric_in_a_study():
    with pytest.raises(SpecError, match=r"metric.*given 'devi'.*did you mean 'dev'"):
        SCHEDULES.build({"name": "gits", "num_steps": 5, "metric": "devi"})


@pytest.mark.parametrize("given", [(None, None), (MIXTURE, None), (None, NOISE), (MIXTURE, NOISE[:0])])
def test_it_needs_a_denoiser_and_noise(given):
    with pytest.raises(SpecError, match="needs a denoiser and warm-up noise"):
        gits().sigmas(*given)


def after(calls, value=math.nan):
    """The mixture, which answers with `value` once it has been asked so often."""
    meter = Meter(MIXTURE)
    return lambda x, sigma: meter(x, sigma) if meter.calls < calls else torch.full_like(x, value)


@pytest.mark.parametrize("final", ["sigma_min", "zero"])
def test_a_network_that_breaks_down_is_told_with_its_sigma(final):
    schedule = gits(final=final)
    sigma = schedule.teacher_sigmas()[7]
    with pytest.raises(SpecError, match=rf"^teacher: .*not finite from sigma {sigma:.6g} on, given 'ipndm'$"):
        schedule.sigmas(after(7), NOISE)
    with pytest.raises(SpecError, match=r"^teacher: .*not finite from sigma 80 on"):
        schedule.sigmas(after(0, math.inf), NOISE)


def test_a_network_that_breaks_down_within_a_move():
    """Heun's second stage of move 3: the state that it makes is the first that is not finite."""
    sigma = gits().teacher_sigmas()[4]
    with pytest.raises(SpecError, match=rf"not finite from sigma {sigma:.6g} on, given 'heun'"):
        gits(teacher={"name": "heun"}).sigmas(after(7), NOISE)


def test_a_cost_too_large_for_a_number():
    with pytest.raises(SpecError, match=r"^teacher: the cost of moving from node 0 to node \d+ is not finite"):
        gits(metric="l2").sigmas(after(0, 1e200), NOISE)


def test_a_teacher_that_cannot_be_calibrated():
    with pytest.raises(SpecError, match=r"^teacher\S*: the curvature .*not finite"):
        gits(teacher={"name": "switch"}).sigmas(after(3), NOISE)


def test_a_student_that_breaks_down():
    with pytest.raises(SpecError, match=r"^student: .*not finite, given 'ipndm'"):
        gits(afs_search=True).sigmas(after(2 * 20), NOISE)  # 40 images are two batches
