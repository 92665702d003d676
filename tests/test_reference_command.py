"""`sigmasearch reference`: FID as torch-fidelity's, the same bytes each time, one line for a wrong option."""

import dataclasses
import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
import yaml

from pipeline import benchmarks
from pipeline.benchmarks import FOLDER
from pipeline.metrics.distances import frechet_distance
from pipeline.metrics.features import DigitsCNN, quantise, register_torch_fidelity
from pipeline.metrics.image_files import ImageFiles, Resize
from pipeline.metrics.moments import Moments
from pipeline.metrics.reference_files import read
from pipeline.models import data
from tests.cli.console import done, misused, refused
from tests.image_folders import colours, folder_of, pixels_of, png, zip_of


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """400 of the digits as PNG files, which lose nothing, and as tensors."""
    pixels = quantise(data.images("digits"))[:400]
    return folder_of(tmp_path_factory.mktemp("data") / "digits", pixels[:, 0].numpy()), pixels


def test_fid_to_a_reference_of_files_is_torch_fidelitys(digits, tmp_path):
    import torch_fidelity

    folder, pixels = digits
    done("reference", folder, "--features", "digits-cnn", "--out", tmp_path / "digits.npz")
    noise = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    noisy = quantise(pixels[:300] / 127.5 - 1 + 0.3 * noise)
    ours = frechet_distance(Moments.of(DigitsCNN()(noisy)), read(tmp_path / "digits.npz").reference)
    register_torch_fidelity()
    theirs = torch_fidelity.calculate_metrics(
        input1=str(folder_of(tmp_path / "noisy", noisy[:, 0].numpy())),
        input2=str(folder),
        feature_extractor="digits-cnn",
        fid=True,
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )["frechet_inception_distance"]
    assert ours > 1
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_it_says_what_it_made_and_writes_the_same_bytes_again(digits, tmp_path):
    folder, pixels = digits
    out = tmp_path / "out.npz"
    ran = done("reference", folder, "--features", "digits-cnn", "--out", out, "--images", 300, "--json")
    told, found = json.loads(ran.out), read(out)
    chosen = [i * 400 // 300 for i in range(300)]
    expected = Moments.of(DigitsCNN()(pixels[chosen]))
    np.testing.assert_allclose(found.reference.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(found.reference.covariance, expected.covariance, rtol=1e-4, atol=1e-3)
    listing = "".join(
        f"{hashlib.sha256((folder / f'{i:04}.png').read_bytes()).hexdigest()}  {i:04}.png\n" for i in chosen
    )
    assert told == {
        "out": str(out),
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "reference": found.reference.hash,
        "features": "digits-cnn",
        "extractor": DigitsCNN().hash,
        "dim": 64,
        "images": 300,
        "of": 400,
        "shape": [1, 8, 8],
        "source": "digits",
        "source_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "resized": None,
    }
    first = out.read_bytes()
    ran = done("reference", folder, "--features", "digits-cnn", "--out", out, "--images", 300)
    assert out.read_bytes() == first
    assert "300 of 400 images, 8 x 8, grey" in ran.out
    assert str(tmp_path).encode() not in first, "no path of this machine"


def test_a_data_set_that_ships_has_the_moments_of_its_benchmark(tmp_path):
    done("reference", "digits", "--features", "digits-cnn", "--out", tmp_path / "digits.npz")
    shipped = benchmarks.load("digits-kde").reference
    found = read(tmp_path / "digits.npz")
    assert (found.reference.n, found.source) == (shipped.n, "digits")
    np.testing.assert_allclose(found.reference.mean, shipped.mean, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(found.reference.covariance, shipped.covariance, rtol=1e-4, atol=1e-2)


def test_a_zip_is_resized_told_of_and_hashed_as_it_is(tmp_path):
    archive = zip_of(tmp_path / "faces.zip", {f"{i}.png": png(each) for i, each in enumerate(colours(6, size=16))})
    out = tmp_path / "faces.npz"
    ran = done(
        "reference", archive, "--features", "identity", "--out", out, "--size", 4, "--filter", "box"
    )  # fmt: skip
    found = read(out)
    assert (found.shape, found.resized, found.source) == ((3, 4, 4), "4 box", "faces.zip")
    assert found.source_sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    pixels = pixels_of(archive, Resize(4, "box"))
    np.testing.assert_allclose(found.reference.mean, pixels.flatten(1).double().mean(0), rtol=1e-12)
    assert "the covariance is singular" in ran.out


@pytest.mark.parametrize("zipped", [False, True])
def test_a_card_may_name_the_images_themselves(digits, tmp_path, zipped):
    folder, pixels = digits
    source = folder
    if zipped:
        source = zip_of(tmp_path / "digits.zip", {p.name: p.read_bytes() for p in folder.iterdir()})
    content = yaml.safe_load((FOLDER / "digits-kde.yaml").read_text())
    card = tmp_path / "card.yaml"
    card.write_text(yaml.safe_dump(content | {"reference": str(source)}))
    benchmark = benchmarks.load(card)
    expected = Moments.of(DigitsCNN()(pixels))
    assert benchmark.reference.n == 400
    np.testing.assert_allclose(benchmark.reference.mean, expected.mean, rtol=1e-6, atol=1e-5)
    assert benchmarks.load(card).reference is benchmark.reference, "images are measured once a process"
    listing = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(folder.iterdir()))
    expected = source.read_bytes() if zipped else listing.encode()
    assert benchmark.reference_sha256 == hashlib.sha256(expected).hexdigest()
    there = dataclasses.replace(pickle.loads(pickle.dumps(benchmark)), device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFiles, "batches", lambda *_: pytest.fail("a worker needs no images"))
        assert there.reference_hash == benchmark.reference_hash
    other = folder_of(tmp_path / "other", pixels[:3, 0].numpy())
    card.write_text(yaml.safe_dump(content | {"reference": "other/"}))
    before = benchmarks.load(card).reference_hash
    (other / "0001.png").write_bytes(png(pixels[9, 0].numpy()))
    assert benchmarks.load(card).reference_hash != before, "a changed image is measured again"
    card.write_text(yaml.safe_dump(content | {"reference": str(folder_of(tmp_path / "colour", colours(3)))}))
    refused(tmp_path, "plan", card, "--baseline", "ddim", "--nfe", 4, "--out", tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--features", "digits-cn"], "did you mean 'digits-cnn'"),
        (["--features", "digits-cnn"], "--features: digits-cnn takes digits, given [3, 8, 8]"),
        (["--features", "identity", "--images", 4], "does not hold so many images, given 4; allowed: 2 to 3"),
        (["--features", "identity", "--size", 4], "--filter: is missing or unknown"),
        (["--features", "identity", "--size", 4, "--filter", "nearest"], "given 'nearest'; allowed: box, bilinear"),
        (["--features", "identity", "--filter", "box"], "--size: is missing"),
        (["--features", "identity", "--size", 200, "--filter", "box"], "too many features of these images"),
        (["--features", "identity", "--device", "tpu"], "--device: cannot be used, given 'tpu'"),
        (["--features", "identity", "--inception-weights", "w.pth"], "is for --features inception"),
        (["--features", "identity", "--out", "none/out.npz"], "--out: is in no folder"),
        (["--features", "identity", "--out", "out.zip"], "--out: is no .npz"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    source = folder_of(tmp_path / "images", colours(3))
    assert says in (refused(tmp_path, "reference", source, *options))


def test_a_source_that_is_not_there_is_told(tmp_path):
    line = refused(tmp_path, "reference", "nothing", "--features", "identity", "--out", tmp_path / "out.npz")
    assert "there is no such source, given 'nothing'" in line
    assert "digits" in line
    assert "Missing option '--features'" in misused(tmp_path, "reference", "digits")
