"""Unit-normal noise as a function of an image's seed alone: the same image whatever the batch, shard, worker or device.

Counter-based Philox keyed by the seed (Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3"), drawn in
float64 on the CPU and rounded once, so that every dtype of the state starts from the same numbers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Seeds of the calibration batch start here: no study draws 2**40 images, so a plan is never scored on what tuned it.
CALIBRATION_SEEDS = 2**40
# Workers meet the same seeds in each trial. 256 MiB hold 10 000 CIFAR-10 images twice over, in float32.
CACHE_BYTES = 256 * 2**20

_Key = tuple[range | tuple[int, ...], tuple[int, ...], torch.dtype, int]


class _Cache:
    """Least recently used tensors up to a number of bytes; one lock, since a pool may draw from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.held: OrderedDict[_Key, Tensor] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: _Key) -> Tensor | None:
        with self.lock:
            found = self.held.get(key)
            if found is not None:
                self.held.move_to_end(key)
            return found

    def put(self, key: _Key, value: Tensor) -> None:
        with self.lock:
            if value.nbytes > self.limit or key in self.held:
                return
            self.held[key] = value
            self.bytes += value.nbytes
            while self.bytes > self.limit:
                _, dropped = self.held.popitem(last=False)
                self.bytes -= dropped.nbytes


_cache = _Cache(CACHE_BYTES)


def noise(
    seeds: Sequence[int] | range, shape: Sequence[int], dtype: torch.dtype = torch.float32, *, stream: int = 0
) -> Tensor:
    """Unit-normal noise, one image a seed, on the CPU -> (len(seeds), *shape).

    Seeds are whole numbers from 0 to 2**128 - 1. Stream 0 is what a path starts from; each further stream of a seed is
    independent of it, for the fresh noise of a stochastic step. The tensor is the caller's own; torch's and numpy's
    global generators are neither read nor moved.
    """
    key: _Key = (seeds if isinstance(seeds, range) else tuple(int(s) for s in seeds), tuple(shape), dtype, stream)
    held = _cache.get(key)
    if held is None:
        held = _draw(*key)
        _cache.put(key, held)
    return held.clone()


def _draw(seeds: range | tuple[int, ...], shape: tuple[int, ...], dtype: torch.dtype, stream: int) -> Tensor:
    images = torch.empty((len(seeds), *shape), dtype=dtype)
    for row, seed in zip(images, seeds, strict=True):
        # A stream starts at its own word of the 256-bit counter, 2**192 draws from the next.
        generator = np.random.Generator(np.random.Philox(key=seed, counter=stream << 192))
        row.copy_(torch.from_numpy(np.asarray(generator.standard_normal(shape))))
    return images
