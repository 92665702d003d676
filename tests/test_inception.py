"""Inception's features: torch-fidelity's own, from weights that are known by their hash and read as data."""

import hashlib
import os
import pickle
from unittest import mock

import numpy as np
import pytest
import torch
import yaml

from pipeline import benchmarks
from pipeline.benchmarks import FOLDER
from pipeline.metrics import inception
from pipeline.metrics.distances import Reference, frechet_distance
from pipeline.metrics.features import FEATURES, Extractor
from pipeline.metrics.inception import FILE, VARIABLE, Inception
from pipeline.metrics.moments import Moments
from pipeline.metrics.reference_files import StoredReference, opened, write
from pipeline.registry import SpecError
from tests.cli.console import done, refused
from tests.image_folders import colours, folder_of


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights of torch-fidelity's network, saved as it publishes the true ones, which no test can fetch."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    kind = theirs.FeatureExtractorInceptionV3
    with (
        mock.patch.object(theirs, "load_state_dict_from_url", return_value={}),
        mock.patch.object(kind, "load_state_dict", return_value=None),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        state = kind("inception-v3-compat", ["2048"]).state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            tensor *= 6**0.5  # He's gain: with torch's own the last layer is 1e-7
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(monkeypatch, tmp_path_factory):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(colours(6, size=16)).permute(0, 3, 1, 2)


def test_its_features_are_torch_fidelitys(weights, images):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    ours = Inception(str(weights))(images)
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=weights)
    assert (ours.shape, ours.dtype, ours.requires_grad) == ((6, 2048), torch.float32, False)
    assert ours.std(0).max() > 0.01 * ours.abs().max(), "features that are all alike would show nothing"
    torch.testing.assert_close(ours, theirs(images)[0], rtol=1e-5, atol=1e-6)


def test_fid_with_it_is_torch_fidelitys(weights, images, tmp_path):
    import torch_fidelity

    other = (images.float() * 0.5 + 60).to(torch.uint8)
    parts = [folder_of(tmp_path / str(i), each.permute(0, 2, 3, 1).numpy()) for i, each in enumerate((images, other))]
    fid = torch_fidelity.calculate_metrics(
        input1=str(parts[0]),
        input2=str(parts[1]),
        fid=True,
        feature_extractor_weights_path=str(weights),
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )["frechet_inception_distance"]
    out = tmp_path / "other.npz"
    done("reference", parts[1], "--features", "inception", "--inception-weights", weights, "--out", out)
    extractor = Inception(str(weights))
    ours = frechet_distance(Moments.of(extractor(images)), opened(out, extractor, (3, 16, 16)).reference)
    assert ours > 0
    assert ours == pytest.approx(fid, rel=1e-6)


def test_grey_images_are_taken_as_rgb(weights, images):
    grey = images[:2, :1]
    extractor = Inception(str(weights))
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))
    assert extractor.dim((1, 8, 8)) == extractor.dim((3, 64, 64)) == 2048
    with pytest.raises(SpecError, match="grey images or RGB"):
        extractor.dim((4, 8, 8))
    with pytest.raises(TypeError, match="quantise"):
        extractor(images.float())


def test_it_is_found_by_name_and_its_hash_is_of_the_weights(weights):
    extractor = FEATURES.build({"name": "inception", "weights": str(weights)})
    assert isinstance(extractor, Extractor)
    assert extractor.needs_pixels
    assert extractor.hash == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_weights_come_from_the_variable_or_from_torchs_store(weights, monkeypatch, tmp_path):
    given = Inception(str(weights)).hash
    with monkeypatch.context() as patch:
        patch.setenv(VARIABLE, str(weights))
        assert Inception().hash == given
    store = tmp_path / "hub" / "checkpoints"
    store.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (store / FILE).write_bytes(weights.read_bytes())
    with pytest.raises(SpecError, match="not what its name says"):
        Inception()
    named = f"weights-{given[:8]}.pth"
    (store / FILE).rename(store / named)
    monkeypatch.setattr(inception, "FILE", named)
    assert Inception().hash == given


def test_without_weights_one_line_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: pytest.fail("something was fetched"))
    line = refused(tmp_path, "reference", "digits", "--features", "inception", "--out", tmp_path / "out.npz")
    assert f"fetch {theirs.URL_INCEPTION_V3}" in line
    assert str(tmp_path / "hub" / "checkpoints" / FILE) in line
    assert VARIABLE in line
    content = yaml.safe_load((FOLDER / "digits-kde.yaml").read_text())
    for features, place in (("inception", "hub"), ({"name": "inception", "weights": "mine.pth"}, "mine.pth")):
        (tmp_path / "card.yaml").write_text(yaml.safe_dump(content | {"features": features}))
        if place == "hub":
            (tmp_path / "hub" / "checkpoints" / FILE).mkdir(parents=True)  # what lies there is no file
        with pytest.raises(SpecError, match="inception has no weights here") as told:
            benchmarks.load(tmp_path / "card.yaml")
        assert told.value.path == "features.weights"
        assert str(tmp_path / place) in told.value.given


class Runs:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("how", ["hostile", "truncated", "empty", "of another network", "no mapping", "lacks one"])
def test_a_wrong_file_of_weights_is_one_line_and_runs_nothing(weights, tmp_path, how):
    path, mark = tmp_path / "bad.pth", tmp_path / "mark"
    if how == "hostile":
        torch.save({"fc.weight": Runs(mark)}, path)
    elif how == "truncated":
        path.write_bytes(weights.read_bytes()[:1_000_000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "of another network":
        torch.save(torch.nn.Linear(2, 3).state_dict(), path)
    elif how == "no mapping":
        torch.save([1, 2], path)
    else:
        state = torch.load(weights, weights_only=True)
        del state["fc.bias"]
        torch.save(state, path)
    with pytest.raises(SpecError, match="does not hold the weights of inception-v3-compat") as told:
        Inception(str(path))
    assert "\n" not in str(told.value)
    assert str(path) in str(told.value)
    assert not mark.exists()


def test_it_travels_without_its_weights_and_notices_other_ones(weights, images, tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(weights.read_bytes())
    extractor = Inception(str(path))
    text = pickle.dumps(extractor)
    assert len(text) < 1000
    there = pickle.loads(text)
    assert torch.equal(there(images[:1]), extractor(images[:1]))
    state = torch.load(weights, weights_only=True)
    state["fc.bias"] += 1
    torch.save(state, path)
    inception._network.cache_clear()
    with pytest.raises(SpecError, match="others than when the extractor was made"):
        there(images[:1])


def test_a_reference_of_other_weights_is_not_compared(weights, tmp_path):
    content = yaml.safe_load((FOLDER / "digits-kde.yaml").read_text())
    content |= {"features": {"name": "inception", "weights": os.path.relpath(weights, tmp_path)}, "reference": "r.npz"}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(content))
    rows = np.random.default_rng(0).normal(size=(4, 2048))
    for digest in (Inception(str(weights)).hash, "f" * 64):
        made = Moments.of(rows)
        write(tmp_path / "r.npz", made, StoredReference(Reference.of(made), "inception", digest, (1, 8, 8)))
        os.utime(tmp_path / "r.npz", ns=(len(digest), int(digest[0], 16)))
        if digest != "f" * 64:
            assert benchmarks.load(tmp_path / "card.yaml").reference_hash == Reference.of(made).hash
        else:
            with pytest.raises(SpecError, match="made with other weights of inception"):
                benchmarks.load(tmp_path / "card.yaml")
