"""Which solver made each step of a plan, as a card tells it."""

import itertools

import pytest

from pipeline import benchmarks
from pipeline.card import card, plan_card, read_card, write_card
from pipeline.registry import to_spec
from pipeline.sampler import trace
from pipeline.schedules import EDM
from pipeline.solvers import SOLVERS
from pipeline.steps import steps
from pipeline.trial import TrialSpec, prepare
from tests.contract_examples import every_solver
from tests.contract_examples import prepare as decided
from tests.synthetic_study import result

SIGMAS = EDM(6).sigmas().tolist()


def of(solver, sigmas=SIGMAS, **loop):
    spec = TrialSpec("gmm", solver, {"name": "given", "values": sigmas}, **loop)
    plan = trace(SOLVERS.build(solver), sigmas, afs=spec.afs, churn=spec.sampler().churn)
    return steps(spec, solver, plan), plan


@every_solver
def test_the_steps_of_every_solver_are_the_plans(spec):
    solver, plan = decided(spec, SIGMAS)
    found = steps(TrialSpec("gmm", spec, {"name": "given", "values": SIGMAS}), to_spec(solver), plan)
    assert [(step.sigma, step.to) for step in found] == list(itertools.pairwise(SIGMAS))
    assert sum(step.evaluations for step in found) == len(plan)
    # The evaluations of a step lie between its sigmas, where a solver has not been told to look further.
    firsts = [sum(step.evaluations for step in found[:i]) for i in range(len(found))]
    assert [plan.stages[k].sigma for k in firsts] == SIGMAS[:-1]


def test_a_switch_tells_who_moved_when():
    found, _ = of({"name": "switch", "low": {"name": "ipndm", "order": 3}, "switch_at": 4})
    assert [step.solver for step in found] == ["ipndm-3"] * 4 + ["heun", "ipndm-3"]
    assert [step.evaluations for step in found] == [1, 1, 1, 1, 2, 1]


def test_a_blend_tells_its_shares():
    found, _ = of({"name": "switch", "rule": "linear"})
    told = ["0.8 euler + 0.2 heun", "0.6 euler + 0.4 heun", "0.4 euler + 0.6 heun", "0.2 euler + 0.8 heun"]
    assert [step.solver for step in found] == ["euler", *told, "euler"]


@pytest.mark.parametrize(
    ("loop", "evaluations"),
    [({"afs": True}, [1, 2, 2, 2, 2, 1]), ({"churn": {"s_churn": 2.0}}, [2, 2, 2, 2, 2, 1])],
)
def test_a_free_first_step_costs_what_its_solver_adds(loop, evaluations):
    assert [step.evaluations for step in of({"name": "heun"}, **loop)[0]] == evaluations


def test_what_did_not_make_the_plan_tells_nothing():
    _, plan = of({"name": "euler"})
    spec = TrialSpec("gmm", {"name": "euler"}, {"name": "given", "values": SIGMAS})
    assert steps(spec, {"name": "heun"}, plan) == []
    assert steps(spec, {"name": "a solver of tomorrow"}, plan) == []
    assert steps(spec, {"name": "switch"}, plan) == []


def test_a_card_tells_its_steps_its_end_and_where_its_fid_goes():
    scored = result(5, 0.5)
    told = card(scored)
    assert told["steps"]["solver"] == ["euler"] * 5
    assert told["terminal"] == {"rule": "zero", "sigma": 0.0}
    assert told["result"]["fid_infinity"] == scored.fid_infinity
    held = benchmarks.load("gmm")
    schedule = {"name": "edm", "num_steps": 3, "final": "sigma_min"}
    spec = TrialSpec("gmm", {"name": "switch", "calibration_images": 4}, schedule)
    stopped = plan_card(spec, prepare(spec, held), held)
    assert stopped["terminal"] == {"rule": "sigma_min", "sigma": 0.002}
    assert f"@{stopped['solver']['switch_at']}" in stopped["method"]


def test_an_older_card_without_them_is_read(tmp_path):
    scored = result(5, 0.5)
    older = {key: value for key, value in card(scored).items() if key not in ("steps", "terminal")}
    write_card(tmp_path / "older.json", older)
    assert read_card(tmp_path / "older.json")[1] == scored.plan
