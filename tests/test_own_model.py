"""A model of the user's own: what it must have, what its hash covers, and one line for each mistake."""

import pickle
import sys
from pathlib import Path

import pytest
import torch

from pipeline import benchmarks
from pipeline.models.python import PythonModel
from pipeline.registry import SpecError
from pipeline.trial import TrialSpec, evaluate, prepare

GOOD = """
import torch

class Mine(torch.nn.Module):
    shape = (1, 2, 2)
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor({scale}))
    def denoise(self, x, sigma):
        return x * self.scale / (1 + sigma**2)
    def images(self):
        return torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)

def model(device):
    return Mine().to(device)
"""
CARD = {
    "name": "mine",
    "version": 1,
    "title": "t",
    "description": "d",
    "model": {"name": "python", "function": "own:model"},
    "features": "identity",
    "quantise": False,
    "reference": "data",
    "sigma_min": 0.01,
    "sigma_max": 10.0,
    "sigma_source": "s",
    "published": {},
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write own.py into the current folder, and forget it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text):
        (tmp_path / "own.py").write_text(text)
        sys.modules.pop("own", None)

    yield write
    sys.modules.pop("own", None)


def test_it_is_sampled_and_scored_like_any_other(written):
    written(GOOD.format(scale=1.0))
    benchmark = benchmarks.from_card(CARD)
    assert benchmark.shape == (1, 2, 2)
    assert len(benchmark.reference.mean) == 4
    spec = TrialSpec("own", {"name": "euler"}, {"name": "edm", "num_steps": 4}, images=40, shard_images=20)
    (shard,) = evaluate(prepare(spec, benchmark).plan, benchmark, range(20))
    assert shard.rows == 4 * 20
    assert shard.moments.n == 20
    # D = x / (1 + sigma²) is exact for unit Gaussian data, so that a fine solve has its covariance.
    fine = TrialSpec("own", {"name": "heun"}, {"name": "edm", "num_steps": 40}, images=4000, shard_images=2000)
    moments = evaluate(prepare(fine, benchmark).plan, benchmark, range(4000))[0].moments
    assert torch.as_tensor(moments.covariance) == pytest.approx(torch.eye(4, dtype=torch.float64), abs=0.1)


def test_gradients_are_off_and_the_dtype_is_that_of_x(written):
    written(GOOD.format(scale=1.0))
    denoise = PythonModel("own:model").denoiser()
    for dtype in (torch.float32, torch.float64):
        denoised = denoise(torch.ones(3, 1, 2, 2, dtype=dtype), 1.0)
        assert (denoised.dtype, denoised.requires_grad) == (dtype, False)
        assert torch.equal(denoised, torch.full((3, 1, 2, 2), 0.5, dtype=dtype))


def test_the_hash_is_of_source_weights_and_what_the_object_says(written):
    hashes = []
    for text in (
        GOOD.format(scale=1.0),
        GOOD.format(scale=1.0),
        GOOD.format(scale=1.5),
        GOOD.format(scale=1.0) + "\n# a comment",
        GOOD.format(scale=1.0) + "\nMine.hash = 'the file of the weights'",
    ):
        written(text)
        hashes.append(PythonModel("own:model").hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4
    # Weights from elsewhere than the source: the same text, other numbers.
    for scale in (2.0, 3.0):
        written("from pathlib import Path" + GOOD.replace("{scale}", "float(Path('scale').read_text())"))
        Path("scale").write_text(str(scale))
        hashes.append(PythonModel("own:model").hash)
    assert hashes[-1] != hashes[-2]


def test_it_travels_by_name(written):
    written(GOOD.format(scale=1.0))
    model = PythonModel("own:model")
    _ = model.hash
    text = pickle.dumps(model)
    assert len(text) < 200
    assert pickle.loads(text) == model
    assert pickle.loads(text).hash == model.hash


@pytest.mark.parametrize(
    ("text", "function", "says"),
    [
        ("", "own", "names no function"),
        ("", "own:model.more", "names no function"),
        ("", "nowhere.at_all:model", "there is no module nowhere"),
        ("import nowhere_else", "own:model", "cannot be imported (No module named 'nowhere_else')"),
        ("1 / 0", "own:model", "cannot be imported (ZeroDivisionError"),
        ("def modle(device): ...", "own:model", "is not in own"),
        ("def model(): ...", "own:model", "failed when it was called with 'cpu' (TypeError"),
        ("def model(device): ...", "own:model", "no right shape"),
        ("class model:\n  shape = (8, 8)\n  def __init__(self, device): ...", "own:model", "no right shape"),
    ],
)
def test_a_mistake_is_one_line(written, text, function, says):
    written(text)
    with pytest.raises(SpecError) as told:
        benchmarks.from_card(CARD | {"model": {"name": "python", "function": function}})
    assert says in str(told.value)
    assert "model.function" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("def images", "def pictures"), "no right images"),
        (("torch.randn(50, 1, 2, 2", "torch.randn(50, 1, 3, 2"), "no right images"),
        (("def denoise", "def clean"), "no right denoise"),
    ],
)
def test_what_the_object_lacks_is_said_before_anything_is_sampled(written, change, says):
    written(GOOD.format(scale=1.0).replace(*change))
    with pytest.raises(SpecError, match=says):
        benchmarks.from_card(CARD)


def test_an_answer_of_another_shape_is_refused(written):
    written(GOOD.format(scale=1.0).replace("return x *", "return x[:, :, :1] *"))
    with pytest.raises(ValueError, match="denoise gave"):
        PythonModel("own:model").denoiser()(torch.ones(3, 1, 2, 2), 1.0)
