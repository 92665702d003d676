"""What is known of a trial: means and errors by hand, and a record that comes back as it went."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison import Estimate
from pipeline.evidence import Evidence, TeacherDistance

numbers = st.floats(0, 1e6, allow_nan=False)
distances = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9).map(
    lambda pairs: TeacherDistance(*(tuple(side) for side in zip(*pairs, strict=True)))
)
scores = st.lists(st.lists(numbers, min_size=2, max_size=6), max_size=3).map(
    lambda rungs: tuple(Estimate.of(10 * (i + 1), each[0], tuple(each)) for i, each in enumerate(rungs))
)
evidence = st.builds(
    Evidence,
    st.text("0123456789abcdef", min_size=16, max_size=16),
    st.integers(1, 99),
    numbers,
    st.none() | distances,
    scores,
    st.integers(0, 10**9),
)


@given(evidence)
def test_evidence_comes_back_from_json_to_the_last_bit(held):
    assert Evidence.from_json(json.loads(json.dumps(held.to_json(), allow_nan=False))) == held


@given(evidence)
def test_the_score_of_a_rung_is_the_one_of_so_many_images(held):
    for score in held.scores:
        assert held.score(score.images) is score
    assert held.score(5) is None


def test_the_distance_by_hand():
    distance = TeacherDistance((1.0, 2.0, 6.0), (10.0, 20.0, 30.0))
    assert distance.mean == 3
    assert distance.mean_pixels == 20
    # Deviations -2, -1 and 3: their squares, 14, over 2, over 3.
    assert distance.se == pytest.approx(math.sqrt(14 / 2 / 3))
    assert TeacherDistance((4.0,), (1.0,)).se == 0
