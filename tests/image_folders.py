"""Folders and zips of images, made by the tests."""

import io
import zipfile

import numpy as np
import torch
from PIL import Image

from pipeline.metrics.image_files import ImageFiles


def png(pixels, format="PNG"):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format)
    return content.getvalue()


def colours(n, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def folder_of(path, images):
    path.mkdir(exist_ok=True)
    for i, pixels in enumerate(images):
        (path / f"{i:04}.png").write_bytes(png(pixels))
    return path


def zip_of(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pixels_of(path, resize=None):
    files = ImageFiles.found(path)
    return torch.cat(list(files.batches(files.names, resize)))
