"""`sigmasearch export` as a user meets it."""

import json

import pytest
import torch

from pipeline.card import read_card, write_card
from pipeline.export.target import TARGETS
from tests.cli.console import contents, done, misused, refused
from tests.conformance_problem import LATENTS, MIXTURE
from tests.exports.exported import source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def card(tmp_path):
    write_card(tmp_path / "card.json", source("unipc").card)
    return tmp_path / "card.json"


@pytest.mark.parametrize("target", TARGETS.names())
def test_it_writes_one_file_and_names_it(folder, card, target):
    ran = done("export", card, "--to", target, "--out", "made/sampler.py")
    assert "made/sampler.py" in ran.out
    assert set(contents(folder)) == {"card.json", "made", "made/sampler.py"}
    first = (folder / "made" / "sampler.py").read_bytes()
    done("export", card, "--to", target, "--out", "made/sampler.py")
    assert (folder / "made" / "sampler.py").read_bytes() == first


def test_the_file_runs(folder, card):
    done("export", card, "--to", "python", "--out", "sampler.py")
    held = {}
    exec((folder / "sampler.py").read_text(), held)
    assert torch.equal(held["sample"](MIXTURE, LATENTS), read_card(card)[1].run(MIXTURE, LATENTS))


def test_json_tells_the_sigmas_and_each_target_has_a_file_of_its_own(folder, card):
    told = [json.loads(done("export", card, "--to", target, "--json").out) for target in TARGETS.names()]
    plan = read_card(card)[1]
    for each in told:
        assert each["sigmas"] == list(plan.sigmas)
        assert each["nfe"] == len(plan)
        assert each["plan"] == plan.digest
        assert (folder / each["file"]).is_file()
    assert len({each["file"] for each in told}) == len(TARGETS.names())


def test_a_card_of_the_plan_command_is_exported(folder):
    options = ("--solver", "switch", "--set", "solver.calibration_images=8", "--schedule", "edm", "--afs")
    done("plan", "gmm", *options, "--set", "schedule.num_steps=4", "--out", "card.json")
    told = json.loads((folder / "card.json").read_text())
    assert sum(told["steps"]["evaluations"]) == told["nfe"]
    assert told["steps"]["evaluations"][0] == 0
    assert set(told["steps"]["solver"]) <= {"euler", "heun"}
    assert told["terminal"] == {"rule": "zero", "sigma": 0.0}
    done("export", "card.json", "--to", "diffusers", "--out", "sampler.py")


def test_bad_input_is_one_line(folder, card):
    assert "did you mean 'k-diffusion'?" in refused(folder, "export", card, "--to", "k-difusion")
    assert "allowed: comfyui, diffusers, k-diffusion, python" in refused(folder, "export", card, "--to", "jax")
    (folder / "made").mkdir()
    assert "--out: is a folder" in refused(folder, "export", card, "--to", "python", "--out", "made")
    assert "cannot be written" in refused(folder, "export", card, "--to", "python", "--out", "card.json/x.py")
    assert "nowhere.json: the card cannot be read" in refused(folder, "export", "nowhere.json", "--to", "python")
    newer = source("unipc").card | {"schema": "sigmasearch/card-7"}
    write_card(folder / "newer.json", newer)
    assert "written by a newer sigmasearch" in refused(folder, "export", "newer.json", "--to", "python")
    (folder / "other.json").write_text('{"name": "x"}')
    assert "this JSON is not a card" in refused(folder, "export", "other.json", "--to", "python")
    write_card(folder / "wrong.json", source("unipc").card | {"result": {"fid": "low"}})
    assert "wrong.json: result.nfe" in refused(folder, "export", "wrong.json", "--to", "comfyui")


def test_the_target_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Missing option '--to'" in misused(tmp_path, "export", "card.json")
