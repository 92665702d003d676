import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics.distances import Reference, frechet_distance, jackknife
from pipeline.metrics.moments import Moments
from pipeline.registry import SpecError


def features(seed, n, dim, offset=0.0):
    rng = np.random.default_rng(seed)
    return offset + rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


def same(left, right, rtol=1e-11):
    assert left.n == right.n
    scale = np.abs(right.scatter).max()
    np.testing.assert_allclose(left.mean, right.mean, rtol=rtol)
    np.testing.assert_allclose(left.scatter, right.scatter, rtol=0, atol=rtol * scale)


# --- moments ---


def test_moments_are_numpys():
    rows = features(0, 300, 7)
    moments = Moments.of(rows)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(rows, rowvar=False), rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(moments.scatter, moments.scatter.T)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 200), max_size=6),
    offset=st.sampled_from([0.0, 1e3, -1e6]),
    order=st.randoms(use_true_random=False),
)
def test_any_grouping_merges_to_the_whole(cuts, offset, order):
    rows = features(1, 200, 5, offset)
    edges = [0, *sorted(cuts), 200]
    parts = [Moments.of(rows[a:b]) for a, b in itertools.pairwise(edges)]
    order.shuffle(parts)
    same(Moments.merge(parts), Moments.of(rows), rtol=1e-9 if offset else 1e-11)


def test_a_big_mean_does_not_eat_the_scatter():
    rows = features(2, 1000, 4)
    # Binary fractions: the shift itself is exact, so what is compared is the merging.
    rows = np.round(rows * 2**20) / 2**20
    near, far = (Moments.merge([Moments.of(part) for part in np.split(r, 10)]) for r in (rows, rows + 2.0**20))
    np.testing.assert_allclose(far.scatter, near.scatter, rtol=1e-7, atol=1e-7)


def test_taking_a_part_out_undoes_the_merge():
    parts = [Moments.of(features(seed, 50, 6)) for seed in range(5)]
    same(Moments.merge(parts).without(parts[2]), Moments.merge(parts[:2] + parts[3:]))
    assert parts[0].without(parts[0]).n == 0
    with pytest.raises(ValueError, match="cannot be taken out"):
        parts[0].without(Moments.merge(parts))


def test_tensors_and_arrays_and_dtypes_agree():
    rows = features(3, 100, 4).astype(np.float32)
    same(Moments.of(torch.from_numpy(rows)), Moments.of(rows.astype(np.float64)), rtol=1e-14)


def test_moments_survive_json_bit_by_bit():
    moments = Moments.of(features(4, 30, 9))
    text = json.dumps(moments.to_json())
    back = Moments.from_json(json.loads(text))
    assert back.n == moments.n
    np.testing.assert_array_equal(back.mean, moments.mean)
    np.testing.assert_array_equal(back.scatter, moments.scatter)
    assert back.scatter.flags.writeable


@pytest.mark.parametrize("broken", [{}, {"n": 3}, {"scatter": "AAAA"}, {"mean": "not base64!"}, {"dim": 5}])
def test_broken_moments_are_one_line(broken):
    value = Moments.of(features(4, 30, 3)).to_json() | broken if broken else {}
    if broken == {"n": 3}:
        value.pop("mean")
    with pytest.raises(SpecError, match="are not moments") as caught:
        Moments.from_json(value)
    assert "\n" not in str(caught.value)


def test_what_does_not_add_up_is_refused():
    with pytest.raises(ValueError, match="nothing to merge"):
        Moments.merge([])
    with pytest.raises(ValueError, match="do not merge"):
        Moments.merge([Moments.of(features(0, 5, 2)), Moments.of(features(0, 5, 3))])
    with pytest.raises(ValueError, match="two axes"):
        Moments.of(np.zeros(3))
    with pytest.raises(ValueError, match="at least 2"):
        _ = Moments.of(np.zeros((1, 3))).covariance
    same(
        Moments.merge([Moments.zero(2), Moments.of(features(0, 5, 2)), Moments.zero(2)]), Moments.of(features(0, 5, 2))
    )


# --- the Frechet distance ---


def fidelity(rows, others):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(torch.from_numpy(np.asarray(r, dtype=np.float64))) for r in (rows, others)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


@pytest.mark.parametrize("dim", [1, 2, 16, 64])
def test_frechet_distance_is_torch_fidelitys(dim):
    if dim == 1:
        rows, others = features(0, 400, 2), features(1, 500, 2)
        rows[:, 1], others[:, 1] = rows[:, 0] ** 2, others[:, 0] ** 2
    else:
        rows, others = features(0, 400, dim), features(1, 500, dim)
    ours = frechet_distance(Moments.of(rows), Reference.of(Moments.of(others)))
    assert ours == pytest.approx(fidelity(rows, others), rel=1e-9)
    swapped = frechet_distance(Moments.of(others), Reference.of(Moments.of(rows)))
    assert swapped == pytest.approx(ours, rel=1e-9)


def with_moments(n, mean, covariance, seed=0):
    """Rows whose mean and covariance (n - 1) are exactly these."""
    dim = len(mean)
    rows = np.random.default_rng(seed).normal(size=(n, dim))
    rows -= rows.mean(0)
    rows = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T
    return mean + rows @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_known_gaussians():
    dim = 12
    first, second = np.linspace(0.1, 3, dim), np.linspace(2, 0.5, dim)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0]
    mean, other = np.zeros(dim), np.full(dim, 0.25)
    rows = with_moments(300, mean, (basis * first**2) @ basis.T)
    reference = Reference(other, (basis * second**2) @ basis.T)
    expected = dim * 0.25**2 + np.square(first - second).sum()
    assert frechet_distance(Moments.of(rows), reference) == pytest.approx(expected, rel=1e-11)


def test_a_sample_is_at_no_distance_from_itself():
    moments = Moments.of(features(5, 300, 32))
    assert abs(frechet_distance(moments, Reference.of(moments))) < 1e-10 * np.trace(moments.covariance)


@pytest.mark.parametrize("n", [3, 20, 40])
def test_frechet_distance_with_fewer_images_than_features(n):
    """Measured against the singular values of the images themselves, which need no root of a singular matrix."""
    dim = 64
    rows, reference = features(0, n, dim), Reference.of(Moments.of(features(1, 500, dim)))
    centred = (rows - rows.mean(0)) / math.sqrt(n - 1)
    overlap = np.linalg.svd(centred @ reference.root, compute_uv=False).sum()
    gap = np.square(rows.mean(0) - reference.mean).sum()
    expected = gap + np.square(centred).sum() + np.trace(reference.covariance) - 2 * overlap
    assert frechet_distance(Moments.of(rows), reference) == pytest.approx(expected, rel=1e-11)


def test_a_flat_reference_is_measured_too():
    rows, others = features(0, 100, 10), features(1, 100, 10)
    rows[:, 7:], others[:, 7:] = 0.0, 0.0
    ours = frechet_distance(Moments.of(rows), Reference.of(Moments.of(others)))
    thinner = frechet_distance(Moments.of(rows[:, :7]), Reference.of(Moments.of(others[:, :7])))
    assert ours == pytest.approx(thinner, rel=1e-11)
    constant = Moments.of(np.zeros((5, 10)))
    assert frechet_distance(constant, Reference.of(constant)) == 0


def test_what_is_not_finite_is_at_distance_nan():
    rows = features(0, 50, 4)
    rows[3, 2] = np.nan
    assert math.isnan(frechet_distance(Moments.of(rows), Reference.of(Moments.of(features(1, 50, 4)))))


def test_other_numbers_of_features_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        frechet_distance(Moments.of(features(0, 9, 3)), Reference.of(Moments.of(features(0, 9, 4))))


def test_the_reference_hash_is_of_its_bytes():
    moments = Moments.of(features(0, 50, 4))
    assert Reference.of(moments).hash == Reference.of(Moments.from_json(moments.to_json())).hash
    nudged = moments.mean.copy()
    nudged[0] = np.nextafter(nudged[0], 1e9)
    assert Reference(nudged, moments.covariance).hash != Reference.of(moments).hash


# --- its error ---


def test_jackknife_by_hand():
    rows, reference = features(0, 120, 5), Reference.of(Moments.of(features(1, 900, 5)))
    parts = np.split(rows, 6)
    left = [fidelity_to(np.concatenate(parts[:k] + parts[k + 1 :]), reference) for k in range(6)]
    score = jackknife([Moments.of(part) for part in parts], reference)
    fid, se, corrected = score.fid, score.se, score.corrected
    assert score.images == 120
    assert score.leave_one_out == pytest.approx(left, rel=1e-9)
    assert fid == pytest.approx(fidelity_to(rows, reference), rel=1e-12)
    assert se == pytest.approx(math.sqrt(5 / 6 * np.square(left - np.mean(left)).sum()), rel=1e-9)
    assert corrected == pytest.approx(6 * fid - 5 * np.mean(left), rel=1e-9)


def fidelity_to(rows, reference):
    return frechet_distance(Moments.of(rows), reference)


def test_jackknife_tells_the_spread_and_removes_the_bias():
    dim, shards, size, repeats = 8, 10, 40, 150
    rng = np.random.default_rng(7)
    reference = Reference(np.zeros(dim), np.eye(dim))
    scales, mean = np.linspace(0.7, 1.3, dim), np.full(dim, 0.2)
    truth = dim * 0.04 + np.square(scales - 1).sum()
    estimates = []
    for _ in range(repeats):
        rows = mean + scales * rng.normal(size=(shards, size, dim))
        estimates.append(jackknife([Moments.of(part) for part in rows], reference))
    fids, ses, corrected = (np.array([getattr(e, name) for e in estimates]) for name in ("fid", "se", "corrected"))
    assert np.sqrt(np.square(ses).mean()) == pytest.approx(fids.std(ddof=1), rel=0.25)
    standard_error = corrected.std(ddof=1) / math.sqrt(repeats)
    assert abs(corrected.mean() - truth) < 4 * standard_error
    assert fids.mean() - truth > 8 * standard_error, "without the correction the bias is plain to see"


def test_jackknife_needs_two_shards_of_one_size():
    reference = Reference.of(Moments.of(features(1, 90, 3)))
    alone = jackknife([Moments.of(features(0, 30, 3))], reference)
    assert math.isfinite(alone.fid)
    assert math.isnan(alone.se)
    assert math.isnan(alone.corrected)
    with pytest.raises(ValueError, match="equal size"):
        jackknife([Moments.of(features(0, 30, 3)), Moments.of(features(0, 29, 3))], reference)
    with pytest.raises(ValueError, match="nothing to merge"):
        jackknife([], reference)
