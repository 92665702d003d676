"""The driver: what is run, what is shared, what is told, and that a second run adds nothing."""

from collections import Counter

import optuna
import pytest

from pipeline import benchmarks
from pipeline.cluster import Failure, InProcessPool, Task
from pipeline.ledger import Ledger, claim
from pipeline.registry import SpecError
from pipeline.search import Search
from pipeline.trial import Prepared


class Spy(InProcessPool):
    """The in-process pool, with a list of what it was given and a hook on what it answers."""

    def __init__(self, spoil=None):
        super().__init__("gmm")
        self.tasks = []
        self.spoil = spoil or (lambda task, outcome: outcome)

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        super().submit(task)

    def next(self, timeout):
        answer = super().next(timeout)
        return answer and (answer[0], self.spoil(*answer))


class Heard:
    def __init__(self):
        self.records = []

    def finished(self, record, status):
        self.records.append(record)

    def waiting(self, status):
        pass


def open_ledger(folder, study):
    startup = study.optimizer.startup + len(study.published_points)
    optimizer = study.optimizer
    folder.mkdir(exist_ok=True)
    return Ledger(folder, study.study, study.parsed_space.distributions, optimizer.name, optimizer.seed, startup)


def run(folder, study, spoil=None):
    pool, heard = Spy(spoil), Heard()
    ledger = open_ledger(folder, study)
    status = Search(study, ledger, lambda: pool, benchmarks.load("gmm"), [heard]).run()
    return ledger.records(), pool, heard, status


def values(records):
    return {r.key: (r.state, r.result and (r.result.fid, r.result.nfe, r.result.plan.digest)) for r in records}


def test_a_study_measures_floor_baselines_published_and_searched_trials(tmp_path, small_study):
    records, _, heard, status = run(tmp_path, small_study())
    roles = Counter(record.role for record in records)
    # ddim and heun at 3 and 7; heun takes odd budgets by its last move to 0.
    assert roles == {"floor": 1, "baseline": 4, "published": 2, "searched": 4}
    assert {r.key for r in heard.records} == {r.key for r in records}
    assert status.done == status.total == 11
    for record in records:
        assert record.state == "complete"
        assert record.result.nfe == len(record.result.plan)
        assert record.result.spec.images == 200


def test_published_settings_come_first_and_as_written(tmp_path, small_study):
    records, _, heard, _ = run(tmp_path, small_study())
    searched = [r for r in heard.records if r.role in ("published", "searched")]
    assert [r.role for r in searched[:2]] == ["published", "published"]
    schedule = searched[0].result.spec.schedule
    assert schedule["eta_min"] == pytest.approx(0.01)
    assert schedule["eta_max"] == 0.05
    assert records[5].params["schedule.num_steps"] == 2


def test_the_same_command_again_adds_nothing(tmp_path, small_study):
    first, *_ = run(tmp_path, small_study())
    second, pool, heard, status = run(tmp_path, small_study())
    assert values(second) == values(first)
    assert pool.tasks == []
    assert heard.records == []
    assert status.total == 0


def test_more_trials_continue_and_keep_what_was_there(tmp_path, small_study):
    first, *_ = run(tmp_path, small_study(trials=3))
    second, pool, _, _ = run(tmp_path, small_study(trials=6))
    before, after = values(first), values(second)
    assert {key: after[key] for key in before} == before
    assert len(after) == len(before) + 3
    assert not any(task.key in before for task in pool.tasks)


def test_a_seeded_study_in_one_process_repeats_exactly(tmp_path, small_study):
    first, *_ = run(tmp_path / "a", small_study())
    second, *_ = run(tmp_path / "b", small_study())
    assert values(first) == values(second)
    other, *_ = run(tmp_path / "c", small_study(optimizer={"name": "tpe", "seed": 1, "startup": 2}))
    assert values(other) != values(first)


def test_equal_plans_are_evaluated_once_and_each_keeps_its_own_set_up(tmp_path, small_study):
    # Every tau_k above the largest kappa gives Euler's plan.
    space = {
        "solver": {"name": "switch", "tau_k": {"low": 1e6, "high": 1e9, "log": True}},
        "schedule": {"name": "edm", "num_steps": 3, "final": "sigma_min"},
    }
    records, pool, _, _ = run(tmp_path, small_study(space=space, published=[], trials=4))
    searched = [r for r in records if r.role == "searched"]
    # ddim at 3 is the same plan: not one shard is sampled for the four trials.
    assert {r.same_as for r in searched} == {"baseline/ddim/3"}
    assert not any(task.plan for task in pool.tasks if task.key.startswith("searched"))
    ddim = next(r for r in records if r.key == "baseline/ddim/3")
    assert {r.result.fid for r in searched} == {ddim.result.fid}
    assert all(r.result.setup_nfe == 3 for r in searched)
    assert ddim.result.setup_nfe == 0


def test_a_plan_above_the_last_budget_is_pruned_before_it_is_sampled(tmp_path, small_study):
    space = {"solver": {"name": "heun"}, "schedule": {"name": "edm", "num_steps": {"low": 4, "high": 5}}}
    records, pool, _, _ = run(tmp_path, small_study(space=space, published=[], trials=3, budgets=[3, 7]))
    searched = [r for r in records if r.role == "searched"]
    states = {r.params["schedule.num_steps"]: r.state for r in searched}
    assert states.get(5, "pruned") == "pruned"
    assert states.get(4, "complete") == "complete"
    pruned = [r for r in searched if r.state == "pruned"]
    assert all(r.reason == "NFE 9 is above the last budget, 7" for r in pruned)
    assert pruned
    assert not any(task.plan for task in pool.tasks if task.key in {r.key for r in pruned})


def test_a_failed_trial_is_told_as_failed_with_its_reason_and_the_study_goes_on(tmp_path, small_study):
    def spoil(task, outcome):
        wrong = task.key == "published/1" and task.plan is not None
        return Failure("1 of 20 samples are not finite (seeds 0-19)") if wrong else outcome

    records, *_ = run(tmp_path, small_study(), spoil)
    by_key = {r.key: r for r in records}
    assert by_key["published/1"].state == "failed"
    assert "not finite" in by_key["published/1"].reason
    assert sum(r.state == "complete" for r in records) == len(records) - 1
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert study.trials[1].state == optuna.trial.TrialState.FAIL
    # A failed trial is spent: the next run does not try it again.
    again, pool, _, _ = run(tmp_path, small_study())
    assert len(again) == len(records)
    assert pool.tasks == []


def test_a_failed_baseline_is_recorded(tmp_path, small_study):
    records, *_ = run(
        tmp_path, small_study(), lambda task, outcome: Failure("boom") if task.key == "baseline/heun/3" else outcome
    )
    failed = next(r for r in records if r.key == "baseline/heun/3")
    assert (failed.state, failed.reason, failed.result) == ("failed", "boom", None)


def test_a_follower_of_a_failed_plan_fails_with_it(tmp_path, small_study):
    space = {
        "solver": {"name": "switch", "tau_k": {"low": 1e6, "high": 1e9, "log": True}},
        "schedule": {"name": "edm", "num_steps": 4},
    }

    def spoil(task, outcome):
        return Failure("boom") if task.key.startswith("searched") and task.plan is not None else outcome

    records, *_ = run(tmp_path, small_study(space=space, published=[], trials=3, baselines=[]), spoil)
    assert [r.state for r in records if r.role == "searched"] == ["failed"] * 3


def test_a_trial_that_a_killed_driver_left_running_is_tried_again_with_its_parameters(tmp_path, small_study):
    study = small_study(trials=4)
    ledger = open_ledger(tmp_path, study)
    ledger.enqueue(study.published_points)
    ledger.ask()  # a published one
    lost = [ledger.ask(), ledger.ask()]  # a published and a searched one
    records, *_ = run(tmp_path, study)
    searched = [r for r in records if r.role in ("published", "searched")]
    assert len(searched) == 4
    tried = [dict(r.params) for r in searched]
    assert all(dict(trial.params) in tried for trial in lost)
    assert Counter(r.role for r in searched) == {"published": 2, "searched": 2}
    stored = optuna.load_study(study_name="small", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert not [
        t for t in stored.trials if t.state in (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING)
    ]


def test_a_driver_killed_while_it_recovers_neither_loses_nor_doubles_a_trial(tmp_path, small_study, monkeypatch):
    study = small_study(trials=4)
    ledger = open_ledger(tmp_path, study)
    ledger.enqueue(study.published_points)
    lost = [dict(ledger.ask().params) for _ in range(3)]

    def die(*args, **kwargs):
        raise SystemExit("killed")

    for method in ("enqueue_trial", "tell"):
        broken = open_ledger(tmp_path, study)
        monkeypatch.setattr(broken._searched, method, die)
        with pytest.raises(SystemExit):
            broken.recover()
    records, *_ = run(tmp_path, study)
    searched = [dict(r.params) for r in records if r.role in ("published", "searched")]
    assert len(searched) == 4
    assert all(searched.count(params) == 1 for params in lost)


def test_the_optimizer_is_never_told_a_number_that_is_not_finite(tmp_path, small_study):
    huge = {
        "solver": {"name": "heun", "alpha": {"low": 1e-300, "high": 1e-299}},  # weights beyond single precision
        "schedule": {"name": "edm", "num_steps": 2},
    }
    records, *_ = run(tmp_path, small_study(space=huge, published=[], trials=2, baselines=[]))
    searched = [r for r in records if r.role == "searched"]
    assert [r.state for r in searched] == ["failed", "failed"]
    assert all("finite" in r.reason for r in searched)


def test_a_run_directory_belongs_to_one_study_and_one_driver(tmp_path, small_study):
    study = small_study()
    lock = claim(tmp_path / "run", study.identity(), study.fingerprint)
    with pytest.raises(SpecError, match="another search is running there"):
        claim(tmp_path / "run", study.identity(), study.fingerprint)
    lock.close()
    other = small_study(images=400)
    with pytest.raises(SpecError, match=r"images.*is 200 there.*given 400"):
        claim(tmp_path / "run", other.identity(), other.fingerprint)
    claim(tmp_path / "run", small_study(trials=99).identity(), study.fingerprint).close()


def test_the_ledger_gives_back_what_it_was_told_to_the_last_bit(tmp_path, small_study):
    records, _, heard, _ = run(tmp_path, small_study())
    told = {record.key: record for record in heard.records}
    for record in records:
        assert record.result == told[record.key].result
        assert record.role == told[record.key].role


def test_prepared_trials_report_their_set_up(tmp_path, small_study):
    seen = []

    def spoil(task, outcome):
        if isinstance(outcome, Prepared):
            seen.append((task.key, outcome))
        return outcome

    records, *_ = run(tmp_path, small_study(), spoil)
    rows = {key: prepared.setup_rows for key, prepared in seen}
    for record in records:
        assert record.result.setup_rows == rows[record.key]
    assert rows["baseline/ddim/3"] == 0
    assert rows["published/0"] > 0
