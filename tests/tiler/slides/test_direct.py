"""Tiles decoded past OpenSlide, against OpenSlide; and who decodes what."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import tifffile

from tests.tiler.slides import make, make_formats
from tests.tiler.slides.test_openslide import DESCRIPTION, read_region, svs
from tiler.errors import UnreadableSlide
from tiler.slides import open_slide
from tiler.slides.base import Rgb

PIXELS = make.tissue_like(301, 223)
SUBSAMPLINGS = ("444", "422", "420", "440", "411")


def check(path: Path, tolerance: int = 0, pixels: str = "direct") -> None:
    """Hold all levels against OpenSlide's."""
    with open_slide(path) as slide:
        assert (slide.facts.reader, slide.facts.pixels) == ("openslide", pixels), slide.facts
        for level in range(len(slide.facts.levels)):
            found, expected = make.whole_level(slide, level), read_region(path, level)
            assert np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("vendor", ["aperio", "generic"])
@pytest.mark.parametrize(
    ("photometric", "colours", "subsampling"),
    [
        ("rgb", "rgb", None),
        *(("ycbcr", "ycbcr", subsampling) for subsampling in SUBSAMPLINGS),
        # The TIFF's word on colours is what counts, also where it seems odd.
        *(("rgb", "ycbcr", subsampling) for subsampling in ("444", "422", "420")),
    ],
)
def test_jpeg_with_tables_is_the_same(
    tmp_path: Path, vendor: str, photometric: str, colours: str, subsampling: str | None
) -> None:
    options: dict[str, Any] = {"photometric": photometric}
    if vendor == "aperio":
        options |= {"description": DESCRIPTION}
    check(make.write_abbreviated(tmp_path / "a", PIXELS, 64, colours, subsampling, **options))


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("is_big", [False, True])
def test_jpeg_with_tables_in_each_tile_is_the_same(
    tmp_path: Path, subsampling: tuple[int, int], is_big: bool
) -> None:
    options: dict[str, Any] = {"tile": (80, 96), "compression": "jpeg", "bigtiff": is_big}
    check(make.write_tiff(tmp_path / "a.tif", PIXELS, subsampling=subsampling, **options))


def test_tiles_that_all_begin_differently_are_the_same(tmp_path: Path) -> None:
    tiles = [jfif(tile, quality) for quality, tile in enumerate(tiles_64(), 60)]
    options = {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2)}
    check(make.write_encoded(tmp_path / "a.tif", tiles, PIXELS.shape, 64, **options))


def tiles_64() -> list[Rgb]:
    return [np.ascontiguousarray(tile) for tile in make.tiles_of(PIXELS, 64)]


def jfif(pixels: Rgb, quality: int) -> bytes:
    """A JFIF stream with Huffman tables of its own."""
    encoded: bytes = simplejpeg.encode_jpeg(pixels, quality, "RGB", "420")
    return encoded


LOSSLESS: dict[str, dict[str, Any]] = {
    "uncompressed": {},
    "deflate": {"compression": "zlib"},
    "deflate, predictor": {"compression": "zlib", "predictor": 2},
    "deflate, BigTIFF": {"compression": "zlib", "bigtiff": True},
    "LZW": {"compression": "lzw"},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd"},
}


@pytest.mark.parametrize("options", LOSSLESS.values(), ids=LOSSLESS.keys())
def test_lossless_tiles_are_the_same(tmp_path: Path, options: dict[str, Any]) -> None:
    check(make.write_tiff(tmp_path / "a.tif", PIXELS, tile=(64, 80), **options))


@pytest.mark.parametrize("is_lossless", [True, False])
def test_jpeg2000_is_the_same(tmp_path: Path, is_lossless: bool) -> None:
    arguments = {"reversible": True} if is_lossless else {"level": 40, "reversible": False}
    options = {"compression": 33005, "compressionargs": arguments, "description": DESCRIPTION}
    check(make.write_tiff(tmp_path / "a.svs", PIXELS, tile=(64, 64), **options), tolerance=1)


@pytest.mark.parametrize("is_lossy", [False, True])
@pytest.mark.parametrize(
    ("step_x", "step_y", "pixels"),
    [(1, 1, "direct"), (2, 1, "direct"), (2, 2, "direct"), (1, 2, "openslide")],
)
def test_jpeg2000_in_ycbcr_is_the_same_within_rounding(
    tmp_path: Path, step_x: int, step_y: int, pixels: str, is_lossy: bool
) -> None:
    tiles = [
        make_formats.ycbcr_codestream(tile, step_x, step_y, is_lossy=is_lossy)
        for tile in tiles_64()
    ]
    options = {"photometric": "ycbcr", "compression": 33003, "subsampling": (1, 1)}
    path = make.write_encoded(
        tmp_path / "a.svs", tiles, PIXELS.shape, 64, description=DESCRIPTION, **options
    )
    check(path, tolerance=1, pixels=pixels)
    with open_slide(path) as slide:
        bias = make.whole_level(slide).astype(float) - read_region(path, 0)
    assert abs(bias.mean()) < 0.02, "rounded, not cut off"


def test_philips_levels_are_cut_to_their_size(tmp_path: Path) -> None:
    path = make_formats.write_philips(tmp_path / "a.tiff", make.tissue_like(512, 384), 4, 64)
    with tifffile.TiffFile(path) as tiff:
        sizes = [list(page.databytecounts) for page in tiff.pages]
        assert tiff.pages[2].shape == (128, 128, 3)
    make.set_tag(path, 325, [*sizes[0][:5], 0, *sizes[0][6:]])
    make.set_tag(path, 325, [*sizes[1][:3], 0], image=1)
    with open_slide(path) as slide:
        assert slide.facts.vendor == "philips"
        assert slide.facts.mpp == (0.25, 0.25)
        assert (slide.facts.levels[2].width, slide.facts.levels[2].height) == (96, 128)
        assert (slide.read_cell(0, 5, 0) == 255).all(), "a tile without bytes is background"
        assert slide.native_tile(2, 0, 0) is not None
        assert slide.native_tile(2, 1, 0) is None, "the level ends inside the tile"
    check(path)


@pytest.mark.parametrize("compression", ["jpeg", "zlib"])
def test_a_tile_without_bytes_is_background(tmp_path: Path, compression: str) -> None:
    path = make.write_tiff(tmp_path / "a.tif", PIXELS, tile=(64, 64), compression=compression)
    with tifffile.TiffFile(path) as tiff:
        sizes = list(tiff.pages[0].databytecounts)
    make.set_tag(path, 325, [0, *sizes[1:-1], 0])
    with open_slide(path) as slide:
        assert (slide.read_cell(0, 0, 0) == 255).all()
        assert slide.read_cell(0, 0, 0, 4).shape == (16, 16, 3)
        assert slide.native_tile(0, 0, 0) is None
    check(path)


def test_tiles_made_of_missing_ones_are_painted_as_openslide_does(tmp_path: Path) -> None:
    sizes = [(1100, 900), (550, 450), (275, 225)]
    levels = [make.tissue_like(*size, seed) for seed, size in enumerate(sizes)]
    path = make.write_svs(tmp_path / "a.svs", levels, DESCRIPTION, "x")
    make.set_tag(path, 325, [0])
    with open_slide(path) as slide:
        assert slide.facts.pixels == "direct"
        for level in range(3):
            assert slide.native_tile(level, 0, 0) is None
        assert slide.native_tile(0, 1, 0) is not None
    check(path)


def shift_tiles(path: Path, target: Path, by: int) -> Path:
    """Copy a TIFF of one image, and its tiles once more `by` bytes further, where they are used."""
    shutil.copy(path, target)
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts
    data = path.read_bytes()
    with target.open("r+b") as file:
        for offset, count in zip(offsets, counts, strict=True):
            file.seek(offset + by)
            file.write(data[offset : offset + count])
            file.seek(offset)
            file.write(bytes(count))
    make.set_tag(target, 324, [offset + by for offset in offsets])
    return target


@pytest.mark.parametrize(("is_big", "by"), [(False, 2**31 + 2**30), (True, 2**32 + 12345)])
def test_offsets_beyond_two_and_four_gib(tmp_path: Path, is_big: bool, by: int) -> None:
    options: dict[str, Any] = {"tile": (64, 64), "compression": "jpeg", "bigtiff": is_big}
    plain = make.write_tiff(tmp_path / "plain.tif", PIXELS, **options)
    path = shift_tiles(plain, tmp_path / "far.tif", by)
    assert path.stat().st_size > by
    check(path)
    with open_slide(path) as slide, open_slide(plain) as near:
        slide.will_need(0, [(0, 0), (1, 1)])
        assert slide.native_tile(0, 1, 1) == near.native_tile(0, 1, 1)


@pytest.mark.slow
def test_every_real_slide_is_the_same(real_data: Path) -> None:
    expected = {
        "svs/CMU-1-Small-Region.svs": "direct",
        "svs/TCGA-CR-7395-01A-01-TS1.svs": "direct",
        "svs/openslide-python-small.svs": "direct",
        "derived/CMU-1-Small-Region_pyramid.svs": "direct",
        "tiff/openslide-python-boxes.tiff": "direct",
    }
    for name, pixels in expected.items():
        check(real_data / name, tolerance=1 if "TCGA" in name else 0, pixels=pixels)


WHY: dict[str, tuple[str, str]] = {
    "svs/CMU-1-Small-Region.svs": ("direct", "jpeg tiles of 240 x 240 px lie edge to edge"),
    "ndpi/test3-DAPI-2-(387).ndpi": ("openslide", "the format hamamatsu has no direct road"),
    "he_fields/stardist_histo.jpg": ("whole picture", "a jpeg file has no tiles"),
    "derived/OS-2-ndpi_pyramid.ome.tif": (
        "direct",
        "jpeg tiles of 256 x 256 px; OpenSlide does not see the pyramid of an OME-TIFF",
    ),
}


@pytest.mark.parametrize("name", WHY)
def test_who_decodes_is_told_with_the_reason(real_data: Path, name: str) -> None:
    with open_slide(real_data / name) as slide:
        assert (slide.facts.pixels, slide.facts.pixels_why) == WHY[name]


def test_small_tiles_stay_with_openslide(tmp_path: Path) -> None:
    path = make.write_tiff(tmp_path / "a.tif", PIXELS, tile=(32, 32), compression="jpeg")
    with open_slide(path) as slide:
        assert slide.facts.pixels_why == "tiles of 32 x 32 px make no good cells"
    check(path, pixels="openslide")


def test_an_unusual_level_stays_with_openslide_alone(tmp_path: Path) -> None:
    path = svs(tmp_path / "a.svs", "")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[1].aspage().is_jfif
    make.set_tag(path, 262, [2], image=1)
    with open_slide(path) as slide:
        assert slide.facts.pixels == "mixed"
        assert slide.facts.pixels_why == (
            "level 1: JFIF tiles in a file that says RGB are ambiguous"
        )
        assert slide.native_tile(0, 0, 0) is not None
        assert slide.native_tile(1, 0, 0) is None
    check(path, pixels="mixed")


def test_jpeg_that_is_coded_unusually_stays_with_openslide(tmp_path: Path) -> None:
    usual, unusual = b"\x01\x22\x00\x02\x11", b"\x01\x31\x00\x02\x11"
    tiles = [jfif(tile, 90).replace(usual, unusual) for tile in tiles_64()]
    options: dict[str, Any] = {"photometric": "ycbcr", "compression": "jpeg"}
    path = make.write_encoded(
        tmp_path / "a.tif", tiles, PIXELS.shape, 64, subsampling=(2, 2), **options
    )
    with open_slide(path) as slide:
        assert slide.facts.pixels == "openslide"
        assert slide.facts.pixels_why == "its JPEG tiles are coded unusually"


def test_levels_of_the_same_size_are_told_apart_by_their_order(tmp_path: Path) -> None:
    levels = [make.tissue_like(300, 280, seed) for seed in (1, 2)]
    check(make.write_svs(tmp_path / "a.svs", levels, DESCRIPTION, "x"))


def test_openslide_can_be_asked_for(real_data: Path) -> None:
    path = real_data / "derived/CMU-1-Small-Region_pyramid.svs"
    with open_slide(path, reader="openslide") as slide:
        assert slide.facts.pixels == "openslide"
        assert slide.facts.pixels_why == "asked for by --reader openslide"
        np.testing.assert_array_equal(make.whole_level(slide), read_region(path, 0))
        assert slide.native_tile(0, 0, 0) is None
        slide.will_need(0, [(0, 0)])
    with open_slide(path) as slide:
        assert slide.facts.pixels == "direct"
    with pytest.raises(ValueError, match="reader is one of auto, openslide, not 'tiff'"):
        open_slide(path, reader="tiff")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ome_tiff/OS-1-detail.ome.tif", "an OME-TIFF"),
        ("he_fields/stardist_histo.jpg", "a plain picture"),
        ("ihc_fields/skimage-ihc.png", "a plain picture"),
    ],
)
def test_what_openslide_does_not_read_is_said(real_data: Path, name: str, kind: str) -> None:
    expected = f"OpenSlide does not read {kind} as a slide; leave out --reader openslide"
    with pytest.raises(UnreadableSlide) as caught:
        open_slide(real_data / name, reader="openslide")
    assert str(caught.value) == expected


def cuts(path: Path) -> list[int]:
    size = path.stat().st_size
    return [round(size * part / 20) for part in range(1, 20)] + [size - 1]


MADE: dict[str, Callable[[Path], Path]] = {
    "JPEG": lambda path: make.write_abbreviated(path, PIXELS, 64, "ycbcr", "420"),
    "BigTIFF": lambda path: make.write_tiff(path, PIXELS, tile=(64, 64), bigtiff=True),
    "Philips": lambda path: make_formats.write_philips(path, PIXELS, 3, 64),
    "Aperio": lambda path: svs(path, ""),
}


@pytest.mark.parametrize("maker", MADE.values(), ids=MADE.keys())
def test_a_file_cut_at_any_length_is_refused(tmp_path: Path, maker: Callable[[Path], Path]) -> None:
    path = maker(tmp_path / "a.tif")
    data = path.read_bytes()
    for length in cuts(path):
        path.write_bytes(data[:length])
        with pytest.raises(UnreadableSlide):
            open_slide(path)


def test_real_slides_cut_at_any_length_are_refused(tmp_path: Path, real_data: Path) -> None:
    names = ("derived/CMU-1-Small-Region_pyramid.svs", "svs/TCGA-CR-7395-01A-01-TS1.svs")
    for name, kind in itertools.product(names, ("auto", "openslide")):
        path = tmp_path / "cut.svs"
        shutil.copy(real_data / name, path)
        for length in reversed(cuts(path)):
            with path.open("r+b") as file:
                file.truncate(length)
            with pytest.raises(UnreadableSlide):
                open_slide(path, reader=kind)
