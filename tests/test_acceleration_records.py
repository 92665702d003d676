"""How a network was run, in a study's identity and in every record of it; nothing where nothing was asked."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml

import search_spaces
from pipeline import benchmarks
from pipeline.acceleration import AS_IS, Acceleration
from pipeline.card import card
from pipeline.cluster import InProcessPool, open_pool
from pipeline.entry import Entry
from pipeline.fork import CONDITIONS
from pipeline.models.edm import EdmModel
from pipeline.networks.checkpoint import write_checkpoint
from pipeline.noise import noise
from pipeline.registry import SpecError
from pipeline.result import TrialResult
from pipeline.run_folder import claim
from pipeline.scoring import MomentScoring
from pipeline.search import Search
from pipeline.trial import TrialSpec, evaluate, prepare
from search_spaces import Study
from tests.cli.console import done, refused
from tests.networks import tiny
from tests.spied_search import open_ledger
from tests.study_files import changed
from tests.study_files import refused as file_refused

CARD = {
    "name": "checkpoint", "version": 1, "title": "t", "description": "d", "published": {},
    "model": {"name": "edm", "path": "small.safetensors"}, "features": "identity", "quantise": False,
    "reference": "reference.npz", "sigma_min": 0.02, "sigma_max": 10.0, "sigma_source": "s",
}  # fmt: skip
STUDY = {
    "study": "half", "benchmark": "card.yaml", "budgets": [3], "trials": 0, "images": 40, "shard_images": 10,
    "workers": 0, "baselines": ["ddim"], "rungs": None, "confirm": None,
    "floor": {"solver": {"name": "euler"}, "schedule": {"name": "edm", "num_steps": 4}},
    "space": {"solver": {"name": "euler"}, "schedule": {"name": "edm", "num_steps": {"low": 2, "high": 3}}},
}  # fmt: skip
ASKED = {"autocast": "bfloat16", "state": "float64", "channels_last": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(tiny.checkpoint("ncsnpp"), made / "small.safetensors")
    np.savez(made / "reference.npz", mu=np.zeros(192), sigma=np.eye(192))
    (made / "card.yaml").write_text(yaml.safe_dump(CARD))
    return made


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def study(**changes):
    return Study.model_validate(STUDY | changes)


def test_a_study_as_it_is_says_nothing_of_it():
    plain, named = study(), study(network={"autocast": "none", "compile": False})
    assert plain.network == named.network == AS_IS
    assert "network" not in plain.identity()
    assert named.fingerprint == plain.fingerprint == study(network={"state": "float32"}).fingerprint


def test_what_changes_numbers_makes_another_study():
    plain = study()
    for key, value in ASKED.items():
        other = study(network={key: value})
        assert other.identity()["network"] == {key: value}
        assert other.fingerprint != plain.fingerprint
    # The same kernels, launched otherwise.
    graphs = study(network={"cuda_graphs": True}, resources={"gpus": 1})
    assert graphs.network.cuda_graphs
    assert graphs.fingerprint == plain.fingerprint
    assert study(resources={"gpus": 0.5, "device": "cuda:1"}).fingerprint == plain.fingerprint
    assert "network" in CONDITIONS


def test_a_run_directory_is_of_one_way_to_run_the_network(tmp_path):
    def begin(**changes):
        asked = study(**changes)
        claim(tmp_path / "run", asked.identity(), asked.fingerprint, "half.yaml").close()

    begin(network={"autocast": "bfloat16"})
    begin(network={"autocast": "bfloat16", "cuda_graphs": True}, resources={"gpus": 1})
    with pytest.raises(SpecError, match=r"half\.yaml: network\.autocast: differs .* is 'bfloat16' there; .*'float16'"):
        begin(network={"autocast": "float16"})
    # Nothing asked for where something was is another study as well.
    with pytest.raises(SpecError, match=r"network: differs from the study in .*: network is .*'bfloat16'.* there"):
        begin()


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ({"autocast": "bf16"}, "network.autocast: is not one of the choices, given 'bf16'; allowed: none, bfloat16, "
                               "float16; did you mean 'bfloat16'?"),
        ({"chanels_last": True}, "network.chanels_last: unknown key, given 'chanels_last'; allowed: autocast, "
                                 "channels_last, compile, cuda_graphs, state; did you mean 'channels_last'?"),
        ({"compile": "yes"}, "network.compile: has the wrong type, given 'yes'; allowed: true or false"),
        ("bfloat16", "network: has the wrong type, given 'bfloat16'; allowed: a mapping with autocast, state"),
        (None, "network: has the wrong type, given 'null'"),
        ({"autocast": "bfloat16"}, "network.autocast: gaussian_hierarchy is a closed form: no network to run so"),
        ({"cuda_graphs": True}, "network.cuda_graphs: gaussian_hierarchy is a closed form"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_study_file_is_one_line(tmp_path, network, says):
    content = changed("benchmark", "gmm") | {"network": network}
    assert str(file_refused(tmp_path, content)).split(".yaml: ", 1)[1].startswith(says)


@pytest.mark.parametrize(
    ("resources", "network", "says"),
    [
        ({"device": "gpu"}, {}, "resources.device: "),
        ({"device": "mps"}, {"state": "float64"}, "network.state: mps has no float64, given 'float64'"),
        ({}, {"cuda_graphs": True}, "network.cuda_graphs: there are none on cpu"),
    ],
)
def test_a_device_that_cannot_is_one_line(tmp_path, resources, network, says):
    file = tmp_path / "half.yaml"
    file.write_text(yaml.safe_dump(STUDY | {"resources": resources, "network": network}))
    with pytest.raises(SpecError) as told:
        search_spaces.load(file)
    assert str(told.value).startswith(f"{file}: {says}")
    assert "\n" not in str(told.value)


def test_a_device_that_is_not_here_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    content = changed("workers", 0) | {"resources": {"device": "cuda:3"}}
    (tmp_path / "far.yaml").write_text(yaml.safe_dump(content))
    told = refused(tmp_path, "search", tmp_path / "far.yaml", "--run-dir", tmp_path / "run")
    assert "resources.device: is not here, given 'cuda:3'; allowed: auto, cpu" in told


# Records ---------------------------------------------------------------------------------------------------------


def searched(**changes):
    """The floor's record of a study with nothing but a baseline, run in this process."""
    asked = study(**changes)
    benchmark = dataclasses.replace(benchmarks.load("card.yaml"), acceleration=asked.network)
    ledger = open_ledger(None, asked)
    pool = open_pool("card.yaml", 0, device=asked.resources.place, acceleration=asked.network)
    Search(asked, ledger, lambda: pool, MomentScoring(benchmark), (0.02, 10.0)).run()
    return next(record for record in ledger.records() if record.key == "floor")


@pytest.fixture(scope="module")
def records(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return searched(), searched(network=ASKED)


def test_every_record_says_how_the_network_was_run(records):
    plain, half = records
    assert half.result.network == ASKED
    assert half.result.fid != plain.result.fid
    assert half.result.fid == pytest.approx(plain.result.fid, rel=0.05)
    assert half.result.plan == plain.result.plan  # what is calibrated is calibrated by the network as it is
    told = half.result.to_json()
    assert told["network"] == ASKED
    assert TrialResult.from_json(json.loads(json.dumps(told))) == half.result
    params = Entry.of(half).params
    assert {key: params[key] for key in params if key.startswith("network")} == {
        "network.autocast": "bfloat16", "network.state": "float64", "network.channels_last": "true",
    }  # fmt: skip
    assert half.result.nfe == len(half.result.plan)


def test_records_of_a_network_as_it_is_are_those_of_before(records):
    plain, _ = records
    told = plain.result.to_json()
    assert "network" not in told
    assert TrialResult.from_json(told) == plain.result
    assert "network" not in card(plain.result)
    assert not [key for key in Entry.of(plain).params if key.startswith("network")]


def test_a_card_takes_along_what_matters_elsewhere_and_is_scored_so(records, tmp_path):
    plain, half = records
    for name, record in (("plain", plain), ("half", half)):
        (tmp_path / f"{name}.json").write_text(json.dumps(card(record.result)))
    held = json.loads((tmp_path / "half.json").read_text())
    assert held["network"] == {"autocast": "bfloat16", "state": "float64"}
    again = json.loads(done("evaluate", tmp_path / "half.json", "--device", "cpu", "--json").out)
    assert again["network"] == held["network"]
    assert again["fid"] == pytest.approx(half.result.fid, rel=1e-3)
    whole = json.loads(done("evaluate", tmp_path / "plain.json", "--device", "cpu", "--json").out)
    assert whole["fid"] == plain.result.fid
    assert "network" not in whole
    assert "device" not in whole
    # Options go before the card.
    exact = json.loads(
        done(
            "evaluate", tmp_path / "half.json", "--device", "cpu", "--autocast", "none", "--state", "float32", "--json"
        ).out
    )
    assert exact["fid"] == plain.result.fid
    told = done("evaluate", tmp_path / "plain.json", "--device", "cpu", "--channels-last", "--autocast", "bfloat16").out
    assert "network on cpu, autocast bfloat16, channels_last True" in told


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("--autocast", "half"),
            "--autocast: is not one of the choices, given 'half'; allowed: none, bfloat16, float16",
        ),
        (("--state", "double"), "--state: is not one of the choices, given 'double'; allowed: float32, float64"),
        (("--device", "tpu"), "--device: is no device, given 'tpu'"),
        (("--device", "cpu", "--cuda-graphs"), "--cuda-graphs: there are none on cpu"),
    ],
)
def test_an_option_that_cannot_be_is_one_line(records, tmp_path, options, says):
    (tmp_path / "plain.json").write_text(json.dumps(card(records[0].result)))
    assert says in refused(tmp_path, "evaluate", tmp_path / "plain.json", *options)


def test_a_card_that_says_nonsense_of_its_network_is_refused(records, tmp_path):
    for told, says in (
        ({"autocast": "int4"}, "network.autocast: is not one of"),
        (["bfloat16"], "network: has the wrong"),
    ):
        (tmp_path / "card.json").write_text(json.dumps(card(records[1].result) | {"network": told}))
        line = refused(tmp_path, "evaluate", tmp_path / "card.json")
        assert "card.json: " in line
        assert says in line


# What is sampled -------------------------------------------------------------------------------------------------


SPEC = TrialSpec("card.yaml", {"name": "euler"}, {"name": "edm", "num_steps": 3}, images=40, shard_images=20)


def test_classes_go_with_their_seeds_whatever_fits(folder, monkeypatch):
    held = benchmarks.load("card.yaml")
    plan = prepare(SPEC, held).plan
    whole = evaluate(plan, held, range(40), 20)
    network = type(held.model._network)
    forward = network.forward

    def cramped(self, x, *rest):
        if len(x) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, *rest)

    monkeypatch.setattr(network, "forward", cramped)
    fresh = dataclasses.replace(held)
    for one, other in zip(whole, evaluate(plan, fresh, range(40), 20), strict=True):
        np.testing.assert_allclose(other.moments.mean, one.moments.mean, rtol=1e-4, atol=1e-4)
        assert other.rows == one.rows
    assert fresh.images_at_once == 5


def test_the_state_is_what_was_asked_for(monkeypatch):
    seen = []
    made = EdmModel.denoiser_for

    def spied(self, seeds, device="cpu"):
        denoise = made(self, seeds, device)

        def watched(x, sigma):
            seen.append(x.dtype)
            return denoise(x, sigma)

        return watched

    monkeypatch.setattr(EdmModel, "denoiser_for", spied)
    held = benchmarks.load("card.yaml")
    plan = prepare(SPEC, held).plan
    for state, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        seen.clear()
        evaluate(plan, held.placed("cpu", Acceleration(state=state)), range(4), 2)
        assert set(seen) == {dtype}


def elsewhere_is_here(to):
    """`Tensor.to` where "mps" is the CPU."""

    def moved(self, *given, **named):
        return to(self, *("cpu" if isinstance(each, str) and each == "mps" else each for each in given), **named)

    return moved


def test_a_network_is_calibrated_where_it_samples_and_the_rest_on_the_cpu(monkeypatch):
    asked = TrialSpec("card.yaml", {"name": "switch", "tau_k": 0.1, "calibration_images": 3}, SPEC.schedule)
    here = prepare(asked, held := benchmarks.load("card.yaml"))
    seen, loaded = [], type(held.model).denoiser_for

    def denoiser_for(self, seeds, device="cpu"):
        """Another device's, which is told by its name and has no float64."""
        assert device == "mps"
        bare = loaded(self, seeds, "cpu")

        def denoise(x, sigma):
            seen.append((x.dtype, len(x)))
            return bare(x, sigma)

        return denoise

    monkeypatch.setattr(type(held.model), "denoiser_for", denoiser_for)
    monkeypatch.setattr(torch.Tensor, "to", elsewhere_is_here(torch.Tensor.to))
    there = prepare(asked, dataclasses.replace(held, device="mps"))
    assert set(seen) == {(torch.float32, 3)}
    assert there.setup_rows == here.setup_rows == 3 * len(seen) * held.rows_per_image
    assert there.plan == here.plan
    assert benchmarks.load("digits-kde").placed("cpu", Acceleration()).calibration_device == "cpu"
    assert dataclasses.replace(benchmarks.load("digits-kde"), device="cuda").calibration_device == "cpu"


def test_what_is_calibrated_is_calibrated_by_the_network_as_it_is():
    held = benchmarks.load("card.yaml")
    half = held.placed("cpu", Acceleration("bfloat16"))
    x = noise(range(3), held.shape, torch.float64)
    bare = held.denoiser(range(3))(x, 1.0)
    assert torch.equal(half.denoiser(range(3), "cpu")(x, 1.0), bare)
    assert not torch.equal(half.denoiser(range(3))(x, 1.0), bare)


def test_a_network_in_a_worker_is_made_ready_once(folder):
    pool = InProcessPool("card.yaml", acceleration=Acceleration(channels_last=True))
    benchmark = pool._worker.benchmark
    for seeds in (range(4), range(4, 8)):
        evaluate(prepare(SPEC, benchmark).plan, benchmark, seeds, 2)
    assert len(benchmark._accelerator._made) == 1
    pool.close()
