"""The file of a checkpoint that a card names: read once, its network built once for each device."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.networks.checkpoint import Checkpoint, read_checkpoint
from pipeline.networks.preconditioning import Preconditioner
from pipeline.registry import SpecError


@dataclass(frozen=True)
class CheckpointFile:
    """The checkpoint at `path`, which the card names under `key`; `sha256` is the file's, checked where it is given."""

    path: str
    sha256: str | None = None
    key: str = "path"

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """What the file holds.

        Raises:
            SpecError: about the card's key: no such file, not a checkpoint, not the one of that hash.
        """
        file = Path(self.path).expanduser()
        if self.sha256 is not None and file.is_file():
            with file.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != self.sha256.lower():
                key = "sha256" if self.key == "path" else f"{self.key}_sha256"
                raise SpecError("is another file than the card names", path=key, given=found, allowed=self.sha256)
        try:
            return read_checkpoint(file)
        except SpecError as error:
            raise self._in_file(error) from None

    @functools.cached_property
    def network(self) -> Preconditioner:
        """The network on the CPU.

        Raises:
            SpecError: as `checkpoint`; or its weights are not its network's.
        """
        checkpoint = self.checkpoint
        try:
            return checkpoint.network()
        except SpecError as error:
            raise self._in_file(error) from None

    def on(self, device: str) -> Preconditioner:
        """The network on `device`."""
        if device not in self._networks:
            copy = self.checkpoint.network()
            self._networks[device] = copy.to(device)
        return self._networks[device]

    @functools.cached_property
    def _networks(self) -> dict[str, Preconditioner]:
        return {"cpu": self.network}

    def _in_file(self, error: SpecError) -> SpecError:
        # A card's error names the card as its file: what is wrong with the checkpoint is a mistake of the card's key.
        where = [error.file or self.path, *([error.path] if error.path else [])]
        return SpecError(": ".join([*where, error.message]), path=self.key, given=error.given, allowed=error.allowed)
