"""The benchmark's slide is what it says, and the loops around it cut the tiles that it has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from tests.benchmarks.bare_limit import cut
from tests.benchmarks.contenders import (
    Job,
    bare_limit,
    copies,
    histotile,
    kept_positions,
    openslide_loop,
)
from tests.benchmarks.slide import GLASS, Compression, SlideSpec, build_slide, shrunk
from tiler.slides.base import Rgb

WIDTH, HEIGHT = 4096, 3072


@pytest.fixture(scope="module")
def slide(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small slide with native tiles that output tiles do not fall in line with."""
    path = tmp_path_factory.mktemp("slide") / "small.svs"
    build_slide(path, SlideSpec(WIDTH, HEIGHT, native=240))
    return path


def region(path: Path, level: int, l0_xy: tuple[int, int], size: tuple[int, int]) -> Rgb:
    """Pixels that OpenSlide reads."""
    with openslide.OpenSlide(path) as opened:
        return np.asarray(opened.read_region(l0_xy, level, size).convert("RGB"))


def psnr(first: Rgb, second: Rgb) -> float:
    """Peak signal to noise ratio in dB."""
    return float(10 * np.log10(255**2 / np.mean((first.astype(float) - second) ** 2)))


@pytest.mark.parametrize(
    ("native", "compression"), [(240, "jpeg"), (256, "jpeg"), (256, "jpeg2000")]
)
def test_openslide_takes_it_for_an_aperio_slide(
    real_data: Path, tmp_path: Path, native: int, compression: Compression
) -> None:
    path = tmp_path / "slide.svs"
    build_slide(path, SlideSpec(2048, 1536, native, compression))
    with openslide.OpenSlide(path) as opened:
        assert opened.properties["openslide.vendor"] == "aperio"
        assert opened.properties["openslide.mpp-x"] == "0.25"
        assert opened.properties["openslide.level[0].tile-width"] == str(native)
        assert list(opened.level_dimensions) == [(2048, 1536), (512, 384), (128, 96)]
        assert list(opened.level_downsamples) == [1, 4, 16]
        assert set(opened.associated_images) == {"thumbnail"}


def test_its_colours_and_levels_are_right(slide: Path) -> None:
    level_0 = region(slide, 0, (0, 0), (WIDTH, HEIGHT))
    level_16 = region(slide, 2, (0, 0), (WIDTH // 16, HEIGHT // 16))
    assert np.abs(shrunk(level_0, 16).astype(int) - level_16).mean() < 12
    assert level_0[:16, :16].mean(axis=(0, 1)) == pytest.approx(GLASS, abs=2)
    red, green, blue = level_0.mean(axis=(0, 1))
    assert red > blue > green


def test_the_same_spec_gives_the_same_bytes(slide: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.svs"
    build_slide(again, SlideSpec(WIDTH, HEIGHT, native=240))
    assert again.read_bytes() == slide.read_bytes()


def test_histotile_and_the_loops_cut_the_same_tiles(slide: Path, tmp_path: Path) -> None:
    job = Job((slide,), 0.5, 256, workers=0)
    out, positions = tmp_path / "tiles", tmp_path / "positions.npy"
    first = histotile(job)
    said = subprocess.run(first.command(out), check=True, capture_output=True, text=True)
    tiles = first.count(out, said.stdout).tiles
    kept = kept_positions(out, 0.5)
    assert len(kept) == tiles
    assert tiles > WIDTH // 512 * (HEIGHT // 512) / 2
    np.save(positions, kept)
    for loop in (openslide_loop(job, positions), bare_limit(job, positions)):
        command = loop.command(tmp_path / "loop")
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        assert json.loads(said.stdout)["tiles"] == tiles


def test_the_bare_limit_cuts_the_pixels_that_openslide_reads(slide: Path) -> None:
    places = [(1024, 1024), (1026, 1500), (2048, 2048)]
    tiles = list(cut(str(slide), [(x // 2, y // 2) for x, y in places], 2, 256))
    for place, tile in zip(places, tiles, strict=True):
        read = Image.fromarray(region(slide, 0, place, (512, 512)))
        assert psnr(np.asarray(read.resize((256, 256), Image.Resampling.BOX)), tile) > 35


def test_histotile_takes_copies_for_slides_of_their_own(slide: Path, tmp_path: Path) -> None:
    several = copies(slide, tmp_path / "copies", 2)
    contender = histotile(Job(several, 0.5, 256, workers=0))
    command = contender.command(tmp_path / "tiles")
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(said.stdout)["slides"]["done"] == 2


def test_a_missing_source_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HISTOTILE_TEST_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="HISTOTILE_TEST_DATA"):
        build_slide(tmp_path / "slide.svs", SlideSpec())


def test_sizes_that_levels_cannot_halve_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        SlideSpec(width=1000)


def test_the_loops_start_without_the_rest_of_histotile() -> None:
    script = "import sys, tests.benchmarks.bare_limit; sys.exit('zarr' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
