"""TIFFs that hold something else than a picture, lie about themselves, or are damaged."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.tiler.slides import make
from tiler.errors import PixelReadError, UnreadableSlide
from tiler.slides import limits, open_slide

REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "16-bit gray": (
        np.zeros((64, 64), np.uint16),
        {"photometric": "minisblack"},
        "needs 8-bit RGB; found 1 channel of uint16 (fluorescence?)",
    ),
    "16-bit RGB tiles": (
        np.zeros((64, 64, 3), np.uint16),
        {"tile": (64, 64)},
        "needs 8-bit RGB; found 3 channels of uint16 (fluorescence?)",
    ),
    "channels as images": (
        np.zeros((3, 64, 64), np.uint8),
        {"photometric": "minisblack"},
        "needs 8-bit RGB; found 3 separate channels of uint8 (fluorescence?)",
    ),
    "channels as tiled images": (
        np.zeros((4, 64, 64), np.uint8),
        {"photometric": "minisblack", "tile": (64, 64), "compression": "zlib"},
        "needs 8-bit RGB; found 4 separate channels of uint8 (fluorescence?)",
    ),
    "one bit": (
        np.zeros((64, 64), bool),
        {"photometric": "minisblack"},
        "needs 8-bit RGB; found 1 channel of 1-bit values (fluorescence?)",
    ),
    "CMYK": (
        np.zeros((64, 64, 4), np.uint8),
        {"photometric": "separated"},
        "needs RGB or gray; found CMYK colours",
    ),
    "palette": (
        np.zeros((64, 64), np.uint8),
        {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
        "needs RGB or gray; found palette colours",
    ),
    "a huge strip": (
        np.zeros((5000, 4800, 3), np.uint8),
        {"rowsperstrip": 5000, "compression": "zlib"},
        "convert it to a tiled TIFF",
    ),
    "a huge tile": (
        np.zeros((16, 16, 3), np.uint8),
        {"tile": (8192, 8192), "compression": "zlib"},
        "are above the limit of 64 MiB",
    ),
    "an unsupported codec": (
        np.zeros((64, 64, 3), np.uint8),
        {"tile": (64, 64), "compression": "png"},
        "is not supported; convert the file",
    ),
}


@pytest.mark.parametrize(("pixels", "options", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_shown_right_is_refused(
    tmp_path: Path, pixels: Any, options: dict[str, Any], reason: str
) -> None:
    path = make.write_tiff(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(UnreadableSlide) as caught:
        open_slide(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


LIES: dict[str, tuple[int, list[int], str]] = {
    "no width": (256, [0], "px in segments of"),
    "no height": (257, [0], "px in segments of"),
    "absurd width": (256, [4_000_000_000], "segments of an image"),
    "more rows than tiles": (257, [4096], "segments of an image"),
    "no tile width": (322, [0], "px in segments of"),
    "tiles behind the end": (324, [2**31], "the file is cut off"),
    "a long last tile": (325, [12288] * 15 + [65535], "the file is cut off"),
}


@pytest.mark.parametrize(("code", "values", "reason"), LIES.values(), ids=LIES.keys())
def test_tags_that_lie_are_found_out(
    tmp_path: Path, code: int, values: list[int], reason: str
) -> None:
    path = make.write_tiff(tmp_path / "a.tif", make.tissue_like(256, 256), tile=(64, 64))
    make.set_tag(path, code, values)
    with pytest.raises(UnreadableSlide, match=reason):
        open_slide(path)


def test_an_absurd_size_is_refused(tmp_path: Path) -> None:
    path = make.write_tiff(tmp_path / "a.tif", make.tissue_like(16, 16), rowsperstrip=16)
    make.set_tag(path, 256, [limits.MAX_SLIDE_SIDE + 1])
    with pytest.raises(UnreadableSlide, match="cannot be that of a slide"):
        open_slide(path)


@pytest.mark.parametrize("keep", [0.999, 0.9, 0.5, 0.1, 0.01])
def test_a_cut_off_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = make.write_tiff(tmp_path / "a.tif", make.tissue_like(256, 256), tile=(64, 64))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UnreadableSlide):
        open_slide(path)


def test_a_ring_of_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for _ in range(2):
        make.write_tiff(path, make.tissue_like(16, 16), append=path.exists())
    with tifffile.TiffFile(path) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[1].offset
    count = int.from_bytes(path.read_bytes()[last : last + 2], "little")
    end = last + 2 + 12 * count
    data = bytearray(path.read_bytes())
    data[end : end + 4] = first.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UnreadableSlide, match="is a ring"):
        open_slide(path)


def damaged_jpeg(tmp_path: Path, change: bytes, by: bytes) -> Path:
    """A tiled TIFF in whose first tile some bytes were replaced."""
    path = make.write_abbreviated(
        tmp_path / "a.tif", make.tissue_like(128, 128), 64, "ycbcr", "420"
    )
    data = path.read_bytes()
    assert change in data
    path.write_bytes(data.replace(change, by, 1))
    return path


def test_a_jpeg_bomb_is_found_before_decoding(tmp_path: Path) -> None:
    size, bomb = b"\xff\xc0\x00\x11\x08\x00\x40\x00\x40", b"\xff\xc0\x00\x11\x08\xff\xdc\xff\xdc"
    with make.open_tiff(damaged_jpeg(tmp_path, size, bomb)) as slide:
        with pytest.raises(PixelReadError, match="is 65500 x 65500 px where 64 x 64 should be"):
            slide.read_cell(0, 0, 0)
        assert slide.read_cell(0, 1, 1).shape == (64, 64, 3), "other cells stay readable"


def test_a_deflate_bomb_stays_small(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    path = make.write_tiff(
        tmp_path / "a.tif",
        iter([bomb]),
        shape=(64, 64, 3),
        dtype=np.uint8,
        tile=(64, 64),
        compression="zlib",
    )
    with make.open_tiff(path) as slide, pytest.raises(PixelReadError, match="level-0 \\(0, 0\\)"):
        slide.read_cell(0, 0, 0)


def test_a_jpeg2000_header_that_lies_is_found_before_decoding(tmp_path: Path) -> None:
    path = make.write_tiff(
        tmp_path / "a.tif", make.tissue_like(64, 64), tile=(64, 64), compression="jpeg2000"
    )
    data = path.read_bytes()
    size = (64).to_bytes(4, "big") * 2
    place = data.index(size, data.index(b"\xff\x4f\xff\x51"))
    path.write_bytes(data[:place] + (60000).to_bytes(4, "big") * 2 + data[place + 8 :])
    with make.open_tiff(path) as slide, pytest.raises(PixelReadError, match="is 60000 x 60000 px"):
        slide.read_cell(0, 0, 0)


def test_a_shortened_jpeg_tile_is_an_error_and_not_half_a_picture(tmp_path: Path) -> None:
    path = make.write_tiff(
        tmp_path / "a.tif",
        make.tissue_like(128, 128),
        tile=(64, 64),
        compression="jpeg",
    )
    with tifffile.TiffFile(path) as tiff:
        counts = list(tiff.pages[0].databytecounts)
    make.set_tag(path, 325, [counts[0], counts[1] // 2])
    with make.open_tiff(path) as slide:
        with pytest.raises(PixelReadError, match=r"level 0 cannot be read at level-0 \(64, 0\)"):
            slide.read_cell(0, 1, 0)
        np.testing.assert_array_equal(slide.read_cell(0, 0, 1), tifffile.imread(path)[64:, :64])


def test_a_cell_outside_the_level_is_the_callers_mistake(tmp_path: Path) -> None:
    path = make.write_tiff(tmp_path / "a.tif", make.tissue_like(100, 100), tile=(64, 64))
    with make.open_tiff(path) as slide:
        for cell in ((0, 2, 0), (0, 0, 2), (0, -1, 0), (1, 0, 0), (-1, 0, 0)):
            with pytest.raises(IndexError):
                slide.read_cell(*cell)
