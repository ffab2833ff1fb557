"""The reader of plain and OME-TIFFs, against tifffile and against what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.tiler.slides import make
from tiler.slides import open_slide
from tiler.slides.base import Rgb

LOSSLESS: dict[str, dict[str, Any]] = {
    "tiles, uncompressed": {"tile": (128, 96)},
    "tiles, deflate": {"tile": (64, 64), "compression": "zlib"},
    "tiles, deflate with predictor": {"tile": (64, 64), "compression": "zlib", "predictor": 2},
    "tiles, LZW": {"tile": (64, 64), "compression": "lzw"},
    "tiles, LZW with predictor": {"tile": (64, 64), "compression": "lzw", "predictor": 2},
    "tiles, zstd": {"tile": (64, 64), "compression": "zstd"},
    "tiles, packbits": {"tile": (64, 64), "compression": "packbits"},
    "tiles, JPEG 2000": {
        "tile": (64, 64),
        "compression": "jpeg2000",
        "compressionargs": {"level": 0, "reversible": True},
    },
    "tiles, LZMA": {"tile": (64, 64), "compression": "lzma"},
    "tiles, BigTIFF": {"tile": (64, 64), "compression": "zlib", "bigtiff": True},
    "tiles, big-endian": {"tile": (64, 64), "compression": "zlib", "byteorder": ">"},
    "a tile larger than the picture": {"tile": (1024, 1024), "compression": "zlib"},
    "strips, uncompressed": {"rowsperstrip": 7},
    "strips, deflate with predictor": {"rowsperstrip": 32, "compression": "zlib", "predictor": 2},
    "one strip": {"rowsperstrip": 301, "compression": "lzw"},
    "planes in tiles": {"tile": (64, 64), "compression": "zlib", "planarconfig": "separate"},
    "planes in strips": {"rowsperstrip": 16, "planarconfig": "separate"},
}


@pytest.mark.parametrize("options", LOSSLESS.values(), ids=LOSSLESS.keys())
def test_lossless_pixels_come_back_exactly(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = make.tissue_like(301, 223)
    given = pixels.transpose(2, 0, 1) if options.get("planarconfig") == "separate" else pixels
    path = make.write_tiff(tmp_path / "a.tif", np.ascontiguousarray(given), **options)
    with make.open_tiff(path) as slide:
        np.testing.assert_array_equal(make.whole_level(slide), pixels)


JPEG: dict[str, dict[str, Any]] = {
    "YCbCr 4:2:0": {"subsampling": (2, 2)},
    "YCbCr 4:2:2": {"subsampling": (2, 1)},
    "YCbCr 4:4:4": {"subsampling": (1, 1)},
    "RGB": {"compressionargs": {"level": 90, "outcolorspace": "rgb"}},
}


@pytest.mark.parametrize("is_tiled", [True, False], ids=["tiles", "strips"])
@pytest.mark.parametrize("options", JPEG.values(), ids=JPEG.keys())
def test_jpeg_is_decoded_as_tifffile_does(
    tmp_path: Path, options: dict[str, Any], is_tiled: bool
) -> None:
    pixels = make.tissue_like(301, 223)
    layout: dict[str, Any] = {"tile": (64, 64)} if is_tiled else {"rowsperstrip": 64}
    path = make.write_tiff(tmp_path / "a.tif", pixels, compression="jpeg", **options, **layout)
    with make.open_tiff(path) as slide:
        found = make.whole_level(slide)
    np.testing.assert_array_equal(found, tifffile.imread(path))
    assert np.abs(found.astype(int) - pixels).mean() < 8, "the colours are those of the picture"


@pytest.mark.parametrize(
    ("colours", "subsampling"), [("rgb", None), ("ycbcr", "444"), ("ycbcr", "420")]
)
def test_tiles_without_tables_get_them_and_their_colours(
    tmp_path: Path, colours: str, subsampling: str | None
) -> None:
    pixels = make.tissue_like(200, 150)
    path = make.write_abbreviated(tmp_path / "a.tif", pixels, 64, colours, subsampling)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        assert len(page.jpegtables or b"") > 100
        assert page.photometric == {"rgb": 2, "ycbcr": 6}[colours]
    with make.open_tiff(path) as slide:
        found = make.whole_level(slide)
    np.testing.assert_array_equal(found, tifffile.imread(path))
    assert np.abs(found.astype(int) - pixels).mean() < 8, "the colours are those of the picture"


def test_jfif_tiles_are_ycbcr_even_where_the_tiff_says_rgb(tmp_path: Path) -> None:
    pixels = make.tissue_like(128, 128)
    path = make.write_tiff(tmp_path / "a.tif", pixels, tile=(64, 64), compression="jpeg")
    make.set_tag(path, 262, [2])
    with make.open_tiff(path) as slide:
        found = make.whole_level(slide)
    assert np.abs(found.astype(int) - pixels).mean() < 8


def test_gray_is_repeated_with_a_warning(tmp_path: Path) -> None:
    gray = make.tissue_like(130, 90)[:, :, 0]
    path = make.write_tiff(tmp_path / "a.tif", gray, tile=(64, 64), photometric="minisblack")
    with open_slide(path) as slide:
        np.testing.assert_array_equal(make.whole_level(slide), np.dstack([gray] * 3))
        assert any("gray" in warning for warning in slide.facts.warnings)


def test_inverted_gray_is_turned(tmp_path: Path) -> None:
    gray = make.tissue_like(64, 64)[:, :, 0]
    path = make.write_tiff(tmp_path / "a.tif", gray, photometric="miniswhite")
    with open_slide(path) as slide:
        np.testing.assert_array_equal(make.whole_level(slide)[:, :, 1], 255 - gray)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_alpha_is_laid_on_white(tmp_path: Path, kind: str) -> None:
    rgba = np.dstack([make.tissue_like(64, 64), np.zeros((64, 64), np.uint8)])
    rgba[:32, :, 3] = 255
    if kind == "assocalpha":
        rgba[32:, :, :3] = 0
    path = make.write_tiff(tmp_path / "a.tif", rgba, extrasamples=[kind])
    with make.open_tiff(path) as slide:
        found = make.whole_level(slide)
    np.testing.assert_array_equal(found[:32], rgba[:32, :, :3])
    assert (found[32:] == 255).all()


def test_a_tile_without_bytes_is_background(tmp_path: Path) -> None:
    pixels = make.tissue_like(128, 128)
    tiles = list(make.tiles_of(pixels, 64))
    path = make.write_tiff(
        tmp_path / "a.tif",
        iter([tiles[0], None, tiles[2], tiles[3]]),
        shape=pixels.shape,
        dtype=np.uint8,
        tile=(64, 64),
        compression="zlib",
    )
    with make.open_tiff(path) as slide:
        assert (slide.read_cell(0, 1, 0) == 255).all()
        np.testing.assert_array_equal(slide.read_cell(0, 1, 1), tiles[3])


def write_ome(path: Path, levels: list[Rgb], **metadata: Any) -> Path:
    """Write an OME-TIFF whose smaller levels are SubIFDs."""
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for index, pixels in enumerate(levels):
            tiff.write(
                pixels,
                photometric="rgb",
                compression="zlib",
                tile=(128, 128),
                subifds=len(levels) - 1 if index == 0 else None,
                subfiletype=0 if index == 0 else 1,
                metadata={"axes": "YXS", **metadata} if index == 0 else None,
            )
    return path


def test_ome_pyramid_in_subifds(tmp_path: Path) -> None:
    levels = [make.tissue_like(501, 403), make.tissue_like(250, 201, 1), make.tissue_like(125, 100)]
    path = write_ome(tmp_path / "a.ome.tif", levels, PhysicalSizeX=0.25, PhysicalSizeY=0.25)
    with open_slide(path) as slide:
        facts = slide.facts
        assert (facts.reader, facts.vendor, facts.compression) == ("tiff", "ome-tiff", "deflate")
        assert (facts.mpp, facts.mpp_source) == ((0.25, 0.25), "ome-xml")
        assert [level.downsample_x for level in facts.levels] == [1.0, 2.0, 4.0]
        assert facts.warnings == ()
        for index, pixels in enumerate(levels):
            np.testing.assert_array_equal(make.whole_level(slide, index), pixels)


def test_label_like_images_are_no_levels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for shape, kind in (((400, 300), 0), ((200, 150), 1), ((100, 150), 1)):
            tiff.write(
                make.tissue_like(*shape),
                photometric="rgb",
                rowsperstrip=64,
                subfiletype=kind,
                metadata=None,
            )
    with open_slide(path) as slide:
        assert [(x.width, x.height) for x in slide.facts.levels] == [(300, 400), (150, 200)]


def test_the_fingerprint_follows_the_pixels(tmp_path: Path) -> None:
    def fingerprint(name: str, seed: int, description: str) -> str:
        pixels = make.tissue_like(128, 128, seed)
        path = make.write_tiff(tmp_path / name, pixels, rowsperstrip=64, description=description)
        with open_slide(path) as slide:
            return slide.facts.fingerprint

    first = fingerprint("a.tif", 0, "one")
    assert first.startswith("tiles1:")
    assert fingerprint("b.tif", 0, "another description") == first
    assert fingerprint("c.tif", 1, "one") != first


def test_real_ome_tiffs_against_tifffile(real_data: Path) -> None:
    paths = [
        *(real_data / "ome_tiff").glob("*.ome.tif"),
        *(real_data / "derived").glob("*.ome.tif"),
    ]
    assert len(paths) >= 4
    for path in paths:
        with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
            assert slide.facts.reader == "tiff"
            assert slide.facts.mpp is not None
            assert 0.2 < slide.facts.mpp[0] < 0.4
            series = tiff.series[0]
            assert len(slide.facts.levels) == len(series.levels)
            for index, level in enumerate(series.levels):
                np.testing.assert_array_equal(make.whole_level(slide, index), level.asarray())
