"""A card whose reference is a file: what it is compared with, what it refuses, and what is said."""

import dataclasses
import logging
import os
import pickle
import re
from pathlib import Path

import pytest
import yaml

from pipeline import benchmarks
from pipeline.benchmarks import FOLDER
from pipeline.metrics import reference_files
from pipeline.metrics.distances import Reference
from pipeline.metrics.features import DigitsCNN, Identity, quantise
from pipeline.metrics.moments import Moments
from pipeline.metrics.reference_files import opened, read
from pipeline.models import data
from pipeline.registry import SpecError
from tests.stored_moments import edm_file, moments, our_file


@pytest.fixture
def edm(tmp_path):
    return edm_file(tmp_path)


@pytest.fixture
def card(tmp_path):
    content = yaml.safe_load((FOLDER / "digits-kde.yaml").read_text())

    def load(**changes):
        path = tmp_path / "card.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return benchmarks.load(path)

    return load


@pytest.fixture
def of_digits(tmp_path):
    """The digits' own moments in a file, as digits-kde computes them."""
    made = Moments.of(DigitsCNN()(quantise(data.images("digits"))))
    return our_file(tmp_path / "digits.npz", made)


def test_a_cards_path_begins_at_its_folder_and_replaces_the_data(card, of_digits, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    benchmark, data_card = card(reference="digits.npz"), card(reference="data")
    assert benchmark.reference_hash == data_card.reference_hash
    assert benchmark.reference_sha256 == read(of_digits).sha256
    assert data_card.reference_sha256 is None
    assert card(reference=str(of_digits)).reference_hash == benchmark.reference_hash
    again = dataclasses.replace(pickle.loads(pickle.dumps(benchmark)), device="cpu")
    of_digits.unlink()
    assert again.reference_hash == benchmark.reference_hash, "a worker needs no file"


def test_a_changed_file_is_read_again(card, of_digits):
    before = card(reference="digits.npz").reference_hash
    made = moments()
    our_file(of_digits, made)
    os.utime(of_digits, ns=(1, 1))
    assert card(reference="digits.npz").reference_hash == Reference.of(made).hash != before


def test_a_cards_sha256_is_that_of_its_file(card, of_digits):
    digest = read(of_digits).sha256
    assert card(reference="digits.npz", reference_sha256=digest).reference_sha256 == digest
    with pytest.raises(SpecError, match="the file is another") as told:
        card(reference="digits.npz", reference_sha256="0" * 64)
    assert told.value.path == "reference_sha256"
    with pytest.raises(SpecError, match="the reference is none"):
        card(reference="data", reference_sha256=digest)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"features": "inception"}, "of the features of another extractor, given 'inception'; allowed: digits-cnn"),
        ({"features": "digits-cnn", "extractor": "f" * 64}, "other weights of digits-cnn, given 'ffffffffffffffff'"),
        ({"shape": (1, 16, 16)}, "images of another shape, given [1, 16, 16]; allowed: [1, 8, 8]"),
        ({"shape": (3, 8, 8)}, "images of another shape"),
    ],
)
def test_what_was_made_otherwise_is_not_compared(card, tmp_path, about, says):
    our_file(tmp_path / "other.npz", moments(), **about)
    with pytest.raises(SpecError, match=re.escape(says)) as caught:
        card(reference="other.npz")
    assert caught.value.path == "reference"
    assert "\n" not in str(caught.value)


def test_edms_file_is_taken_where_its_dimension_fits_and_that_is_said_once(card, edm, caplog):
    reference_files._tell.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert card(reference="edm.npz").reference_hash == Reference.of(moments()).hash
        card(reference="edm.npz")
    assert [r.getMessage() for r in caplog.records] == [
        "edm.npz does not say whose features it holds: taken for the 64 of digits-cnn"
    ]
    with pytest.raises(SpecError, match="another number of features, given 64; allowed: 192, as identity has"):
        opened(edm, Identity(), (3, 8, 8))


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"reference": "dta"}, "reference", "did you mean 'data'"),
        ({"reference": "missing.npz"}, "reference", "No such file"),
        ({"reference": "missing.zip"}, "reference", "No such file"),
        ({"reference": "no/folder"}, "reference", "No such file"),
        ({"reference": "card.yaml/"}, "reference", "neither a folder nor a zip"),
        ({"reference": "edm.npz", "features": "identity", "quantise": True, "reference_sha256": "x"},
         "reference_sha256", "pattern"),
        ({"features": ["digits-cnn"]}, "features", "a name, or a mapping"),
        ({"features": {"nam": "identity"}}, "features", "needs a name"),
        ({"features": {"name": "identity", "size": 3}}, "features.size", "unknown key"),
        ({"features": {"name": "digit-cnn"}}, "features", "did you mean 'digits-cnn'"),
    ],
)  # fmt: skip
def test_a_cards_mistake_is_one_line(card, edm, changes, path, says):
    with pytest.raises(SpecError, match=says) as told:
        card(**changes)
    assert told.value.path == path
    assert Path(told.value.file).name == "card.yaml"
    assert "\n" not in str(told.value)


def test_features_may_be_a_mapping(card):
    assert card(features={"name": "digits-cnn"}).reference_hash == card().reference_hash
    mixture = benchmarks.load("gmm")
    same = benchmarks.from_card(mixture.card | {"features": {"name": "identity"}})
    assert same.reference_hash == mixture.reference_hash


def test_a_file_of_pixels_is_not_for_unquantised_samples(card, tmp_path):
    our_file(tmp_path / "pixels.npz", moments(), "identity", Identity().hash)
    assert card(reference="pixels.npz", features="identity", quantise=True).reference.n == 300
    with pytest.raises(SpecError, match="the reference is of pixels"):
        card(reference="pixels.npz", features="identity", quantise=False)


def test_features_that_do_not_take_the_models_images_are_told_of():
    with pytest.raises(SpecError, match=r"digits-cnn takes digits, given \[1, 12, 12\]") as told:
        benchmarks.from_card(benchmarks.load("gmm").card | {"features": "digits-cnn", "quantise": True})
    assert told.value.path == "features"
