"""Guided networks and those that know each image's class: what is counted, what is searched, whose class it is."""

import dataclasses
import json
import math

import pytest
import torch
import yaml

from pipeline import benchmarks
from pipeline.card import write_card
from pipeline.cluster import InProcessPool
from pipeline.methods import METHODS
from pipeline.noise import noise
from pipeline.registry import SpecError
from pipeline.scoring import MomentScoring
from pipeline.search import Search
from pipeline.trial import TrialSpec, evaluate, prepare
from search_spaces import Study
from tests.cli.console import done, refused
from tests.spied_search import open_ledger
from tests.test_own_model import CARD, written  # noqa: F401  # a fixture

# Two Gaussians, one a class; the class is the seed's parity. Guided: D = D_all + 1.5 (D_class - D_all).
GUIDED = """
import torch

class Mine:
    shape, rows_per_image, hash = (1, 2, 2), 2, "two Gaussians"
    def seen(self, x, sigma, mean):
        return (0.04 * x + sigma**2 * mean) / (0.04 + sigma**2)
    def denoise(self, x, sigma):
        raise AssertionError("every image has a class")
    def denoise_for(self, seeds):
        means = torch.tensor([-0.5 if seed % 2 else 0.5 for seed in seeds])[:, None, None, None]
        def denoise(x, sigma):
            assert len(x) == len(means), "asked about images of other seeds"
            every = self.seen(x, sigma, torch.zeros(1))
            return every + 1.5 * (self.seen(x, sigma, means) - every)
        return denoise
    def images(self):
        drawn = torch.randn(500, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.2
        return drawn + torch.tensor([0.75, -0.75]).repeat(250)[:, None, None, None]

def model(device):
    return Mine()
"""
STUDY = {
    "study": "guided",
    "benchmark": "mine.yaml",
    "budgets": [4, 7, 8],
    "trials": 4,
    "images": 200,
    "shard_images": 20,
    "workers": 0,
    "threads": 1,
    "baselines": ["ddim", "heun"],
    "rungs": {"teacher": 32, "images": [100]},
    "floor": {"solver": {"name": "heun"}, "schedule": {"name": "edm", "num_steps": 16}},
    "space": {
        "solver": {"name": "switch", "tau_k": {"low": 0.01, "high": 10.0, "log": True}, "calibration_images": 16},
        "schedule": {
            "name": "edm",
            "num_steps": {"low": 2, "high": 5},
            "sigma_min": 0.01,
            "sigma_max": 10.0,
            "final": "sigma_min",
        },
    },
    "published": [{"solver.tau_k": 1.0, "schedule.num_steps": [2, 4]}],
}


@pytest.fixture
def guided(written):  # noqa: F811  # the fixture
    written(GUIDED)
    return benchmarks.from_card(CARD)


def specs():
    """Every method at 8 rows, and what learns from the network before it samples."""
    pairs = [method.spending(8, 2) for method in METHODS]
    pairs += [
        ({"name": "switch", "tau_k": 0.1, "calibration_images": n}, {"name": "sdm", "num_steps": 4}) for n in (8, 64)
    ]
    ends = {"sigma_min": 0.01, "sigma_max": 10.0}
    return [TrialSpec("mine", pair[0], ends | pair[1], images=40, shard_images=10) for pair in pairs if pair]


def test_every_method_asks_about_the_images_of_the_seeds_it_was_given(guided):
    asked = specs()
    assert len(asked) > 12
    for spec in asked:
        ready = prepare(spec, guided)
        assert ready.nfe == 2 * len(ready.plan)
        whole = evaluate(ready.plan, guided, range(40), 10)
        assert sum(shard.rows for shard in whole) == 40 * ready.nfe
        parts = [evaluate(ready.plan, guided, seeds)[0] for seeds in spec.shards()]
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(torch.tensor(one.moments.mean), torch.tensor(other.moments.mean))


def test_an_image_is_of_the_class_of_its_seed(guided):
    plan = prepare(dataclasses.replace(specs()[0]), guided).plan
    for seeds in (range(7, 8), range(8, 9)):
        (shard,) = evaluate(plan, guided, seeds)
        sign = -1 if seeds.start % 2 else 1
        assert sign * shard.moments.mean.mean() > 0.3


def test_setup_counts_both_rows_of_each_calibration_image(guided):
    switch = {"name": "switch", "tau_k": 0.1, "calibration_images": 8}
    spec = TrialSpec("mine", switch, {"name": "edm", "num_steps": 5}, images=40, shard_images=10)
    ready = prepare(spec, guided)
    assert ready.setup_rows == 8 * ready.setup_nfe == 8 * 2 * 5


def test_a_search_has_its_budgets_in_rows(guided, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CARD))
    study, pool = Study.model_validate(STUDY), InProcessPool("mine.yaml")
    ledger, ends = open_ledger(None, study), (guided.sigma_min, guided.sigma_max)
    Search(study, ledger, lambda: pool, MomentScoring(guided), ends).run()
    found = {record.key: record for record in ledger.records()}
    assert {key for key in found if key.startswith("baseline")} == {
        f"baseline/{name}" for name in ("ddim/4", "ddim/8", "heun/4", "heun/8")
    }, "no method spends an odd number of rows"
    for record in found.values():
        if record.result is not None:
            assert record.result.nfe == 2 * len(record.result.plan)
    assert found["published/0"].result.nfe == 4
    assert found["published/1"].reason == "NFE 10 is above the last budget, 8"
    confirmed = [record.result for record in found.values() if record.role == "confirmed"]
    assert confirmed
    write_card(tmp_path / "card.json", confirmed[-1])
    held = json.loads((tmp_path / "card.json").read_text())
    assert held["nfe"] == held["result"]["nfe"] == 2 * len(held["plan"]["stages"])
    assert held["benchmark"]["rows_per_image"] == 2
    again = json.loads(done("evaluate", "card.json", "--json").out)
    assert again["fid"] == pytest.approx(held["result"]["fid"])
    assert again["nfe"] == held["nfe"]


def test_plan_says_evaluations_and_rows(guided, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CARD))
    told = done("plan", "mine.yaml", "--baseline", "ddim", "--nfe", 8).out
    assert "8 NFE, 4 evaluations of 2 network rows" in told
    line = refused(tmp_path, "plan", "mine.yaml", "--baseline", "ddim", "--nfe", 7, "--out", "odd.json")
    assert "--nfe: DDIM cannot spend exactly that many evaluations, given 7; allowed: 2, 4, 6" in line


def test_a_card_of_other_rows_is_no_card(guided, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CARD))
    done("plan", "mine.yaml", "--baseline", "ddim", "--nfe", 8)
    held = json.loads((tmp_path / "card.json").read_text())
    for rows in (1, 0, "2"):
        held["benchmark"]["rows_per_image"] = rows
        (tmp_path / "card.json").write_text(json.dumps(held))
        assert "card.json: " in refused(tmp_path, "sample", "card.json")


@pytest.mark.parametrize("wrong", ["denoise_for = 3", "denoise_for = lambda self, seeds: None"])
def test_what_denoise_for_must_be(written, wrong):  # noqa: F811  # the fixture
    written(GUIDED + f"\nMine.{wrong}")
    guided = benchmarks.from_card(CARD)
    with pytest.raises(SpecError, match="no right denoise_for"):
        guided.denoiser(range(3))(noise(range(3), guided.shape), 1.0)


def test_guidance_is_the_formula(guided):
    x = noise(range(2), guided.shape)
    shrink, pull = 0.04 / 1.04, 1 / 1.04
    means = torch.tensor([0.5, -0.5])[:, None, None, None]
    torch.testing.assert_close(guided.denoiser(range(2))(x, 1.0), shrink * x + 1.5 * pull * means)
    assert math.isclose(guided.rows_per_image, 2)
