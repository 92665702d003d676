"""What may be known without measuring: that nothing is left to win, and a FID from a distance to the teacher."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipeline.comparison import difference
from pipeline.evidence import TeacherDistance
from pipeline.pruning import LEAST_PAIRS
from tests.made_evidence import FULL, GROUPS, IMAGES, distance, fid, field, known

# Nothing to win --------------------------------------------------------------------------------------------------


def test_who_equals_the_floor_leaves_nothing_to_win_for_the_dearer():
    floor = known(255, None, fid(1.0), fid(1.0, FULL))
    made = field(known(5, None, fid(3.0, FULL)), known(9, None, fid(1.0, FULL)), known(7), floor=floor)
    assert made.saturated(8) is None
    for nfe in (9, 30):
        stop = made.saturated(nfe)
        assert stop.rival == "rival/1"
        assert stop.reason == "nothing to win: rival/1 is as good as the floor with 9 evaluations"
    made.add("cheaper", known(6, None, fid(0.9, FULL)))
    assert made.saturated(30).rival == "cheaper"
    assert made.saturated(6).rival == "cheaper"
    assert made.saturated(5) is None


def test_nobody_is_saturated_by_itself():
    made = field(known(9, None, fid(1.0, FULL)), floor=known(255, None, fid(1.0, FULL)))
    assert made.saturated(9, "rival/0") is None
    assert made.saturated(9, "rival/1")


def test_the_last_rung_reached_is_what_is_held_against_the_floor():
    """On few images alike and on all of them not, and the other way round; the floor has both."""
    floor = known(255, None, fid(1.0), fid(1.0, FULL))
    assert field(known(9, None, fid(1.0)), floor=floor).saturated(9)
    assert field(known(9, None, fid(1.0), fid(3.0, FULL)), floor=floor).saturated(9) is None
    assert field(known(9, None, fid(3.0), fid(1.0, FULL)), floor=floor).saturated(9)
    assert field(known(9, None, fid(1.0)), floor=known(255, None, fid(1.0, FULL))).saturated(9) is None


@pytest.mark.parametrize(
    ("error", "gap", "nothing"),
    [
        (0.0, 0.0, True),
        (0.19, 0.0, True),
        (0.21, 0.0, False),  # the interval says too little
        (0.1, 0.9, True),
        (0.05, 1.1, False),  # seen to be above, if by a little
        (0.15, 0.9, False),
        (0.5, -1.0, True),
    ],
)
def test_who_is_not_seen_above_the_floor_nor_can_be_by_a_fifth_equals_it(error, gap, nothing):
    """`error` in FIDs of the floor, `gap` in errors."""
    floor, mirrored = fid(2.0, FULL, spread=1.0), GROUPS[::-1]
    spread = 2.0 * error / difference(fid(2.0, FULL, mirrored, spread=1.0), floor).error
    ours = fid(2.0 * (1 + gap * error), FULL, mirrored, spread)
    made = field(known(9, None, ours), floor=known(255, None, fid(2.0, FULL, spread=spread)))
    assert (made.saturated(9) is not None) == nothing


def test_a_difference_that_is_not_seen_is_no_equality():
    """With luck of its own on each group the interval is wider than a fifth, though the two are equal."""
    floor = known(255, None, fid(1.0, FULL))
    other = np.random.default_rng(6).normal(size=10)
    assert field(known(9, None, fid(1.0, FULL, other, spread=0.1)), floor=floor).saturated(30) is None
    assert field(known(9, None, fid(1.0, FULL, spread=0.1)), floor=floor).saturated(30)
    assert field(known(9, None, fid(1.5, FULL, spread=0.1)), floor=floor).saturated(30) is None
    assert field(known(9, None, replace(fid(1.0, FULL), leave_one_out=())), floor=floor).saturated(30) is None


def test_nothing_is_saturated_before_the_floor_is_known():
    assert field(known(9, None, fid(1.0, FULL))).saturated(30) is None
    assert field(known(9, None, fid(1.0, FULL)), floor=known(255)).saturated(30) is None


def test_a_trial_that_ended_before_the_floor_is_compared_with_it_later():
    made = field(known(9, None, fid(1.0, FULL)))
    made.set_floor(known(255, None, fid(1.0, FULL)))
    assert made.saturated(9).rival == "rival/0"


# What a distance says of FID -------------------------------------------------------------------------------------


def measured(far, level, images=FULL):
    return known(8, distance(far), fid(level, images))


def test_the_predicted_fid_lies_on_the_line_through_the_logarithms():
    """FID = 3 distance^2, exactly."""
    floor = known(255, None, fid(0.5, FULL))
    made = field(*(measured(far, 3 * far**2) for far in (0.1, 0.2, 0.5, 1.0, 2.0)), floor=floor)
    for far in (0.05, 0.7, 10.0):
        assert made.predicted(distance(far)) == pytest.approx(3 * far**2, rel=1e-9)
    assert made.predicted(TeacherDistance((0.0,), (0.0,))) is None


def test_the_predicted_fid_by_hand():
    """Where no line fits: of four points at distances 1, 1, e, e with log FID 0, 2, 3, 5, and one in their middle."""
    floor = known(255, None, fid(0.5, FULL))
    points = [(1.0, 0.0), (1.0, 2.0), (math.e, 3.0), (math.e, 5.0), (math.exp(0.5), 2.5)]
    made = field(*(measured(far, math.exp(level)) for far, level in points), floor=floor)
    assert made.predicted(distance(math.exp(2))) == pytest.approx(math.exp(7), rel=1e-9)


def test_nothing_is_predicted_from_too_little():
    floor = known(255, None, fid(0.5, FULL))
    enough = [measured(far, far) for far in (0.1, 0.2, 0.5, 1.0, 2.0)]
    assert len(enough) == LEAST_PAIRS
    assert field(*enough, floor=floor).predicted(distance(1.0)) == pytest.approx(1.0)
    assert field(*enough[1:], floor=floor).predicted(distance(1.0)) is None
    without = [
        measured(0.1, -0.01),
        measured(0.1, 1.0, IMAGES),
        known(8, None, fid(1.0, FULL)),
        known(8, distance(1.0)),
    ]
    assert field(*enough[1:], *without, floor=floor).predicted(distance(1.0)) is None
    assert field(*([measured(1.0, 1.0)] * 5), floor=floor).predicted(distance(1.0)) is None
