"""From shards to scores, results and the words for them, on the Gaussian mixture with 200 images."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from pipeline.benchmarks import load
from pipeline.card import card
from pipeline.metrics.distances import jackknife
from pipeline.plan import Plan
from pipeline.result import TrialResult, describe
from pipeline.scoring import MomentScoring, finish
from pipeline.trial import TrialSpec, evaluate, prepare

EDM_5 = {"name": "edm", "num_steps": 5}
HEUN = {"name": "heun"}


def spec(**fields):
    held = {"benchmark": "gmm", "solver": HEUN, "schedule": EDM_5, "images": 200, "shard_images": 50}
    return TrialSpec(**{**held, **fields})


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))


def evaluated(asked, ready, benchmark):
    return [shard for seeds in asked.shards() for shard in evaluate(ready.plan, benchmark, seeds)]


@pytest.fixture(scope="module")
def gmm():
    return load("gmm")


@pytest.fixture(scope="module")
def parts(gmm):
    """A spec, made ready, and its shards."""
    asked = spec(first_seed=1000)
    ready = prepare(asked, gmm)
    return asked, ready, evaluated(asked, ready, gmm)


def test_the_order_in_which_shards_end_does_not_matter(gmm, parts):
    asked, ready, shards = parts
    expected = json.dumps(finish(asked, ready, shards, gmm).to_json())
    for order in itertools.permutations(shards):
        assert json.dumps(finish(asked, ready, order, gmm).to_json()) == expected


def test_a_prefix_is_scored_by_its_own_images_whatever_their_order(gmm, parts):
    _, ready, shards = parts
    scoring = MomentScoring(gmm)
    part = scoring.score(ready.plan, shards[:3])
    assert part == scoring.score(ready.plan, [shards[2], shards[0], shards[1]])
    assert part.images == 150
    assert part == jackknife([shard.moments for shard in shards[:3]], gmm.reference)
    assert scoring.score(ready.plan, shards) == finish(*parts, gmm).score != part


@pytest.mark.parametrize("wrong", ["missing", "twice", "foreign", "none"])
def test_shards_that_are_not_those_of_the_spec_are_refused(gmm, parts, wrong):
    asked, ready, shards = parts
    given = {
        "missing": shards[:-1],
        "twice": [*shards, shards[0]],
        "foreign": [*shards[:-1], dataclasses.replace(shards[-1], seeds=range(50))],
        "none": [],
    }[wrong]
    with pytest.raises(ValueError, match="not those of the spec"):
        finish(asked, ready, given, gmm)


def test_the_result_says_what_was_measured(gmm, parts):
    asked, ready, shards = parts
    result = finish(asked, ready, shards, gmm)
    assert result.nfe == len(result.plan) == 9
    assert result.rows == 9 * 200
    assert result.setup_nfe == 0
    assert result.seconds == sum(shard.seconds for shard in shards)
    assert result.images_per_second == pytest.approx(200 / result.seconds)
    assert (result.reference_hash, result.model_hash) == (gmm.reference_hash, gmm.model_hash)
    assert 0 < result.fid_corrected < result.fid
    assert 0 < result.fid_se < result.fid


def test_more_evaluations_score_better_on_the_same_seeds(gmm):
    results = []
    for steps in (5, 40):
        asked = spec(solver={"name": "euler"}, schedule={"name": "edm", "num_steps": steps})
        ready = prepare(asked, gmm)
        results.append(finish(asked, ready, evaluated(asked, ready, gmm), gmm))
    few, many = results
    assert (few.nfe, many.nfe) == (5, 40)
    assert many.fid + many.fid_se < few.fid


def test_a_result_survives_json_to_the_last_bit(gmm, parts):
    asked, ready, shards = parts
    result = finish(asked, ready, shards, gmm)
    again = TrialResult.from_json(through_json(result.to_json()))
    assert again == result
    assert again.plan == result.plan
    assert isinstance(again.plan, Plan)
    assert json.dumps(again.to_json()) == json.dumps(result.to_json())


@pytest.mark.parametrize(
    ("solver", "schedule", "words"),
    [
        ({"name": "heun"}, EDM_5, "heun edm 5"),
        ({"name": "unipc", "order": 3}, EDM_5, "unipc-3 edm 5"),
        ({"name": "switch"}, EDM_5, "sdm euler>heun edm 5"),
        ({"name": "switch", "switch_at": 3}, EDM_5, "sdm euler>heun@3 edm 5"),
        ({"name": "switch", "switch_at": 0}, EDM_5, "sdm euler>heun@0 edm 5"),
        ({"name": "switch", "rule": "cosine", "switch_at": 3}, EDM_5, "sdm euler>heun cosine edm 5"),
        ({"name": "switch", "low": {"name": "ipndm", "order": 2}, "high": HEUN}, EDM_5, "sdm ipndm-2>heun edm 5"),
        ({"name": "switch", "low": HEUN, "high": HEUN}, EDM_5, "heun edm 5"),
        (HEUN, {"name": "given", "values": [1.0, 0.0]}, "heun given"),
        (HEUN, {"name": "sdm", "num_steps": None}, "sdm heun wasserstein"),
    ],
)
def test_a_method_in_a_few_words(solver, schedule, words):
    assert describe(spec(solver=solver, schedule=schedule)) == words


def test_a_result_is_described_by_what_was_decided(gmm):
    asked = spec(solver={"name": "switch", "switch_at": None, "tau_k": 0.0, "calibration_images": 4})
    ready = prepare(asked, gmm)
    result = finish(asked, ready, evaluated(asked, ready, gmm), gmm)
    assert describe(asked) == "sdm euler>heun edm 5"
    assert describe(result) == "sdm euler>heun@0 edm 5"


def test_a_scored_trial_keeps_the_walk_behind_its_schedule(gmm):
    sdm = {"name": "sdm", "num_steps": 4, "eta_min": 1e-6, "eta_max": 1e-5, "calibration_images": 16}
    asked = spec(solver={"name": "euler"}, schedule=sdm)
    ready = prepare(asked, gmm)
    result = finish(asked, ready, evaluated(asked, ready, gmm), gmm)
    assert len(result.walk) == len(ready.walk) > 1
    told = card(result)["walk"]
    assert told["kept"] == [eta <= allowed for eta, allowed in zip(told["eta"], told["allowed"], strict=True)]
    assert TrialResult.from_json(through_json(result.to_json())) == result
