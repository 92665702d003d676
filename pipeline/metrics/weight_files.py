"""Files of weights that a user fetched: found by a rule, known by their SHA-256, read as tensors and nothing else."""

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

import safetensors.torch
import torch
from torch import Tensor

from pipeline.registry import SpecError


@dataclass(frozen=True)
class WeightsFile:
    """A network's weights: the file that is given, else that of an environment variable, else that in torch's store.

    `extractor` asks for them, `network` takes them. `name` is the file's in torch's store, `url` where it can be had.
    Nothing is fetched.
    """

    extractor: str
    network: str
    variable: str
    name: str
    url: str

    def found(self, given: str) -> Path:
        """Where the file is to be."""
        named = given or os.environ.get(self.variable, "")
        return Path(named).absolute() if named else Path(torch.hub.get_dir(), "checkpoints", self.name)

    def sha256(self, file: Path) -> str:
        """Its SHA-256, 64 hex digits, read again only where the file has changed.

        Raises:
            SpecError: there is no such file, or it is not what its name promises.
        """
        with self._needed(file):
            status = file.stat()
        return _sha256(self, file, status.st_mtime_ns, status.st_size)

    def read(self, file: Path, sha256: str) -> dict[str, Tensor]:
        """The tensors of the file by name, from safetensors or a file of torch's, of which nothing is run.

        Raises:
            SpecError: the file is gone or another by now, or holds something else.
        """
        with self._needed(file):
            content = file.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            message = f"{self.extractor}'s weights are others than when the extractor was made"
            raise SpecError(message, path="weights", given=f"{file}, SHA-256 {found[:16]}", allowed=f"{sha256[:16]}...")
        try:
            if file.suffix == ".safetensors":
                return dict(safetensors.torch.load(content))
            held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return {str(name): tensor.detach().clone() for name, tensor in held.items()}
        except Exception as error:  # both raise what their readers met
            raise self.mistaken(file, error) from None

    def mistaken(self, file: Path, error: Exception) -> SpecError:
        """What is told of a file that holds no weights of this network."""
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        message = f"does not hold the weights of {self.network} ({reason})"
        return SpecError(message, path="weights", given=str(file))

    @contextlib.contextmanager
    def _needed(self, file: Path) -> Iterator[None]:
        """A file that is not there, or not to be read, is a mistake that says what to fetch."""
        try:
            yield
        except OSError as error:
            message = f"{self.extractor} has no weights here ({error.strerror}): fetch {self.url} and put it there"
            raise SpecError(
                f"{message}, or name the file in {self.variable}", path="weights", given=str(file)
            ) from None


@functools.lru_cache(maxsize=4)
def _sha256(weights: WeightsFile, file: Path, *unchanged: int) -> str:
    with weights._needed(file), file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    # By the convention of torch's store a file's name ends in the first digits of its hash.
    promised = re.search(r"-([0-9a-f]{8,64})\.pth$", file.name)
    if promised and not found.startswith(promised[1]):
        message = "is not what its name says, fetched in part or changed"
        raise SpecError(message, path="weights", given=f"{file}, SHA-256 {found[:16]}", allowed=f"{promised[1]}...")
    return found
