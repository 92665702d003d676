"""The features that FID is defined with: torch-fidelity's port of Inception, of 2015, weights from a file."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.metrics.features import FEATURES, through
from pipeline.metrics.weight_files import WeightsFile
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
        return _weights().sha256(self._file)

    @property
    def _file(self) -> Path:
        return _weights().found(self.weights)


@functools.cache
def _network(sha256: str, device: str, file: Path) -> Any:
    """The network on `device`, read once a process.

    torch-fidelity would unpickle the file without a check, so it is given a copy that holds tensors and no more.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    copy = io.BytesIO()
    held = _weights().read(file, sha256)
    try:
        torch.save(held, copy)
        copy.seek(0)
        with torch.random.fork_rng(devices=[]):  # it draws weights before it reads them
            network = FeatureExtractorInceptionV3(NETWORK, [LAYER], feature_extractor_weights_path=copy)
    except Exception as error:  # torch names tensors that are missing or of other shapes
        raise _weights().mistaken(file, error) from None
    return network.to(device)


def _weights() -> WeightsFile:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return WeightsFile("inception", NETWORK, VARIABLE, FILE, URL_INCEPTION_V3)
