"""References that lie in files: moments that somebody stored, or images whose moments are taken here."""

from __future__ import annotations

import functools
import io
import logging
import zipfile
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from pipeline.metrics import torch_statistics
from pipeline.metrics.distances import Reference
from pipeline.metrics.features import Extractor, name_of
from pipeline.metrics.image_files import ImageFiles, Shape, sha256_of
from pipeline.metrics.moments import Array, Moments
from pipeline.registry import SpecError
from pipeline.whole_file import write_whole

STORED = (".npz", ".pt", ".pth")
FORMS = "the path of a .npz, .pt or .zip, or of a folder of images, with a /"
MOST_FEATURES = 16384  # a covariance of 2 GiB
MOST_TEXT = 4096  # bytes of a text in a .npz
ROUNDING = 1e-6  # of the largest variance: EDM's sums are in float64, others' in float32

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StoredReference:
    """Moments from a file. What the file does not tell is None; only files of `write` tell everything.

    `features` and `extractor`: name and hash of what made the features. `shape`: (C, H, W) of the images.
    `source` and `source_sha256`: what the images came from. `resized`: how they were resized, if they were.
    """

    reference: Reference
    features: str | None = None
    extractor: str | None = None
    shape: Shape | None = None
    source: str | None = None
    source_sha256: str | None = None
    resized: str | None = None
    sha256: str = ""

    def check(self, extractor: Extractor, shape: tuple[int, ...]) -> None:
        """Refuse what cannot be compared with samples of `shape` (C, H, W) through `extractor`.

        Raises:
            SpecError: features of another extractor, of other weights, another number of them, another resolution.
        """
        name, dim = name_of(extractor), extractor.dim(shape)
        if self.features is not None and self.features != name:
            raise SpecError("is of the features of another extractor", given=self.features, allowed=name)
        if self.extractor is not None and self.extractor != extractor.hash:
            message = f"was made with other weights of {name}"
            raise SpecError(message, given=self.extractor[:16], allowed=f"{extractor.hash[:16]} (SHA-256)")
        if self.shape is not None and self.shape != shape:
            raise SpecError("is of images of another shape", given=list(self.shape), allowed=str(list(shape)))
        if len(self.reference.mean) != dim:
            held = len(self.reference.mean)
            raise SpecError("is of another number of features", given=held, allowed=f"{dim}, as {name} has")


@dataclass(frozen=True)
class ImageReference:
    """The moments of images, taken when they are first asked for, with what the card measures samples with."""

    images: ImageFiles
    extractor: Extractor

    @functools.cached_property
    def reference(self) -> Reference:
        """All images, read once a process; with many of them, make a .npz of them first."""
        return Reference.of(moments_of(self.images.batches(self.images.names), self.extractor))

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the zip, or of the listing of the folder that `sha256sum` would print in the order of names."""
        return sha256_of(self.images.path) if self.images.path.is_file() else self.images.sha256(self.images.names)


def moments_of(batches: Iterable[Tensor], extractor: Extractor) -> Moments:
    """The moments of all batches of uint8 images, one batch at a time in memory."""
    return Moments.merge(Moments.of(extractor(batch)) for batch in batches)


def is_file(text: str) -> bool:
    """Whether a card's `reference` names a file or a folder, rather than a kind of reference."""
    return text.endswith((*STORED, ".zip")) or "/" in text or "\\" in text


def opened(path: Path, extractor: Extractor, shape: tuple[int, ...]) -> StoredReference | ImageReference:
    """The reference at `path` for samples of `shape` (C, H, W) and the features of `extractor`, checked.

    A file that does not tell whose features it holds is taken where their number fits; one line of the log says so.

    Raises:
        SpecError: it cannot be read, or not be compared.
    """
    if path.suffix.lower() not in STORED or path.is_dir():
        return _images(ImageFiles.found(path), cast(Hashable, extractor), extractor.hash, shape)
    try:
        status = path.stat()
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror})", file=str(path)) from None
    found = _stored(path, status.st_mtime_ns, status.st_size)
    try:
        found.check(extractor, shape)
    except SpecError as error:
        raise error.under(file=str(path)) from None
    if found.features is None:
        _tell(path.name, name_of(extractor), len(found.reference.mean))
    return found


def read(path: Path) -> StoredReference:
    """Moments from an EDM or our own .npz, or from torch-fidelity's statistics (.pt). Nothing is unpickled.

    Raises:
        SpecError: it cannot be read, lacks something, or holds what is no mean and covariance.
    """
    texts: dict[str, Any] = {}
    if path.suffix.lower() == ".npz":
        held, texts = _npz(path)
    else:
        held = torch_statistics.read(path)
    n = texts.pop("n", None)
    try:
        if n is not None and n < 2:
            raise SpecError("is of too few images", given=n, allowed="2 or more")
        mean, covariance = _checked(held)
    except SpecError as error:
        raise error.under(file=str(path)) from None
    return StoredReference(Reference(mean, covariance, n), **texts, sha256=sha256_of(path))


def write(path: Path, moments: Moments, made: StoredReference) -> None:
    """Write a .npz that EDM's fid.py reads too: mu and sigma, and what `made` tells of them. Same moments, same bytes.

    Raises:
        OSError: it cannot be written; what was there before stands.
    """
    told = {name: getattr(made, name) for name in _TEXTS if getattr(made, name) is not None}
    content = io.BytesIO()
    arrays: dict[str, Any] = {"mu": moments.mean, "sigma": moments.covariance, "n": np.array(moments.n, dtype=np.int64)}
    arrays |= {key: np.array(text) for key, text in told.items()}
    if made.shape is not None:
        arrays["shape"] = np.array(made.shape, dtype=np.int64)
    np.savez(content, allow_pickle=False, **arrays)
    write_whole(path, content.getvalue())


_TEXTS = ("features", "extractor", "source", "source_sha256", "resized")


@functools.lru_cache(maxsize=4)
def _stored(path: Path, *unchanged: int) -> StoredReference:
    return read(path)


@functools.lru_cache(maxsize=4)
def _images(images: ImageFiles, held: Hashable, unchanged: str, shape: tuple[int, ...]) -> ImageReference:
    extractor = cast(Extractor, held)
    given = images.shape()
    if given != shape:
        message = "holds images of another shape"
        raise SpecError(message, file=str(images.path), given=list(given), allowed=str(list(shape)))
    return ImageReference(images, extractor)


@functools.cache
def _tell(name: str, features: str, dim: int) -> None:
    logger.warning("%s does not say whose features it holds: taken for the %d of %s", name, dim, features)


def _checked(held: dict[str, Array]) -> tuple[Array, Array]:
    missing = [key for key in ("mu", "sigma") if key not in held]
    if missing:
        raise SpecError(f"holds no {' and no '.join(missing)}", allowed="mu and sigma")
    mean, covariance = held["mu"], held["sigma"]
    if mean.ndim != 1 or not 1 <= len(mean) <= MOST_FEATURES:
        raise SpecError("mu is no mean of features", given=list(mean.shape), allowed=f"(d,), d at most {MOST_FEATURES}")
    d = len(mean)
    if covariance.shape != (d, d):
        raise SpecError("sigma does not fit mu", given=list(covariance.shape), allowed=f"({d}, {d})")
    if not np.isfinite(mean).all() or not np.isfinite(covariance).all():
        raise SpecError("holds numbers that are not finite")
    variances = np.diag(covariance)
    if (variances < 0).any():
        raise SpecError("sigma is no covariance: a variance is negative", given=float(variances.min()))
    if np.abs(covariance - covariance.T).max() > ROUNDING * variances.max():
        raise SpecError("sigma is no covariance: it is not symmetric")
    return mean, (covariance + covariance.T) / 2


def _npz(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """What stands under the names that mean something here, and nothing else, is read."""
    numbers: dict[str, Array] = {}
    texts: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
            for key in sorted(members & {"mu", "sigma"}):
                numbers[key] = np.asarray(_array(archive, key, "f", 8 * MOST_FEATURES**2), dtype=np.float64)
            for key in sorted(members & set(_TEXTS)):
                texts[key] = str(_array(archive, key, "U", MOST_TEXT).item())
            if "n" in members:
                texts["n"] = int(_array(archive, "n", "iu", 8).item())
            if "shape" in members:
                channels, height, width = _array(archive, "shape", "iu", 24).tolist()
                texts["shape"] = channels, height, width
    except SpecError as error:
        raise error.under(file=str(path)) from None
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror or error})", file=str(path)) from None
    except Exception as error:  # whatever a damaged archive makes its readers raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SpecError(f"is no .npz that can be read ({reason})", file=str(path)) from None
    return numbers, texts


def _array(archive: zipfile.ZipFile, key: str, kinds: str, most: int) -> np.ndarray[Any, Any]:
    """One array, of which the header is looked at first: what it says is what numpy would allocate."""
    with archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = reader(member)
    if dtype.hasobject:
        raise SpecError(f"{key} holds Python objects, which are not read", given=str(dtype), allowed="numbers")
    if dtype.kind not in kinds:
        raise SpecError(f"{key} is of the wrong type", given=str(dtype))
    size = dtype.itemsize * int(np.prod([float(n) for n in shape]))
    if size > most:
        raise SpecError(f"{key} is too large", given=list(shape), allowed=f"{most:,} bytes or fewer")
    with archive.open(f"{key}.npy") as member:
        return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
