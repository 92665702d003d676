"""A trial's climb: what each rung costs, who is stopped where, and what is never sampled at all."""

from dataclasses import replace
from itertools import pairwise

import pytest

from pipeline import benchmarks
from pipeline.comparison import Estimate
from pipeline.metrics.distances import jackknife
from pipeline.trial import Prepared, evaluate
from tests.spied_search import EULERS, RUNGS, Changed, Spy, eulers, far_at, fids, run


@pytest.fixture(scope="module")
def gmm():
    return benchmarks.load("gmm")


@pytest.fixture(scope="module")
def climbed(small_study):
    """Twelve trials with every kind of end."""
    return run(None, small_study(rungs=RUNGS, trials=12, confirm=None))


def reached(record):
    return [score.images for score in record.evidence.scores]


# What a climb costs ----------------------------------------------------------------------------------------------


def test_a_rung_asks_for_new_images_alone(climbed):
    for record in climbed.records:
        seeds = [seed for task in climbed.pool.of(record.key, "evaluate") for seed in task.seeds]
        images = reached(record)[-1] if record.evidence.scores and not record.same_as else 0
        assert seeds == list(range(images)), record.key


def test_a_trial_pays_for_its_set_up_the_teachers_rung_and_the_images_it_reached(climbed):
    setups = {}
    for record in climbed.records:
        set_up = [task for task in climbed.pool.of(record.key) if task.what == "prepare"]
        assert len(set_up) == 1
        nfe, spent = record.evidence.nfe, record.evidence.spent_rows
        images = 0 if record.same_as else 32 + (reached(record) or [0])[-1]
        setups[record.key] = spent - nfe * images
    assert setups["floor"] == setups["baseline/ddim/3"] == 0
    assert setups["published/0"] == round(climbed.record("published/0").evidence.setup_nfe * 16)
    assert all(rows >= 0 for rows in setups.values())


def test_rungs_grow_to_all_images_and_only_who_reaches_them_has_a_result(climbed):
    assert {record.state for record in climbed.records} == {"complete", "pruned"}
    for record in climbed.records:
        assert reached(record) == [40, 100, 200][: len(reached(record))]
        if record.reason.startswith("nothing to win"):
            assert (record.evidence.teacher, reached(record)) == (None, [])
        else:
            assert len(record.evidence.teacher.features) == 32
        assert (record.result is not None) == (record.state == "complete") == (200 in reached(record))
        if record.result is not None:
            assert record.evidence.scores[-1] == record.result.score


def test_the_score_of_a_rung_is_that_of_its_images_alone(gmm, climbed):
    for record in climbed.of("floor", "baseline"):
        for score in record.evidence.scores:
            shards = evaluate(record.result.plan, gmm, range(score.images), 20)
            alone = jackknife([shard.moments for shard in shards], gmm.reference)
            assert score.fid == pytest.approx(alone.fid, rel=1e-5)
            assert score.corrected == pytest.approx(alone.corrected, rel=1e-5)
            assert score.leave_one_out == pytest.approx(alone.leave_one_out, rel=1e-5)


def test_who_is_not_stopped_scores_as_without_rungs(climbed, small_study):
    plain = run(None, small_study(rungs=None, trials=2, confirm=None))
    both = {r.key for r in plain.records} & {r.key for r in climbed.records if r.state == "complete"}
    assert len(both) >= 6
    for key in both:
        one, other = plain.record(key).result, climbed.record(key).result
        assert one.plan == other.plan
        assert one.rows == other.rows
        assert one.fid == pytest.approx(other.fid, rel=1e-5)


def test_without_rungs_every_trial_is_scored_on_all_images_and_nothing_is_taught(small_study):
    ran = run(None, small_study(rungs=None, trials=8, confirm=None))
    assert {task.what for task in ran.pool.tasks} == {"prepare", "evaluate"}
    assert ran.pool.teachers == []
    assert {r.state for r in ran.records} == {"complete"}
    for record in ran.records:
        assert record.evidence.teacher is None
        assert reached(record) == [200]


def test_without_a_teacher_the_first_rung_is_of_fid(small_study):
    ran = run(None, small_study(rungs=RUNGS | {"teacher": 0}, trials=8, confirm=None))
    assert {task.what for task in ran.pool.tasks} == {"prepare", "evaluate"}
    assert {r.evidence.teacher for r in ran.records} == {None}
    assert {r.state for r in ran.records} == {"complete", "pruned"}


def test_the_teacher_is_the_floor_and_solved_once(climbed):
    assert [task.what for task in climbed.pool.of("teacher")] == ["prepare", "teach"]
    assert climbed.pool.of("teacher", "teach")[0].seeds == range(32)
    assert climbed.pool.rows["teacher"] == 23 * 32
    assert len(climbed.pool.teachers) == 1
    assert climbed.record("floor").evidence.teacher.mean == 0
    compared = [r.evidence.teacher.mean for r in climbed.records if r.role != "floor" and r.evidence.teacher]
    assert len(compared) >= 6
    assert min(compared) > 0


# Who is stopped --------------------------------------------------------------------------------------------------


def test_floor_and_baselines_climb_to_the_end_however_far_behind(climbed):
    for record in climbed.of("floor", "baseline"):
        assert reached(record) == [40, 100, 200]
        assert record.state == "complete"
    behind, ahead = climbed.record("baseline/heun/3"), climbed.record("baseline/ddim/3")
    assert behind.evidence.teacher.mean > 9 * ahead.evidence.teacher.mean
    assert behind.result.fid > 9 * ahead.result.fid


def test_the_teachers_rung_stops_who_is_far_behind_one_as_cheap(small_study):
    ran = run(None, small_study(**eulers(4, 5, 6)), far_at(5))
    far = ran.record("published/1")
    assert (far.state, far.evidence.nfe, reached(far)) == ("pruned", 5, [])
    assert far.reason.startswith("stopped at the teacher's rung, 32 images")
    assert not ran.pool.of(far.key, "evaluate")
    assert [ran.record(f"published/{i}").state for i in (0, 2)] == ["complete"] * 2
    assert ran.status.stopped == 1


def test_nobody_is_stopped_for_a_dearer_one(small_study):
    """At NFE 2 and far behind all: it is the cheapest, so it is on the front."""
    ran = run(None, small_study(**eulers(5, 4, 2)), far_at(2))
    assert [r.state for r in ran.of("published")] == ["complete"] * 3


def test_a_rung_of_fid_stops_who_is_behind_one_as_cheap_and_the_front_goes_on(gmm, small_study):
    """FIDs made worse by 30 at NFE 5 and 6: both cost more than the 4, which stays better."""
    study = small_study(**eulers(2, 4, 5, 6, 7, rungs={"teacher": 0, "images": [40, 100]}, baselines=[]))
    ran = run(None, study, scoring=Changed(dict.fromkeys((5, 6), lambda fid: fid + 30)))
    states = {r.evidence.nfe: r.state for r in ran.of("published")}
    assert states == {2: "complete", 4: "complete", 5: "pruned", 6: "pruned", 7: "complete"}
    for record in ran.of("published"):
        if record.state == "pruned":
            assert record.reason.startswith("stopped at 40 images")
            assert "published/1 with 4 evaluations" in record.reason
            assert reached(record) == [40]


def test_equal_plans_share_what_stopped_the_first(small_study):
    """Every tau_k above the largest kappa gives Euler's plan: the second waits for the first, the third comes later."""
    space = {
        "solver": {"name": "switch", "tau_k": {"low": 1e6, "high": 1e9, "log": True}},
        "schedule": EULERS["schedule"],
    }
    points = [{"schedule.num_steps": n, "solver.tau_k": tau} for n, tau in ((4, 1e6), (5, 1e6), (5, 1e7), (6, 1e6))]
    points.append({"schedule.num_steps": 5, "solver.tau_k": 1e8})
    study = small_study(space=space, published=points, trials=5, rungs=RUNGS, confirm=None)
    ran = run(None, study, far_at(5))
    first = ran.record("published/1")
    assert (first.state, first.same_as, reached(first)) == ("pruned", "", [])
    for key in ("published/2", "published/4"):
        record = ran.record(key)
        assert (record.state, record.same_as, record.reason) == ("pruned", "published/1", first.reason)
        assert record.evidence.teacher == first.evidence.teacher
        assert record.evidence.setup_nfe == 5
        assert record.evidence.spent_rows == 0, "the curvature along these sigmas is known"
        assert not any(task.plan for task in ran.pool.of(key))


# What is not sampled at all --------------------------------------------------------------------------------------


def test_a_trial_whose_set_up_costs_too_much_is_not_sampled(small_study):
    def spoil(task, outcome):
        dear = isinstance(outcome, Prepared) and task.key == "searched/2"
        return replace(outcome, setup_nfe=501.0) if dear else outcome

    ran = run(None, small_study(constraints={"setup_nfe": 500.0}, confirm=None, rungs=None), spoil)
    refused = ran.record("searched/2")
    assert (refused.state, refused.reason) == ("pruned", "set-up NFE 501 is above the constraint, 500")
    assert refused.constraints == {"setup_nfe": 1.0}
    assert not refused.feasible
    assert [task.what for task in ran.pool.of("searched/2")] == ["prepare"]
    assert [r.key for r in ran.records if r.state == "pruned"] == ["searched/2"]


def test_a_baseline_may_cost_more_than_a_trial(small_study):
    def spoil(task, outcome):
        return replace(outcome, setup_nfe=501.0) if isinstance(outcome, Prepared) else outcome

    ran = run(None, small_study(constraints={"setup_nfe": 500.0}, confirm=None), spoil)
    assert {(r.role, r.state) for r in ran.records} == {
        ("floor", "complete"), ("baseline", "complete"), ("published", "pruned"), ("searched", "pruned"),
    }  # fmt: skip


def test_where_one_as_cheap_equals_the_floor_there_is_nothing_to_win(gmm, small_study):
    """Scores made so that DDIM at 3 and the floor, of 23, are both exact; what costs less than 3 may still win."""
    ran = run(
        None,
        small_study(**eulers(2, 4, 5, baselines=["ddim"])),
        scoring=fids({3: 0.0, 23: 0.0}),
    )
    cheapest, *others = ran.of("published")
    assert (cheapest.state, cheapest.evidence.nfe) == ("complete", 2)
    for record in others:
        assert record.state == "pruned"
        assert record.reason == "nothing to win: baseline/ddim/3 is as good as the floor with 3 evaluations"
        assert [task.what for task in ran.pool.of(record.key)] == ["prepare"]


def test_who_equals_the_floor_at_few_images_may_not_at_all_of_them(small_study):
    """At 40 images all scores are alike, and the floor, slow as it is, has no others yet."""

    class Alike(Changed):
        def score(self, plan, shards, measured=()):
            return Estimate.of(40, 1.0, (1.0, 1.0))

    class SlowFloor(Spy):
        def submit(self, task):
            late = task.key == "floor" and task.seeds is not None and task.seeds.start >= 40
            super().submit(replace(task, order=(999, 0)) if late else task)

    study = small_study(**eulers(5, 4, 3, baselines=["ddim"], rungs={"teacher": 0, "images": [40]}))
    ran = run(None, study, scoring=Alike({}), pool=SlowFloor())
    assert ran.heard.records[-1].key == "floor"
    assert not [r.reason for r in ran.records if "nothing to win" in r.reason]


def test_without_rungs_nothing_is_saturated(gmm, small_study):
    study = small_study(**eulers(2, 4, 5, baselines=["ddim"], rungs=None))
    ran = run(None, study, scoring=fids({3: 0.0, 23: 0.0}))
    assert {r.state for r in ran.records} == {"complete"}


# Pairs -----------------------------------------------------------------------------------------------------------


def test_all_that_is_compared_is_on_the_same_seeds(climbed):
    compared = [task for task in climbed.pool.tasks if task.what == "compare"]
    assert len(compared) == sum(not r.same_as and r.evidence.teacher is not None for r in climbed.records)
    evaluated = [[task.seeds for task in climbed.pool.of(r.key, "evaluate")] for r in climbed.records if not r.same_as]
    longest = max(evaluated, key=len)
    assert len(longest) == 3
    assert all(seeds == longest[: len(seeds)] for seeds in evaluated)
    assert all(a.stop == b.start for a, b in pairwise(longest))
