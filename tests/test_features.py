import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from pipeline.metrics import classifier
from pipeline.metrics.distances import Reference, frechet_distance
from pipeline.metrics.features import FEATURES, DigitsCNN, Extractor, Identity, quantise, register_torch_fidelity
from pipeline.metrics.moments import Moments
from pipeline.models import data
from pipeline.registry import SpecError


@pytest.fixture(scope="module")
def digits():
    images, labels = data.labelled("digits")
    return quantise(images), labels


# --- pixels ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_edms(dtype):
    samples = torch.cat([torch.linspace(-1.5, 1.5, 100_001), torch.tensor([-1e9, 1e9, -torch.inf, torch.inf])]).to(
        dtype
    )
    edm = np.floor(samples.numpy() * np.asarray(127.5, samples.numpy().dtype) + 128).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(quantise(samples).numpy(), edm)


def test_pixels_and_samples_go_back_and_forth():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantise(pixels.float() / 127.5 - 1), pixels)
    assert quantise(torch.tensor([float("nan")])).item() == 0


# --- extractors ---


def test_extractors_are_found_by_name():
    assert FEATURES.names() == ["digits-cnn", "dinov2", "identity", "inception"]
    for name in ("digits-cnn", "identity"):  # tests/test_inception.py and test_dinov2.py build the others
        extractor = FEATURES.build({"name": name})
        assert isinstance(extractor, Extractor)
        assert len(extractor.hash) == 64


def test_identity_is_the_samples():
    samples = torch.randn(5, 1, 3, 4, dtype=torch.float64)
    assert torch.equal(Identity()(samples), samples.reshape(5, 12))
    assert Identity()(quantise(samples)).dtype == torch.float32


def test_digits_features_do_not_depend_on_the_batch(digits):
    images = digits[0][:600]
    whole = DigitsCNN()(images)
    assert whole.shape == (600, 64)
    assert not whole.requires_grad
    parts = torch.cat([DigitsCNN()(part) for part in torch.split(images, [1, 99, 500])])
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-4)


def test_digits_features_are_alive_and_of_pixels_only(digits):
    covariance = Moments.of(DigitsCNN()(digits[0])).covariance
    assert np.linalg.matrix_rank(covariance) == 64, "no feature is dead, none repeats others"
    with pytest.raises(TypeError, match="quantise"):
        DigitsCNN()(torch.zeros(1, 1, 8, 8))


# --- torch-fidelity ---


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def test_torch_fidelity_measures_the_same_with_our_extractor(digits):
    import torch_fidelity

    register_torch_fidelity()
    register_torch_fidelity()
    generator = torch.Generator().manual_seed(0)
    images, _ = digits
    noisy = quantise(images[:700] / 127.5 - 1 + 0.3 * torch.randn(700, 1, 8, 8, generator=generator))
    theirs = torch_fidelity.calculate_metrics(
        input1=Images(noisy),
        input2=Images(images),
        feature_extractor="digits-cnn",
        fid=True,
        cuda=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )["frechet_inception_distance"]
    reference = Reference.of(Moments.of(DigitsCNN()(images)))
    assert frechet_distance(Moments.of(DigitsCNN()(noisy)), reference) == pytest.approx(theirs, rel=1e-6)


def test_the_registered_extractor_is_our_network(digits):
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    register_torch_fidelity()
    extractor = FEATURE_EXTRACTORS_REGISTRY["digits-cnn"]("digits-cnn", ["logits", "penultimate"]).eval()
    images = digits[0][:200]
    logits, penultimate = extractor(images)
    assert torch.equal(penultimate, DigitsCNN()(images).double())
    assert torch.equal(logits, classifier.shipped()(images).double())
    assert torch.equal(extractor(images.expand(-1, 3, -1, -1))[1], penultimate), "a grey image read as RGB"
    with pytest.raises(ValueError, match="uint8"):
        extractor(images.float())


def test_the_module_needs_no_torch_fidelity():
    code = (
        "import sys, pipeline.metrics.features, pipeline.models.gmm, pipeline.models.kde, pipeline.noise\n"
        "heavy = {'torch_fidelity', 'sklearn', 'ray', 'optuna', 'mlflow', 'torchvision'} & set(sys.modules)\n"
        "raise SystemExit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the classifier ---


def test_the_shipped_classifier_is_as_good_as_it_says(digits):
    images, labels = digits
    trained = classifier.load()
    _, held = classifier.split(labels, trained.metadata["seed"])
    accuracy = (trained.network(images[held]).argmax(1) == labels[held]).double().mean().item()
    assert accuracy == pytest.approx(trained.accuracy, abs=1 / len(held))
    assert accuracy >= 0.98
    digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    assert trained.metadata["data_sha256"] == digest
    assert classifier.WEIGHTS.stat().st_size <= 300_000


def test_the_split_takes_a_fifth_of_each_class(digits):
    labels = digits[1]
    train, held = classifier.split(labels, 0)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(1797))
    assert labels[held].bincount().tolist() == [count // 5 for count in labels.bincount().tolist()]
    assert not torch.equal(held, classifier.split(labels, 1)[1])


def test_training_twice_gives_the_same_bytes(digits, tmp_path):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    written = []
    for name, disturb in (("a", 1), ("b", 2)):
        torch.set_num_threads(disturb)
        trained = classifier.train(*digits, epochs=2)
        classifier.save(trained, tmp_path / name)
        written.append((tmp_path / name).read_bytes())
        assert torch.get_num_threads() == disturb
    torch.set_num_threads(threads)
    assert written[0] == written[1]
    assert torch.equal(torch.get_rng_state(), before)
    back = classifier.load(tmp_path / "a")
    assert back.metadata == trained.metadata
    assert back.accuracy == trained.accuracy > 0.5


@pytest.mark.slow
def test_training_gives_what_is_shipped_or_better(digits):
    assert classifier.train(*digits).accuracy >= 0.98


@pytest.mark.parametrize("content", [None, b"", b"not weights", "other"])
def test_weights_that_cannot_be_read_are_one_line(content, tmp_path):
    from safetensors.torch import save

    path = tmp_path / "weights.safetensors"
    if content == "other":
        content = save({"a": torch.zeros(2)}, {"digits-cnn": "{}"})
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match="weights of digits-cnn") as caught:
        classifier.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
