"""Data sets that come with a kept library, as images in [-1, 1]: nothing here downloads."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pipeline.registry import SpecError


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(values.astype(np.float32)).reshape(-1, 1, 8, 8)
    return images / 8 - 1, torch.from_numpy(labels.astype(np.int64))


_SOURCES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {"digits": _digits}


def names() -> list[str]:
    """The data sets that a card may name."""
    return sorted(_SOURCES)


def labelled(name: str) -> tuple[Tensor, Tensor]:
    """Images in [-1, 1], float32 (N, C, H, W), and their classes, int64 (N,).

    `digits`: the UCI optical digits of scikit-learn, 1797 images of 1 x 8 x 8, values 0 to 16 mapped by v / 8 - 1,
    which float32 holds exactly.

    Raises:
        SpecError: no such data set.
    """
    if name not in _SOURCES:
        raise SpecError("unknown data set", path="data", given=name, allowed=names())
    images, labels = _SOURCES[name]()
    return images.clone(), labels.clone()


def images(name: str) -> Tensor:
    """The images of `labelled`."""
    return labelled(name)[0]
