"""The features that FID is defined with: torch-fidelity's port of Inception, of 2015, weights from a file."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.metrics.features import FEATURES, through
from pipeline.registry import SpecError

FILE = "weights-inception-2015-12-05-6726825d.pth"
VARIABLE = "SIGMASEARCH_INCEPTION_WEIGHTS"
DIM = 2048
NETWORK, LAYER = "inception-v3-compat", "2048"  # torch-fidelity's names
# Images at a time through the network: a layer of 16 takes 90 MB, and an accelerator takes as many as EDM's fid.py.
ROWS, ROWS_ON_DEVICE = 16, 64


@FEATURES.register("inception")
@dataclass(frozen=True)
class Inception:
    """2048 features of uint8 images, grey ones as RGB: `inception-v3-compat` of torch-fidelity, enlarged as it does.

    `weights` is a file of torch-fidelity's. Where none is given, that of SIGMASEARCH_INCEPTION_WEIGHTS is taken, then
    that in torch's own store. Nothing is fetched. A worker elsewhere finds the file by the same rules.

    Raises:
        SpecError: no such file, or no weights of this network in it.
    """

    weights: str = ""
    needs_pixels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _network(self.hash, "cpu", self._file)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) uint8 -> (B, 2048) float32."""
        device = str(images.device)
        network = _network(self.hash, device, self._file)
        rows = ROWS if device == "cpu" else ROWS_ON_DEVICE
        return through(lambda part: network(part.expand(-1, 3, -1, -1))[0], images, rows)

    def dim(self, shape: tuple[int, ...]) -> int:
        """2048, whatever the resolution."""
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise SpecError("inception takes grey images or RGB", given=list(shape), allowed="(1 or 3, H, W)")
        return DIM

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of the weights' file. It stays what it was when the extractor was made, also on a worker."""
        return _sha256(*_stamped(self._file))

    @property
    def _file(self) -> Path:
        given = self.weights or os.environ.get(VARIABLE, "")
        if given:
            return Path(given).absolute()
        return Path(torch.hub.get_dir(), "checkpoints", FILE)


@contextlib.contextmanager
def _needed(file: Path) -> Iterator[None]:
    """A file that is not there, or not to be read, is a mistake that says what to fetch."""
    try:
        yield
    except OSError as error:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        message = f"inception has no weights here ({error.strerror}): fetch {URL_INCEPTION_V3} and put it there"
        raise SpecError(f"{message}, or name the file in {VARIABLE}", path="weights", given=str(file)) from None


def _stamped(file: Path) -> tuple[Path, int, int]:
    with _needed(file):
        status = file.stat()
    return file, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _sha256(file: Path, *unchanged: int) -> str:
    with _needed(file), file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    # By the convention of torch's store a file's name ends in the first digits of its hash.
    promised = re.search(r"-([0-9a-f]{8,64})\.pth$", file.name)
    if promised and not found.startswith(promised[1]):
        message = "is not what its name says, fetched in part or changed"
        raise SpecError(message, path="weights", given=f"{file}, SHA-256 {found[:16]}", allowed=f"{promised[1]}...")
    return found


@functools.cache
def _network(sha256: str, device: str, file: Path) -> Any:
    """The network on `device`, read once a process.

    torch-fidelity would unpickle the file without a check, so it is given a copy that holds tensors and no more.
    """
    with _needed(file):
        content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        message = "inception's weights are others than when the extractor was made"
        raise SpecError(message, path="weights", given=f"{file}, SHA-256 {found[:16]}", allowed=f"{sha256[:16]}...")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    copy = io.BytesIO()
    try:
        held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        torch.save({str(name): tensor.detach().clone() for name, tensor in held.items()}, copy)
        copy.seek(0)
        with torch.random.fork_rng(devices=[]):  # it draws weights before it reads them
            network = FeatureExtractorInceptionV3(NETWORK, [LAYER], feature_extractor_weights_path=copy)
    except Exception as error:  # torch raises what its reader met
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        message = f"does not hold the weights of {NETWORK} ({reason})"
        raise SpecError(message, path="weights", given=str(file)) from None
    return network.to(device)
