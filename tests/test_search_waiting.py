"""Trials that wait for their last rungs until the search is over: who goes on, what that costs, and after a break."""

from dataclasses import replace

import pytest
from optuna.trial import TrialState

from pipeline import benchmarks
from pipeline.ledger import Ledger
from pipeline.scoring import MomentScoring
from pipeline.worker import Failure
from tests.spied_search import EULERS, Spy, eulers, fids, open_ledger, run, values

FID = {"teacher": 0, "images": [40, 100]}
# Every tau_k above the largest kappa gives Euler's plan.
SWITCHED = {
    "solver": {"name": "switch", "tau_k": {"low": 1e6, "high": 1e9, "log": True}},
    "schedule": EULERS["schedule"],
}


def twins(*points, **more):
    """Changes to the small study: Euler's plans by (steps, tau_k), each tau_k another trial of the same plan."""
    settings = [{"schedule.num_steps": n, "solver.tau_k": tau} for n, tau in points]
    held = {"space": SWITCHED, "published": settings, "trials": len(points), "rungs": FID, "confirm": None}
    return held | {"baselines": []} | more


def reached(record):
    return [score.images for score in record.evidence.scores]


def images(pool, key):
    """The seeds that were drawn for a trial, in order."""
    return [seed for task in pool.of(key, "evaluate") for seed in task.seeds]


class KilledAtTheLastRung(Spy):
    """Its driver is killed when images of a last rung have been drawn, the n-th time."""

    def __init__(self, times=1):
        super().__init__()
        self.times = times

    def next(self, timeout):
        answer = super().next(timeout)
        late = answer is not None and answer[0].seeds is not None and answer[0].seeds.start >= 100
        if late and answer[0].key.startswith("published"):
            self.times -= 1
            if not self.times:
                raise KeyboardInterrupt
        return answer


# Who waits, and for what -----------------------------------------------------------------------------------------


def test_the_last_rung_is_for_the_end_of_the_search(small_study):
    ran = run(None, small_study(**eulers(4, 5, 6, baselines=["ddim"])))
    drawn = [task for task in ran.pool.tasks if task.key.startswith("published")]
    last = [i for i, task in enumerate(drawn) if task.seeds is not None and task.seeds.start >= 100]
    assert last == list(range(last[0], len(drawn))), "nothing else is begun once the last rungs are"
    assert len({task.key for task in drawn[: last[0]]}) == 3
    for task in ran.pool.of("baseline/ddim/7", "evaluate"):
        assert task in ran.pool.tasks[: ran.pool.tasks.index(drawn[last[0]])], "baselines do not wait"


def test_a_trial_that_waited_scores_as_one_that_went_straight_on(small_study):
    """DDIM's plan as a baseline, and in another study as a searched trial: the same batches, so the same bits."""
    straight = run(None, small_study(**eulers(2, baselines=["ddim"]))).record("baseline/ddim/7")
    waited = run(None, small_study(**eulers(7, baselines=[]))).record("published/0")
    assert waited.result.plan.digest == straight.result.plan.digest
    assert waited.result.score == straight.result.score
    assert waited.evidence.scores == straight.evidence.scores
    assert waited.evidence.teacher == straight.evidence.teacher
    assert waited.evidence.spent_rows == straight.evidence.spent_rows == 7 * (32 + 200)


def test_the_shards_of_a_trial_that_waits_are_kept_and_paid_once(small_study):
    ran = run(None, small_study(**eulers(4, 5, 6, baselines=[])))
    for record in ran.of("published"):
        assert (record.state, record.waiting, reached(record)) == ("complete", False, [40, 100, 200])
        assert images(ran.pool, record.key) == list(range(200))
        assert len(ran.pool.of(record.key, "prepare")) == len(ran.pool.of(record.key, "compare")) == 1
        assert record.evidence.spent_rows == ran.pool.rows[record.key] == record.evidence.nfe * 232
        assert record.result.score == record.evidence.scores[-1]
    assert ran.status.done == ran.status.total == len(ran.records) == len(ran.heard.records)


def test_the_optimizer_is_told_what_is_known_before_the_last_rung(small_study):
    ran = run(None, small_study(**eulers(4, 5, baselines=[])))
    for record, trial in zip(ran.of("published"), ran.ledger._searched.trials, strict=True):
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [record.evidence.score(40).corrected, record.evidence.nfe]
        assert record.result.fid != trial.values[0]
    assert len(ran.ledger._searched.trials) == 2


def test_who_is_dominated_by_then_ends_without_more_images(small_study):
    """The 6 comes through first; the 5 that comes after it is as cheap and far better."""
    ran = run(None, small_study(**eulers(6, 5, rungs=FID, baselines=[])), scoring=fids({23: 0.1, 6: 9.0, 5: 3.0}))
    late, better = ran.of("published")
    assert (late.state, late.waiting, late.result, reached(late)) == ("pruned", False, None, [40])
    assert late.reason.startswith("stopped at 40 images")
    assert "published/1 with 5 evaluations" in late.reason
    assert images(ran.pool, late.key) == list(range(40))
    assert late.evidence.spent_rows == 6 * 40
    assert ran.ledger._searched.trials[0].values == [9.0, 6.0], "Optuna is not told again"
    assert better.state == "complete"
    assert (ran.status.done, ran.status.stopped, ran.status.total) == (3, 1, 3)
    assert {r.key: r for r in ran.heard.records} == {r.key: r for r in ran.records}


def test_one_that_turned_out_to_equal_the_floor_ends_the_wait_of_the_dearer(small_study):
    ran = run(None, small_study(**eulers(6, 4, rungs=FID, baselines=[])), scoring=fids({23: 3.0, 6: 2.5, 4: 3.0}))
    assert ran.record("published/0").reason == "nothing to win: published/1 is as good as the floor with 4 evaluations"
    assert images(ran.pool, "published/0") == list(range(40))


class Worse(MomentScoring):
    """The plans of six evaluations look good on few images, and are the worst on more."""

    def __init__(self):
        super().__init__(benchmarks.load("gmm"))

    def score(self, plan, shards, measured=()):
        score = super().score(plan, shards, measured)
        level = {23: 0.1, 5: 3.0, 6: 2.0 if score.images == 40 else 9.0}[len(plan)]
        return replace(score, fid=level, corrected=level, leave_one_out=(level,) * len(score.leave_one_out))


def test_each_rung_is_for_who_is_left_by_then(small_study):
    ran = run(None, small_study(**eulers(6, 5, rungs=FID, baselines=[])), scoring=Worse())
    late, better = ran.of("published")
    assert (late.state, late.waiting, reached(late)) == ("pruned", False, [40, 100])
    assert late.reason.startswith("stopped at 100 images")
    assert images(ran.pool, late.key) == list(range(100))
    assert late.evidence.spent_rows == 6 * 100
    assert {r.key: r for r in ran.heard.records} == {r.key: r for r in ran.records}
    assert reached(better) == [40, 100, 200]


def test_a_rung_is_over_before_the_next_begins(small_study):
    ran = run(None, small_study(**eulers(4, 5, 6, baselines=[])))
    drawn = [task.seeds.start for task in ran.pool.tasks if task.key.startswith("published") and task.seeds]
    assert [start >= 100 for start in drawn] == sorted(start >= 100 for start in drawn)
    assert [start >= 40 for start in drawn] == sorted(start >= 40 for start in drawn)


# Twins -----------------------------------------------------------------------------------------------------------


def test_twins_of_a_trial_that_waits_wait_and_share_its_result(small_study):
    """The second comes while the first climbs, the third when it waits."""
    ran = run(None, small_study(**twins((4, 1e6), (4, 1e7), (5, 1e6), (6, 1e6), (4, 1e8))))
    first = ran.record("published/0")
    assert (first.state, first.same_as) == ("complete", "")
    for key in ("published/1", "published/4"):
        twin = ran.record(key)
        assert (twin.state, twin.same_as) == ("complete", "published/0"), twin.reason
        assert twin.result.score == first.result.score
        assert twin.evidence.scores == first.evidence.scores
        assert [task.what for task in ran.pool.of(key)] == ["prepare"]
        assert ran.pool.rows[key] == twin.evidence.spent_rows
        assert twin.result.spec.solver["tau_k"] != first.result.spec.solver["tau_k"]
    told = [trial.values for trial in ran.ledger._searched.trials]
    assert told[0] == told[1] == told[4]


def test_a_twin_that_waits_is_told_the_latency_of_its_plan(small_study):
    ran = run(None, small_study(**twins((4, 1e6), (4, 1e7), constraints={"latency_ms": 1e-9})))
    first, twin = ran.ledger._searched.trials
    assert first.constraints == twin.constraints
    assert first.constraints["latency_ms"] > 0, "no image takes a picosecond"


def test_twins_are_dominated_together(small_study):
    study = small_study(**twins((6, 1e6), (6, 1e7), (5, 1e6)))
    ran = run(None, study, scoring=fids({23: 0.1, 6: 9.0, 5: 3.0}))
    first, twin = ran.record("published/0"), ran.record("published/1")
    assert [r.state for r in ran.of("published")] == ["pruned", "pruned", "complete"]
    assert twin.reason == first.reason
    assert (first.same_as, twin.same_as) == ("", "published/0")


def test_a_baseline_that_came_in_between_is_shared_by_who_waits_for_its_plan(tmp_path, small_study):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, small_study(**eulers(7, baselines=[])), pool=KilledAtTheLastRung())
    ran = run(tmp_path, small_study(**eulers(7, baselines=["ddim"])))
    waited, measured = ran.record("published/0"), ran.record("baseline/ddim/7")
    assert (waited.state, waited.same_as) == ("complete", measured.key)
    assert waited.result.score == measured.result.score
    assert images(ran.pool, waited.key) == []


# After a break ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "disk"), [(1, True), (2, False), (3, False)])
def test_who_waited_when_the_driver_was_killed_goes_on_from_its_images(tmp_path, small_study, times, disk):
    study = small_study(**eulers(6, 4, 5, baselines=[]))
    whole = run(tmp_path / "whole", study)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", study, pool=KilledAtTheLastRung(times), disk=disk)
    held = [r for r in open_ledger(tmp_path / "parts", study, disk=disk).records() if r.role == "published"]
    left = [r for r in held if r.waiting]
    assert len(left) == 4 - times
    for record in left:
        assert (record.state, record.reason, record.result) == ("pruned", "waits for its last rungs", None)
        assert reached(record) == [40]
    parts = run(tmp_path / "parts", study, disk=disk)
    for record in whole.records:
        again = parts.record(record.key)
        assert (again.state, again.result.plan.digest) == ("complete", record.result.plan.digest)
        assert again.result.score == record.result.score, "of the same batches, so to the last bit"
        assert again.evidence.scores[:2] == record.evidence.scores[:2]
        assert again.evidence.teacher == record.evidence.teacher
    for record in left:
        assert [task.what for task in parts.pool.of(record.key)] == ["prepare", "evaluate"]
        assert images(parts.pool, record.key) == list(range(100, 200))
        assert parts.record(record.key).evidence.spent_rows == whole.record(record.key).evidence.spent_rows
    assert {task.key for task in parts.pool.tasks} == {r.key for r in left}
    assert parts.status.done == parts.status.total == len(left)
    assert run(tmp_path / "parts", study, disk=disk).pool.tasks == []


def test_twins_that_waited_when_the_driver_was_killed_are_no_rivals(tmp_path, small_study):
    study = small_study(**twins((4, 1e6), (4, 1e7), (4, 1e8)))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, study, pool=KilledAtTheLastRung())
    assert all(r.waiting for r in open_ledger(tmp_path, study).records() if r.role == "published")
    ran = run(tmp_path, study)
    assert [(r.state, r.same_as) for r in ran.of("published")] == [
        ("complete", ""), ("complete", "published/0"), ("complete", "published/0"),
    ]  # fmt: skip
    assert len({r.result.score for r in ran.of("published")}) == 1


def test_a_break_among_the_last_rungs_changes_no_verdict(tmp_path, small_study, monkeypatch):
    """NFE 5 ends: it is 1 % better than the 4. The 6 beats the 4 by 2 %, and the 5 ended before it was judged."""
    study = small_study(**eulers(6, 5, 4, rungs=FID, baselines=[]))
    levels = {23: 1.0, 4: 10.0, 5: 9.9, 6: 9.8}
    whole = run(tmp_path / "whole", study, scoring=fids(levels))
    assert {r.evidence.nfe: r.state for r in whole.of("published")} == {4: "complete", 5: "pruned", 6: "complete"}
    honest = Ledger.finish

    def finish(self, number, evidence, constraints, result=None, **more):
        ended = honest(self, number, evidence, constraints, result, **more)
        if result is None:
            raise KeyboardInterrupt
        return ended

    monkeypatch.setattr(Ledger, "finish", finish)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", study, scoring=fids(levels))
    monkeypatch.setattr(Ledger, "finish", honest)
    parts = run(tmp_path / "parts", study, scoring=fids(levels))
    assert {r.key: (r.state, r.reason) for r in parts.records} == {r.key: (r.state, r.reason) for r in whole.records}


def test_more_trials_go_on_from_what_ended_before(tmp_path, small_study):
    first = run(tmp_path, small_study(**eulers(4, 6, baselines=[])))
    second = run(tmp_path, small_study(**eulers(4, 6, 5, baselines=[])))
    assert {key: values(second.records)[key] for key in values(first.records)} == values(first.records)
    assert {task.key for task in second.pool.tasks} == {"published/2"}
    assert second.record("published/2").state == "complete"


# What goes wrong -------------------------------------------------------------------------------------------------


def broken_at_the_last_rung(task, outcome):
    late = task.key == "published/0" and task.seeds is not None and task.seeds.start >= 100
    return Failure("boom") if late else outcome


def test_a_trial_that_fails_at_its_last_rung_is_failed_once(tmp_path, small_study):
    study = small_study(**eulers(4, 5, baselines=[]))
    ran = run(tmp_path, study, broken_at_the_last_rung)
    failed = ran.record("published/0")
    assert (failed.state, failed.reason, failed.result, failed.waiting) == ("failed", "boom", None, False)
    assert reached(failed) == [40, 100], "what it scored before is kept"
    assert ran.record("published/1").state == "complete"
    assert (ran.status.failed, ran.status.done) == (1, ran.status.total)
    assert ran.ledger._searched.trials[0].state == TrialState.COMPLETE
    again = run(tmp_path, study)
    assert (again.records, again.pool.tasks) == (ran.records, [])


def test_a_trial_whose_plan_cannot_be_made_again_is_failed_with_what_it_had(tmp_path, small_study):
    study = small_study(**eulers(4, 5, baselines=[]))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, study, pool=KilledAtTheLastRung())

    def spoil(task, outcome):
        return Failure("boom") if (task.key, task.what) == ("published/0", "prepare") else outcome

    ran = run(tmp_path, study, spoil)
    failed = ran.record("published/0")
    assert (failed.state, failed.reason, reached(failed)) == ("failed", "boom", [40])
    assert ran.record("published/1").state == "complete"
    again = run(tmp_path, study)
    assert (again.records, again.pool.tasks) == (ran.records, [])


def test_constraints_of_a_trial_that_waited_are_those_of_all_its_images(small_study):
    """The last images take ten times as long each: the median of the shards is theirs only in the end."""

    def spoil(task, outcome):
        if task.what != "evaluate":
            return outcome
        each = 1.0 if task.seeds.start < 100 else 10.0
        return replace(outcome, shards=tuple(replace(s, seconds=each * len(s.seeds)) for s in outcome.shards))

    study = small_study(**eulers(4, baselines=[], constraints={"latency_ms": 5000.0, "setup_nfe": 3.0}))
    ran = run(None, study, spoil)
    record, trial = ran.record("published/0"), ran.ledger._searched.trials[0]
    assert trial.constraints == {"latency_ms": -4000.0, "setup_nfe": -3.0}
    assert record.constraints == {"latency_ms": 5000.0, "setup_nfe": -3.0}
    assert not record.feasible
