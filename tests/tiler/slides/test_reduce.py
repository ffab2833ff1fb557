"""Cells that are reduced while they are decoded, against the mean of all their pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image

from tests.tiler.slides import make, make_formats
from tests.tiler.slides.test_openslide import DESCRIPTION
from tiler.slides import Slide, open_slide
from tiler.slides.base import Rgb
from tiler.slides.shrink import shrunk

Floats = npt.NDArray[np.float64]

PIXELS = make.tissue_like(301, 223)
REDUCTIONS = (2, 4, 8)


def mean(pixels: Rgb, factor: int) -> Rgb:
    """Mean of whole squares, halves up."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    whole = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    means: Rgb = np.floor(whole.mean((1, 3)) + 0.5).astype(np.uint8)
    return means


def cells_of(slide: Slide) -> list[tuple[int, int]]:
    place = slide.facts.levels[0]
    columns, rows = -(-place.width // place.cell_width), -(-place.height // place.cell_height)
    return [(column, row) for row in range(rows) for column in range(columns)]


def check_exact(slide: Slide) -> None:
    """Every reduced cell is the mean of the full one, rounded, in the shape that was promised."""
    for column, row in cells_of(slide):
        full = slide.read_cell(0, column, row)
        for factor in REDUCTIONS:
            found = slide.read_cell(0, column, row, factor)
            assert found.dtype == np.uint8
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, mean(full, factor))


def difference(slide: Slide, factor: int) -> tuple[float, int, float]:
    """PSNR in dB, largest difference and mean difference to the mean of the full cells."""
    parts = []
    for column, row in cells_of(slide):
        full, found = slide.read_cell(0, column, row), slide.read_cell(0, column, row, factor)
        expected = mean(full, factor)
        assert found.shape == expected.shape
        parts.append((found.astype(int) - expected).ravel())
    all_of_them = np.concatenate(parts)
    error = float((all_of_them.astype(float) ** 2).mean())
    psnr = 10 * np.log10(255**2 / error) if error else np.inf
    return psnr, int(np.abs(all_of_them).max()), float(all_of_them.mean())


def check_close(slide: Slide, bounds: dict[int, tuple[float, int]]) -> None:
    """Hold PSNR and largest difference against (at least, at most) for each factor."""
    for factor, (least, most) in bounds.items():
        psnr, largest, bias = difference(slide, factor)
        assert psnr >= least, (factor, psnr)
        assert largest <= most, (factor, largest)
        assert abs(bias) < 0.2, (factor, bias)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (16, 24), (241, 119)])
@pytest.mark.parametrize("factor", [1, *REDUCTIONS])
def test_shrunk_is_the_mean(size: tuple[int, int], factor: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = shrunk(pixels, factor)
    assert found.shape == (size[0] // factor, size[1] // factor, 3)
    np.testing.assert_array_equal(found, mean(pixels, factor))


LOSSLESS: dict[str, dict[str, Any]] = {
    "deflate tiles": {"tile": (64, 96), "compression": "zlib"},
    "deflate strips": {"rowsperstrip": 16, "compression": "zlib"},
    "planes": {"tile": (64, 64), "planarconfig": "separate"},
    "JPEG strips": {"rowsperstrip": 40, "compression": "jpeg"},
}


@pytest.mark.parametrize("options", LOSSLESS.values(), ids=LOSSLESS.keys())
def test_what_cannot_be_scaled_is_averaged(tmp_path: Path, options: dict[str, Any]) -> None:
    is_planar = options.get("planarconfig") == "separate"
    pixels = np.ascontiguousarray(PIXELS.transpose(2, 0, 1)) if is_planar else PIXELS
    path = make.write_tiff(tmp_path / "a.tif", pixels, **options)
    with make.open_tiff(path) as slide:
        check_exact(slide)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_are_averaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(make.tissue_like(530, 515)).save(path)
    with open_slide(path) as slide:
        check_exact(slide)


def test_what_openslide_reads_is_averaged(real_data: Path) -> None:
    with open_slide(real_data / "svs/CMU-1-Small-Region.svs", reader="openslide") as slide:
        check_exact(slide)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_exact_slides_are_averaged(tmp_path: Path, subsampling: tuple[int, int]) -> None:
    options: dict[str, Any] = {"tile": (64, 64), "compression": "jpeg", "subsampling": subsampling}
    path = make.write_tiff(tmp_path / "a.tif", PIXELS, **options)
    with open_slide(path, exact=True) as slide, open_slide(path) as scaled:
        check_exact(slide)
        assert difference(scaled, 2)[1] > 0, "else this test would prove nothing"


def test_exact_jpeg2000_and_ome_tiff_are_averaged(real_data: Path) -> None:
    with open_slide(real_data / "ome_tiff/OS-1-detail.ome.tif", exact=True) as slide:
        check_exact(slide)
    with open_slide(real_data / "svs/TCGA-CR-7395-01A-01-TS1.svs", exact=True) as slide:
        np.testing.assert_array_equal(
            slide.read_cell(0, 17, 13, 4), mean(slide.read_cell(0, 17, 13), 4)
        )


def test_other_factors_are_refused(tmp_path: Path) -> None:
    path = make.write_tiff(tmp_path / "a.tif", PIXELS, tile=(64, 64))
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for slide in (open_slide(path), make.open_tiff(path), open_slide(tmp_path / "a.png")):
        with slide:
            for factor in (0, 3, 16, -2):
                with pytest.raises(ValueError, match=r"reduced by \(1, 2, 4, 8\), not by"):
                    slide.read_cell(0, 0, 0, factor)


def test_gray_jpeg_is_scaled(tmp_path: Path) -> None:
    gray = np.asarray(Image.fromarray(PIXELS).convert("L"))
    path = make.write_tiff(
        tmp_path / "a.tif", gray, photometric="minisblack", tile=(64, 64), compression="jpeg"
    )
    with open_slide(path) as slide:
        check_close(slide, {2: (45, 6), 4: (45, 6), 8: (45, 6)})


JPEG: dict[str, dict[int, tuple[float, int]]] = {
    "as it is": {2: (54, 20), 4: (57, 10), 8: (58, 5)},
    "444": {2: (53, 12), 4: (54, 6), 8: (54, 4)},
    "422": {2: (38, 45), 4: (37, 50), 8: (36, 50)},
    "420": {2: (40, 42), 4: (47, 16), 8: (51, 6)},
}
"""Bounds of (PSNR, largest difference) on tissue. Scaled colours of 4:2:2 are coarser than those
of 4:2:0: their rows are not subsampled, so libjpeg scales both directions alike."""


@pytest.mark.parametrize("subsampling", JPEG)
def test_scaled_jpeg_comes_close_to_the_mean(
    tmp_path: Path, real_data: Path, subsampling: str
) -> None:
    path = real_data / "svs/CMU-1-Small-Region.svs"
    if subsampling != "as it is":
        with open_slide(path) as slide:
            pixels = make.whole_level(slide)[: 12 * 240, : 9 * 240]
        tiles = [
            simplejpeg.encode_jpeg(np.ascontiguousarray(tile), 90, "RGB", subsampling)
            for tile in make.tiles_of(pixels, 240)
        ]
        options = {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (1, 1)}
        path = make.write_encoded(tmp_path / "a.tif", tiles, pixels.shape, 240, **options)
    with open_slide(path) as slide:
        assert slide.facts.pixels == "direct"
        check_close(slide, JPEG[subsampling])


@pytest.mark.slow
def test_coarser_wavelets_of_jpeg2000_come_less_close_to_the_mean(real_data: Path) -> None:
    with open_slide(real_data / "svs/TCGA-CR-7395-01A-01-TS1.svs") as slide:
        check_close(slide, {2: (31, 90), 4: (33, 90), 8: (29, 120)})


def test_the_shift_of_coarser_wavelets_is_as_documented(real_data: Path) -> None:
    """They lie half a pixel up and left; compared there, they are several dB closer."""
    with open_slide(real_data / "svs/TCGA-CR-7395-01A-01-TS1.svs") as slide:
        rows = [[slide.read_cell(0, x, y) for x in (4, 5, 6)] for y in (4, 5, 6)]
        around = np.vstack([np.hstack(row) for row in rows]).astype(float)
        found = slide.read_cell(0, 5, 5, 2)
    # Squares of an even side around a pixel: half a pixel to each side of it.
    corners = [(255 + dy, 255 + dx) for dy in (0, 1) for dx in (0, 1)]
    shifted = sum(around[y : y + 256, x : x + 256] for y, x in corners) / 4
    there, here = (
        float(((squares(pixels, 2) - found) ** 2).mean())
        for pixels in (np.asarray(shifted), around[256:512, 256:512])
    )
    assert 10 * np.log10(here / there) > 5


def squares(pixels: Floats, factor: int) -> Floats:
    """Means of squares, not rounded."""
    side = len(pixels) // factor
    means: Floats = pixels.reshape(side, factor, side, factor, 3).mean((1, 3))
    return means


@pytest.mark.parametrize("resolutions", [1, 2, 3])
def test_jpeg2000_with_few_wavelet_levels_is_averaged(tmp_path: Path, resolutions: int) -> None:
    tiles = []
    for tile in make.tiles_of(PIXELS, 64):
        stream = io.BytesIO()
        Image.fromarray(tile).save(stream, "JPEG2000", no_jp2=True, num_resolutions=resolutions)
        tiles.append(stream.getvalue())
    options: dict[str, Any] = {"compression": 33005, "description": DESCRIPTION}
    path = make.write_encoded(tmp_path / "a.svs", tiles, PIXELS.shape, 64, **options)
    with open_slide(path) as slide:
        for factor in REDUCTIONS:
            is_exact = difference(slide, factor)[1] == 0
            assert is_exact == (2 ** (resolutions - 1) < max(2, factor // 2))


def test_subsampled_jpeg2000_is_averaged(tmp_path: Path) -> None:
    """Its colours would be halved twice."""
    tiles = [make_formats.ycbcr_codestream(tile, 2, 1) for tile in make.tiles_of(PIXELS, 64)]
    options: dict[str, Any] = {"photometric": "ycbcr", "subsampling": (1, 1)}
    path = make.write_encoded(
        tmp_path / "a.svs",
        tiles,
        PIXELS.shape,
        64,
        compression=33003,
        description=DESCRIPTION,
        **options,
    )
    with open_slide(path) as slide:
        check_exact(slide)
