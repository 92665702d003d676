"""Judging by rows decides as judging one rival after the other does."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from pipeline.comparison import RESOLUTION, difference
from pipeline.pruning import Field, Rivals
from tests.made_evidence import FULL, IMAGES, distance, fid, known

SLACK, CONFIDENCE = 1.2, 0.8
lucks = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(size=10))


def made(nfe, level, far, luck, spread, rungs):
    scores = (fid(level, IMAGES, luck, spread), fid(level * 1.1, FULL, luck[::-1], spread))[:rungs]
    return known(nfe, distance(far, luck, spread), *scores)


trials = st.builds(
    made, st.integers(2, 6), st.floats(0.1, 3), st.floats(0.1, 3), lucks, st.floats(0, 1), st.integers(0, 2)
)
# A name may come again, with later evidence.
histories = st.lists(st.tuples(st.sampled_from("abcdefgh"), trials), max_size=12)


def behind_in_distance(ours, theirs):
    gaps = np.array(ours.teacher.features) - SLACK * np.array(theirs.teacher.features)
    error = stdtrit(len(gaps) - 1, (1 + CONFIDENCE) / 2) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return gaps.mean() if gaps.mean() > error else None


def behind_in_fid(ours, theirs, images):
    scores = ours.score(images), theirs.score(images)
    if None in scores:
        return None
    apart = difference(*scores, confidence=CONFIDENCE)
    margin = RESOLUTION * max(scores[1].corrected, 0.0)
    return apart.gap + margin if apart.gap - apart.error > -margin else None


@given(histories, trials, st.sampled_from([None, IMAGES, FULL]), st.sampled_from("abcxyz"))
def test_the_one_that_stops_a_trial_is_the_furthest_ahead_of_all_that_would(history, ours, images, name):
    field, held = Field(SLACK, CONFIDENCE), {}
    for key, evidence in history:
        field.add(key, evidence)
        held[key] = evidence
    excess = {
        key: behind_in_distance(ours, each) if images is None else behind_in_fid(ours, each, images)
        for key, each in held.items()
        if key != name and each.nfe <= ours.nfe
    }
    ahead = {key: value for key, value in excess.items() if value is not None}
    stop = field.judge(name, ours, images)
    assert (stop is not None) == bool(ahead)
    if stop is not None:
        assert stop.excess == ahead[stop.rival] == max(ahead.values())


@given(histories, trials, st.integers(1, 7))
def test_the_floor_may_come_before_or_after_what_is_compared_with_it(history, floor, nfe):
    before, after = Field(SLACK, CONFIDENCE), Field(SLACK, CONFIDENCE)
    before.set_floor(floor)
    for key, evidence in history:
        before.add(key, evidence)
        after.add(key, evidence)
    after.set_floor(floor)
    assert before.saturated(nfe) == after.saturated(nfe)
    assert before.saturated(nfe, "a") == after.saturated(nfe, "a")
    assert before.predicted(distance(1.0)) == after.predicted(distance(1.0))


def test_rows_grow_and_keep_what_they_hold():
    rivals = Rivals(3)
    for i in range(1000):
        rivals.put(str(i), i % 7, (i, i + 0.5, -i), 10.0 * i)
    rivals.put("3", 1, (0.0, 0.0, 0.0), -1.0)
    rivals.drop("10")
    rows = rivals.within(3, but="2")
    expected = {str(i) for i in range(1000) if i % 7 <= 3} - {"2", "10"}
    assert len(rows) == len(expected)
    assert rivals.values[rows].tolist() == [
        [0.0, 0.0, 0.0] if i == 3 else [i, i + 0.5, -i] for i in map(int, sorted(expected, key=int))
    ]
    assert rivals.levels[rows][:4].tolist() == [0.0, 10.0, -1.0, 70.0]


def test_of_equal_rivals_the_first_is_named():
    field = Field(SLACK, CONFIDENCE)
    for key in ("first", "second"):
        field.add(key, known(4, distance(0.1), fid(0.1)))
    ours = known(4, distance(5.0), fid(5.0))
    assert field.judge("me", ours, None).rival == field.judge("me", ours, IMAGES).rival == "first"
