"""A damaged tile is lost, and no other: by whichever reader, at whichever scale."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.tiler.slides import make, make_formats
from tests.tiler.slides.test_openslide import DESCRIPTION
from tiler.errors import PixelReadError
from tiler.slides import Slide, jpeg2000, open_slide
from tiler.slides.base import Rgb

TILES = [np.ascontiguousarray(t) for t in make.tiles_of(make.tissue_like(128, 128), 64)]
REDUCTIONS = (1, 2, 8)


def jpeg(tile: Rgb) -> bytes:
    encoded: bytes = simplejpeg.encode_jpeg(tile, 90, "RGB", "420")
    return encoded


def codestream(tile: Rgb) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "JPEG2000", no_jp2=True)
    return stream.getvalue()


def lossy_codestream(tile: Rgb) -> bytes:
    stream = io.BytesIO()
    layers = {"quality_mode": "rates", "quality_layers": [20, 5]}
    Image.fromarray(tile).save(stream, "JPEG2000", no_jp2=True, irreversible=True, **layers)
    return stream.getvalue()


def ycbcr_codestream(tile: Rgb) -> bytes:
    return make_formats.ycbcr_codestream(tile, 2, 1)


CODECS: dict[str, tuple[Callable[[Rgb], bytes], dict[str, Any]]] = {
    "jpeg": (jpeg, {"photometric": "ycbcr", "compression": 7, "subsampling": (2, 2)}),
    "jpeg2000": (codestream, {"compression": 33005}),
    "lossy jpeg2000": (lossy_codestream, {"compression": 33005}),
    "ycbcr jpeg2000": (
        ycbcr_codestream,
        {"photometric": "ycbcr", "compression": 33003, "subsampling": (1, 1)},
    ),
}


def write(folder: Path, codec: str, damaged: bytes) -> Path:
    """Four tiles, the second of them these bytes."""
    encode, options = CODECS[codec]
    tiles = [encode(tile) for tile in TILES]
    tiles[1] = damaged
    path = folder / "a.svs"
    return make.write_encoded(path, tiles, (128, 128, 3), 64, description=DESCRIPTION, **options)


def check_lost(slide: Slide) -> None:
    """The second cell is lost at each scale; the others are read right before and after."""
    assert slide.facts.pixels == "direct"
    for reduce in REDUCTIONS:
        with pytest.raises(PixelReadError, match=r"at level-0 \(64, 0\)"):
            slide.read_cell(0, 1, 0, reduce)
        for index in (0, 2, 3):
            found = slide.read_cell(0, index % 2, index // 2)
            assert np.abs(found.astype(int) - TILES[index]).mean() < 12
            assert slide.read_cell(0, index % 2, index // 2, reduce).shape[0] == 64 // reduce


@pytest.mark.parametrize("is_openslide", [True, False])
@pytest.mark.parametrize("codec", CODECS)
def test_a_tile_cut_at_any_length_is_lost_alone(
    tmp_path: Path, codec: str, is_openslide: bool
) -> None:
    whole = CODECS[codec][0](TILES[1])
    lengths = [len(whole) * part // 20 for part in range(1, 20)]
    for length in (1, 2, 4, *lengths, len(whole) - 2, len(whole) - 1):
        path = write(tmp_path, codec, whole[:length])
        with open_slide(path) if is_openslide else make.open_tiff(path) as slide:
            check_lost(slide)


@pytest.mark.parametrize("codec", CODECS)
def test_a_tile_that_ends_in_zeros_is_lost_alone(tmp_path: Path, codec: str) -> None:
    whole = CODECS[codec][0](TILES[1])
    for kept in (0.3, 0.6, 0.95):
        length = int(len(whole) * kept)
        path = write(tmp_path, codec, whole[:length] + bytes(len(whole) - length))
        with open_slide(path) as slide:
            check_lost(slide)


@pytest.mark.parametrize(
    ("codec", "size", "other"),
    [
        ("jpeg", b"\x08\x00\x40\x00\x40\x03", b"\x08\xff\xdc\xff\xdc\x03"),
        ("jpeg", b"\x08\x00\x40\x00\x40\x03", b"\x08\x00\x40\x00\x48\x03"),
        ("jpeg", b"\x08\x00\x40\x00\x40\x03", b"\x08\x00\x00\x00\x40\x03"),
        ("jpeg2000", (64).to_bytes(4, "big") * 2, (60000).to_bytes(4, "big") * 2),
        ("jpeg2000", b"\x00\x03\x07\x01\x01", b"\x00\x03\x0f\x01\x01"),
        ("jpeg2000", b"\x00\x03\x07\x01\x01", b"\x00\x03\x87\x01\x01"),
        ("jpeg2000", b"\x00\x03\x07\x01\x01", b"\x00\x02\x07\x01\x01"),
        ("jpeg2000", b"\x07\x01\x01\x07\x01\x01", b"\x07\x01\x01\x07\x02\x02"),
    ],
)
def test_a_header_that_lies_is_found_before_decoding(
    tmp_path: Path, codec: str, size: bytes, other: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CODECS[codec][0](TILES[1])
    assert size in whole
    path = write(tmp_path, codec, whole.replace(size, other, 1))

    def never(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("it was decoded")

    with open_slide(path) as slide:
        check_lost(slide)
        monkeypatch.setattr("simplejpeg.decode_jpeg", never)
        monkeypatch.setattr("imagecodecs.jpeg2k_decode", never)
        with pytest.raises(PixelReadError) as caught:
            slide.read_cell(0, 1, 0)
    assert "decoded" not in str(caught.value)


JPEG_TILE = jpeg(TILES[1])


def test_flipped_bits_lose_one_tile_or_change_it(tmp_path: Path) -> None:
    """JPEG has no checksums, so that many a flip cannot be seen; but none reaches another tile."""
    path = write(tmp_path, "jpeg", JPEG_TILE)
    with open_slide(path) as slide:
        expected = [slide.read_cell(0, 0, 0), slide.read_cell(0, 0, 1, 2)]
    data = path.read_bytes()
    start = data.index(JPEG_TILE)
    lost = 0
    for place in range(start, start + len(JPEG_TILE), 7):
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([data[place] ^ 0x10]))
        with open_slide(path) as slide:
            try:
                assert slide.read_cell(0, 1, 0).shape == (64, 64, 3)
            except PixelReadError:
                lost += 1
            np.testing.assert_array_equal(slide.read_cell(0, 0, 0), expected[0])
            np.testing.assert_array_equal(slide.read_cell(0, 0, 1, 2), expected[1])
        with path.open("r+b") as file:
            file.seek(place)
            file.write(data[place : place + 1])
    assert lost > 10


CODESTREAM = codestream(TILES[0])


@settings(max_examples=300)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=8))
def test_what_is_no_codestream_does_no_harm(place: int, change: bytes) -> None:
    damaged = CODESTREAM[:place] + change + CODESTREAM[place + len(change) :]
    try:
        header = jpeg2000.read_header(damaged)
        jpeg2000.check(header, 3, (64, 64), (64, 64))
    except ValueError:
        return
    assert (header.width, header.height, header.components) == (64, 64, 3)
    assert header.levels >= 0
