"""Downsamples, compositing, and the frame header of JPEG streams."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.tiler.slides import make
from tiler.slides import colour, jpegstream, limits, pyramid

SIDE = st.integers(1000, 400_000)


@given(width=SIDE, height=SIDE, halvings=st.integers(0, 5), rounds_up=st.booleans())
def test_halved_levels_have_whole_downsamples(
    width: int, height: int, halvings: int, rounds_up: bool
) -> None:
    factor = 2**halvings
    size = (-(-width // factor), -(-height // factor)) if rounds_up else None
    size = size or (width // factor, height // factor)
    assert pyramid.downsamples(size, (width, height)) == (factor, factor)


def test_other_downsamples() -> None:
    assert pyramid.downsamples((333, 333), (1000, 1000)) == (3.0, 3.0)
    assert pyramid.downsamples((400, 400), (1000, 1000)) == (2.5, 2.5)
    assert pyramid.downsamples((500, 250), (1000, 1000)) == (2.0, 4.0)
    assert pyramid.downsamples((1, 1), (2967, 2220))[0] > 1000


@pytest.mark.parametrize(
    ("tile", "size", "cell"),
    [
        ((240, 240), (90_000, 60_000), (240, 240)),
        ((1024, 1024), (90_000, 60_000), (1024, 1024)),
        ((3968, 8), (3968, 4864), (3968, 256)),  # Hamamatsu
        ((4096, 16), (69_632, 60_928), (4096, 256)),
        ((1984, 8), (1984, 2432), (1984, 512)),
        ((496, 8), (496, 608), (496, 1024)),
        ((2048, 2048), (90_000, 60_000), (2048, 2048)),
        ((32, 32), (5000, 4000), (512, 1024)),
        ((32, 32), (20, 31), (32, 32)),  # all there is
        ((0, 0), (90_000, 60_000), (512, 512)),  # no grid
        ((100_000, 8), (100_000, 60_000), (512, 512)),
    ],
)
def test_cells_are_whole_tiles(
    tile: tuple[int, int], size: tuple[int, int], cell: tuple[int, int]
) -> None:
    assert pyramid.cell_size(tile, size) == cell


@given(st.tuples(SIDE, SIDE), st.tuples(st.integers(1, 8192), st.integers(1, 8192)))
def test_cells_stay_within_their_limit(size: tuple[int, int], tile: tuple[int, int]) -> None:
    width, height = pyramid.cell_size(tile, size)
    assert (width % tile[0], height % tile[1]) == (0, 0)
    assert width * height <= max(tile[0] * tile[1], 2**20)


@given(
    value=st.integers(0, 255),
    alpha=st.integers(0, 255),
    background=st.integers(0, 255),
)
def test_compositing_is_rounded_and_never_wraps(value: int, alpha: int, background: int) -> None:
    rgb = np.full((1, 1, 3), value, np.uint8)
    opacity = np.full((1, 1), alpha, np.uint8)
    found = colour.over_background(rgb, opacity, (background,) * 3)
    expected = (value * alpha + background * (255 - alpha)) / 255
    assert abs(int(found[0, 0, 0]) - expected) <= 0.5
    bright = colour.over_background(rgb, opacity, (background,) * 3, premultiplied=True)
    assert int(bright[0, 0, 0]) >= min(255, value), "premultiplied colours only get lighter"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
def test_the_header_of_a_jpeg_is_understood(options: dict[str, bool]) -> None:
    stream = io.BytesIO()
    Image.fromarray(make.tissue_like(70, 90)).save(stream, "JPEG", **options)
    header = jpegstream.JpegTiles(b"", 6).header(stream.getvalue())
    assert (header.width, header.height, header.components, header.bits) == (90, 70, 3, 8)
    assert header.is_usual
    assert header.is_plain == ("progressive" not in options)


@given(st.binary(max_size=64))
def test_what_is_no_jpeg_has_no_header_and_does_no_harm(data: bytes) -> None:
    with pytest.raises(ValueError, match="the JPEG tile"):
        jpegstream.JpegTiles(b"", 6).header(b"\xff\xd8" + data)


def test_samples_are_spread_from_end_to_end() -> None:
    assert limits.evenly_spaced(3, 256) == [0, 1, 2]
    chosen = limits.evenly_spaced(1000, 256)
    assert (len(set(chosen)), chosen[0], chosen[-1]) == (256, 0, 999)
