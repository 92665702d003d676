"""The network that ships: what its card and its log say of it is so."""

import csv
import hashlib

import pytest
import torch

from pipeline import benchmarks, digits_unet
from pipeline.methods import METHODS
from pipeline.metrics.classifier import shipped, split
from pipeline.metrics.distances import Reference, frechet_distance, jackknife
from pipeline.metrics.features import quantise
from pipeline.metrics.moments import Moments
from pipeline.models import data
from pipeline.models.classes import drawn_classes
from pipeline.models.unet import WEIGHTS
from pipeline.networks.trained import load
from pipeline.sampler import trace
from pipeline.schedules import SCHEDULES
from pipeline.solvers import SOLVERS
from pipeline.trial import draw

IMAGES = 2000


@pytest.fixture(scope="module")
def digits():
    return benchmarks.load("digits-unet")


@pytest.fixture(scope="module")
def samples(digits):
    """Of a coarse solve: 8 evaluations."""
    solver, schedule = METHODS.get("unipc_2").pair(8)
    plan = trace(SOLVERS.build(solver), SCHEDULES.build(schedule).sigmas().tolist())
    return draw(plan, digits.denoiser(range(IMAGES)), digits.shape, range(IMAGES))


def test_it_ships_whole(digits):
    assert WEIGHTS.stat().st_size <= 2_000_000
    assert digits.model.guidance == digits_unet.GUIDANCE != 1
    assert digits.rows_per_image == 2
    training = load(WEIGHTS).description.training
    images, labels = data.labelled("digits")
    assert training["data_sha256"] == hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
    assert (training["rows"], training["seed"]) == (digits_unet.SETTINGS.rows, 0)
    assert training["held_out"] == len(split(labels, 0)[1])


def test_its_log_tells_its_training():
    with WEIGHTS.with_suffix(".csv").open() as file:
        log = [{key: float(value) for key, value in line.items()} for line in csv.DictReader(file)]
    assert len(log) == digits_unet.POINTS
    assert log[-1]["rows"] == digits_unet.SETTINGS.rows
    assert log[-1]["trained_loss"] < log[0]["trained_loss"]
    assert log[-1]["fid"] < log[0]["fid"]
    # The last line is of the weights that ship.
    images, labels = data.labelled("digits")
    held = split(labels, 0)[1]
    network = load(WEIGHTS).network()
    found = digits_unet._loss(network, digits_unet.patches(images, digits_unet.PATCH), labels, held)
    assert found == pytest.approx(log[-1]["held_out_loss"], rel=1e-3)


def test_its_samples_are_as_near_to_the_data_as_the_datas_halves_to_each_other(digits, samples):
    features = digits.features(samples)
    found = jackknife([Moments.of(part) for part in features.chunk(25)], digits.reference)
    of_data = digits.features(digits.model.images())
    generator = torch.Generator().manual_seed(0)
    apart = []
    for _ in range(10):
        order = torch.randperm(len(of_data), generator=generator)
        first, second = (Moments.of(of_data[half]) for half in (order[:898], order[898:]))
        apart.append(frechet_distance(first, Reference.of(second)))
    assert found.fid < sum(apart) / len(apart)


def test_its_samples_are_digits_of_the_class_that_was_asked_for(samples):
    asked = torch.tensor(drawn_classes(range(IMAGES), 10))
    read = shipped()(quantise(samples)).argmax(1)
    assert float((read == asked).double().mean()) > 0.97


def test_its_samples_are_no_copies(samples):
    """About as far from the images it was trained on as the images that it never saw are."""
    images, labels = data.labelled("digits")
    kept, held = (images[chosen].flatten(1) for chosen in split(labels, 0))
    own, others = (torch.cdist(each, kept).amin(1) for each in (samples.flatten(1), held))
    assert own.median() > 0.9 * others.median()
    assert own.quantile(0.05) > 0.9 * others.quantile(0.05)
