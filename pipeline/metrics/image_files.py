"""The images of a folder or of a zip as uint8 tensors: in the order of their names, decoded and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.registry import SpecError

Filter = Literal["box", "bilinear", "bicubic", "lanczos"]
FILTERS: tuple[str, ...] = get_args(Filter)
# What holds pixels and nothing else: PIL knows formats, as EPS, for which it starts other programs.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
CHANNELS = {"L": 1, "RGB": 3}
MOST_BYTES = 64 * 2**20  # of one image, in its file as in memory: 4096 x 4096 in colour are 48 MiB
LABELS = "dataset.json"  # of EDM's data sets, beside the images
ROWS = 64  # images in a batch: as many as EDM's fid.py takes

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Resize:
    """Images made `size` x `size` by PIL with `filter`, where they are not so. They must be square."""

    size: int
    filter: Filter

    def of(self, image: Image.Image) -> Image.Image:
        """The image in the wanted size; one that has it is left as it is."""
        wanted = self.size, self.size
        return image if image.size == wanted else image.resize(wanted, Image.Resampling[self.filter.upper()])


@dataclass(frozen=True)
class ImageFiles:
    """Names of images inside `path`, sorted, with what tells whether one of them was changed."""

    path: Path
    names: tuple[str, ...]
    stamp: str

    @staticmethod
    def found(path: Path) -> ImageFiles:
        """All images of a folder, with the folders in it, or of a zip. Hidden files and EDM's labels are passed over.

        Raises:
            SpecError: neither folder nor zip, no two images, a file that is no image, a zip that is not to be trusted.
        """
        stamp = hashlib.sha256()
        names = []
        for name, about in sorted(_in_folder(path) if path.is_dir() else _in_zip(path)):
            parts = PurePosixPath(name).parts
            if any(part.startswith(".") or part == "__MACOSX" for part in parts) or parts[-1] == LABELS:
                continue
            if PurePosixPath(name).suffix.lower() not in FORMATS:
                raise _wrong(path, "holds a file that is no image", name, ", ".join(FORMATS))
            names.append(name)
            stamp.update(f"{name}\0{about}\0".encode(errors="surrogateescape"))
        if len(names) < 2:
            raise _wrong(path, "holds too few images", len(names), "2 or more")
        return ImageFiles(path, tuple(names), stamp.hexdigest())

    def chosen(self, count: int | None) -> tuple[str, ...]:
        """`count` names spread evenly over all, so that no class is left out; all where no number is given.

        Raises:
            SpecError: fewer than two, or more than there are.
        """
        if count is None:
            return self.names
        if not 2 <= count <= len(self.names):
            raise _wrong(self.path, "does not hold so many images", count, f"2 to {len(self.names)}")
        return tuple(self.names[i * len(self.names) // count] for i in range(count))

    def batches(
        self, names: Sequence[str], resize: Resize | None = None, seen: Callable[[bytes], None] | None = None
    ) -> Iterator[Tensor]:
        """Images as uint8 (B, C, H, W), `ROWS` at a time, or fewer large ones.

        `seen` is given a line of each, as `sha256sum` prints it.

        Raises:
            SpecError: an image that cannot be read, or is neither grey nor RGB, or of another shape than the first.
        """
        first: Shape | None = None
        batch: list[Tensor] = []
        with self._reader() as read:
            for name in names:
                content = read(name)
                image = self._decoded(name, content, first, resize)
                first = first or _shape(image)
                if seen is not None:
                    seen(_line(name, content))
                batch.append(image)
                if len(batch) == ROWS or len(batch) * image.numel() >= MOST_BYTES:
                    yield torch.stack(batch)
                    batch = []
        if batch:
            yield torch.stack(batch)

    def shape(self) -> Shape:
        """(C, H, W) of the first image; the others are compared with it when they are read."""
        with self._reader() as read:
            return _shape(self._decoded(self.names[0], read(self.names[0]), None, None))

    def sha256(self, names: Sequence[str]) -> str:
        """SHA-256 of the listing of these images that `sha256sum` would print."""
        digest = hashlib.sha256()
        with self._reader() as read:
            for name in names:
                digest.update(_line(name, read(name)))
        return digest.hexdigest()

    def _decoded(self, name: str, content: bytes, first: Shape | None, resize: Resize | None) -> Tensor:
        form = FORMATS[PurePosixPath(name).suffix.lower()]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
                with Image.open(io.BytesIO(content), formats=(form,)) as image:
                    shape = self._checked(name, image, first, resize)
                    pixels = np.array(image if resize is None else resize.of(image))
        except SpecError:
            raise
        except Exception as error:  # whatever a broken file makes a decoder raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise _wrong(self.path, f"holds an image that cannot be read ({reason[:120]})", name) from None
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], shape[0])).permute(2, 0, 1)

    def _checked(self, name: str, image: Image.Image, first: Shape | None, resize: Resize | None) -> Shape:
        """The image's shape, which its header tells: nothing large has been unpacked yet."""
        if image.mode not in CHANNELS:
            raise _wrong(self.path, f"holds an image of mode {image.mode}", name, "L (grey) or RGB, 8 bits a channel")
        width, height = image.size
        shape = CHANNELS[image.mode], height, width
        if shape[0] * height * width > MOST_BYTES:
            raise _wrong(self.path, f"holds an image of {width} x {height} pixels", name, f"{MOST_BYTES:,} bytes")
        if resize is not None:
            if width != height:
                raise _wrong(self.path, f"holds an image of {width} x {height}, which --size would distort", name)
            shape = shape[0], resize.size, resize.size
        if first is not None and shape != first:
            told = [f"{w} x {h} in {'colour' if c == 3 else 'grey'}" for c, h, w in (shape, first)]
            raise _wrong(self.path, f"holds an image of {told[0]} among images of {told[1]}", name, "one resolution")
        return shape

    @contextlib.contextmanager
    def _reader(self) -> Iterator[Callable[[str], bytes]]:
        if self.path.is_dir():
            yield lambda name: _read(self.path, name, lambda: (self.path / name).read_bytes())
            return
        with _archive(self.path) as archive:
            yield lambda name: _read(self.path, name, lambda: archive.read(name))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits, whatever its size.

    Raises:
        SpecError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror})", file=str(path)) from None


def _line(name: str, content: bytes) -> bytes:
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode(errors="surrogateescape")


def _in_folder(path: Path) -> Iterator[tuple[str, str]]:
    for folder, _, files in os.walk(path):
        for file in files:
            full = Path(folder, file)
            try:
                status = full.stat()
            except OSError as error:
                raise _wrong(path, f"holds a file that cannot be read ({error.strerror})", full.name) from None
            yield full.relative_to(path).as_posix(), f"{status.st_size} {status.st_mtime_ns}"


def _in_zip(path: Path) -> Iterator[tuple[str, str]]:
    with _archive(path) as archive:
        seen = set()
        for entry in archive.infolist():
            name = entry.filename
            if name.startswith("/") or "\\" in name or name[1:2] == ":" or ".." in PurePosixPath(name).parts:
                raise _wrong(path, "holds a name that leads out of it", name[:80])
            if entry.is_dir():
                continue
            if name in seen:
                raise _wrong(path, "holds a name twice", name)
            if entry.file_size > MOST_BYTES:
                raise _wrong(path, f"holds a file of {entry.file_size:,} bytes", name, f"{MOST_BYTES:,} or fewer")
            if entry.flag_bits & 1:
                raise _wrong(path, "is encrypted", name)
            seen.add(name)
            yield name, f"{entry.file_size} {entry.CRC}"


@contextlib.contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror})", file=str(path)) from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        text = f"is neither a folder nor a zip of images ({error})"
        raise SpecError(text, file=str(path)) from None
    with archive:
        yield archive


def _read(path: Path, name: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except Exception as error:  # a disk's error, a damaged member, a compression that nobody knows
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise _wrong(path, f"holds a file that cannot be read ({reason[:120]})", name) from None


def _shape(image: Tensor) -> Shape:
    channels, height, width = image.shape
    return channels, height, width


def _wrong(path: Path, message: str, given: object, allowed: str | None = None) -> SpecError:
    return SpecError(message, file=str(path), given=given, allowed=allowed)
