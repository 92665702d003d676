"""Moments from files: what is read, what is refused in one line, and that nothing in a file is run."""

import io
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch

from pipeline.metrics import torch_statistics
from pipeline.metrics.distances import Reference
from pipeline.metrics.features import DigitsCNN
from pipeline.metrics.reference_files import read, write
from pipeline.registry import SpecError
from tests.stored_moments import SHAPE, edm_file, moments, our_file


@pytest.fixture
def edm(tmp_path):
    return edm_file(tmp_path)


@pytest.fixture
def ours(tmp_path):
    """A file as `sigmasearch reference` writes it, and its moments."""
    made = moments()
    about = {"source": "faces.zip", "source_sha256": "ab" * 32, "resized": "32 lanczos"}
    return our_file(tmp_path / "ours.npz", made, **about), made


# --- what is read ---


def test_a_file_of_ours_comes_back_bit_by_bit(ours, tmp_path):
    path, made = ours
    found = read(path)
    np.testing.assert_array_equal(found.reference.mean, made.mean)
    np.testing.assert_array_equal(found.reference.covariance, made.covariance)
    assert found.reference.hash == Reference.of(made).hash
    assert (found.reference.n, found.features, found.extractor) == (300, "digits-cnn", DigitsCNN().hash)
    told = found.shape, found.source, found.source_sha256, found.resized
    assert told == (SHAPE, "faces.zip", "ab" * 32, "32 lanczos")
    write(tmp_path / "again.npz", made, found)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_others_programs_find_mu_and_sigma_in_a_file_of_ours(ours):
    path, made = ours
    with np.load(path, allow_pickle=False) as held:
        np.testing.assert_array_equal(held["mu"], made.mean)
        np.testing.assert_array_equal(held["sigma"], made.covariance)


def test_edms_file_says_no_more_than_its_moments(edm):
    found = read(edm)
    np.testing.assert_array_equal(found.reference.mean, moments().mean)
    assert (found.reference.n, found.features, found.extractor, found.shape) == (None, None, None, None)
    assert len(found.sha256) == 64


@pytest.mark.parametrize("by_columns", [False, True])
def test_torch_fidelitys_statistics_are_read(tmp_path, by_columns):
    """As its cache writes them: numpy arrays in a torch file, the mean in single precision."""
    from torch_fidelity.utils_torch import torch_atomic_save

    made = moments()
    covariance = np.asarray(made.covariance, order="F" if by_columns else "C")
    torch_atomic_save({"mu": made.mean.astype(np.float32), "sigma": covariance}, str(tmp_path / "stat.pt"))
    found = read(tmp_path / "stat.pt")
    np.testing.assert_array_equal(found.reference.mean, made.mean.astype(np.float32).astype(np.float64))
    np.testing.assert_array_equal(found.reference.covariance, made.covariance)
    assert found.reference.mean.dtype == np.float64


def test_an_array_of_torch_fidelitys_file_keeps_its_rows_and_columns(tmp_path):
    held = np.arange(6.0).reshape(2, 3)
    torch.save({"mu": held.astype(">f4"), "sigma": np.asfortranarray(held)}, tmp_path / "stat.pt")
    found = torch_statistics.read(tmp_path / "stat.pt")
    np.testing.assert_array_equal(found["mu"], held)
    np.testing.assert_array_equal(found["sigma"], held)


# --- what is refused ---


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


GOOD = {"mu": np.zeros(3), "sigma": np.eye(3)}
LEANING = np.eye(3) + np.triu(np.full((3, 3), 1e-3), 1)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"mu": np.zeros(3)}, "holds no sigma"),
        ({"sigma": np.eye(3)}, "holds no mu"),
        ({"features": np.str_("inception")}, "holds no mu and no sigma"),
        (GOOD | {"mu": np.array([1, "a", None], dtype=object)}, "mu holds Python objects"),
        (GOOD | {"sigma": np.full((3, 3), None)}, "sigma holds Python objects"),
        (GOOD | {"mu": np.array(["a", "b", "c"])}, "mu is of the wrong type"),
        (GOOD | {"mu": np.zeros((3, 1))}, "mu is no mean"),
        (GOOD | {"mu": np.zeros(0)}, "mu is no mean"),
        (GOOD | {"sigma": np.eye(4)}, "sigma does not fit mu, given [4, 4]; allowed: (3, 3)"),
        (GOOD | {"sigma": np.zeros(3)}, "sigma does not fit mu"),
        (GOOD | {"mu": np.array([0, np.nan, 0])}, "not finite"),
        (GOOD | {"sigma": np.diag([1, np.inf, 1])}, "not finite"),
        (GOOD | {"sigma": LEANING}, "not symmetric"),
        (GOOD | {"sigma": np.diag([1.0, -1.0, 1.0])}, "a variance is negative, given -1.0"),
        (GOOD | {"features": np.array(["a"], dtype=object)}, "features holds Python objects"),
        (GOOD | {"features": np.str_("x" * 5000)}, "features is too large"),
        (GOOD | {"shape": np.array([3, 32])}, "is no .npz that can be read"),
        (GOOD | {"n": np.int64(1)}, "too few images"),
    ],
)
def test_an_npz_that_is_no_reference_is_one_line(tmp_path, arrays, says):
    with pytest.raises(SpecError, match=re.escape(says)) as told:
        read(npz(tmp_path / "bad.npz", **arrays))
    assert "\n" not in str(told.value)
    assert told.value.file == str(tmp_path / "bad.npz")


def test_a_covariance_that_others_rounded_is_made_symmetric(tmp_path):
    sigma = moments().covariance
    sigma[0, 1] *= 1 + 1e-9
    found = read(npz(tmp_path / "rounded.npz", mu=np.zeros(64), sigma=sigma)).reference.covariance
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, sigma, rtol=1e-8)


@pytest.mark.parametrize("share", [0, 0.3, 0.95])
def test_a_truncated_npz_is_one_line(edm, share):
    edm.write_bytes(edm.read_bytes()[: int(share * edm.stat().st_size)])
    with pytest.raises(SpecError, match=r"is no \.npz that can be read") as told:
        read(edm)
    assert "\n" not in str(told.value)


def test_a_changed_byte_is_noticed(edm):
    content = bytearray(edm.read_bytes())
    content[len(content) // 2] ^= 1
    edm.write_bytes(content)
    with pytest.raises(SpecError, match=r"is no \.npz that can be read"):
        read(edm)


def test_a_header_that_promises_terabytes_is_not_believed(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("mu.npy", header.getvalue())
        archive.writestr("sigma.npy", header.getvalue())
    with pytest.raises(SpecError, match="mu is too large, given \\[1000000, 1000000\\]"):
        read(tmp_path / "bomb.npz")


class Runs:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("where", ["mu", "inside", "whole", "plain pickle", "npz"])
def test_a_hostile_file_runs_nothing(tmp_path, where):
    mark, path = tmp_path / "mark", tmp_path / "bad.pt"
    hostile = Runs(mark)
    if where == "mu":
        torch.save({"mu": hostile, "sigma": np.eye(3)}, path)
    elif where == "inside":
        torch.save({"mu": np.array([hostile], dtype=object), "sigma": np.eye(3)}, path)
    elif where == "whole":
        torch.save(hostile, path)
    elif where == "plain pickle":
        path.write_bytes(pickle.dumps(hostile))
    else:
        path = npz(tmp_path / "bad.npz", mu=np.array([hostile], dtype=object), sigma=np.eye(3))
    with pytest.raises(SpecError) as told:
        read(path)
    assert "\n" not in str(told.value)
    assert not mark.exists()


def test_a_torch_file_that_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    torch.save({"mu": np.zeros(300), "sigma": np.eye(300)}, tmp_path / "stat.pt")
    monkeypatch.setattr(torch_statistics, "MOST_BYTES", 300**2 * 8)
    with pytest.raises(SpecError, match="is too large unpacked"):
        read(tmp_path / "stat.pt")


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ([1, 2], "holds no statistics, given 'list'"),
        ({"mu": 3, "sigma": np.eye(3)}, "mu is no array"),
        ({"mu": np.array(["a"]), "sigma": np.eye(3)}, "mu is no array"),
        ({"mu": np.zeros(3)}, "holds no sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, "sigma does not fit mu"),
    ],
)
def test_a_torch_file_of_something_else_is_one_line(tmp_path, held, says):
    torch.save(held, tmp_path / "stat.pt")
    with pytest.raises(SpecError, match=re.escape(says)):
        read(tmp_path / "stat.pt")
