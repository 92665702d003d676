"""The driver: what is run, what is shared, what is told, and what becomes of a failure."""

from collections import Counter
from dataclasses import replace

import optuna
import pytest

from pipeline.teaching import TeacherFailedError
from pipeline.trial import Prepared
from pipeline.worker import Compared, Failure
from tests.spied_search import Spy, run

# Every tau_k above the largest kappa gives Euler's plan.
EULERS = {
    "solver": {"name": "switch", "tau_k": {"low": 1e6, "high": 1e9, "log": True}},
    "schedule": {"name": "edm", "num_steps": 3, "final": "sigma_min"},
}


def test_a_study_measures_floor_baselines_published_and_searched_trials(small_study):
    ran = run(None, small_study(confirm=None, rungs=None))
    # ddim and heun at 3 and 7; heun takes odd budgets by its last move to 0.
    assert Counter(r.role for r in ran.records) == {"floor": 1, "baseline": 4, "published": 2, "searched": 4}
    assert {r.key for r in ran.heard.records} == {r.key for r in ran.records}
    assert ran.status.done == ran.status.total == 11
    assert ran.status.failed == ran.status.stopped == ran.status.running == 0
    for record in ran.records:
        assert record.state == "complete"
        assert record.result.nfe == len(record.result.plan)
        assert record.result.spec.images == 200


def test_published_settings_come_first_and_as_written(small_study):
    ran = run(None, small_study(rungs=None))
    searched = [r for r in ran.heard.records if r.role in ("published", "searched")]
    assert [r.role for r in searched[:2]] == ["published", "published"]
    schedule = searched[0].result.spec.schedule
    assert schedule["eta_min"] == pytest.approx(1e-6)
    assert schedule["eta_max"] == 5e-6
    assert ran.record("published/0").params["schedule.num_steps"] == 2


def test_the_optimizer_is_told_corrected_fid_and_nfe(small_study):
    ran = run(None, small_study(rungs=None))
    for record in ran.of("published", "searched"):
        told = ran.ledger._searched.trials[int(record.key.partition("/")[2])]
        assert told.values == [record.result.fid_corrected, record.result.nfe]
        assert told.params == record.params


def test_the_optimizer_is_not_taught_by_baselines_or_confirmations(small_study):
    ran = run(None, small_study())
    assert ran.of("baseline")
    assert ran.of("confirmed")
    assert len(ran.ledger._searched.trials) == 6


def test_equal_plans_are_evaluated_once_and_each_keeps_its_own_set_up(small_study):
    ran = run(None, small_study(space=EULERS, published=[], trials=4))
    searched = ran.of("searched")
    # ddim at 3 is the same plan: not one image is sampled for the four trials.
    assert {r.same_as for r in searched} == {"baseline/ddim/3"}
    assert not any(task.plan for task in ran.pool.tasks if task.key.startswith("searched"))
    ddim = ran.record("baseline/ddim/3")
    assert {r.result.fid for r in searched} == {ddim.result.fid}
    assert all(r.result.setup_nfe == r.evidence.setup_nfe == 3 for r in searched)
    assert ddim.result.setup_nfe == 0
    for record in searched:
        assert record.evidence.scores == ddim.evidence.scores
        assert record.evidence.teacher == ddim.evidence.teacher


def test_a_plan_above_the_last_budget_is_stopped_before_it_is_sampled(small_study):
    space = {"solver": {"name": "heun"}, "schedule": {"name": "edm", "num_steps": {"low": 4, "high": 5}}}
    ran = run(None, small_study(space=space, published=[], trials=3, budgets=[3, 7]))
    above = [r for r in ran.of("searched") if r.params["schedule.num_steps"] == 5]
    assert above
    assert {(r.state, r.reason) for r in above} == {("pruned", "NFE 9 is above the last budget, 7")}
    assert not any(task.plan for record in above for task in ran.pool.of(record.key))
    within = [r for r in ran.of("searched") if r.params["schedule.num_steps"] == 4]
    assert not any("budget" in r.reason for r in within)


def test_network_rows_are_counted_for_each_trial_and_for_the_whole(small_study):
    ran = run(None, small_study(rungs={"teacher": 32, "images": [40, 100]}, trials=12))
    assert {r.state for r in ran.records} == {"complete", "pruned"}
    for record in ran.records:
        assert record.evidence.spent_rows == ran.pool.rows[record.key], record.key
    assert ran.status.rows == ran.pool.rows.total()
    assert ran.pool.rows.total() - ran.pool.rows["teacher"] == sum(r.evidence.spent_rows for r in ran.records)


def test_prepared_trials_report_their_set_up(small_study):
    seen = []

    def spoil(task, outcome):
        if isinstance(outcome, Prepared):
            seen.append((task.key, outcome))
        return outcome

    ran = run(None, small_study(confirm=None, rungs=None), spoil)
    rows = {key: prepared.setup_rows for key, prepared in seen}
    for record in ran.records:
        assert record.result.setup_rows == rows[record.key]
    assert rows["baseline/ddim/3"] == 0
    assert rows["published/0"] > 0


# What goes wrong -------------------------------------------------------------------------------------------------


def test_a_failed_trial_is_told_as_failed_with_its_reason_and_the_study_goes_on(tmp_path, small_study):
    def spoil(task, outcome):
        wrong = task.key == "published/1" and task.plan is not None
        return Failure("1 of 20 samples are not finite (seeds 0-19)") if wrong else outcome

    ran = run(tmp_path, small_study(rungs=None), spoil)
    failed = ran.record("published/1")
    assert (failed.state, failed.result) == ("failed", None)
    assert "not finite" in failed.reason
    assert [r.key for r in ran.records if r.state != "complete"] == ["published/1"]
    assert ran.status.failed == 1
    assert ran.ledger._searched.trials[1].state == optuna.trial.TrialState.FAIL
    # A failed trial is spent: the next run does not try it again.
    again = run(tmp_path, small_study(rungs=None))
    assert len(again.records) == len(ran.records)
    assert again.pool.tasks == []


@pytest.mark.parametrize("what", ["prepare", "compare", "evaluate"])
def test_a_failed_baseline_is_recorded_whatever_it_failed_at(small_study, what):
    def spoil(task, outcome):
        return Failure("boom") if (task.key, task.what) == ("baseline/heun/3", what) else outcome

    ran = run(None, small_study(), spoil)
    failed = ran.record("baseline/heun/3")
    assert (failed.state, failed.reason, failed.result) == ("failed", "boom", None)
    assert ran.pool.of("baseline/heun/3")[-1].what == what


def test_a_follower_of_a_failed_plan_fails_with_it(small_study):
    space = EULERS | {"schedule": {"name": "edm", "num_steps": 4}}

    def spoil(task, outcome):
        return Failure("boom") if task.key.startswith("searched") and task.plan is not None else outcome

    ran = run(None, small_study(space=space, published=[], trials=3, baselines=[]), spoil)
    assert [(r.state, r.reason) for r in ran.of("searched")] == [("failed", "boom")] * 3


def test_the_optimizer_is_never_told_a_number_that_is_not_finite(small_study):
    huge = {
        "solver": {"name": "heun", "alpha": {"low": 1e-300, "high": 1e-299}},  # weights beyond single precision
        "schedule": {"name": "edm", "num_steps": 2},
    }
    ran = run(None, small_study(space=huge, published=[], trials=2, baselines=[]))
    searched = ran.of("searched")
    assert [r.state for r in searched] == ["failed", "failed"]
    assert all("finite" in r.reason for r in searched)
    assert all(trial.values is None for trial in ran.ledger._searched.trials)


def test_a_teacher_that_fails_ends_the_search_with_one_line_and_gives_the_workers_back(small_study):
    closed, pool = [], Spy(lambda task, outcome: Failure("boom") if task.what == "teach" else outcome)
    pool.close = lambda: closed.append(True)
    with pytest.raises(TeacherFailedError, match="the floor, which is the teacher, failed: boom"):
        run(None, small_study(), pool=pool)
    assert closed == [True]


def test_a_late_answer_of_a_trial_that_has_failed_changes_nothing(small_study):
    """The floor's first images fail while its others are with another worker already."""
    study = small_study(images=2048, shard_images=256, trials=0, baselines=["ddim"], rungs=None, confirm=None)
    pool = Spy(lambda task, outcome: Failure("boom") if task.key == "floor" and task.seeds == range(512) else outcome)
    pool.cancel = lambda key: None
    ran = run(None, study, pool=pool)
    assert pool.rows["floor"] == 23 * 2048, "all of it came back"
    assert {r.key: r.state for r in ran.records} == {
        "floor": "failed",
        "baseline/ddim/3": "complete",
        "baseline/ddim/7": "complete",
    }


def test_a_shared_result_keeps_the_walk_behind_its_own_schedule(small_study):
    def spoil(task, outcome):
        return replace(outcome, walk=({"of": task.key},)) if isinstance(outcome, Prepared) else outcome

    ran = run(None, small_study(space=EULERS, published=[], trials=2, confirm=None), spoil)
    assert {r.same_as for r in ran.of("searched")} == {"baseline/ddim/3"}
    assert [r.result.walk for r in ran.records] == [({"of": r.key},) for r in ran.records]


def test_the_listeners_hear_what_the_ledger_holds(small_study):
    ran = run(None, small_study(rungs={"teacher": 32, "images": [40, 100]}, trials=10))
    assert {r.key: r for r in ran.heard.records} == {r.key: r for r in ran.records}


def test_a_comparison_that_fails_is_the_trials_own_failure(small_study):
    def spoil(task, outcome):
        return Failure("1 of 128 samples are not finite") if isinstance(outcome, Compared) else outcome

    ran = run(None, small_study(), spoil)
    assert {r.state for r in ran.records} == {"failed"}
    assert not any(task.what == "evaluate" for task in ran.pool.tasks)
