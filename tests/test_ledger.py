"""What Optuna is told of each end of a trial, what is read back, and whose the run directory is."""

import json
import math
from dataclasses import replace

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from pipeline.evidence import Evidence
from pipeline.ledger import Ledger
from pipeline.pruning import Stop
from pipeline.registry import SpecError
from pipeline.result import TrialRecord
from pipeline.run_folder import STORAGE_FILE, STUDY_FILE, claim
from tests.spied_search import RUNGS, eulers, far_at, fids, run
from tests.synthetic_study import record, result

NONE = {}
STOP = Stop("baseline/ddim/4", "behind", 0.25)
EVIDENCE = Evidence("00ff", 4)


def draw(suggest):
    return {"x": suggest("x", FloatDistribution(0.0, 1.0))}


def open_ledger(stopped="pruned", folder=None):
    return Ledger(folder, "made", draw, "random", 0, 2, stopped)


def told(ledger):
    """Optuna's own view of the last trial."""
    return ledger._searched.get_trials()[-1]


# A result --------------------------------------------------------------------------------------------------------


def test_a_scored_trial_is_complete_with_corrected_fid_and_nfe(tmp_path):
    ledger, scored = open_ledger(folder=tmp_path), result(4, 0.5)
    trial, params = ledger.ask()
    constraints = {"setup_nfe": -3.0, "latency_ms": 0.5}
    record = ledger.tell(trial, scored, EVIDENCE, constraints, "baseline/ddim/4")
    assert (told(ledger).state, told(ledger).values) == (TrialState.COMPLETE, [pytest.approx(0.49), 4])
    assert record == TrialRecord(
        "searched/0", "searched", "complete", "euler edm 4", scored, None, params,
        same_as="baseline/ddim/4", evidence=EVIDENCE, constraints=constraints,
    )  # fmt: skip
    assert not record.feasible
    assert open_ledger(folder=tmp_path).records() == [record]


def test_optuna_holds_each_constraint_and_its_best_trials_are_feasible():
    ledger = open_ledger()
    for fid, over in ((0.5, -1.0), (0.1, 2.0), (0.9, -1.0)):
        trial, _ = ledger.ask()
        ledger.tell(trial, result(4, fid), EVIDENCE, {"setup_nfe": over, "latency_ms": -0.5})
    study = ledger._searched
    assert [trial.constraints for trial in study.trials] == [
        {"setup_nfe": over, "latency_ms": -0.5} for over in (-1.0, 2.0, -1.0)
    ]
    assert [trial.number for trial in study.best_trials] == [0]
    assert [record.feasible for record in ledger.records()] == [True, False, True]


# Stopped ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stopped", "fid", "state", "values", "constraints"),
    [
        ("pruned", 2.0, TrialState.PRUNED, None, {"setup_nfe": -1.0}),
        ("pruned", None, TrialState.PRUNED, None, {"setup_nfe": -1.0}),
        ("complete", 2.0, TrialState.COMPLETE, [2.0, 4], {"setup_nfe": -1.0}),
        ("complete", None, TrialState.PRUNED, None, {"setup_nfe": -1.0}),
        ("complete", math.nan, TrialState.PRUNED, None, {"setup_nfe": -1.0}),
        ("complete", math.inf, TrialState.PRUNED, None, {"setup_nfe": -1.0}),
        ("constraint", 2.0, TrialState.COMPLETE, [2.0, 4], {"setup_nfe": -1.0, "behind": 0.25}),
        ("constraint", None, TrialState.PRUNED, None, {"setup_nfe": -1.0}),
    ],
)
def test_a_stopped_trial_is_told_as_the_study_says(stopped, fid, state, values, constraints):
    ledger = open_ledger(stopped)
    trial, params = ledger.ask()
    told_as = ledger.tell_stopped(trial, STOP, EVIDENCE, {"setup_nfe": -1.0}, fid, "euler · edm 4", "searched/9")
    assert (told(ledger).state, told(ledger).values, told(ledger).constraints) == (state, values, constraints)
    # For us it is pruned and feasible, whatever Optuna was told.
    assert told_as == TrialRecord(
        "searched/0", "searched", "pruned", "euler · edm 4", None, None, params,
        reason="behind", same_as="searched/9", evidence=EVIDENCE, constraints={"setup_nfe": -1.0},
    )  # fmt: skip
    assert ledger.records() == [told_as]


@pytest.mark.parametrize("excess", [0.0, -1.0])
def test_one_that_is_stopped_by_a_constraint_is_never_feasible(excess):
    ledger = open_ledger("constraint")
    trial, _ = ledger.ask()
    ledger.tell_stopped(trial, Stop("", "behind", excess), EVIDENCE, NONE, 0.001, "euler")
    trial, _ = ledger.ask()
    ledger.tell(trial, result(4, 0.5), EVIDENCE, NONE)
    assert [best.number for best in ledger._searched.best_trials] == [1]


@pytest.mark.parametrize("stopped", ["pruned", "complete", "constraint"])
def test_a_search_tells_what_stopped_trials_have(small_study, stopped):
    """The middle one is stopped by FID at 40 images; its corrected FID there is what may be told."""
    study = small_study(
        **eulers(4, 5, 6, baselines=[], rungs={"teacher": 0, "images": [40]}),
        optimizer={"name": "random", "stopped": stopped},
    )
    ran = run(None, study, scoring=fids({23: 1.0, 4: 10.0, 5: 30.0, 6: 9.0}))
    assert [r.state for r in ran.of("published")] == ["complete", "pruned", "complete"]
    trial = ran.ledger._searched.trials[1]
    assert trial.values == (None if stopped == "pruned" else [30.0, 5.0])
    # 20 behind, and the 1.3 % of 10 that it would have had to be ahead.
    assert trial.constraints == ({"behind": pytest.approx(20.13)} if stopped == "constraint" else {})
    assert ran.record("published/1").result is None


@pytest.mark.parametrize("trials", [5, 6])
def test_a_trial_stopped_by_its_distance_is_told_the_fid_that_this_predicts(small_study, trials):
    """Five scored trials make the line; before, nothing is told."""
    steps = (2, 3, 4, 5, 6, 7)[6 - trials :]
    far = steps[-1]
    study = small_study(
        **eulers(*steps, baselines=[], rungs={"teacher": 32, "images": []}),
        optimizer={"name": "random", "stopped": "complete"},
    )
    ran = run(None, study, far_at(far))
    stopped = ran.record(f"published/{trials - 1}")
    assert stopped.state == "pruned"
    assert stopped.evidence.scores == ()
    told = ran.ledger._searched.trials[-1].values
    if trials == 5:
        assert told is None
    else:
        assert told[1] == far
        assert told[0] > max(r.result.fid for r in ran.of("published") if r.result)


def test_a_failed_trial_has_a_reason_and_no_value():
    ledger = open_ledger()
    trial, params = ledger.ask()
    record = ledger.tell_off(trial, "boom")
    assert (told(ledger).state, told(ledger).values) == (TrialState.FAIL, None)
    assert record == TrialRecord("searched/0", "searched", "failed", "trial 0", params=params, reason="boom")
    assert ledger.spent == 1


# Constraints of a search -----------------------------------------------------------------------------------------


def test_a_search_tells_set_up_and_latency_by_how_much_they_exceed(small_study):
    study = small_study(constraints={"setup_nfe": 500.0, "latency_ms": 1e-9}, rungs=RUNGS)
    ran = run(None, study)
    searched = [r for r in ran.of("published", "searched") if r.result]
    assert searched
    for scored in searched:
        trial = ran.ledger._searched.trials[int(scored.key.partition("/")[2])]
        # Told before its last images were sampled, whose time is in the record.
        assert trial.constraints["setup_nfe"] == scored.constraints["setup_nfe"]
        assert (trial.constraints["latency_ms"] > 0) == (not scored.same_as), "a twin has no images of its own by then"
        assert scored.constraints["setup_nfe"] == scored.result.setup_nfe - 500
        # The median over shards, which is at most twice the mean whatever the machine was busy with.
        assert 0 < scored.constraints["latency_ms"] + 1e-9 <= 2.001 * 1000 / scored.result.images_per_second
        assert not scored.feasible
    # None of them leads, so that only the floor and baselines are confirmed.
    assert {r.confirms.partition("/")[0] for r in ran.of("confirmed")} == {"floor", "baseline"}


def test_a_constraint_that_is_kept_does_not_keep_a_trial_from_the_front(small_study):
    ran = run(None, small_study(constraints={"latency_ms": 1e9}, confirm=None, rungs=None))
    assert all(r.feasible and r.constraints["latency_ms"] < 0 for r in ran.of("published", "searched"))
    assert ran.ledger._searched.best_trials
    assert all(r.constraints == {} for r in ran.of("floor", "baseline"))


def test_trials_with_values_have_the_same_constraints_whatever_was_measured_of_them(small_study):
    """The last is stopped by its distance alone: no image of its own says how long one takes."""
    study = small_study(
        **eulers(2, 3, 4, 5, 6, 7, baselines=[], rungs={"teacher": 32, "images": []}),
        optimizer={"name": "random", "stopped": "constraint"},
        constraints={"setup_nfe": 500.0, "latency_ms": 1e9},
    )
    trials = run(None, study, far_at(7)).ledger._searched.trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert all(list(trial.constraints) == ["setup_nfe", "latency_ms", "behind"] for trial in trials)
    assert [trial.constraints["behind"] > 0 for trial in trials] == [False] * 5 + [True]


# What is measured ------------------------------------------------------------------------------------------------


def test_what_was_measured_is_read_back_to_the_last_bit(tmp_path):
    ledger = open_ledger(folder=tmp_path)
    scored = replace(record("baseline/ddim/4", 4, 1 / 3, method="DDIM"), evidence=EVIDENCE, same_as="floor")
    failed = TrialRecord("confirmed/floor", "confirmed", "failed", "Heun", reason="boom", confirms="floor")
    for each in (scored, failed):
        ledger.add_measured(each)
    assert open_ledger(folder=tmp_path).records() == [scored, failed]
    assert ledger.spent == 0


# Whose it is -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"rungs": {"teacher": 64}}, "rungs.teacher"),
        ({"rungs": {"images": [40]}}, "rungs.images"),
        ({"rungs": {"slack": 2.0}}, "rungs.slack"),
        ({"rungs": None}, "rungs"),
        ({"constraints": {"setup_nfe": 1.0}}, "constraints.setup_nfe"),
    ],
)
def test_what_trials_are_judged_by_may_not_change_under_a_study(tmp_path, small_study, changes, path):
    claim(tmp_path, small_study().identity(), "f00d").close()
    with pytest.raises(SpecError) as caught:
        claim(tmp_path, small_study(**changes).identity(), "beef")
    assert caught.value.path == path


@pytest.mark.parametrize(
    "changes",
    [{"trials": 99}, {"confirm": None}, {"optimizer": {"name": "random"}}, {"workers": 1}, {"baselines": []}],
)
def test_what_only_adds_trials_may_change(tmp_path, small_study, changes):
    claim(tmp_path, small_study().identity(), "f00d").close()
    claim(tmp_path, small_study(**changes).identity(), "f00d").close()


def test_a_directory_that_cannot_be_told_is_not_taken(tmp_path):
    (tmp_path / STORAGE_FILE).touch()
    with pytest.raises(SpecError, match=r"holds a study\.db but no study\.json"):
        claim(tmp_path, {}, "f00d")
    (tmp_path / STUDY_FILE).write_text(json.dumps({"identity": 3}))
    with pytest.raises(SpecError, match="is unreadable"):
        claim(tmp_path, {}, "f00d")


def test_a_broken_storage_is_one_line(tmp_path):
    (tmp_path / STORAGE_FILE).write_bytes(b"no database at all, but long enough to be looked at" * 40)
    with pytest.raises(SpecError, match="is no readable storage") as caught:
        open_ledger(folder=tmp_path)
    assert caught.value.file.endswith(STORAGE_FILE)
