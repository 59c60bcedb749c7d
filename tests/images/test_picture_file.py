"""What a picture looks like is what is read: upright, of all depths, or refused by name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsr_export.errors import ExportError
from dsr_export.images.picture_file import MOST_PIXELS, read_picture


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 128, 257, 32768], [40000, 65278, 65408, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    made = np.asarray(read_picture(tmp_path / "a.png"))
    expected = np.rint(values / 65535 * 255).astype(np.uint8)
    np.testing.assert_array_equal(made, np.repeat(expected[..., None], 3, 2))


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_pictures_are_turned_upright(tmp_path: Path, turned: int, name: str) -> None:
    upright = Image.new("RGB", (16, 32), (0, 0, 0))
    upright.paste((255, 255, 255), (0, 0, 8, 16))  # white in the upper left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL.Image.Transpose, the inverse of each orientation
    stored = upright.transpose(Image.Transpose(undo[turned])) if turned > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = turned
    stored.save(tmp_path / name, exif=exif, **({"quality": 95} if name == "a.jpg" else {}))
    made = np.asarray(read_picture(tmp_path / name)).astype(int)
    assert made.shape == (32, 16, 3)
    assert made[4, 2].min() > 240
    assert max(made[4, 12].max(), made[28, 2].max()) < 15


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_opaque_mode_is_read(tmp_path: Path, mode: str) -> None:
    Image.new("RGBA", (4, 4), (255, 255, 255, 255)).convert("RGB").convert(mode).save(tmp_path / "a.png")
    assert np.asarray(read_picture(tmp_path / "a.png")).min() == 255


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (4, 4), (9, 9, 9, 255))
    picture.putpixel((0, 0), (9, 9, 9, 100))
    if mode == "P":
        Image.new("P", (4, 4), 0).save(tmp_path / "a.png", transparency=0)
    else:
        picture.convert(mode).save(tmp_path / "a.png")
    with pytest.raises(ExportError, match="transparent pixels"):
        read_picture(tmp_path / "a.png")


def test_cmyk_is_read(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.jpg")
    assert np.asarray(read_picture(tmp_path / "a.jpg")).min() > 250


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (value, 0, 0)) for value in (0, 255)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ExportError, match="is an animation"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "WEBP", "EPS"])
def test_other_formats_are_not_opened(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", kind)
    with pytest.raises(ExportError, match="is no readable image"):
        read_picture(tmp_path / "a.png")


def test_huge_pictures_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for width, height in ((9000, 9000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)):
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(ExportError, match=f"{MOST_PIXELS} allowed|no readable image"):
            read_picture(tmp_path / "a.png")


def test_truncated_pictures_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-800])
        with pytest.raises(ExportError, match="is no readable image"):
            read_picture(tmp_path / name)
