"""A discrete study of seconds on gmm, its table, and hand-made tables: for the tests of the replay."""

from pipeline import benchmarks
from pipeline.comparison import Estimate
from pipeline.evidence import TeacherDistance
from pipeline.replay.build import Builder
from pipeline.replay.table import Entry, Lesson, Measured, Table
from pipeline.trial import TrialSpec
from search_spaces import Study
from tests.conftest import SMALL

# 48 points, conditional ones. The second tau_k is above every kappa, so that its switch is Euler's method.
GRID = SMALL | {
    "study": "grid",
    "trials": 16,
    "rungs": {"teacher": 32, "images": [40, 100]},
    "baselines": ["ddim", "heun"],
    "published": [],
    "optimizer": {"name": "tpe", "seed": 0, "startup": 8},
    "space": {
        "solver": {
            "choices": {
                "euler": {"name": "euler"},
                "switch": {"name": "switch", "tau_k": {"values": [0.01, 1e6]}, "calibration_images": 16},
            }
        },
        "schedule": {
            "choices": {
                "edm": {
                    "name": "edm",
                    "num_steps": {"values": [2, 3, 4, 5]},
                    "rho": {"values": [2.0, 5.0, 9.0]},
                    "final": "sigma_min",
                },
                "sdm": {
                    "name": "sdm",
                    "num_steps": {"values": [3, 4]},
                    "base_steps": 10,
                    "eta_max": {"values": [0.02, 0.4]},
                    "eta_min": 0.01,
                    "calibration_images": 16,
                    "final": "sigma_min",
                },
            }
        },
    },
}


def grid(**changes):
    return Study.model_validate(GRID | changes)


def measured(study, folder=None):
    builder = Builder(study, benchmarks.load(study.benchmark), folder)
    for spec in builder.specs():
        builder.add(spec)
    builder.confirm(lambda at, count: None)
    return builder


def estimate(images, fid, spread=0.01, groups=10):
    """A FID with ten groups, the spread of which is its own."""
    return Estimate.of(images, fid, tuple(fid + spread * (k - (groups - 1) / 2) for k in range(groups)))


def plan(digest, nfe, fid, *, seconds=0.5, confirmed=None):
    teacher = TeacherDistance((fid, 2 * fid), (3 * fid, 4 * fid))
    scores = (estimate(40, fid + 1), estimate(200, fid))
    return Measured(digest, nfe, seconds, teacher, scores, confirmed and estimate(200, confirmed))


def spec(num_steps, **more):
    schedule = {"name": "edm", "num_steps": num_steps, "final": "sigma_min"}
    return TrialSpec("gmm", {"name": "euler"}, schedule, images=200, shard_images=20, **more)


ABOUT = {
    "benchmark": "gmm",
    "benchmark_version": 1,
    "reference": "r",
    "model": "m",
    "revision": "v",
    "sigma_range": [0.002, 80.0],
}


def by_hand(plans, lessons=()):
    """A table of Euler's method with as many moves as each plan has evaluations, of which all take the same lessons."""
    entries = [Entry(spec(each.nfe), each, tuple(Lesson(*lesson) for lesson in lessons)) for each in plans]
    return Table(dict(GRID), ABOUT, entries)
