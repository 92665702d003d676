"""Search spaces: names, points, the way to a trial's spec, corners, and the fewest evaluations."""

import copy
import itertools
import random

import pytest

from pipeline.trial import TrialSpec
from search_spaces import Space
from tests.study_files import SHARE, SPACE, STEPS

HEUN, EULER = {"name": "heun"}, {"name": "euler"}


def space_of(solver, schedule, **rest):
    return Space({"solver": solver, "schedule": schedule, **rest})


def test_parameters_are_named_by_their_path_and_what_they_share():
    assert list(Space(SPACE).distributions) == [
        "solver.low",
        "solver.tau_k",
        "schedule.num_steps",
        "schedule.eta_max",
        SHARE,
    ]


def test_a_point_becomes_a_spec():
    params = {
        "solver.low": "ipndm-3",
        "solver.tau_k": 0.5,
        "schedule.num_steps": 4,
        "schedule.eta_max": 0.2,
        SHARE: 0.25,
    }
    assert Space(SPACE).assemble(params) == {
        "solver": {"name": "switch", "low": {"name": "ipndm", "order": 3}, "tau_k": 0.5},
        "schedule": {"name": "sdm", "num_steps": 4, "eta_max": 0.2, "eta_min": 0.05},
        "afs": False,
    }


def test_assembling_leaves_the_space_as_it_was():
    space = Space(SPACE)
    before = copy.deepcopy(SPACE)
    params = next(space.corners())
    first = space.assemble(params)
    first["schedule"]["eta_max"] = 99.0
    assert space.assemble(params)["schedule"]["eta_max"] == 0.01
    assert before == SPACE


def test_a_share_never_leaves_its_whole():
    space, draw = Space(SPACE), random.Random(0)
    for _ in range(200):
        drawn = {"solver.low": "euler", "solver.tau_k": 0.5, "schedule.num_steps": 4}
        drawn |= {"schedule.eta_max": draw.uniform(0.01, 0.5), SHARE: draw.choice([0.02, 1.0, draw.uniform(0.02, 1.0)])}
        schedule = space.assemble(drawn)["schedule"]
        assert schedule["eta_min"] <= schedule["eta_max"]
        TrialSpec(benchmark="gmm", **space.assemble(drawn)).sampler()


def test_corners_hold_every_pair_of_ends():
    corners = list(Space(SPACE).corners())
    ends = {
        "solver.low": ("euler", "ipndm-3"),
        "solver.tau_k": (1e-3, 1.0),
        "schedule.num_steps": (2, 5),
        "schedule.eta_max": (0.01, 0.5),
        SHARE: (0.02, 1.0),
    }
    for one, two in itertools.combinations(ends, 2):
        seen = {(corner[one], corner[two]) for corner in corners}
        assert seen == set(itertools.product(ends[one], ends[two]))


@pytest.mark.parametrize(
    ("space", "fewest"),
    [
        (space_of(EULER, {"name": "edm", "num_steps": STEPS}), 3),
        (space_of(EULER, {"name": "edm", "num_steps": STEPS}, afs=True), 2),
        (space_of(EULER, {"name": "edm", "num_steps": STEPS}, afs={"choices": [False, True]}), 2),
        (space_of(EULER, {"name": "edm", "num_steps": STEPS}, afs={"choices": [True, False]}), 2),
        (space_of(HEUN, {"name": "logsnr", "num_steps": STEPS, "final": "sigma_min"}, denoise_to_zero=True), 7),
        # Heun: 2N - 1 to zero, 2N to sigma_min.
        (space_of(HEUN, {"name": "edm", "num_steps": STEPS}), 5),
        (space_of(HEUN, {"name": "logsnr", "num_steps": STEPS, "final": "sigma_min"}), 6),
        (space_of(HEUN, {"name": "edm", "num_steps": STEPS, "final": {"choices": ["sigma_min", "zero"]}}), 5),
        (space_of({"choices": {"h": HEUN, "e": EULER}}, {"name": "edm", "num_steps": STEPS}), 3),
        # A switch may never leave its low solver, or leave it at once.
        (space_of({"name": "switch"}, {"name": "sdm", "num_steps": STEPS}), 3),
        (space_of({"name": "switch", "low": HEUN, "high": EULER}, {"name": "sdm", "num_steps": STEPS}), 3),
        (space_of({"name": "switch", "low": HEUN}, {"name": "sdm", "num_steps": STEPS}), 5),
        (space_of(HEUN, {"name": "given", "values": [10.0, 1.0, 0.1]}), 4),
        (space_of(HEUN, {"name": "given", "values": [10.0, 1.0, 0.0]}), 3),
        # The walk itself: nobody knows how long it is.
        (space_of(HEUN, {"name": "sdm"}), None),
    ],
)
def test_the_fewest_evaluations_of_a_space(space, fewest):
    assert space.check("gmm") == fewest
