"""Every optimizer searches the small study, repeats itself, and goes on after a break."""

import optuna
import pytest

from pipeline.optimizers import optuna_sampler
from pipeline.tpe import OneRankingTPE
from tests.spied_search import RUNGS, run, values

NAMES = ["tpe", "gp", "nsga2", "qmc", "random"]
# Pruned and infeasible trials, numbers and names: all that an optimizer may meet.
STUDY = {
    "rungs": RUNGS,
    "trials": 9,
    "confirm": None,
    "baselines": ["ddim"],
    "constraints": {"setup_nfe": 130.0},
    "space": {
        "solver": {
            "name": "switch",
            "low": {"choices": {"euler": {"name": "euler"}, "ipndm-2": {"name": "ipndm", "order": 2}}},
            "tau_k": {"low": 1e-3, "high": 10.0, "log": True},
            "calibration_images": 16,
        },
        "schedule": {
            "name": "sdm",
            "num_steps": {"low": 2, "high": 4},
            "base_steps": 10,
            "eta_max": {"low": 1e-6, "high": 1e-5, "log": True},
            "eta_min": {"share_of": "eta_max", "low": 0.1, "high": 1.0},
            "calibration_images": 16,
        },
    },
    "published": [],
}  # fmt: skip


def study_of(small_study, name, seed=0, **changes):
    return small_study(**STUDY | {"optimizer": {"name": name, "seed": seed, "startup": 3}} | changes)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_searches_repeats_itself_and_follows_its_seed(small_study, name):
    first, second = (values(run(None, study_of(small_study, name)).records) for _ in range(2))
    assert first == second
    assert len(first) == 3 + 9
    assert {end[0] for end in first.values()} <= {"complete", "pruned"}
    other = values(run(None, study_of(small_study, name, seed=1)).records)
    assert {str(end[1]) for end in other.values()} != {str(end[1]) for end in first.values()}


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_goes_on_after_a_break_without_repeating_what_it_drew(tmp_path, small_study, name):
    first = run(tmp_path, study_of(small_study, name, trials=5))
    second = run(tmp_path, study_of(small_study, name))
    before, after = values(first.records), values(second.records)
    assert {key: after[key] for key in before} == before
    drawn = [tuple(r.params.items()) for r in second.of("searched")]
    assert len(set(drawn)) == len(drawn) == 9
    # And the same break gives the same study.
    again = tmp_path / "again"
    run(again, study_of(small_study, name, trials=5))
    assert values(run(again, study_of(small_study, name)).records) == after


@pytest.mark.parametrize("stopped", ["pruned", "complete", "constraint"])
@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2"])
def test_what_stopped_trials_are_told_as_is_taken_by_those_that_learn(small_study, name, stopped):
    """Also by gp, which wants of every trial that has values as many constraints."""
    optimizer = {"name": name, "seed": 0, "startup": 3, "stopped": stopped}
    constraints = {"setup_nfe": 500.0, "latency_ms": 1e9}
    ran = run(None, study_of(small_study, name, optimizer=optimizer, constraints=constraints, trials=12))
    told = [trial for trial in ran.ledger._searched.trials if trial.values]
    assert len({frozenset(trial.constraints) for trial in told}) == 1
    assert "pruned" in {r.state for r in ran.of("searched")}
    assert "failed" not in {r.state for r in ran.of("searched")}


def test_a_name_is_the_sampler_that_it_says():
    kinds = {name: type(optuna_sampler(name, 0, 5)) for name in NAMES}
    assert kinds == {
        "tpe": OneRankingTPE,
        "gp": optuna.samplers.GPSampler,
        "nsga2": optuna.samplers.NSGAIISampler,
        "qmc": optuna.samplers.QMCSampler,
        "random": optuna.samplers.RandomSampler,
    }


@pytest.mark.parametrize("name", ["tpe", "gp"])
def test_start_up_trials_are_those_of_random_search(small_study, name):
    """Before it has so many trials an optimizer has nothing to model, whatever they scored."""
    params = []
    for level in ({"images": 200}, {"images": 400}):
        changes = {"optimizer": {"name": name, "startup": 6}, "trials": 6, "rungs": None, **level}
        params.append([r.params for r in run(None, small_study(**STUDY | changes)).of("searched")])
    assert params[0] == params[1]
