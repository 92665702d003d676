import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import noise as module
from pipeline.noise import CALIBRATION_SEEDS, noise


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**64), min_size=1, max_size=8), st.integers(0, 7))
def test_an_image_does_not_depend_on_its_batch(seeds, pick):
    seed = seeds[pick % len(seeds)]
    assert torch.equal(noise(seeds, (1, 3, 3))[pick % len(seeds)], noise([seed], (1, 3, 3))[0])


def test_ranges_and_lists_give_the_same_images():
    assert torch.equal(noise(range(5, 25, 3), (2, 4, 4)), noise([5, 8, 11, 14, 17, 20, 23], (2, 4, 4)))


def test_it_is_philox_keyed_by_the_seed():
    expected = np.random.Generator(np.random.Philox(key=12345)).standard_normal((1, 4, 4))
    np.testing.assert_array_equal(noise([12345], (1, 4, 4), torch.float64)[0].numpy(), expected)


def test_the_first_numbers_stay_what_they_were():
    expected = torch.tensor([0.15929546600623282, -1.7741885208017214, 1.3265118818830892], dtype=torch.float64)
    torch.testing.assert_close(noise([0], (3,), torch.float64)[0], expected, rtol=1e-14, atol=0)


def test_every_dtype_starts_from_the_same_numbers():
    exact = noise(range(10), (1, 4, 4), torch.float64)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(noise(range(10), (1, 4, 4), dtype), exact.to(dtype))


def test_it_is_unit_normal():
    values = noise(range(4000), (25,), torch.float64)
    assert abs(values.mean()) < 4 / 100_000**0.5
    assert values.var().item() == pytest.approx(1, abs=0.02)
    correlation = torch.corrcoef(values.T) - torch.eye(25)
    assert correlation.abs().max() < 5 / 4000**0.5


def test_global_generators_are_untouched():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  # the global generator is what is being guarded
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # as above
    noise(range(100, 110), (1, 2, 2))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002  # as above


def test_a_caller_cannot_spoil_what_the_next_one_gets():
    first = noise(range(30), (1, 4, 4))
    kept = first.clone()
    first.zero_()
    assert torch.equal(noise(range(30), (1, 4, 4)), kept)


def test_the_cache_keeps_its_limit_and_the_latest(monkeypatch):
    cache = module._Cache(limit=3 * 100 * 4)
    monkeypatch.setattr(module, "_cache", cache)
    for start in range(0, 50, 10):
        noise(range(start, start + 10), (10,))
        noise(range(10), (10,))
    assert cache.bytes <= cache.limit
    assert cache.bytes == sum(tensor.nbytes for tensor in cache.held.values())
    assert [key[0] for key in cache.held] == [range(30, 40), range(40, 50), range(10)]
    noise(range(1000), (10,))
    assert len(cache.held) == 3, "what is larger than the cache does not empty it"


def test_calibration_seeds_are_far_from_image_seeds():
    assert CALIBRATION_SEEDS > 10**12
    assert noise([CALIBRATION_SEEDS], (1, 2, 2)).shape == (1, 1, 2, 2)


def test_no_seeds_give_no_images():
    assert noise(range(0), (1, 2, 2)).shape == (0, 1, 2, 2)
