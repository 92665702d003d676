"""Truths known in closed form: Gaussian features, whose Frechet distance to the reference is a formula."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.comparison import RESOLUTION, Estimate, difference, verdict
from pipeline.metrics.distances import Reference, fid_infinity, groups_of, jackknife
from pipeline.metrics.moments import Moments

REPEATS = 200
DIM, SHARDS, SIZE = 16, 50, 40
SCALES = np.linspace(0.7, 1.3, DIM)
REFERENCE = Reference(np.zeros(DIM), np.eye(DIM))
SHIFT = np.full(DIM, 0.1)
TRUTH = float(SHIFT @ SHIFT + np.square(SCALES - 1).sum())


def estimate(rows):
    return jackknife([Moments.of(part) for part in np.split(rows, SHARDS)], REFERENCE)


def unit_rows(repeat):
    return np.random.default_rng(repeat).normal(size=(SHARDS * SIZE, DIM))


@functools.cache
def drawn():
    """200 draws of features of a known distance, each with a second plan's on the same noise and on other noise.

    The second plan's features are those of the first with the axes in reverse: another plan, and exactly as good.
    """
    triples = []
    for repeat in range(REPEATS):
        unit, other = unit_rows(repeat), unit_rows(10_000 + repeat)
        rows = [SHIFT + SCALES * unit, SHIFT + SCALES[::-1] * unit, SHIFT + SCALES[::-1] * other]
        triples.append(tuple(estimate(each) for each in rows))
    return triples


# --- the interval and the correction ---


def test_the_interval_holds_the_true_distance_as_often_as_it_says():
    inside = sum(low <= TRUTH <= high for low, high in (first.interval() for first, _, _ in drawn()))
    assert 0.90 <= inside / REPEATS <= 0.98


def test_the_corrected_distance_has_no_bias_left_and_the_plain_one_has():
    corrected = np.array([first.corrected for first, _, _ in drawn()])
    plain = np.array([first.fid for first, _, _ in drawn()])
    assert abs(corrected.mean() - TRUTH) < 2 * corrected.std(ddof=1) / math.sqrt(REPEATS)
    assert plain.mean() - TRUTH > 5 * plain.std(ddof=1) / math.sqrt(REPEATS)


def test_fid_infinity_has_no_bias_left():
    values = []
    for repeat in range(REPEATS):
        rows = SHIFT + SCALES * unit_rows(repeat)
        values.append(fid_infinity([Moments.of(part) for part in np.split(rows, SHARDS)], REFERENCE))
    assert abs(np.mean(values) - TRUTH) < 2 * np.std(values, ddof=1) / math.sqrt(REPEATS)


def test_fid_infinity_is_the_intercept_of_an_exact_line():
    """Two rows at -1 and 1 around each mean: every run of shards has covariance N / (N - 1), a known distance."""
    shards = [Moments.of(np.array([[1.0], [-1.0]])) for _ in range(20)]
    sizes = np.array([8, 16, 24, 32, 40])
    fids = np.square(np.sqrt(sizes / (sizes - 1)) - 1)
    intercept = np.polyfit(1 / sizes, fids, 1)[1]
    assert fid_infinity(shards, Reference(np.zeros(1), np.eye(1))) == pytest.approx(intercept, abs=1e-12)


@pytest.mark.parametrize(("shards", "size"), [(4, 100), (5, 2 * 3 - 1)])
def test_fid_infinity_is_not_told_of_too_little(shards, size):
    parts = [Moments.of(np.random.default_rng(k).normal(size=(size, 3))) for k in range(shards)]
    assert fid_infinity(parts, Reference(np.zeros(3), np.eye(3))) is None


def test_fid_infinity_takes_shards_of_one_size():
    parts = [Moments.of(np.random.default_rng(k).normal(size=(20 + k, 3))) for k in range(5)]
    with pytest.raises(ValueError, match="equal size"):
        fid_infinity(parts, Reference(np.zeros(3), np.eye(3)))


# --- groups of shards ---


@pytest.mark.parametrize(
    ("count", "groups"), [(1, 1), (2, 2), (10, 10), (20, 20), (26, 13), (29, 29), (30, 15), (58, 58), (100, 25)]
)
def test_groups(count, groups):
    assert groups_of(count) == groups


def test_grouped_shards_give_what_larger_shards_give():
    rows = unit_rows(1)
    small = [Moments.of(part) for part in np.split(rows, 100)]
    large = [Moments.of(part) for part in np.split(rows, 25)]
    one, two = jackknife(small, REFERENCE), jackknife(large, REFERENCE)
    assert one.leave_one_out == pytest.approx(two.leave_one_out, rel=1e-12)
    assert one.se == pytest.approx(two.se, rel=1e-9)


# --- two plans ---


@pytest.mark.parametrize("which", [1, 2], ids=["the same noise", "other noise"])
def test_equal_plans_are_rarely_called_better_or_worse(which):
    words = [verdict(each[0], each[which], paired=which == 1) for each in drawn()]
    assert words.count("better") <= 0.05 * REPEATS
    assert words.count("worse") <= 0.05 * REPEATS


def test_a_pair_tells_apart_what_single_errors_cannot():
    """A plan whose every feature is half a percent wider, on the same noise: far inside the error of either FID."""
    unit = unit_rows(3)
    near, off = estimate(1.1 * unit), estimate(1.105 * unit)
    assert difference(near, off).se < difference(near, off, paired=False).se / 4
    assert verdict(near, off) == "better"
    assert verdict(off, near) == "worse"
    assert verdict(near, off, paired=False) == "inconclusive"


def test_a_gap_below_the_resolution_is_not_called():
    groups = tuple(10 + 1e-3 * np.arange(20))
    theirs = Estimate.of(1000, 10.0, groups)
    step = RESOLUTION * 10
    inside, outside = (Estimate.of(1000, 10 - gap, tuple(x - gap for x in groups)) for gap in (0.9 * step, 1.1 * step))
    assert difference(inside, theirs).error == pytest.approx(0, abs=1e-9), "it is not the error that forbids it"
    assert verdict(inside, theirs) == "inconclusive"
    assert verdict(outside, theirs) == "better"


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=30))
def test_differences_by_hand_and_in_either_order(pairs):
    a, b = (Estimate.of(100, float(np.mean(side)), tuple(side)) for side in zip(*pairs, strict=True))
    forth, back = difference(a, b), difference(b, a)
    apart = np.array([x - y for x, y in pairs])
    count = len(pairs)
    assert forth.paired
    assert forth.se == pytest.approx(math.sqrt((count - 1) ** 2 / count * apart.var(ddof=1)), rel=1e-6, abs=1e-9)
    assert (back.gap, back.se) == pytest.approx((-forth.gap, forth.se), rel=1e-9, abs=1e-9)
    assert {verdict(a, b), verdict(b, a)} <= {"inconclusive", "better", "worse"}
    assert verdict(a, a) == "inconclusive"


def test_other_groups_are_not_paired():
    a = Estimate.of(100, 1.0, (1.0, 2.0, 3.0))
    assert not difference(a, Estimate.of(100, 1.0, (1.0, 2.0))).paired
    assert not difference(a, Estimate.of(200, 1.0, (1.0, 2.0, 3.0))).paired
    assert difference(a, Estimate.of(200, 1.0, (1.0, 2.0, 3.0))).se == pytest.approx(math.hypot(a.se, a.se))


def test_nothing_is_called_where_the_error_is_unknown():
    alone = Estimate.of(100, 1.0, ())
    assert math.isnan(difference(alone, Estimate.of(100, 9.0, (8.0, 10.0))).error)
    assert verdict(alone, Estimate.of(100, 9.0, (8.9, 9.1))) == "inconclusive"
