"""Optuna's TPE, with what the parameters of a trial have in common worked out once a trial.

Optuna draws the parameters of a study with two objectives one after the other, and for each it ranks all trials anew
and reads its values from each of them: with a thousand trials that takes longer than all the rest. With `constant_liar`
it also reads the storage once a parameter; what is in flight is not worth that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma_multiobjective
from optuna.trial import FrozenTrial, TrialState

OVER = (TrialState.COMPLETE, TrialState.PRUNED)


class OneRankingTPE(TPESampler):
    """Draws what `TPESampler` draws, to the last bit, for several objectives and without `constant_liar`."""

    def __init__(self, seed: int, startup: int) -> None:
        super().__init__(seed=seed, n_startup_trials=startup, multivariate=False, constant_liar=False)
        self._startup, self._over = startup, 0
        self._ranked: list[FrozenTrial] | None = None
        self._below: list[FrozenTrial] = []
        self._above: list[FrozenTrial] = []
        self._rows_below = self._rows_above = np.empty(0, dtype=np.intp)
        self._columns: dict[str, NDArray[np.float64]] = {}
        self._read: set[int] = set()

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One parameter: modelled where enough trials are over, before that at random."""
        self._rank(study)
        if self._over < self._startup:
            return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)
        return self._sample(study, trial, {param_name: param_distribution})[param_name]

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        del trial
        good = self._build_parzen_estimator(study, search_space, self._below, handle_below=True)
        rest = self._build_parzen_estimator(study, search_space, self._above, handle_below=False)
        candidates = good.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(candidates, self._compute_acquisition_func(candidates, good, rest))
        return {name: space.to_external_repr(chosen[name]) for name, space in search_space.items()}

    def _rank(self, study: Study) -> None:
        """Split the trials that are over, unless that was done for the trial that is being drawn."""
        trials = study._get_trials(deepcopy=False, use_cache=True)
        if trials is self._ranked:  # Optuna keeps one list from the ask for a trial to the next
            return
        self._ranked = trials
        over = [each for each in trials if each.state in OVER]
        self._over = len(over)
        self._below, self._above = _split_trials(study, over, default_gamma_multiobjective(len(over)))
        self._rows_below, self._rows_above = _numbers(self._below), _numbers(self._above)
        for each in over:
            if each.number not in self._read:
                self._read.add(each.number)
                self._keep(each)

    def _keep(self, trial: FrozenTrial) -> None:
        for name, value in trial.params.items():
            column = self._columns.get(name)
            if column is None or trial.number >= len(column):
                held, size = column if column is not None else np.empty(0), 2 * (trial.number + 32)
                column = self._columns[name] = np.append(held, np.full(size - len(held), math.nan))
            column[trial.number] = trial.distributions[name].to_internal_repr(value)

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, NDArray[np.float64]]:
        del study
        numbers = self._rows_below if trials is self._below else self._rows_above
        values = {}
        for name in search_space:
            column = self._columns.get(name, np.empty(0))
            held = column[numbers[numbers < len(column)]]
            values[name] = held[~np.isnan(held)]
        return values


def _numbers(trials: list[FrozenTrial]) -> NDArray[np.intp]:
    return np.array([each.number for each in trials], dtype=np.intp)
