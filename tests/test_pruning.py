"""Who a rung stops: by confidence, in pairs, never for a dearer rival, and never the best."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison import RESOLUTION, Estimate, difference
from pipeline.evidence import Evidence, TeacherDistance
from pipeline.pruning import LEAST_PAIRS, Field

IMAGES, FULL = 100, 1000
# What the noise of the images does to every plan alike: to each image's distance, and to the FID without each group.
LUCK = np.random.default_rng(3).normal(size=64)
GROUPS = np.random.default_rng(4).normal(size=10)


def distance(mean, luck=LUCK, spread=0.1):
    """Distances of this mean, each image's luck scaled with it."""
    each = mean * (1 + spread * (luck - luck.mean()))
    return TeacherDistance(tuple(each.tolist()), tuple(each.tolist()))


def fid(corrected, images=IMAGES, groups=GROUPS, spread=0.1):
    """A score of this corrected FID whose groups share their luck."""
    left_out = corrected + spread * (groups - groups.mean())
    return replace(Estimate.of(images, corrected, tuple(left_out.tolist())), corrected=corrected)


def known(nfe, teacher=None, *scores):
    return Evidence(f"{nfe:016x}", nfe, teacher=teacher, scores=scores)


def field(*evidence, slack=1.5, confidence=0.95, floor=None):
    made = Field(slack, confidence)
    if floor is not None:
        made.set_floor(floor)
    for i, each in enumerate(evidence):
        made.add(f"rival/{i}", each)
    return made


# The teacher's rung ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "stopped"), [(1.0, False), (1.4, False), (1.49, False), (1.51, True), (9.0, True)])
def test_the_teachers_rung_stops_what_is_beyond_the_slack_and_nothing_within(factor, stopped):
    stop = field(known(8, distance(1.0))).judge("me", known(8, distance(factor)), None)
    assert (stop is not None) == stopped
    if stop is not None:
        assert stop.rival == "rival/0"
        assert stop.excess == pytest.approx(factor - 1.5)
        assert "64 images" in stop.reason
        assert "rival/0 with 8 evaluations" in stop.reason


def test_the_teachers_rung_stops_only_with_confidence():
    """Twice as far from the teacher on average, once by the same luck on every image and once by luck of its own."""
    rivals = field(known(8, distance(1.0)))
    own = np.random.default_rng(5).normal(size=64)
    assert rivals.judge("me", known(8, distance(2.0)), None)
    assert rivals.judge("me", known(8, distance(2.0, own, spread=4.0)), None) is None


@pytest.mark.parametrize(("confidence", "t"), [(0.95, 12.706), (0.8, 3.078)])
def test_the_confidence_is_students_two_sided(confidence, t):
    """Gaps of low and low + 2: their standard error is 1, and t has one degree of freedom."""
    rivals = field(known(8, TeacherDistance((1.0, 1.0), (0.0, 0.0))), slack=1.0, confidence=confidence)
    for mean, stopped in ((t - 0.01, False), (t + 0.01, True)):
        ours = known(8, TeacherDistance((mean, mean + 2.0), (0.0, 0.0)))
        assert (rivals.judge("me", ours, None) is not None) == stopped


def test_the_confidence_is_that_of_the_rungs_of_fid_too():
    """A gap that a wide interval does not exclude from 0 and a narrow one does."""
    rival = known(8, None, fid(1.0, groups=GROUPS[::-1], spread=0.1))
    ours = known(8, None, fid(1.9, spread=0.1))
    gap, _, error, _ = difference(ours.scores[0], rival.scores[0], confidence=0.8)
    *_, wide, _ = difference(ours.scores[0], rival.scores[0], confidence=0.99)
    assert error < gap + RESOLUTION < wide
    assert field(rival, confidence=0.8).judge("me", ours, IMAGES)
    assert field(rival, confidence=0.99).judge("me", ours, IMAGES) is None


def test_distances_of_other_numbers_of_images_are_not_compared():
    assert field(known(8, distance(1.0, LUCK[:32]))).judge("me", known(8, distance(9.0)), None) is None
    assert field(known(8)).judge("me", known(8, distance(9.0)), None) is None
    assert field(known(8, distance(1.0))).judge("me", known(8), None) is None


# The rungs of FID ------------------------------------------------------------------------------------------------


def test_only_a_pair_sees_a_small_difference():
    """The same groups with the same luck: no error is left. The same numbers in another order: all of it is."""
    rivals = field(known(8, None, fid(10.0, spread=1.0)))
    assert rivals.judge("me", known(8, None, fid(10.5, spread=1.0)), IMAGES)
    shuffled = fid(10.5, groups=GROUPS[::-1], spread=1.0)
    assert rivals.judge("me", known(8, None, shuffled), IMAGES) is None


def test_what_was_not_measured_on_the_same_groups_stops_nobody():
    rivals = field(known(8, None, fid(1.0, groups=GROUPS[:5])), known(8, None, fid(1.0, images=FULL)), known(8))
    assert rivals.judge("me", known(8, None, fid(50.0)), IMAGES) is None


@pytest.mark.parametrize(
    ("share", "stopped"), [(1.2, True), (1.0, True), (1 - 0.9 * RESOLUTION, True), (1 - 1.1 * RESOLUTION, False)]
)
def test_who_is_not_better_by_more_than_the_resolution_is_stopped(share, stopped):
    stop = field(known(8, None, fid(10.0))).judge("me", known(8, None, fid(10.0 * share)), IMAGES)
    assert (stop is not None) == stopped
    if stop is not None:
        assert stop.excess == pytest.approx(10.0 * (share - 1 + RESOLUTION))
        gap = f"{10 * (share - 1):+.2g}"
        assert stop.reason.startswith(f"stopped at 100 images: a FID of {gap} ± ")
        assert stop.reason.endswith("beside rival/0 with 8 evaluations (corrected, paired)")


def test_no_margin_is_given_beyond_a_rival_of_no_distance_at_all():
    """A corrected FID may fall below 0; a share of that would stop who is better."""
    rivals = field(known(8, None, fid(-1.0)))
    assert rivals.judge("me", known(8, None, fid(-1.001)), IMAGES) is None
    assert rivals.judge("me", known(8, None, fid(-0.999)), IMAGES)


# Either ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [None, IMAGES])
def test_a_dearer_rival_stops_nobody(images):
    ours = known(8, distance(99.0), fid(99.0))
    best = distance(1.0), fid(1.0)
    assert field(known(9, *best)).judge("me", ours, images) is None
    assert field(known(8, *best)).judge("me", ours, images)
    assert field(known(3, *best)).judge("me", ours, images)


@pytest.mark.parametrize("images", [None, IMAGES])
def test_nobody_is_stopped_for_what_was_known_of_itself(images):
    ours = known(8, distance(1.0), fid(1.0))
    made = field()
    made.add("me", known(8, distance(0.1), fid(0.1)))
    assert made.judge("me", ours, images) is None
    assert len(made) == 1


@pytest.mark.parametrize("images", [None, IMAGES])
def test_the_floor_stops_nobody(images):
    best = known(3, distance(0.001), fid(0.001))
    assert field(floor=best).judge("me", known(300, distance(99.0), fid(99.0)), images) is None


def test_the_rival_named_is_the_one_that_is_furthest_ahead():
    rivals = [known(8, distance(d), fid(f)) for d, f in ((2.0, 1.0), (1.0, 2.0), (3.0, 3.0))]
    ours = known(8, distance(9.0), fid(9.0))
    assert field(*rivals).judge("me", ours, None).rival == "rival/1"
    assert field(*rivals).judge("me", ours, IMAGES).rival == "rival/0"


def test_later_evidence_takes_the_place_of_earlier():
    made = field(known(8, None, fid(1.0)))
    ours = known(8, None, fid(5.0))
    assert made.judge("me", ours, IMAGES)
    made.add("rival/0", known(8, None, fid(9.0)))
    assert made.judge("me", ours, IMAGES) is None
    assert len(made) == 1


lucks = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=10))
rivals = st.builds(
    lambda nfe, level, far, luck, spread: known(nfe, distance(far, luck, spread), fid(level, IMAGES, luck, spread)),
    st.integers(2, 6),
    st.floats(0.1, 100),
    st.floats(0.1, 100),
    lucks,
    st.floats(0, 2),
)


@given(st.lists(rivals, max_size=6), lucks, st.floats(0, 2), st.integers(2, 6), st.floats(1, 3))
def test_the_best_of_its_nfe_is_never_stopped(others, luck, spread, nfe, slack):
    """The best: closer to the teacher than anyone as cheap, and of a lower FID by more than the resolution."""
    cheap = [each for each in others if each.nfe <= nfe]
    level = min((each.scores[0].corrected for each in cheap), default=1.0) * (1 - RESOLUTION) * 0.999
    far = min((each.teacher.mean for each in cheap), default=1.0)
    best = known(nfe, distance(far, luck, spread), fid(level, IMAGES, luck, spread))
    made = field(*others, slack=slack)
    assert made.judge("me", best, None) is None
    assert made.judge("me", best, IMAGES) is None


@given(st.lists(rivals, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_in_which_trials_ended_does_not_matter(others, random):
    *told, ours = others
    named = list(enumerate(told))
    there, shuffled = Field(1.5, 0.95), Field(1.5, 0.95)
    for i, each in named:
        there.add(f"rival/{i}", each)
    random.shuffle(named)
    for i, each in named:
        shuffled.add(f"rival/{i}", each)
    for images in (None, IMAGES):
        one, other = there.judge("me", ours, images), shuffled.judge("me", ours, images)
        assert (one and one.excess) == (other and other.excess)


@given(st.lists(rivals, min_size=1, max_size=6))
def test_a_rival_that_stops_is_as_cheap_and_its_lead_is_sure(others):
    *told, ours = others
    stop = field(*told).judge("me", ours, IMAGES)
    if stop is None:
        return
    rival = told[int(stop.rival.removeprefix("rival/"))]
    apart = difference(ours.scores[0], rival.scores[0])
    assert rival.nfe <= ours.nfe
    assert apart.paired
    assert apart.gap - apart.error > -RESOLUTION * rival.scores[0].corrected


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
