"""What the driver takes for a trial when a thousand are in storage, beside Ray Tune with OptunaSearch on the same file.

The issue asks for at most 50 ms, and for at most half of Tune's. Tune is used nowhere else.
"""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import time

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

import search_spaces
from pipeline.comparison import Estimate
from pipeline.evidence import Evidence, TeacherDistance
from pipeline.file_storage import FileStorage
from pipeline.ledger import Ledger
from pipeline.pruning import Field
from pipeline.ray_pool import RayPool, start_ray
from pipeline.run_folder import STORAGE_FILE
from pipeline.trial import TrialSpec
from pipeline.worker import Task
from tests.performance.scale import study as scale_study

FINISHED, TRIALS, WORKERS, STARTUP = 1000, 60, 2, 30
MOST_MS = 50.0
RNG = np.random.default_rng(0)
LUCK = 1 + 0.1 * RNG.normal(size=128)
SPEC = TrialSpec("gmm", {"name": "euler"}, {"name": "edm", "num_steps": 3})


def evidence(nfe, fid, rungs):
    """As much as a trial has of it on digits."""
    far = tuple((fid * LUCK * (1 + 0.02 * RNG.normal(size=128))).tolist())
    scores = tuple(
        Estimate.of(images, fid, tuple((fid * (1 + 0.01 * RNG.normal(size=groups))).tolist()))
        for images, groups in ((800, 10), (1600, 20))[:rungs]
    )
    return Evidence(f"{RNG.integers(2**62):016x}", nfe, 17.0, TeacherDistance(far, far), scores, 800 * nfe)


def values():
    nfe = int(RNG.integers(3, 31))
    return float(3 * np.exp(RNG.normal()) / nfe), nfe


def filled(folder, draw):
    """A file of so many finished trials, and the field of them."""
    folder.mkdir()
    field, trials = Field(1.5, 0.8), []
    field.set_floor(evidence(80, 0.001, 2))
    drawn = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(FINISHED):
        trial, (fid, nfe) = drawn.ask(), values()
        draw(trial._suggest)
        known = evidence(nfe, fid, number % 3)
        field.add(f"searched/{number}", known)
        trials.append(
            create_trial(
                state=TrialState.COMPLETE, values=[fid, nfe], params=trial.params, distributions=trial.distributions,
                user_attrs={"evidence": known.to_json(), "method": "made", "waiting": True},
            )
        )  # fmt: skip
    storage = FileStorage(folder / STORAGE_FILE)
    with storage.together():
        optuna.create_study(study_name="speed", storage=storage, directions=["minimize"] * 2).add_trials(trials)
    return field


def ours(folder, draw, field, pool):
    """Milliseconds of the driver for each trial by step, and seconds a trial with workers that have nothing to do."""
    ledger = Ledger(folder, "speed", draw, "tpe", 0, STARTUP, "complete")
    steps, flying, started = [], {}, 0.0
    for number in range(TRIALS + WORKERS):
        took = {}

        def step(name, function, *args, took=took):
            begun = time.perf_counter()
            answer = function(*args)
            took[name] = took.get(name, 0.0) + 1e3 * (time.perf_counter() - begun)
            return answer

        trial, _ = step("ask and draw", ledger.ask)
        flying[trial.number] = trial
        pool.submit(Task(str(trial.number), (trial.number, 0), SPEC))
        if len(flying) <= WORKERS:
            continue
        trial = flying.pop(finished(pool))
        if number == WORKERS:
            started = time.perf_counter()  # the first trial pays for what is set up once
        fid, nfe = values()
        key, first = f"searched/{trial.number}", evidence(nfe, fid, 0)
        step("judge", field.judge, key, first, None)
        step("judge", field.saturated, nfe)
        step("note", ledger.note, trial, first)
        known = evidence(nfe, fid, 1)
        step("judge", field.judge, key, known, 800)
        step("judge", field.add, key, known)
        step("tell", ledger.tell_waiting, trial, known, {}, fid, "made")
        steps.append(took)
    seconds = (time.perf_counter() - started) / (len(steps) - 1)
    for _ in flying:
        finished(pool)
    return steps[1:], seconds


def finished(pool):
    """The number of the trial whose task is done next."""
    done = pool.next(60)
    assert done is not None
    return int(done[0].key)


def drawn(draw, trial):
    """A space as Tune takes it, and pickles it."""
    draw(trial._suggest)


def tunes(folder, draw):
    """Seconds a trial of Ray Tune: two actors that are used again, and OptunaSearch on the file."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trainable(config):
        del config
        tune.report({"fid": 1.0 + time.time() % 1, "nfe": 5, "at": time.time()})

    search = OptunaSearch(
        space=functools.partial(drawn, draw), metric=["fid", "nfe"], mode=["min", "min"], study_name="speed",
        storage=optuna.storages.get_storage(f"sqlite:///{folder / STORAGE_FILE}"),
        sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=STARTUP),
    )  # fmt: skip
    grid = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=TRIALS, max_concurrent_trials=WORKERS, reuse_actors=True
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    at = sorted(result.metrics["at"] for result in grid)
    assert len(at) == TRIALS
    return (at[-1] - at[0]) / (len(at) - 1)


@pytest.fixture(scope="module")
def pool():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    start_ray(workers=2 * WORKERS + 1, threads=1)  # Tune's actors want places beside the pool's
    made = RayPool("gmm", WORKERS)
    yield made
    made.close()
    made._ray.shutdown()


@pytest.mark.filterwarnings("ignore:Define-by-run")  # Tune finds Optuna slow
@pytest.mark.parametrize("space", ["six parameters", "digits"])
def test_driver_time_a_trial_beside_ray_tune(benchmark, show, tmp_path, pool, space):
    draw = (scale_study(WORKERS, TRIALS) if space == "six parameters" else search_spaces.load("digits")).draw
    field = filled(tmp_path / "ours", draw)
    shutil.copytree(tmp_path / "ours", tmp_path / "theirs")
    shutil.copytree(tmp_path / "ours", tmp_path / "alone")
    ours(tmp_path / "alone", draw, field, pool)  # workers start
    steps, together = benchmark.pedantic(ours, args=(tmp_path / "ours", draw, field, pool), rounds=1)
    theirs = tunes(tmp_path / "theirs", draw)
    driver = statistics.median(sum(step.values()) for step in steps)
    parts = ", ".join(f"{name} {statistics.median(step[name] for step in steps):.1f}" for name in steps[0])
    ratio = together / theirs
    show(f"{space}, {FINISHED:,} trials in storage: driver {driver:.1f} ms a trial, median ({parts})")
    show(
        f"  with {WORKERS} workers that do nothing: {1e3 * together:.1f} ms a trial, Ray Tune {1e3 * theirs:.1f} ms: "
        f"{ratio:.2f} of it (load {os.getloadavg()[0]:.1f})"
    )
    benchmark.extra_info |= {"driver_ms": round(driver, 2), "of_tune": round(ratio, 3)}
    # Where others want the processors too, the share of Tune's still says something, milliseconds do not.
    assert driver <= MOST_MS or os.getloadavg()[0] > (os.cpu_count() or 1)
    assert ratio <= 0.5
