"""Optuna's samplers by the names that a study file gives them."""

from __future__ import annotations

import warnings

import optuna

from pipeline.tpe import OneRankingTPE


def optuna_sampler(name: str, seed: int, startup: int) -> optuna.samplers.BaseSampler:
    """The one of that name; tpe and gp model from the trial after `startup` on."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    if name == "qmc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # it has been experimental since 3.0
            # A parameter that only some points of the space have is drawn at random.
            return optuna.samplers.QMCSampler(
                seed=seed, scramble=True, warn_independent_sampling=False, warn_asynchronous_seeding=False
            )
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return OneRankingTPE(seed, startup)
