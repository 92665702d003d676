"""Samples side by side in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import image
from numpy.typing import NDArray


def picture_grid(images: NDArray[Any], path: Path, columns: int | None = None, pixels: int = 64) -> Path:
    """Save images side by side as PNG: (n, H, W) or (n, H, W, C), uint8, or floats from 0 to 1; C is 1, 3 or 4.

    An image narrower than `pixels` is enlarged by a whole factor, without smoothing.
    """
    if images.ndim not in (3, 4) or not len(images) or (images.ndim == 4 and images.shape[3] not in (1, 3, 4)):
        raise ValueError(f"(n, H, W) or (n, H, W, C) is drawn, not {images.shape}")
    if images.dtype != np.uint8:
        images = np.clip(np.floor(np.nan_to_num(images) * 256), 0, 255).astype(np.uint8)
    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] == 1:
        images = np.repeat(images, 3, axis=3)
    factor = max(1, -(-pixels // images.shape[2]))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    n, height, width, channels = images.shape
    across = columns or int(np.ceil(np.sqrt(n)))
    gap = 2
    down = -(-n // across)
    canvas = np.full((down * (height + gap) + gap, across * (width + gap) + gap, channels), 255, dtype=np.uint8)
    for k, picture in enumerate(images):
        top, left = gap + k // across * (height + gap), gap + k % across * (width + gap)
        canvas[top : top + height, left : left + width] = picture
    path.parent.mkdir(parents=True, exist_ok=True)
    image.imsave(path, canvas, format="png", metadata={"Software": ""})
    return path
