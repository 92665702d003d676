"""Moments of random features in a file, as EDM's fid.py writes them and as `sigmasearch reference` does."""

import numpy as np

from pipeline.metrics.distances import Reference
from pipeline.metrics.features import DigitsCNN
from pipeline.metrics.moments import Moments
from pipeline.metrics.reference_files import StoredReference, write

SHAPE = (1, 8, 8)


def moments(dim=64, n=300, seed=0):
    rng = np.random.default_rng(seed)
    return Moments.of(rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)))


def edm_file(folder):
    """Its path: mean and covariance, and nothing that says of what."""
    made = moments()
    np.savez(folder / "edm.npz", mu=made.mean, sigma=made.covariance)
    return folder / "edm.npz"


def our_file(path, made, features="digits-cnn", extractor=None, shape=SHAPE, **about):
    """The same path; of the digits' classifier where nothing else is said."""
    held = StoredReference(Reference.of(made), features, extractor or DigitsCNN().hash, shape, **about)
    write(path, made, held)
    return path
