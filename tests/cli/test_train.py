"""`sigmasearch train`: the same bytes from the same seed, all or nothing, and mistakes told before the work."""

import csv
import os

import pytest

from pipeline import digits_unet
from pipeline.models import MODELS
from tests.cli.console import command, contents, done, refused


@pytest.fixture
def quick(monkeypatch):
    """Two lines of the log, each of few images and few evaluations."""
    monkeypatch.setattr(digits_unet, "POINTS", 2)
    monkeypatch.setattr(digits_unet, "IMAGES", 100)
    monkeypatch.setattr(digits_unet, "MOVES", 2)
    monkeypatch.setattr(digits_unet, "REPEATS", 1)


def test_a_seed_decides_the_files_and_a_card_may_name_them(elsewhere, quick):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        ran = done("train", "digits-unet", "--rows", 512, "--seed", seed, "--out", f"{name}.safetensors")
        assert f"{name}.safetensors: 164,260 weights" in ran.out
        assert "100 images, seeds 0-99, guidance 1.25" in ran.out
    assert sorted(contents(elsewhere)) == [f"{name}.{kind}" for name in "abc" for kind in ("csv", "safetensors")]
    for kind in ("csv", "safetensors"):
        first, second, other = ((elsewhere / f"{name}.{kind}").read_bytes() for name in "abc")
        assert first == second != other
    with (elsewhere / "a.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["rows"] for line in lines] == ["256", "512"]
    assert float(lines[1]["held_out_loss"]) < float(lines[0]["held_out_loss"])
    model = MODELS.build({"name": "unet", "path": "a.safetensors", "label": 3})
    assert (model.shape, model.classes) == ((1, 8, 8), 10)


def test_an_interruption_leaves_no_file(elsewhere, quick, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.training.loss_of", interrupted)
    ran = command("train", "digits-unet", "--rows", 512)
    assert ran.status == 130
    assert ran.err == "stopped; nothing is written\n"
    assert contents(elsewhere) == {}


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("digits-cnn", "--rows", "512"), "--rows"),
        (("digits-cnn", "--threads", "2"), "--threads"),
        (("digits-unet", "--out", "nowhere/a.safetensors"), "--out"),
        (("digits-unet", "--out", "."), "--out"),
    ],
)
def test_a_mistake_is_told_before_the_work(elsewhere, monkeypatch, argv, says):
    monkeypatch.setattr(digits_unet, "run", lambda *_, **__: pytest.fail("the work was begun"))
    assert says in refused(elsewhere, "train", *argv)


def test_a_full_disk_is_one_line(elsewhere, quick, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("pipeline.whole_file.os.replace", full)
    ran = command("train", "digits-unet", "--rows", 256)
    assert ran.status == 2
    assert "--out" in ran.err.splitlines()[-1]
    assert contents(elsewhere) == {}
