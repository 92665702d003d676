"""A trial's spec, and what is made of it: prepare and evaluate, on the Gaussian mixture with 200 images."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from pipeline.benchmarks import load
from pipeline.metrics.moments import Moments
from pipeline.noise import CALIBRATION_SEEDS, noise
from pipeline.registry import SpecError
from pipeline.trial import BATCH_IMAGES, NotFiniteError, TrialSpec, evaluate, prepare

EDM_5 = {"name": "edm", "num_steps": 5}
HEUN = {"name": "heun"}


def spec(**fields):
    held = {"benchmark": "gmm", "solver": HEUN, "schedule": EDM_5, "images": 200, "shard_images": 50}
    return TrialSpec(**{**held, **fields})


@pytest.fixture(scope="module")
def gmm():
    return load("gmm")


@pytest.fixture(scope="module")
def parts(gmm):
    """A spec, made ready, and its shards."""
    asked = spec(first_seed=1000)
    ready = prepare(asked, gmm)
    return asked, ready, [shard for seeds in asked.shards() for shard in evaluate(ready.plan, gmm, seeds)]


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))


# The spec --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"images": 1}, "images"),
        ({"images": -8}, "images"),
        ({"first_seed": -1}, "first_seed"),
        ({"first_seed": CALIBRATION_SEEDS - 199}, "first_seed"),
        ({"shard_images": 0}, "shard_images"),
        ({"shard_images": 201}, "shard_images"),
        ({"shard_images": 60}, "shard_images"),
    ],
)
def test_a_spec_that_cannot_be_measured_names_its_key(fields, path):
    with pytest.raises(SpecError) as caught:
        spec(**fields)
    assert caught.value.path == path


def test_a_ragged_last_shard_is_refused_with_a_way_out():
    with pytest.raises(SpecError, match=r"shard_images: does not divide images, given 60; allowed: a divisor of 200"):
        spec(shard_images=60)


@pytest.mark.parametrize(("images", "shard_images", "count"), [(200, 50, 4), (200, 100, 2), (200, 1, 200), (4, 2, 2)])
def test_shards_are_the_seeds_in_order_each_once(images, shard_images, count):
    shards = spec(images=images, shard_images=shard_images, first_seed=7).shards()
    assert len(shards) == count
    assert [seed for shard in shards for seed in shard] == list(range(7, 7 + images))
    assert {len(shard) for shard in shards} == {shard_images}


def test_a_longer_run_begins_with_the_shards_of_a_shorter_one():
    assert spec(images=400).shards()[:4] == spec().shards()


def test_a_spec_survives_json():
    asked = spec(afs=True, first_seed=3, schedule={"name": "given", "values": [80.0, 0.1 + 0.2, 0.0]})
    assert TrialSpec.from_json(through_json(asked.to_json())) == asked


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"benchmark": "gmm", "solver": HEUN}, "schedule"),
        ({"benchmark": "gmm", "solver": HEUN, "schedule": EDM_5, "sampler": "euler"}, "sampler"),
        ({"benchmark": "gmm", "solver": HEUN, "schedule": EDM_5, "images": "200"}, "images"),
        ({"benchmark": "gmm", "solver": HEUN, "schedule": EDM_5, "images": 200.0}, "images"),
        ({"benchmark": "gmm", "solver": "heun", "schedule": EDM_5}, "solver"),
    ],
)
def test_what_is_not_a_spec_is_refused(value, path):
    with pytest.raises(SpecError) as caught:
        TrialSpec.from_json(value)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"solver": {"name": "hoin"}}, "solver.name"),
        ({"solver": {"name": "heun", "alpha": 3.0}}, "solver.alpha"),
        ({"solver": {"name": "switch", "low": {"name": "x"}}}, "solver.low.name"),
        ({"schedule": {"name": "edm"}}, "schedule.num_steps"),
        ({"schedule": "edm"}, "schedule"),
    ],
)
def test_a_mistake_in_the_pair_names_the_way_to_it(fields, path):
    with pytest.raises(SpecError) as caught:
        spec(**fields).sampler()
    assert caught.value.path == path


def test_a_single_shard_is_refused_since_it_has_no_error():
    with pytest.raises(SpecError, match=r"shard_images: is out of range, given 200; allowed: 1 to 100"):
        spec(shard_images=200)


# Prepare ---------------------------------------------------------------------------------------------------------


def test_a_closed_form_costs_no_set_up(gmm):
    ready = prepare(spec(), gmm)
    assert (ready.setup_rows, ready.setup_nfe) == (0, 0.0)
    assert len(ready.plan) == 9
    assert ready.solver == {"name": "heun", "alpha": 1.0}


def test_set_up_rows_are_counted_at_the_network(gmm):
    switch = {"name": "switch", "tau_k": 0.01, "calibration_images": 16}
    ready = prepare(spec(solver=switch), gmm)
    assert (ready.setup_rows, ready.setup_nfe) == (5 * 16, 5.0)
    assert ready.solver["switch_at"] in range(6)

    sdm = {"name": "sdm", "num_steps": 5, "eta_min": 1e-6, "eta_max": 1e-5, "calibration_images": 32}
    learned = prepare(spec(schedule=sdm), gmm)
    assert learned.setup_nfe == learned.setup_rows / 32
    assert learned.setup_rows % 32 == 0
    assert learned.setup_nfe > 5

    both = prepare(spec(solver=switch, schedule=sdm), gmm)
    assert both.setup_rows == learned.setup_rows + 5 * 16
    assert both.setup_nfe == learned.setup_nfe + 5, "each part by its own number of images"


def test_calibration_uses_its_own_seeds_in_double_and_gives_the_same_plan_again(gmm):
    asked = spec(solver={"name": "switch", "tau_k": 0.01, "calibration_images": 4})
    seen = []

    class Spy:
        shape, rows_per_image, model = gmm.shape, 1, gmm.model

        def calibration_denoiser(self, seeds):
            network = gmm.denoiser(seeds)

            def denoise(x, sigma):
                seen.append((x, sigma))
                return network(x, sigma)

            return denoise

    first = prepare(asked, Spy())
    x, sigma = seen[0]
    seeds = range(CALIBRATION_SEEDS, CALIBRATION_SEEDS + 4)
    assert torch.equal(x, sigma * noise(seeds, gmm.shape, torch.float64))
    again = prepare(asked, gmm)
    assert again.plan == first.plan
    assert again.solver == first.solver


def test_afs_reaches_the_plan(gmm):
    assert len(prepare(spec(afs=True), gmm).plan) == len(prepare(spec(), gmm).plan) - 1


# Evaluate --------------------------------------------------------------------------------------------------------


def test_a_shard_counts_what_reached_the_network(parts):
    asked, ready, shards = parts
    assert [shard.rows for shard in shards] == [50 * len(ready.plan)] * 4
    assert [shard.moments.n for shard in shards] == [50] * 4
    assert [shard.seeds for shard in shards] == asked.shards()


def test_an_image_is_the_same_in_any_shard(gmm, parts):
    _, ready, shards = parts
    (whole,) = evaluate(ready.plan, gmm, range(1000, 1200))
    merged = Moments.merge([shard.moments for shard in shards])
    np.testing.assert_allclose(merged.mean, whole.moments.mean, rtol=0, atol=1e-6)
    np.testing.assert_allclose(merged.scatter, whole.moments.scatter, rtol=1e-5, atol=1e-4)


def test_a_batch_gives_each_of_its_shards(gmm, parts):
    asked, ready, shards = parts
    together = evaluate(ready.plan, gmm, range(1000, 1200), 50)
    assert [shard.seeds for shard in together] == asked.shards()
    assert [shard.rows for shard in together] == [shard.rows for shard in shards]
    for one, other in zip(together, shards, strict=True):
        np.testing.assert_allclose(one.moments.mean, other.moments.mean, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.moments.scatter, other.moments.scatter, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("images", "shard_images"), [(8000, 400), (1200, 600), (1500, 500), (1000, 100), (40, 8)])
def test_batches_are_runs_of_whole_shards_and_cover_what_is_asked_once(images, shard_images):
    asked = spec(images=images, shard_images=shard_images, first_seed=7)
    for start in (0, shard_images):
        batches = asked.batches(start, images - shard_images)
        assert [seed for batch in batches for seed in batch] == list(range(7 + start, 7 + images - shard_images))
        assert all(len(batch) % shard_images == 0 for batch in batches)
        assert all(len(batch) <= max(BATCH_IMAGES, shard_images) for batch in batches)
    assert len(asked.batches()) <= math.ceil(images / max(shard_images, BATCH_IMAGES // 2))


@pytest.mark.parametrize("factor", [1e308, 1e39, -1e308])
def test_a_plan_that_blows_up_is_its_own_fault(gmm, parts, factor):
    _, ready, _ = parts
    last = f"d{len(ready.plan) - 1}"
    wild = dataclasses.replace(ready.plan, output={**ready.plan.output, last: factor})
    with pytest.raises(NotFiniteError, match=r"10 of 10 samples are not finite \(seeds 20-29\)"):
        evaluate(wild, gmm, range(20, 30))


def test_one_bad_sample_is_enough(gmm):
    class Broken:
        shape, device, acceleration = gmm.shape, gmm.device, gmm.acceleration

        def denoiser(self, seeds, device=None):
            def denoise(x, sigma):
                answer = gmm.model.denoiser()(x, sigma).clone()
                answer[3, 0, 0, 0] = math.nan
                return answer

            return denoise

        def features(self, samples):
            raise AssertionError("what is not finite has no features")

    plan = prepare(spec(), gmm).plan
    with pytest.raises(NotFiniteError, match="1 of 10 samples"):
        evaluate(plan, Broken(), range(10))
