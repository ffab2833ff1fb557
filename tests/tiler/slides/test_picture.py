"""Plain pictures as slides."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiler.slides import make
from tiler.errors import PixelReadError, UnreadableSlide
from tiler.slides import open_slide


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def test_a_png_comes_back_exactly(tmp_path: Path) -> None:
    pixels = make.tissue_like(700, 1100)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(make.whole_level(slide), pixels)
        facts = slide.facts
    assert (facts.reader, facts.vendor, facts.compression) == ("picture", "png", "deflate")
    assert (facts.mpp, facts.mpp_source, facts.mpp_problem) == (None, "none", None)
    assert facts.warnings == ()
    assert facts.fingerprint == "file1:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_jpeg_is_known_by_its_content_and_not_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.svs"
    save(path, Image.fromarray(make.tissue_like(300, 500)), format="JPEG", exif=exif)
    with open_slide(path) as slide:
        assert slide.facts.vendor == "jpeg"
        assert "its EXIF orientation 6 is not applied" in slide.facts.warnings
        with Image.open(path) as picture:
            np.testing.assert_array_equal(make.whole_level(slide), np.asarray(picture))


def test_gray_palette_and_transparent_pictures_become_rgb(tmp_path: Path) -> None:
    pixels = make.tissue_like(40, 60)
    gray = pixels[:, :, 0]
    with open_slide(save(tmp_path / "gray.png", Image.fromarray(gray))) as slide:
        np.testing.assert_array_equal(make.whole_level(slide), np.dstack([gray] * 3))
    palette = Image.fromarray(pixels).quantize(16)
    with open_slide(save(tmp_path / "palette.png", palette)) as slide:
        expected = np.asarray(palette.convert("RGB"))
        np.testing.assert_array_equal(make.whole_level(slide), expected)
    rgba = np.dstack([pixels, np.full((40, 60), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    with open_slide(save(tmp_path / "alpha.png", Image.fromarray(rgba))) as slide:
        found = make.whole_level(slide)
    assert (found[:20] == 255).all()
    np.testing.assert_array_equal(found[20:], pixels[20:])


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    gray = Image.fromarray(np.zeros((8, 8), np.uint16))
    with pytest.raises(UnreadableSlide, match="found 1 channel of uint16"):
        open_slide(save(tmp_path / "gray.png", gray))
    rows = b"".join(b"\0" + bytes(8 * 6) for _ in range(8))
    with pytest.raises(UnreadableSlide, match="found 3 channels of uint16"):
        open_slide(write_png(tmp_path / "rgb.png", 8, 8, 16, rows))


def test_cmyk_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (8, 8)))
    with pytest.raises(UnreadableSlide, match="mode CMYK"):
        open_slide(path)


def write_png(path: Path, width: int, height: int, bits: int, rows: bytes) -> Path:
    """Write an RGB PNG whose header may ask for more than it holds."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)
    return path


def test_a_picture_that_asks_for_too_much_is_refused_before_decoding(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSlide, match="exceeds limit"):
        open_slide(write_png(tmp_path / "bomb.png", 60000, 60000, 8, b""))
    with pytest.raises(UnreadableSlide, match="is above the limit of 178 Mpx"):
        open_slide(write_png(tmp_path / "large.png", 13_400, 13_300, 8, b""))


def test_a_large_picture_below_the_limit_is_opened_without_a_warning(tmp_path: Path) -> None:
    with open_slide(write_png(tmp_path / "a.png", 12_000, 10_000, 8, b"")) as slide:
        assert slide.facts.levels[0].width == 12_000


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_picture_raises_when_it_is_read(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", Image.fromarray(make.tissue_like(400, 400)))
    path.write_bytes(path.read_bytes()[:-2000])
    with open_slide(path) as slide, pytest.raises(PixelReadError, match="cannot be decoded"):
        slide.read_cell(0, 0, 0)


def test_a_picture_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(make.tissue_like(40, 40)))
    with open_slide(path) as slide:
        save(path, Image.fromarray(make.tissue_like(30, 30)))
        with pytest.raises(PixelReadError, match="changed"):
            slide.read_cell(0, 0, 0)
