"""The features that FID is defined with: torch-fidelity's port of Inception, of 2015, weights from a file."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.metrics.features import FEATURES
from pipeline.metrics.file_extractor import FileExtractor
from pipeline.metrics.weight_files import WeightsFile

FILE = "weights-inception-2015-12-05-6726825d.pth"
VARIABLE = "SIGMASEARCH_INCEPTION_WEIGHTS"
DIM = 2048
NETWORK, LAYER = "inception-v3-compat", "2048"  # torch-fidelity's names


@FEATURES.register("inception")
@dataclass(frozen=True)
class Inception(FileExtractor):
    """2048 features of uint8 images, grey ones as RGB: `inception-v3-compat` of torch-fidelity, enlarged as it does.

    `weights` is a file of torch-fidelity's. Where none is given, that of SIGMASEARCH_INCEPTION_WEIGHTS is taken, then
    that in torch's own store. Nothing is fetched. A worker elsewhere finds the file by the same rules.

    Raises:
        SpecError: no such file, or no weights of this network in it.
    """

    def weights_file(self) -> WeightsFile:
        """torch-fidelity's own."""
        return _weights()

    def network(self, device: str) -> Any:
        """`inception-v3-compat` on `device`."""
        return _network(self.hash, device, self.file)

    def width(self) -> int:
        """2048."""
        return DIM


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
