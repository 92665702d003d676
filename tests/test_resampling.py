"""N-step resampling: what it keeps of a walk, and what it refuses. Its published sigmas: test_conformance_sdm.py."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.registry import SpecError
from pipeline.resampling import resample
from pipeline.schedules import EDM


@st.composite
def walks(draw):
    ratios = draw(st.lists(st.floats(1.05, 6.0), min_size=2, max_size=15))
    sigmas = [80.0, *(80.0 / total for total in itertools.accumulate(ratios, lambda a, b: a * b))]
    eta = draw(st.lists(st.floats(1e-6, 10.0), min_size=len(ratios), max_size=len(ratios)))
    return sigmas, eta


@settings(max_examples=150, deadline=None)
@given(walks(), st.integers(2, 30), st.floats(0.0, 1.0), st.floats(-0.5, 0.5), st.booleans())
def test_resampling_gives_as_many_sigmas_as_asked_strictly_decreasing_between_the_same_ends(
    walk, nodes, power, q, to_0
):
    sigmas, eta = walk
    placed = resample([*sigmas, 0.0] if to_0 else sigmas, [*eta, 0.0] if to_0 else eta, nodes, power=power, q=q)
    assert len(placed) == nodes
    assert (placed[0], placed[-1]) == (sigmas[0], sigmas[-1])
    assert all(a > b > 0 for a, b in itertools.pairwise(placed))


@settings(max_examples=50, deadline=None)
@given(walks(), st.floats(1e-3, 1e3), st.integers(3, 12))
def test_only_the_ratios_of_eta_count(walk, factor, nodes):
    sigmas, eta = walk
    scaled = resample(sigmas, [factor * e for e in eta], nodes)
    assert scaled == pytest.approx(resample(sigmas, eta, nodes), rel=1e-6)


def test_without_weights_resampling_counts_steps():
    fine = EDM(60, final="sigma_min").sigmas().tolist()
    draw = random.Random(1)
    eta = [draw.uniform(0.01, 10) for _ in range(60)]
    for every in (2, 5, 12):
        assert resample(fine, eta, 60 // every + 1, power=0, q=0) == pytest.approx(fine[::every], rel=1e-9)
    assert resample(fine, eta, 13, power=0.5, q=0) != pytest.approx(fine[::5], rel=1e-3)


def test_error_attracts_sigmas_and_so_does_low_noise():
    fine = EDM(60, final="sigma_min").sigmas().tolist()
    high = resample(fine, [100.0] * 30 + [1.0] * 30, 12, q=0)
    low = resample(fine, [1.0] * 30 + [100.0] * 30, 12, q=0)
    middle = fine[30]
    assert sum(s > middle for s in high) > 8 > 4 > sum(s > middle for s in low)
    level = [1.0] * 60
    medians = [resample(fine, level, 11, q=q)[5] for q in (-0.25, 0.0, 0.25)]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] > 2 * medians[-1]


@pytest.mark.parametrize(
    "eta",
    [
        [0.0, 1.0, 1.0, 1.0],
        [1.0, 0.0, 1.0, 1.0],
        [1.0, 1.0, 1.0, 0.0],
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
        [0.0, 1.0, 0.0, 0.0],
        [1.0, -1e-18, 1.0, 1e-300],
    ],
)
def test_a_step_without_error_is_stepped_over(eta):
    placed = resample([80.0, 20.0, 3.0, 0.2, 0.002], eta, 9)
    assert len(placed) == 9
    assert (placed[0], placed[-1]) == (80.0, 0.002)
    assert all(a > b for a, b in itertools.pairwise(placed))


@pytest.mark.parametrize("eta", [[0.0, 0.0], [-1.0, 0.0]])
def test_a_walk_without_any_error_is_refused_with_a_way_out(eta):
    with pytest.raises(SpecError) as caught:
        resample([80.0, 1.0, 0.1], eta, 4)
    assert str(caught.value) == (
        "num_steps: every step of the walk has zero error: there is nothing to resample by; "
        "allowed: null, for the walk itself, or power: 0, which leaves the errors out"
    )
    assert len(resample([80.0, 1.0, 0.1], eta, 4, power=0.0)) == 4


@pytest.mark.parametrize(
    ("power", "q"), [(0.5, 100.0), (400.0, 0.1), (0.5, math.inf), (0.5, math.nan), (0.5, -100.0), (2000.0, -9.0)]
)
def test_weights_beyond_double_precision_are_refused(power, q):
    eta = [10.0, 10.0] if power < 1000 else [0.1, 0.1]
    with pytest.raises(SpecError, match=r"power and q: the weights .* not finite or vanish, given \("):
        resample([80.0, 1e-3, 2e-4], eta, 4, power=power, q=q)


def test_an_eta_that_is_not_a_number_is_refused():
    with pytest.raises(SpecError, match="not finite"):
        resample([80.0, 1.0, 0.1], [math.nan, 1.0], 4)


def test_one_node_is_the_top_and_none_is_refused():
    assert resample([80.0, 1.0, 0.1], [1.0, 1.0], 1) == [80.0]
    with pytest.raises(SpecError, match="num_steps"):
        resample([80.0, 1.0, 0.1], [1.0, 1.0], 0)
