"""Painted slides: the same from the same seed, believable, and right for OpenSlide."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_args

import numpy as np
import openslide
import pytest

from tiler.slides.base import Rgb
from tiler.synthetic import LAMP, Stain, paint, write_slide
from tiler.tissue import find_tissue

STAINS: tuple[Stain, ...] = get_args(Stain)


@pytest.fixture(scope="module", params=STAINS)
def painted(request: pytest.FixtureRequest) -> Rgb:
    return paint(request.param, 2048, 1536, 7)


def thumbnail(pixels: Rgb, factor: int) -> Rgb:
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    whole = pixels[: rows * factor, : columns * factor]
    means = whole.reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3))
    return np.asarray(np.rint(means), dtype=np.uint8)


def test_tissue_lies_on_bright_glass(painted: Rgb) -> None:
    assert painted.shape == (1536, 2048, 3)
    corners = painted[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float)
    assert np.abs(corners - LAMP).max() < 8
    mask = find_tissue(thumbnail(painted, 16), 8.0)
    assert 0.2 < mask.share < 0.7
    assert not mask.pen.any()


def test_he_is_pink_with_dark_purple_nuclei() -> None:
    pixels = paint("he", 800, 600, 1)[200:400, 250:550].reshape(-1, 3).astype(int)
    red, green, blue = np.median(pixels, axis=0)
    assert green < min(red, blue)
    assert red > blue
    dark = pixels[pixels.sum(axis=1) < 360]
    assert 0.005 < len(dark) / len(pixels) < 0.4
    assert (dark[:, 2] > dark[:, 0]).mean() > 0.9


def test_dab_is_brown_in_places_and_blue_in_others() -> None:
    pixels = paint("dab", 1600, 1200, 3).reshape(-1, 3).astype(int)
    brown = (pixels[:, 0] - pixels[:, 2] > 40).mean()
    blue = (pixels[:, 2] - pixels[:, 0] > 20).mean()
    assert 0.01 < brown < 0.5
    assert 0.002 < blue < 0.3


def test_the_seed_decides_every_pixel() -> None:
    first, again, other = (paint("he", 500, 400, seed) for seed in (1, 1, 2))
    assert hashlib.sha256(first.tobytes()).digest() == hashlib.sha256(again.tobytes()).digest()
    assert (first != other).any()


@pytest.mark.parametrize("size", [(64, 64), (64, 900), (901, 65)])
def test_small_and_odd_sizes_are_painted(size: tuple[int, int]) -> None:
    for kind in STAINS:
        assert paint(kind, *size, 0).shape == (size[1], size[0], 3)


def test_other_stains_and_tiny_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="'he' or 'dab'"):
        paint("pas", 100, 100, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="64 x 64"):
        paint("he", 63, 100, 0)


@pytest.mark.parametrize("mpp", [0.5, 0.2271, 0.25])
def test_openslide_opens_a_written_slide(tmp_path: Path, mpp: float) -> None:
    pixels = paint("he", 1000, 701, 3)
    path = tmp_path / "painted.tif"
    write_slide(path, pixels, mpp, quality=90)
    with openslide.OpenSlide(path) as slide:
        assert slide.detect_format(path) == "generic-tiff"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(mpp, rel=1e-6)
        assert slide.level_dimensions == ((1000, 701), (250, 175), (62, 43))
        assert slide.properties["openslide.level[0].tile-width"] == "256"
        level0 = np.asarray(slide.read_region((0, 0), 0, (1000, 701)).convert("RGB"))
        level1 = np.asarray(slide.read_region((0, 0), 1, (250, 175)).convert("RGB"))
    assert np.abs(level0.astype(int) - pixels).mean() < 3
    assert np.abs(level1.astype(int) - thumbnail(pixels, 4)).mean() < 4


def test_the_written_file_is_the_same_each_time(tmp_path: Path) -> None:
    pixels = paint("dab", 300, 200, 3)
    for name in ("a.tif", "b.tif"):
        write_slide(tmp_path / name, pixels, 0.5)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_levels_and_tiles_are_as_asked(tmp_path: Path) -> None:
    blank = np.full((600, 700, 3), 240, dtype=np.uint8)
    path = tmp_path / "blank.tif"
    write_slide(path, blank, 0.5, tile=128, levels=2)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((700, 600), (175, 150))
        assert slide.properties["openslide.level[1].tile-height"] == "128"
    write_slide(path, blank, 0.5, levels=9)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions[-1] == (2, 2)


def test_wrong_pixels_and_mpp_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="uint8"):
        write_slide(tmp_path / "a.tif", pixels[..., 0], 0.5)
    for mpp in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="mpp"):
            write_slide(tmp_path / "a.tif", pixels, mpp)
    assert not (tmp_path / "a.tif").exists()
