"""A study in parts: whatever ends a run, the next one goes on as if there had been one only."""

from collections import Counter
from dataclasses import replace

import pytest
from optuna.trial import TrialState

from pipeline.trial import Prepared
from tests.spied_search import EULERS, RUNGS, Spy, eulers, far_at, fids, open_ledger, run, values

# Every tau_k above the largest kappa gives Euler's plan.
SWITCHED = {
    "solver": {"name": "switch", "tau_k": {"low": 1e6, "high": 1e9, "log": True}},
    "schedule": EULERS["schedule"],
}


def switched(steps, *taus):
    return [{"schedule.num_steps": steps, "solver.tau_k": tau} for tau in taus]


def test_the_same_command_again_adds_nothing(tmp_path, small_study):
    study = small_study(rungs=RUNGS, trials=10)
    first, second = run(tmp_path, study, disk=True), run(tmp_path, study, disk=True)
    assert first.of("confirmed")
    assert {r.state for r in first.records} == {"complete", "pruned"}
    assert second.records == first.records
    assert second.pool.tasks == second.heard.records == []
    assert second.status.total == 0


def test_more_trials_continue_and_keep_what_was_there(tmp_path, small_study):
    first = run(tmp_path, small_study(trials=3, confirm=None))
    second = run(tmp_path, small_study(trials=6, confirm=None))
    before, after = values(first.records), values(second.records)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 3
    assert not any(task.key in before for task in second.pool.tasks)


def test_the_teacher_is_solved_once_a_study(tmp_path, small_study):
    first = run(tmp_path, small_study(rungs=RUNGS, trials=3, confirm=None))
    second = run(tmp_path, small_study(rungs=RUNGS, trials=6, confirm=None))
    assert first.pool.rows["teacher"] == 23 * 32
    assert second.pool.rows["teacher"] == 0
    assert not second.pool.of("teacher")
    (one,), (other,) = first.pool.teachers, second.pool.teachers
    assert one.seeds == other.seeds
    assert one.samples.equal(other.samples)
    assert one.features.equal(other.features)


class Killed(Spy):
    """Its driver is killed when the next answer would be the n-th."""

    def __init__(self, answers):
        super().__init__()
        self.left = answers

    def next(self, timeout):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().next(timeout)


@pytest.mark.parametrize(("answers", "disk"), [(1, False), (5, False), (18, False), (30, False), (45, True)])
def test_a_driver_killed_at_any_time_loses_and_repeats_nothing(tmp_path, small_study, answers, disk):
    study = small_study(rungs=RUNGS, trials=8)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, study, pool=Killed(answers), disk=disk)
    over = values([r for r in open_ledger(tmp_path, study, disk=disk).records() if not r.waiting])
    ran = run(tmp_path, study, disk=disk)
    assert {key: values(ran.records)[key] for key in over} == over
    assert Counter(r.role for r in ran.records if r.role != "confirmed") == {
        "floor": 1, "baseline": 4, "published": 2, "searched": 6,
    }  # fmt: skip
    assert len({r.key for r in ran.records}) == len(ran.records)
    assert not any(task.key in over for task in ran.pool.tasks)
    tried = [tuple(r.params.values()) for r in ran.of("published", "searched")]
    assert len(set(tried)) == len(tried)
    again = run(tmp_path, study, disk=disk)
    assert (again.records, again.pool.tasks) == (ran.records, [])


def test_trials_that_a_killed_driver_left_running_go_on_under_their_numbers(tmp_path, small_study):
    study = small_study(trials=4)
    ledger = open_ledger(tmp_path, study)
    ledger.enqueue(study.published_points)
    lost = {trial.number: params for trial, params in (ledger.ask() for _ in range(3))}
    ran = run(tmp_path, study)
    tried = {int(r.key.rpartition("/")[2]): dict(r.params) for r in ran.of("published", "searched")}
    assert {number: tried[number] for number in lost} == lost
    assert [r.key for r in ran.of("published", "searched")] == [
        *("published/0", "published/1", "searched/2", "searched/3"),
    ]
    assert {trial.state for trial in ran.ledger._searched.trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize("drawn", [0, 1])
def test_a_driver_killed_while_it_draws_goes_on_drawing(tmp_path, small_study, drawn):
    study = small_study(trials=3, published=[])
    ledger = open_ledger(tmp_path, study)
    draw, seen = ledger._draw, []

    def cut(suggest):
        def some(name, distribution):
            if len(seen) == drawn:
                raise SystemExit("killed")
            seen.append((name, suggest(name, distribution)))
            return seen[-1][1]

        return draw(some)

    ledger._draw = cut
    with pytest.raises(SystemExit):
        ledger.ask()
    first, *_ = run(tmp_path, study).of("searched")
    assert first.key == "searched/0"
    assert [(name, first.params[name]) for name, _ in seen] == seen
    assert len(first.params) == len(study.parsed_space.distributions)


# Only the distances of the floor and of a baseline that were under way to the teacher, of 32 images, are found again.
AGAIN = 32 * (23 + 7)
LISTED = {"rungs": RUNGS, "baselines": ["ddim"], "confirm": {"first_seed": 5000}}


@pytest.mark.parametrize("answers", [1, 4, 9, 14, 19, 25, 32, 44])
def test_wherever_the_driver_is_killed_a_fixed_list_gives_the_same_bytes_for_the_same_rows(
    tmp_path, small_study, answers
):
    study = small_study(**eulers(6, 4, 5, 7, 2, **LISTED))
    whole, cut = run(tmp_path / "whole", study), Killed(answers)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", study, pool=cut)
    parts = run(tmp_path / "parts", study)
    assert values(parts.records) == values(whole.records)
    assert sum(cut.rows.values()) + sum(parts.pool.rows.values()) <= sum(whole.pool.rows.values()) + AGAIN
    for key in values(whole.records):
        theirs, ours = whole.record(key).evidence, parts.record(key).evidence
        assert ours.spent_rows == theirs.spent_rows, "what an earlier run paid for is counted, once"
    assert not list((tmp_path / "parts").glob("shards*")), "nothing is left of a study that is over"


# What was found out is judged by as if there had been no break ----------------------------------------------------


def test_who_was_stopped_stops_nobody_after_a_break_that_it_would_not_have_before(tmp_path, small_study):
    """NFE 5 is stopped: 1 % better than the 4 is too little. 6 is 2 % better than the 4, but 1 % than the 5."""
    rungs = {"teacher": 0, "images": [40, 100]}
    steps = eulers(4, 5, 6, rungs=rungs, baselines=[])
    levels = {23: 1.0, 4: 10.0, 5: 9.9, 6: 9.8}
    whole = run(tmp_path / "whole", small_study(**steps), scoring=fids(levels))
    assert [r.state for r in whole.of("published")] == ["complete", "pruned", "complete"]
    run(tmp_path / "parts", small_study(**steps | {"trials": 2}), scoring=fids(levels))
    parts = run(tmp_path / "parts", small_study(**steps), scoring=fids(levels))
    assert values(parts.records) == values(whole.records)


def test_equal_plans_share_across_a_break(tmp_path, small_study):
    study = {"space": SWITCHED, "rungs": RUNGS, "confirm": None, "baselines": ["ddim"]}
    points = switched(4, 1e6) + switched(5, 1e6) + switched(4, 1e7) + switched(5, 1e7)
    first = run(tmp_path, small_study(**study, published=points, trials=2), far_at(5))
    assert [r.state for r in first.of("published")] == ["complete", "pruned"]
    second = run(tmp_path, small_study(**study, published=points, trials=4))
    shared = second.of("published")[2:]
    assert [(r.state, r.same_as) for r in shared] == [("complete", "published/0"), ("pruned", "published/1")]
    assert second.record("published/3").reason == first.record("published/1").reason
    assert {task.what for task in second.pool.tasks} == {"prepare"}


def test_who_was_refused_for_its_set_up_refuses_no_equal_plan(tmp_path, small_study):
    """The set-up is a trial's own; its plan, DDIM's, has a score."""

    def spoil(task, outcome):
        dear = isinstance(outcome, Prepared) and task.key == "published/0"
        return replace(outcome, setup_nfe=501.0) if dear else outcome

    study = {"space": SWITCHED, "published": switched(7, 1e6, 1e7), "confirm": None, "baselines": ["ddim"]}
    study |= {"constraints": {"setup_nfe": 500.0}}
    whole = run(tmp_path / "whole", small_study(**study, trials=2), spoil)
    assert [(r.state, r.same_as) for r in whole.of("published")] == [("pruned", ""), ("complete", "baseline/ddim/7")]
    run(tmp_path / "parts", small_study(**study, trials=1), spoil)
    parts = run(tmp_path / "parts", small_study(**study, trials=2), spoil)
    assert values(parts.records) == values(whole.records)


def test_a_baseline_is_measured_though_a_trial_of_its_plan_was_stopped_and_is_shared_from_then_on(
    tmp_path, small_study
):
    study = {"space": SWITCHED, "rungs": RUNGS, "confirm": None}
    points = switched(4, 1e6) + switched(7, 1e6, 1e7, 1e8)
    first = run(tmp_path, small_study(**study, published=points, trials=2, baselines=[]), far_at(7))
    assert [r.state for r in first.of("published")] == ["complete", "pruned"]
    run(tmp_path, small_study(**study, published=points, trials=3, baselines=["ddim"]), far_at(7))
    third = run(tmp_path, small_study(**study, published=points, trials=4, baselines=["ddim"]), far_at(7))
    measured = third.record("baseline/ddim/7")
    assert measured.evidence.digest == first.record("published/1").evidence.digest
    assert (measured.state, measured.same_as) == ("complete", "")
    for key in ("published/2", "published/3"):
        record = third.record(key)
        assert (record.state, record.same_as) == ("complete", "baseline/ddim/7"), key
        assert record.result.fid == measured.result.fid
