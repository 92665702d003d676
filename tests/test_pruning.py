"""Who a rung stops: by confidence, in pairs, never for a dearer rival, and never the best."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison import RESOLUTION, difference
from pipeline.evidence import TeacherDistance
from pipeline.pruning import Field
from tests.made_evidence import FULL, GROUPS, IMAGES, LUCK, distance, fid, field, known

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


def leading(others, nfe):
    """A corrected FID below that of all these as cheap, by more than the resolution."""
    return min((each.scores[0].corrected for each in others if each.nfe <= nfe), default=1.0) * (1 - RESOLUTION) * 0.999


@given(st.lists(rivals, max_size=6), lucks, st.floats(0, 2), st.integers(2, 6), st.floats(1, 3))
def test_the_best_of_its_nfe_is_never_stopped(others, luck, spread, nfe, slack):
    """The best: closer to the teacher than anyone as cheap, and of a lower FID by more than the resolution."""
    far = min((each.teacher.mean for each in others if each.nfe <= nfe), default=1.0)
    best = known(nfe, distance(far, luck, spread), fid(leading(others, nfe), IMAGES, luck, spread))
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
