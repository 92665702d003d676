"""Images from a folder or a zip: EDM's pixels in the order of names, and one line for whatever is wrong with them."""

import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch

from pipeline.metrics import image_files
from pipeline.metrics.features import quantise
from pipeline.metrics.image_files import ImageFiles, Resize
from pipeline.registry import SpecError
from tests.cli.console import refused
from tests.image_folders import colours, folder_of, pixels_of, png, zip_of

# --- pixels ---


def test_samples_through_png_files_are_edms_pixels(tmp_path):
    """EDM's generate.py writes (x * 127.5 + 128) clipped and cut to uint8, and its fid.py reads the files back."""
    samples = torch.randn(70, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    edm = (samples * 127.5 + 128).clip(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert torch.equal(pixels_of(folder_of(tmp_path / "png", edm)), quantise(samples))


def test_grey_images_have_one_channel_and_a_zip_holds_what_its_folder_does(tmp_path):
    grey = colours(70)[..., 0]
    held = pixels_of(folder_of(tmp_path / "grey", grey))
    assert torch.equal(held, torch.from_numpy(grey)[:, None])
    members = {f"00/{p.name}": p.read_bytes() for p in (tmp_path / "grey").iterdir()}
    extra = {"00/": b"", "dataset.json": b"{}", "__MACOSX/._0000.png": b"x", "00/.DS_Store": b"x"}
    assert torch.equal(pixels_of(zip_of(tmp_path / "grey.zip", members | extra)), held)


def test_the_order_is_that_of_names_however_they_were_written(tmp_path):
    images = colours(5)
    for i in (3, 0, 4, 1, 2):
        (tmp_path / f"{i // 2}").mkdir(exist_ok=True)
        (tmp_path / f"{i // 2}" / f"{i}.png").write_bytes(png(images[i]))
    assert torch.equal(pixels_of(tmp_path), torch.from_numpy(images).permute(0, 3, 1, 2))


def test_some_images_are_spread_over_all(tmp_path):
    files = ImageFiles.found(folder_of(tmp_path / "many", colours(10)))
    assert [name[:4] for name in files.chosen(4)] == ["0000", "0002", "0005", "0007"]
    assert files.chosen(10) == files.chosen(None) == files.names


def test_nothing_is_resized_unless_asked_and_then_by_pil(tmp_path):
    images = colours(3, size=16)
    path = folder_of(tmp_path / "large", images)
    (path / "0001.png").write_bytes(png(colours(1, size=8)[0]))
    found = pixels_of(path, Resize(8, "box"))
    assert found.shape == (3, 3, 8, 8)
    means = images[2].reshape(8, 2, 8, 2, 3).mean((1, 3))
    assert np.abs(found[2].permute(1, 2, 0).numpy() - means).max() <= 1  # PIL rounds after each axis
    np.testing.assert_array_equal(found[1].permute(1, 2, 0).numpy(), colours(1, size=8)[0])
    (path / "0001.png").write_bytes(png(colours(1, size=8)[0, :4]))
    with pytest.raises(SpecError, match="8 x 4, which --size would distort"):
        pixels_of(path, Resize(8, "box"))


# --- what is refused ---


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(size):
    """A PNG file that promises size x size pixels in colour, and holds none."""
    ends = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(ends)


GOOD = png(colours(1)[0])
GIF = png(colours(1)[0], format="GIF")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "holds too few images, given 0"),
        ({"a.png": GOOD}, "holds too few images, given 1"),
        ({"a.png": GOOD, "b.png": GOOD, "notes.txt": b"hello"}, "holds a file that is no image, given 'notes.txt'"),
        ({"a.png": GOOD, "b.eps": b"%!PS", "c.png": GOOD}, "holds a file that is no image, given 'b.eps'"),
        ({"a.png": GOOD, "b.png": b"%!PS-Adobe-3.0 EPSF-3.0\n"}, "cannot be read (cannot identify"),
        ({"a.png": GOOD, "b.png": GIF}, "cannot be read (cannot identify"),
        ({"a.png": GOOD, "b.png": b""}, "cannot be read (cannot identify"),
        ({"a.png": GOOD, "b.png": GOOD[:-30]}, "holds an image that cannot be read"),
        ({"a.png": GOOD, "b.png": png(colours(1, size=9)[0])}, "9 x 9 in colour among images of 8 x 8 in colour"),
        ({"a.png": GOOD, "b.png": png(colours(1)[0, ..., 0])}, "8 x 8 in grey among images of 8 x 8 in colour"),
        ({"a.png": png(colours(1)[0, ..., 0].astype(np.uint16)), "b.png": GOOD}, "of mode I;16, given 'a.png'"),
        ({"a.png": header(60000), "b.png": GOOD}, "holds an image that cannot be read (Image size (3600000000"),
        ({"a.png": header(10000), "b.png": GOOD}, "holds an image of 10000 x 10000 pixels, given 'a.png'"),
        ({"a.png": header(4730), "b.png": GOOD}, "holds an image of 4730 x 4730 pixels, given 'a.png'"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_wrong_images_are_one_line_and_nothing_is_written(tmp_path, files, says, zipped):
    source = tmp_path / "images"
    source.mkdir()
    if zipped:
        source = zip_of(tmp_path / "images.zip", files)
    else:
        for name, content in files.items():
            (source / name).write_bytes(content)
    line = refused(tmp_path, "reference", source, "--features", "identity", "--out", tmp_path / "out.npz")
    assert says in line
    assert str(source) in line


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../a.png", "a name that leads out of it, given '../a.png'"),
        ("/etc/a.png", "a name that leads out of it"),
        ("x/../../a.png", "a name that leads out of it"),
        ("..\\a.png", "a name that leads out of it"),
        ("C:a.png", "a name that leads out of it"),
        ("inner.zip", "holds a file that is no image"),
    ],
)
def test_a_zips_names_stay_inside_it(tmp_path, name, says):
    source = zip_of(tmp_path / "images.zip", {"b.png": GOOD, "c.png": GOOD, name: GOOD})
    assert says in refused(tmp_path, "reference", source, "--features", "identity", "--out", tmp_path / "out.npz")


def test_a_zip_that_holds_a_name_twice_or_a_secret_is_not_read(tmp_path):
    source, out = tmp_path / "images.zip", tmp_path / "out.npz"
    archive = zipfile.ZipFile(zip_of(source, {"a.png": GOOD, "b.png": GOOD}), "a")
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("a.png", GOOD)
    archive.close()
    assert "holds a name twice, given 'a.png'" in refused(
        tmp_path, "reference", source, "--features", "identity", "--out", out
    )
    content = bytearray(zip_of(source, {"a.png": GOOD, "b.png": GOOD}).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    source.write_bytes(content)
    assert "is encrypted, given 'a.png'" in refused(
        tmp_path, "reference", source, "--features", "identity", "--out", out
    )


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was"))
    bomb = bytes(image_files.MOST_BYTES + 1)
    packed = zip_of(tmp_path / "bomb.zip", {"a.png": bomb, "b.png": GOOD}, compression=zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < 100_000
    assert "holds a file of 67,108,865 bytes, given 'a.png'" in refused(
        tmp_path, "reference", packed, "--features", "identity", "--out", tmp_path / "out.npz"
    )


def test_a_zip_with_a_wrong_size_or_damage_is_one_line(tmp_path):
    whole = zip_of(tmp_path / "images.zip", {"a.png": GOOD, "b.png": GOOD}).read_bytes()
    for content, says in (
        (whole.replace(GOOD, bytes(len(GOOD)), 1), "Bad CRC-32 for file 'a.png'"),
        (whole[: len(whole) // 2], "neither a folder nor a zip"),
        (b"hello", "neither a folder nor a zip"),
    ):
        (tmp_path / "images.zip").write_bytes(content)
        assert says in refused(
            tmp_path, "reference", tmp_path / "images.zip", "--features", "identity", "--out", tmp_path / "out.npz"
        )
