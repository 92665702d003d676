"""TPE that ranks once a trial draws what Optuna's draws."""

from unittest import mock

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

import search_spaces
from pipeline import tpe
from pipeline.tpe import OneRankingTPE


@pytest.fixture(scope="module", params=["digits", "gmm"])
def draw(request):
    """Of spaces with conditional parameters, of every kind."""
    return search_spaces.load(request.param).draw


def told(sampler, draw, seed, trials=120):
    """What was drawn, with up to five trials under way, some of which fail, are pruned, tie or are infeasible."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    flying, drawn = [], []
    for _ in range(trials):
        trial = study.ask()
        draw(trial._suggest)
        drawn.append(trial.params)
        flying.append(trial)
        while len(flying) > 4:
            over, end = flying.pop(int(rng.integers(len(flying)))), rng.integers(10)
            if end < 2:
                study.tell(over, state=TrialState.PRUNED if end else TrialState.FAIL)
                continue
            if end < 5:
                over.set_constraint("behind", float(rng.integers(2)))
            study.tell(over, [float(rng.integers(6)) if end == 4 else rng.random(), int(rng.integers(3, 31))])
    return drawn


@pytest.mark.parametrize("seed", [0, 1])
def test_it_draws_what_optunas_own_draws(draw, seed):
    own = optuna.samplers.TPESampler(seed=seed, n_startup_trials=20, constant_liar=False)
    assert told(OneRankingTPE(seed, 20), draw, seed) == told(own, draw, seed)


def test_trials_are_ranked_once_for_all_parameters_of_a_trial(draw):
    with mock.patch.object(tpe, "_split_trials", wraps=tpe._split_trials) as ranked:
        drawn = told(OneRankingTPE(0, 5), draw, 0, trials=30)
    assert sum(len(params) for params in drawn) > 4 * len(drawn)
    assert ranked.call_count == len(drawn)


def test_one_that_is_made_later_knows_the_trials_before_it(draw):
    """As the same study's own TPE, when both begin with a hundred trials that others have drawn."""
    drawn = []
    for make in (lambda: OneRankingTPE(3, 20), lambda: optuna.samplers.TPESampler(seed=3, n_startup_trials=20,
                                                                                  constant_liar=False)):  # fmt: skip
        rng = np.random.default_rng(0)
        study = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(100):
            trial = study.ask()
            draw(trial._suggest)
            study.tell(trial, [rng.random(), int(rng.integers(3, 31))])
        study.sampler = make()
        trial = study.ask()
        draw(trial._suggest)
        drawn.append(trial.params)
    assert drawn[0] == drawn[1]
