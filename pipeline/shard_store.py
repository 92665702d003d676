"""The shards that a study has sampled: what was paid for is not paid again, whoever was killed in between."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from pipeline.metrics.moments import Moments
from pipeline.panel import Kept, Panel
from pipeline.trial import ShardResult
from pipeline.whole_file import write_whole

Held = tuple[ShardResult, ...]


class ShardStore:
    """Shards by the plan's digest and the batch of seeds that they were sampled in.

    With a folder, one file a batch: it appears whole or not at all, and one that is torn, edited or of another study is
    not taken. Without, they are kept in this process. A batch is taken as it was sampled or not at all, because images
    of another batch may differ in their last bits.

    Args:
        folder: made when the first batch is kept.
        context: what decides a shard beside plan and seeds: the benchmark, its network and its features.
    """

    def __init__(self, folder: Path | None = None, context: str = "") -> None:
        self._folder, self._context = folder, context
        self._held: dict[tuple[str, range], Held] = {}

    def keep(self, digest: str, shards: Sequence[ShardResult]) -> None:
        """Keep the shards of one batch, in seed order.

        Raises:
            OSError: the file cannot be written; nothing is left of it then.
        """
        seeds = range(shards[0].seeds.start, shards[-1].seeds.stop)
        if self._folder is None:
            self._held[digest, seeds] = tuple(shards)
            return
        upper = np.triu_indices(shards[0].moments.dim)
        arrays = {
            "n": np.array([shard.moments.n for shard in shards]),
            "mean": np.stack([shard.moments.mean for shard in shards]),
            "scatter": np.stack([shard.moments.scatter[upper] for shard in shards]),
            "rows": np.array([shard.rows for shard in shards]),
            "seconds": np.array([shard.seconds for shard in shards]),
        }
        kept = [shard.kept for shard in shards if shard.kept is not None]
        arrays |= _packed(kept)
        about = {"of": self._of(digest, seeds), "sum": _sum(arrays)} | ({"panel": kept[0].panel} if kept else {})
        file = self._file(self._folder, digest, seeds)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, save(arrays, about))

    def take(self, digest: str, seeds: range, shard_images: int, panel: Panel | None = None) -> Held | None:
        """The shards of one batch, to the last bit; None where they were not kept, or not in this batch.

        `panel`: they have to hold what these metrics keep.
        """
        wanted = None if panel is None else panel.digest
        if self._folder is None:
            held = self._held.get((digest, seeds))
            return held if held is None or wanted in (None, held[0].kept and held[0].kept.panel) else None
        try:
            with safe_open(self._file(self._folder, digest, seeds), "np") as opened:
                about = opened.metadata() or {}
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError):
            return None
        if about.get("of") != self._of(digest, seeds) or about.get("sum") != _sum(arrays):
            return None
        starts = seeds[::shard_images]
        if len(starts) != len(arrays["n"]) or wanted not in (None, about.get("panel")):
            return None
        kept = _unpacked(arrays, about["panel"]) if "panel" in about else [None] * len(starts)
        return tuple(
            ShardResult(
                range(start, start + shard_images),
                _moments(int(arrays["n"][i]), arrays["mean"][i], arrays["scatter"][i]),
                int(arrays["rows"][i]),
                float(arrays["seconds"][i]),
                kept[i],
            )
            for i, start in enumerate(starts)
        )

    def drop(self, digest: str) -> None:
        """Forget a plan's shards: what became of it is in the ledger."""
        if self._folder is None:
            self._held = {key: shards for key, shards in self._held.items() if key[0] != digest}
        else:
            shutil.rmtree(self._folder / digest, ignore_errors=True)

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _of(self, digest: str, seeds: range) -> str:
        return f"{self._context} {digest} {seeds.start}-{seeds.stop}"

    @staticmethod
    def _file(folder: Path, digest: str, seeds: range) -> Path:
        return folder / digest / f"{seeds.start}-{seeds.stop}.safetensors"


def _packed(kept: Sequence[Kept]) -> dict[str, np.ndarray]:
    """What metrics beside FID keep of the shards of a batch, as arrays."""
    arrays: dict[str, np.ndarray] = {}
    rows = [part.features for part in kept if part.features is not None]
    if rows:
        arrays |= {"features": np.concatenate(rows), "features.n": np.array([len(part) for part in rows])}
    for name in kept[0].moments if kept else ():
        held = [part.moments[name] for part in kept]
        upper = np.triu_indices(held[0].dim)
        arrays |= {
            f"{name}.n": np.array([moments.n for moments in held]),
            f"{name}.mean": np.stack([moments.mean for moments in held]),
            f"{name}.scatter": np.stack([moments.scatter[upper] for moments in held]),
        }
    return arrays


def _unpacked(arrays: Mapping[str, np.ndarray], panel: str) -> list[Kept | None]:
    """The opposite of `_packed`."""
    names = [name.removesuffix(".scatter") for name in arrays if name.endswith(".scatter")]
    features: list[np.ndarray | None] = [None] * len(arrays["n"])
    if "features" in arrays:
        features = list(np.split(arrays["features"], np.cumsum(arrays["features.n"])[:-1]))
    return [
        Kept(
            panel,
            features[i],
            {name: _moments(int(arrays[f"{name}.n"][i]), arrays[f"{name}.mean"][i], arrays[f"{name}.scatter"][i])
             for name in names},
        )
        for i in range(len(arrays["n"]))
    ]  # fmt: skip


def _moments(n: int, mean: np.ndarray, upper: np.ndarray) -> Moments:
    scatter = np.zeros((len(mean), len(mean)))
    scatter[np.triu_indices(len(mean))] = upper
    return Moments(n, mean, scatter + np.triu(scatter, 1).T)


def _sum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
