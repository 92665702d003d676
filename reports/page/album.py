"""The sample grids of a page, within the room that it has for them."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

# A page of less than 3 MB has room for this much of pictures, in bytes before base64 makes 4/3 of them.
ROOM = 1_400_000
PNG, IHDR_END = b"\x89PNG\r\n\x1a\n", 24
MOST_PIXELS = 16_000_000


@dataclass(frozen=True)
class Picture:
    """A sample grid, embedded once a page: `name` is the id of its symbol. Width and height in pixels."""

    name: str
    data: str
    width: int
    height: int


class Album:
    """The pictures of a page, each held once however often it is shown.

    All are as they came where there is room, else all are JPEG of one scale, for they are to be compared. `note` says
    so. What is no picture is left out.
    """

    def __init__(self, contents: Iterable[bytes]) -> None:
        sizes = {content: _size(content) for content in contents}
        sources = [content for content, size in sizes.items() if size is not None]
        self.note = ""
        held = {content: ("png", content) for content in sources}
        if sum(map(len, sources)) > ROOM:
            scale, shrunk = _shrunk(sources)
            held = {content: ("jpeg", small) for content, small in shrunk.items()}
            size = "the same size" if scale == 1 else f"1/{scale} of the size"
            self.note = f"To keep this page small its pictures are JPEG of {size}; those kept with the runs are not."
        self._held = {
            content: _picture(content, sizes[content] or (0, 0), *encoded) for content, encoded in held.items()
        }

    def picture(self, content: bytes) -> Picture | None:
        """The picture of this file; None where it is none."""
        return self._held.get(content)

    @property
    def pictures(self) -> list[Picture]:
        """All of them, by name."""
        return sorted(self._held.values(), key=lambda picture: picture.name)


def _size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG."""
    if not content.startswith(PNG) or len(content) < IHDR_END or content[12:16] != b"IHDR":
        return None
    width, height = struct.unpack(">II", content[16:IHDR_END])
    return (width, height) if 0 < width * height <= MOST_PIXELS else None


def _picture(content: bytes, size: tuple[int, int], kind: str, encoded: bytes) -> Picture:
    name = "picture-" + hashlib.sha256(content).hexdigest()[:12]
    return Picture(name, f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}", *size)


def _shrunk(contents: list[bytes]) -> tuple[int, dict[bytes, bytes]]:
    """The scale at which all fit, 1, 2, 4, ..., and each as JPEG of that scale; what cannot be read is left out."""
    scale = 1
    while True:
        made = {content: small for content in contents if (small := _jpeg(content, scale)) is not None}
        if sum(map(len, made.values())) <= ROOM:
            return scale, made
        scale *= 2


def _jpeg(content: bytes, scale: int) -> bytes | None:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as opened:
            drawn = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if scale > 1:
        size = max(1, drawn.width // scale), max(1, drawn.height // scale)
        drawn = drawn.resize(size, Image.Resampling.BOX)
    out = io.BytesIO()
    drawn.save(out, format="JPEG", quality=88)
    return out.getvalue()
