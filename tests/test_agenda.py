"""What is measured beside the search, who leads, and that leaders are confirmed once, on seeds of their own."""

import itertools
from dataclasses import replace

import pytest

from pipeline.agenda import confirmations, leaders, measured
from pipeline.worker import Failure
from search_spaces import Study
from tests.conftest import SMALL
from tests.spied_search import RUNGS, eulers, run, values
from tests.synthetic_study import record

RANGE = (0.002, 80.0)


def keys(jobs):
    return [job.key for job in jobs]


# What is measured ------------------------------------------------------------------------------------------------


def test_the_floor_goes_first_and_then_every_baseline_at_every_budget_that_it_can_meet(small_study):
    study = small_study(budgets=[3, 4], baselines=["dpm_solver_2", "ddim"])
    jobs = list(measured(study, RANGE, set(), itertools.count(1)))
    # DPM-Solver-2 takes even numbers of evaluations alone.
    assert keys(jobs) == ["floor", "baseline/ddim/3", "baseline/dpm_solver_2/4", "baseline/ddim/4"]
    assert [job.number for job in jobs] == [1, 2, 3, 4]
    assert [job.budget for job in jobs] == [None, 3, 4, 4]
    assert not any(job.searched for job in jobs)


def test_what_is_known_is_not_measured_again(small_study):
    study = small_study(budgets=[3, 4], baselines=["dpm_solver_2", "ddim"])
    jobs = measured(study, RANGE, {"floor", "baseline/ddim/3"}, itertools.count(1))
    assert keys(jobs) == ["baseline/dpm_solver_2/4", "baseline/ddim/4"]


def test_baselines_run_in_the_benchmarks_range_unless_they_say_otherwise(small_study):
    study = small_study(baselines=["ddim"])
    _, ddim, _ = measured(study, (0.01, 50.0), set(), itertools.count(1))
    assert (ddim.spec.schedule["sigma_min"], ddim.spec.schedule["sigma_max"]) == (0.01, 50.0)


# Who leads -------------------------------------------------------------------------------------------------------


def led(*records, budgets=(4, 8)):
    return [record.key for record in leaders(records, budgets)]


def test_leaders_are_the_floor_the_front_and_the_best_baseline_within_each_budget():
    records = [
        record("floor", 99, 0.1),
        record("baseline/ddim/4", 4, 0.9),
        record("baseline/heun/3", 3, 0.8),
        record("baseline/ddim/8", 8, 0.85),
        record("searched/0", 3, 0.7),
        record("searched/1", 4, 0.75),
        record("searched/2", 5, 0.5),
        record("searched/3", 5, 0.6),
        record("published/4", 9, 0.4),
    ]
    # heun at 3 is the best baseline within 4 and within 8; ddim at 8 is worse, and so leads nowhere.
    assert led(*records) == ["floor", "searched/0", "searched/2", "published/4", "baseline/heun/3"]


def test_of_equal_trials_the_cheaper_leads_and_then_the_first():
    records = [record("searched/0", 5, 0.5), record("searched/1", 4, 0.5), record("searched/2", 4, 0.5)]
    assert led(*records) == ["searched/1"]


def test_who_has_no_score_or_breaks_a_constraint_does_not_lead():
    best, dear = record("searched/0", 3, 0.5), record("searched/1", 3, 0.1)
    stopped = replace(record("searched/2", 3, 0.1), result=None, state="pruned")
    assert led(best, replace(dear, constraints={"latency_ms": 0.1, "setup_nfe": -9.0}), stopped) == ["searched/0"]
    assert led(best, replace(dear, constraints={"latency_ms": 0.0})) == ["searched/1"]


def test_a_confirmation_is_no_rival():
    again = replace(record("searched/1", 3, 0.1), key="confirmed/searched/0", role="confirmed", confirms="searched/0")
    assert led(record("searched/0", 3, 0.5), again) == ["searched/0"]


# Confirmation ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(small_study):
    return run(None, small_study(rungs=RUNGS, trials=12))


def test_leaders_are_confirmed_each_plan_once(ran):
    confirmed = ran.of("confirmed")
    expected = leaders([r for r in ran.records if r.role != "confirmed"], SMALL["budgets"])
    assert {r.evidence.digest for r in confirmed} == {r.result.plan.digest for r in expected}
    assert len({r.evidence.digest for r in confirmed}) == len(confirmed)
    assert {r.key for r in confirmed} == {f"confirmed/{r.confirms}" for r in confirmed}
    assert ran.status.done == ran.status.total == len(ran.records)


def test_a_confirmation_takes_its_plan_and_set_up_from_whom_it_confirms_and_spends_images_alone(ran):
    for again in ran.of("confirmed"):
        first = ran.record(again.confirms)
        assert again.result.plan == first.result.plan
        assert again.method == first.method
        assert again.result.setup_nfe == first.result.setup_nfe
        assert again.result.solver == first.result.solver
        assert {task.what for task in ran.pool.of(again.key)} == {"evaluate"}
        assert again.evidence.spent_rows == again.result.rows == 200 * again.evidence.nfe
        assert again.result.fid != first.result.fid


def test_no_seed_of_a_confirmation_was_seen_by_the_search(ran):
    seen = {True: set(), False: set()}
    for task in ran.pool.tasks:
        if task.seeds is not None:
            seen[task.key.startswith("confirmed")] |= set(task.seeds)
    assert seen[True] == set(range(1_000_000, 1_000_200))
    assert seen[False] == set(range(200))


def test_confirmations_do_as_many_images_as_asked(small_study):
    ran = run(None, small_study(**eulers(2, confirm={"first_seed": 5000, "images": 60})))
    for again in ran.of("confirmed"):
        assert again.result.spec.images == 60
        assert again.result.spec.first_seed == 5000


def test_nothing_is_confirmed_unless_asked(small_study):
    assert run(None, Study.model_validate(SMALL | {"confirm": "none"})).of("confirmed") == []


def test_a_longer_study_confirms_only_what_is_new(tmp_path, small_study):
    first = run(tmp_path, small_study(**eulers(2, 4, trials=1, confirm={})))
    second = run(tmp_path, small_study(**eulers(2, 4, trials=2, confirm={})))
    assert "confirmed/published/0" in {r.key for r in first.records}
    new = [r.key for r in second.of("confirmed") if r.key not in {r.key for r in first.records}]
    assert new == ["confirmed/published/1"]
    assert {task.key for task in second.pool.tasks} == {"published/1", "confirmed/published/1"}


def test_a_study_that_was_not_confirmed_is_confirmed_later(tmp_path, small_study):
    first = run(tmp_path, small_study(**eulers(2)))
    second = run(tmp_path, small_study(**eulers(2, confirm={})))
    assert values(second.records) | values(first.records) == values(second.records)
    assert {r.role for r in second.records if r not in first.records} == {"confirmed"}
    assert {task.what for task in second.pool.tasks} == {"evaluate"}


def test_a_confirmation_that_fails_is_recorded_and_not_tried_for_ever(tmp_path, small_study):
    """Euler at 3 and 7 is DDIM's plan, which both lead with: the failure of one is the other's too."""
    study = small_study(**eulers(3, 7, confirm={}, baselines=["ddim"]))
    first = run(tmp_path, study, lambda task, outcome: Failure("boom") if task.key.startswith("conf") else outcome)
    failed = first.of("confirmed")
    assert {(r.state, r.reason, r.result) for r in failed} == {("failed", "boom", None)}
    assert len(failed) == 3
    assert all(r.confirms == r.key.removeprefix("confirmed/") for r in failed)
    second = run(tmp_path, study)
    assert second.records == first.records
    assert second.pool.tasks == []


def test_confirmations_are_none_where_nothing_has_a_score(small_study):
    failed = replace(record("searched/0", 3, 0.5), result=None, state="failed")
    assert list(confirmations(small_study(), [failed], itertools.count())) == []
