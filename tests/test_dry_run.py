"""What a study will cost, told before it is spent: against a search that was made, and without any weights."""

import io
import json
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import search_spaces
from pipeline import benchmarks, dry_run
from pipeline.benchmarks import Benchmark
from pipeline.methods import METHODS
from pipeline.metrics.features import Identity
from pipeline.networks.arguments import build
from pipeline.networks.flops import flops
from pipeline.speed import FLOAT16, FLOAT32, speed
from pipeline.trial import TrialSpec, prepare
from tests.cli.console import TINY, contents, done, refused
from tests.networks import tiny
from tests.test_shorthand import CARD, MODULE, put_checkpoint

NO_TRIALS = {
    "benchmark": "card.yaml",
    "trials": 0,
    "published": [],
    "baselines": ["ddim", "heun", "dpm_solver_2", "ipndm_gits"],
    "budgets": [3, 4, 6],
    "images": 40,
    "shard_images": 10,
    "rungs": {"teacher": 20},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A small study on a network of the user's own, and no files of the shipped cards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SIGMASEARCH_DATA", str(tmp_path / "none"))
    (tmp_path / "own_word.py").write_text(MODULE)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(yaml.safe_load(TINY.read_text()) | NO_TRIALS))
    yield tmp_path
    sys.modules.pop("own_word", None)


@pytest.fixture(scope="module")
def cifar10():
    """What is told of the shipped study, where none of its files is."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv("SIGMASEARCH_DATA", f"{folder}/none")
        patch.chdir(folder)
        made = dry_run.dry_run("cifar10", {})
        assert contents(Path(folder)) == {}
        return made


def told(*argv):
    return json.loads(done("search", *argv, "--dry-run", "--json").out)


def parts(forecast):
    return {part["name"]: part for part in forecast["parts"]}


def test_what_is_measured_costs_what_was_told(place):
    asked = ("study.yaml", "--model", "python:own_word:model")
    before = contents(place)
    forecast = told(*asked)
    assert contents(place) == before
    held = parts(forecast)
    spent = json.loads(done("search", *asked, "--json").out)["network_rows"]
    assert forecast["benchmark"] == "card.yaml@python:own_word:model"
    measured = ("floor", "baselines", "set-up: baselines")
    assert sum(held[name]["estimate"] for name in measured) == spent["baselines and floor"]
    assert 0 < spent["confirmation"] <= held["confirmations"]["most"]
    assert "--model" not in refused(place, "search", "study.yaml"), "without it this is another study"


def test_every_part_adds_up(cifar10):
    study = search_spaces.load("cifar10")
    forecast = cifar10.to_json()
    held, images, taught = parts(forecast), 50_000, 128
    assert held["floor"]["most"] == (images + taught) * 79
    costs = [n for name in METHODS.names() for n in study.budgets if METHODS.get(name).pair(n) is not None]
    assert held["baselines"]["count"] == len(costs)
    assert held["baselines"]["most"] == (images + taught) * sum(costs)
    settings = len(study.published_points)
    assert (held["published"]["count"], held["searched"]["count"]) == (settings, 200 - settings)
    assert held["searched"]["most"] == (200 - settings) * (images + taught) * 35
    assert held["confirmations"]["most"] == images * (79 + sum(range(1, 36)) + sum(study.budgets))
    assert held["set-up: teacher"]["most"] == taught * 79
    for which, key in (("full_size", "most"), ("estimate", "estimate")):
        assert forecast["network_rows"][which] == sum(part[key] for part in held.values())
    assert all(0 < part["estimate"] <= part["most"] for part in held.values())


@pytest.mark.parametrize(("eta_min", "eta_max"), [(0.01, 0.4), (0.001, 0.01)])
def test_a_walk_on_few_pixels_costs_what_it_does_on_all(eta_min, eta_max):
    schedule = {"name": "sdm", "num_steps": 8, "eta_min": eta_min, "eta_max": eta_max, "calibration_images": 16}
    spec, card = TrialSpec("gmm", {"name": "euler"}, schedule), benchmarks.card_of("gmm")
    few, all_ = (
        Benchmark(card, dry_run.Gaussian(shape), Identity()) for shape in ((1, 1, dry_run.PIXELS), (3, 16, 16))
    )
    whole = prepare(spec, all_).setup_rows
    assert prepare(dry_run.of_fewer_pixels(spec, 3 * 16 * 16), few).setup_rows == pytest.approx(whole, rel=0.03)


def test_published_settings_are_counted_one_by_one(place):
    """Heun at 3 and 5 moves, and Euler at 4: no other trial is tried."""
    space = {"solver": {"choices": {"euler": {"name": "euler"}, "heun": {"name": "heun"}}},
             "schedule": {"name": "edm", "num_steps": {"low": 2, "high": 9}}}  # fmt: skip
    points = [{"solver": "heun", "schedule.num_steps": [3, 5]}, {"solver": "euler", "schedule.num_steps": 4}]
    content = yaml.safe_load(TINY.read_text()) | NO_TRIALS
    content |= {"space": space, "published": points, "trials": 3, "budgets": [3, 8], "rungs": "none"}
    (place / "study.yaml").write_text(yaml.safe_dump(content))
    held = parts(told("study.yaml"))
    assert "searched" not in held
    assert held["published"]["count"] == 3
    # Heun's five moves are nine evaluations, above the last budget, and are refused unseen.
    assert held["published"]["most"] == held["published"]["estimate"] == 40 * (5 + 4)


def test_hours_are_those_of_the_networks_own_size_where_nothing_is_here(cifar10):
    forecast = cifar10.to_json()
    rate = FLOAT32.flops / flops(benchmarks.model_of("cifar10-vp").outline)
    assert forecast["rows_per_second"] == pytest.approx(rate)
    assert forecast["hours"]["of"] == "GPU"
    assert forecast["hours"]["estimate"] == pytest.approx(forecast["network_rows"]["estimate"] / rate / 3600)
    assert "V100" in forecast["rate"]
    assert [path.rsplit("/", 1)[1] for path in forecast["missing"]] == [
        "edm-cifar10-32x32-uncond-vp.pkl",
        "cifar10-32x32.npz",
    ]


def test_what_a_gpu_comes_to_may_be_given(place):
    plain, faster = (speed("cifar10-vp", 1, 1, 10, tflops) for tflops in (None, 36.0))
    assert faster.rows_per_second == pytest.approx(2 * plain.rows_per_second)
    assert "--gpu-tflops" in faster.told


def test_a_network_of_float16_is_told_for_a_device_of_it(place):
    network = benchmarks.model_of("imagenet64").outline
    assert speed("imagenet64", 1, 1, 10).rows_per_second == pytest.approx(FLOAT16.flops / flops(network))


def test_the_rates_are_those_of_the_published_training_runs():
    """README of NVlabs/edm: images, GPUs and days of a run; three forward passes a step."""
    row = {name: flops(benchmarks.model_of(name).outline) for name in ("cifar10-vp", "ffhq-vp", "imagenet64")}
    for name, images, gpus, days, device in (
        ("cifar10-vp", 200e6, 8, 2, FLOAT32),
        ("ffhq-vp", 200e6, 8, 4, FLOAT32),
        ("imagenet64", 2.5e9, 32, 13, FLOAT16),
    ):
        assert 3 * row[name] * images / (gpus * days * 86400) == pytest.approx(device.flops, rel=0.03)


def test_a_benchmark_that_is_here_is_measured(place):
    forecast = told("study.yaml")
    assert forecast["rate"].startswith("measured: ")
    assert forecast["hours"]["of"] == "CPU"
    assert forecast["rows_per_second"] > 100
    assert forecast["missing"] == []


def test_without_the_weights_of_its_features_a_network_is_counted_instead(place, monkeypatch):
    monkeypatch.delenv("SIGMASEARCH_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(place / "none"))
    put_checkpoint(place / "n.pkl")
    changes = {"model": "edm:n.pkl", "features": "inception", "quantise": True, "reference": "n.npz"}
    (place / "card.yaml").write_text(yaml.safe_dump(CARD | changes))
    rate = speed("card.yaml", 0, 1, 4)
    assert "not measured: no weights of its features here" in rate.told
    outlined = build("EDMPrecond", tiny.TINY["ddpmpp"])
    assert rate.rows_per_second == pytest.approx(FLOAT32.flops / flops(outlined))


def test_guidance_is_counted(place):
    (place / "own_word.py").write_text(MODULE + "\nMine.rows_per_image = 2\n")
    study = search_spaces.load("study.yaml", {"model": "python:own_word:model"})
    held = parts(dry_run.forecast(study, speed("gmm", 0, 1, 4)).to_json())
    plain = parts(dry_run.forecast(search_spaces.load("study.yaml"), speed("gmm", 0, 1, 4)).to_json())
    assert study.rows_per_image == 2
    assert held["floor"]["most"] == 2 * plain["floor"]["most"]
    # Of 3, 4 and 6 NFE the first is none of a guided network's, and the others are 2 and 3 evaluations.
    assert held["baselines"]["count"] == sum(
        METHODS.get(name).pair(n) is not None for name in NO_TRIALS["baselines"] for n in (2, 3)
    )


def test_the_table_says_how_it_was_made(cifar10):
    screen = io.StringIO()
    dry_run.show(cifar10, Console(file=screen, width=80))
    text = " ".join(screen.getvalue().split())
    for words in ("GPU hours: ", "not here: ", "1/10.1", "set-up: baselines", "random points of the space", "TFLOP/s"):
        assert words in text


def test_mistakes_are_one_line(place):
    assert "--gpu-tflops: is for --dry-run" in refused(place, "search", "study.yaml", "--gpu-tflops", "3")
    line = refused(place, "search", "study.yaml", "--dry-run", "--gpu-tflops", "3")
    assert "--gpu-tflops: is for a network whose layers are known" in line
