"""JPEG tiles as the file holds them: whole, private, and the very pixels of the cell."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.tiler.slides import make
from tests.tiler.slides.test_openslide import DESCRIPTION, svs
from tiler.errors import PixelReadError
from tiler.slides import Slide, jpegstream, open_slide
from tiler.slides.base import Rgb

PIXELS = make.tissue_like(301, 223)
TILE = np.ascontiguousarray(PIXELS[:64, :64])
SECRET = b"CANARYDOE"


def with_remarks(stream: bytes) -> bytes:
    """Put application data of all kinds and a comment behind SOI, and a tail behind EOI."""
    remarks = b"".join(
        b"\xff" + bytes([marker]) + (2 + len(SECRET)).to_bytes(2, "big") + SECRET
        for marker in (*range(0xE1, 0xF0), 0xFE)
    )
    return stream[:2] + remarks + stream[2:] + SECRET


def markers(stream: bytes) -> list[int]:
    """The markers of a JPEG before its pixels."""
    return [marker for marker, _, _ in jpegstream._segments(stream)]


def decoders(stream: bytes) -> list[Rgb]:
    """What three decoders make of a JPEG without being told its colours."""
    with Image.open(io.BytesIO(stream)) as image:
        pillow = np.asarray(image)
    return [simplejpeg.decode_jpeg(stream), imagecodecs.jpeg8_decode(stream), pillow]


def check(slide: Slide, level: int = 0) -> int:
    """Decode all native tiles of a level, hold them against the cells, and count them."""
    place, count = slide.facts.levels[level], 0
    for column in range(-(-place.width // place.cell_width)):
        for row in range(-(-place.height // place.cell_height)):
            stream = slide.native_tile(level, column, row)
            is_cut = (column + 1) * place.cell_width > place.width or (
                row + 1
            ) * place.cell_height > place.height
            assert (stream is None) == is_cut
            if stream is None:
                continue
            count += 1
            for pixels in decoders(stream):
                np.testing.assert_array_equal(pixels, slide.read_cell(level, column, row))
            found = markers(stream)
            assert found[0] == 0xEE
            assert not set(found[1:]) & {*range(0xE0, 0xF0), 0xFE}
            assert SECRET not in stream
            assert stream.endswith(b"\xff\xd9")
    return count


@pytest.mark.parametrize("is_openslide", [True, False])
@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_native_tiles_are_the_pixels_of_the_cells(
    tmp_path: Path, photometric: str, subsampling: str, is_openslide: bool
) -> None:
    path = make.write_abbreviated(
        tmp_path / "a.tif", PIXELS, 64, "ycbcr", subsampling, photometric=photometric
    )
    with open_slide(path) if is_openslide else make.open_tiff(path) as slide:
        assert check(slide) == 12


@pytest.mark.parametrize("has_jfif", [True, False])
def test_remarks_and_tails_are_cut_out(tmp_path: Path, has_jfif: bool) -> None:
    tiles = []
    for quality, tile in enumerate(make.tiles_of(PIXELS, 64), 60):
        stream = simplejpeg.encode_jpeg(np.ascontiguousarray(tile), quality, "RGB", "420")
        assert stream[6:10] == b"JFIF"
        tiles.append(with_remarks(stream if has_jfif else stream[:2] + stream[20:]))
    options: dict[str, Any] = {"photometric": "ycbcr", "compression": "jpeg"}
    path = make.write_encoded(
        tmp_path / "a.tif", tiles, PIXELS.shape, 64, subsampling=(2, 2), **options
    )
    with open_slide(path) as slide:
        assert slide.facts.pixels == "direct"
        assert check(slide) == 12


def test_remarks_in_the_tables_are_cut_out() -> None:
    tables, tile = make.jpeg_parts(TILE, "rgb")
    tiles = jpegstream.JpegTiles(with_remarks(tables).removesuffix(SECRET), 2)
    stream = tiles.for_storing(with_remarks(tile), (64, 64))
    assert stream is not None
    assert SECRET not in stream
    for pixels in decoders(stream):
        assert np.abs(pixels.astype(int) - TILE).mean() < 8


def test_jfif_tiles_in_a_tiff_that_says_rgb_say_that_they_are_ycbcr(tmp_path: Path) -> None:
    pixels = make.tissue_like(128, 128)
    path = make.write_tiff(tmp_path / "a.tif", pixels, tile=(64, 64), compression="jpeg")
    make.set_tag(path, 262, [2])
    with make.open_tiff(path) as slide:
        assert check(slide) == 4
        stream = slide.native_tile(0, 0, 0)
    assert stream is not None
    assert np.abs(simplejpeg.decode_jpeg(stream).astype(int) - pixels[:64, :64]).mean() < 8


def test_native_tiles_of_real_slides(real_data: Path) -> None:
    for name, level, count in (
        ("svs/CMU-1-Small-Region.svs", 0, 9 * 12),
        ("derived/CMU-1-Small-Region_pyramid.svs", 0, 8 * 11),
        ("derived/CMU-1-Small-Region_pyramid.svs", 1, 4),
        ("ome_tiff/OS-1-detail.ome.tif", 0, 4),
    ):
        with open_slide(real_data / name) as slide:
            assert check(slide, level) == count


def jpeg(**options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(TILE).convert(options.pop("mode", "RGB")).save(stream, "JPEG", **options)
    return stream.getvalue()


def test_restart_markers_are_no_damage() -> None:
    stream = jpeg(restart_marker_blocks=1)
    assert stream.count(b"\xff\xd0") > 0
    found = jpegstream.JpegTiles(b"", 6).for_storing(stream, (64, 64))
    assert found is not None
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(found), simplejpeg.decode_jpeg(stream))


def without(marker: int, stream: bytes) -> bytes:
    """Take the segments of one kind out of a JPEG."""
    for found, start, end in reversed(list(jpegstream._segments(stream))):
        if found == marker:
            stream = stream[:start] + stream[end:]
    return stream


NOT_PLAIN: dict[str, bytes] = {
    "progressive": jpeg(progressive=True),
    "gray": jpeg(mode="L"),
    "four components": jpeg(mode="CMYK"),
    "no Huffman tables": without(0xC4, jpeg()),
    "no quantisation tables": without(0xDB, jpeg()),
    "a scan for each component": jpeg().replace(b"\xff\xda\x00\x0c\x03", b"\xff\xda\x00\x0c\x01"),
    "odd sampling": jpeg().replace(b"\x01\x22\x00\x02\x11", b"\x01\x31\x00\x02\x11"),
    "a scan of nothing": jpeg().partition(b"\xff\xda")[0] + b"\xff\xda\0\2",
    "12 bits": jpeg().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_what_not_every_decoder_knows_is_not_kept(kind: str) -> None:
    assert jpegstream.JpegTiles(b"", 6).for_storing(NOT_PLAIN[kind], (64, 64)) is None


def test_what_is_no_jpeg_tile_is_none(tmp_path: Path, real_data: Path) -> None:
    gray = np.ascontiguousarray(PIXELS[..., 0])
    made: list[tuple[Any, dict[str, Any]]] = [
        (PIXELS, {"tile": (64, 64), "compression": "zlib"}),
        (PIXELS, {"rowsperstrip": 64, "compression": "jpeg"}),
        (gray, {"tile": (64, 64), "compression": "jpeg", "photometric": "minisblack"}),
    ]
    paths = [
        make.write_tiff(tmp_path / f"{index}.tif", pixels, **options)
        for index, (pixels, options) in enumerate(made)
    ]
    paths += [
        real_data / "svs/TCGA-CR-7395-01A-01-TS1.svs",
        real_data / "ndpi/test3-DAPI-2-(387).ndpi",
        real_data / "he_fields/stardist_histo.jpg",
    ]
    for path in paths:
        with open_slide(path) as slide:
            assert slide.native_tile(0, 0, 0) is None
            with pytest.raises(IndexError):
                slide.native_tile(0, 1000, 0)


STREAM = simplejpeg.encode_jpeg(TILE, 90, "RGB", "420")
KEPT = jpegstream.JpegTiles(b"", 6).for_storing(STREAM, (64, 64))
SCAN = STREAM.index(b"\xff\xda") + 14

DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing of a JPEG": (b"\0" * 500, "does not start with a JPEG marker"),
    "no end": (STREAM[:-2], "is cut off: it has no end"),
    "half": (STREAM[: SCAN + 200], "is cut off: it has no end"),
    "cut in the header": (STREAM[:100], "is cut off before its pixels"),
    "cut at the start": (STREAM[:3], "no frame header"),
    "a marker among the pixels": (
        STREAM[: SCAN + 50] + b"\xff\xc4" + STREAM[SCAN + 50 :],
        "a marker stands among its pixels",
    ),
    "rubbish in the header": (STREAM[:20] + b"\0" + STREAM[21:], "is damaged before its pixels"),
    "another size": (
        simplejpeg.encode_jpeg(PIXELS[:72, :64].copy()),
        "is 64 x 72 px where 64 x 64",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_that_shows_is_an_error_of_that_tile_alone(tmp_path: Path, kind: str) -> None:
    data, reason = DAMAGED[kind]
    tiles = [STREAM, data, STREAM, STREAM]
    options: dict[str, Any] = {"photometric": "ycbcr", "compression": "jpeg"}
    path = make.write_encoded(
        tmp_path / "a.tif", tiles, (128, 128, 3), 64, subsampling=(2, 2), **options
    )
    with open_slide(path) as slide, make.open_tiff(path) as other:
        for opened in (slide, other):
            with pytest.raises(PixelReadError, match=rf"at level-0 \(64, 0\): .*{reason}"):
                opened.native_tile(0, 1, 0)
            assert opened.native_tile(0, 0, 0) == opened.native_tile(0, 0, 1) is not None


@settings(max_examples=300)
@given(st.integers(0, len(STREAM) - 1), st.binary(min_size=1, max_size=4))
def test_whatever_is_kept_is_whole_and_private(place: int, change: bytes) -> None:
    damaged = STREAM[:place] + change + STREAM[place + len(change) :]
    tiles = jpegstream.JpegTiles(b"", 6)
    try:
        stream = tiles.for_storing(damaged, (64, 64))
    except ValueError:
        stream = None
    if stream is not None:
        assert stream.endswith(b"\xff\xd9")
        assert not set(markers(stream)[1:]) & {*range(0xE0, 0xF0), 0xFE}
    # What is remembered of the last tile changes nothing for the next one.
    assert tiles.for_storing(STREAM, (64, 64)) == KEPT


def test_the_memory_of_the_last_tile_holds_no_wrong_header(tmp_path: Path) -> None:
    """Tiles that begin alike, one with other tables: read forth and back, they stay themselves."""
    tiles = [
        simplejpeg.encode_jpeg(np.ascontiguousarray(tile), 50 + 9 * (index % 3), "RGB", "422")
        for index, tile in enumerate(make.tiles_of(PIXELS, 64))
    ]
    options: dict[str, Any] = {"photometric": "ycbcr", "compression": "jpeg"}
    path = make.write_encoded(
        tmp_path / "a.svs",
        tiles,
        PIXELS.shape,
        64,
        description=DESCRIPTION,
        subsampling=(2, 1),
        **options,
    )
    cells = [(column, row) for row in range(4) for column in range(3)]
    with open_slide(path) as slide:
        forth = [slide.read_cell(0, *cell) for cell in cells]
    with open_slide(path) as slide:
        back = [slide.read_cell(0, *cell) for cell in reversed(cells)]
    for one, other in zip(forth, reversed(back), strict=True):
        np.testing.assert_array_equal(one, other)


def test_will_need_takes_any_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "os.posix_fadvise", lambda _fd, offset, count, _advice: asked.append((offset, count))
    )
    monkeypatch.setattr("tiler.slides.rawfile._WAIT_S", 0)  # any read counts as slow
    path = svs(tmp_path / "a.svs", "")
    with open_slide(path) as slide:
        slide.read_cell(0, 0, 0)
        slide.read_cell(1, 0, 0)
        slide.will_need(0, [])
        assert asked == []
        slide.will_need(0, [(0, 0), (2, 2), (1, 0)])
        slide.will_need(1, [(0, 0)])
    size = path.stat().st_size
    assert asked
    assert all(0 < offset < offset + count <= size for offset, count in asked)
    monkeypatch.delattr("os.posix_fadvise")
    with open_slide(path) as slide:
        slide.read_cell(0, 0, 0)
        slide.will_need(0, [(0, 0)])


def test_files_in_memory_are_not_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.posix_fadvise", lambda *_: pytest.fail("it costs more than it gains"))
    monkeypatch.setattr("tiler.slides.rawfile._WAIT_S", 10)
    with open_slide(svs(tmp_path / "a.svs", "")) as slide:
        slide.will_need(0, [(0, 0)])
        slide.read_cell(0, 0, 0)
        slide.will_need(0, [(1, 1)])


def test_an_end_in_the_middle_of_the_bytes_is_damage() -> None:
    tiles = jpegstream.JpegTiles(b"", 6)
    middle = len(STREAM) // 2
    early = STREAM[:middle] + b"\xff\xd9" + bytes(4000)
    with pytest.raises(ValueError, match="ends in the middle of its bytes"):
        tiles.for_storing(early, (64, 64))


def test_a_single_jfif_tile_is_not_believed_against_a_file_that_says_rgb() -> None:
    pixels = make.tissue_like(64, 64)
    tables, tile = make.jpeg_parts(pixels, "rgb")
    jfif = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    marked = tile[:2] + jfif + tile[2:]
    size = (64, 64)
    found = []
    for data in (tile, marked):
        tiles = jpegstream.JpegTiles(tables, 2, is_jfif=False)
        header, stream = tiles.for_decoding(data, 3, size, size)
        found.append(jpegstream.decode(header, stream))
    plain, with_marker = found
    np.testing.assert_array_equal(plain, with_marker)
