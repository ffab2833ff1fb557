"""Pixels: tiles against naive area averaging, cells decoded once, little memory, overviews."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import tiler.pixels
from tests.tiler.fakes import BACKGROUND, FakeSlide, HugeSlide, block_mean, noise
from tiler.cells import EPSILON
from tiler.errors import UnreadableSlide
from tiler.grid import Ints
from tiler.options import Edge, TileSpec
from tiler.pixels import TileCutter, resample
from tiler.plan import ReadPlan, plan_read, plan_tiles, reduced
from tiler.slides import open_slide
from tiler.slides.base import Rgb

Floats = npt.NDArray[np.float64]
RELAXED = settings(deadline=None)
ROUNDING = 0.5 + 1e-3
"""Half a grey level of rounding, and what float32 adds to it."""

SCALES = st.floats(1, 8)
OFFSETS = st.floats(0, 0.999)


def weights(start: float, scale: float, size: int, length: int) -> Floats:
    """Share of input pixel p in output pixel i, by loops: float64 (size, length), rows sum to 1."""
    matrix = np.zeros((size, length))
    for i in range(size):
        low, high = start + i * scale, start + (i + 1) * scale
        for p in range(max(0, math.floor(low)), min(length, math.ceil(high))):
            matrix[i, p] = max(0.0, min(high, p + 1) - max(low, p))
        if matrix[i].sum() < 1e-6:  # rounding put it beyond the last pixel
            matrix[i, length - 1] = 1
    normalised: Floats = matrix / matrix.sum(axis=1, keepdims=True)
    return normalised


def averaged(
    pixels: Rgb, start: tuple[float, float], scale: tuple[float, float], size: int
) -> Floats:
    """Area average of a picture, float64 (size, size, 3); start and scale are (x, y)."""
    by_y = weights(start[1], scale[1], size, pixels.shape[0])
    by_x = weights(start[0], scale[0], size, pixels.shape[1])
    rows = np.tensordot(by_y, pixels.astype(np.float64), axes=(1, 0))
    averages: Floats = np.tensordot(rows, by_x, axes=(1, 1)).transpose(0, 2, 1)
    return averages


def is_block_mean(means: Rgb, pixels: Rgb, factor: tuple[int, int]) -> bool:
    """Whether means are those of blocks of (x, y) pixels, in whole numbers; blocks may be cut off.

    Where a block's size is a power of two, exact halves go up; elsewhere Pillow's rounding may fall
    short: the mean of n pixels by up to 0.5 + 0.5 / n, if n is odd.
    """
    fx, fy = factor
    height, width = pixels.shape[:2]
    if means.shape != (-(-height // fy), -(-width // fx), 3):
        return False
    for row, column in np.ndindex(means.shape[:2]):
        block = pixels[row * fy : row * fy + fy, column * fx : column * fx + fx]
        count = block.shape[0] * block.shape[1]
        twice_off = 2 * (
            block.sum(axis=(0, 1), dtype=np.int64) - count * means[row, column].astype(int)
        )
        upper = count - 1 if count & (count - 1) == 0 else count + 1
        if not ((-count <= twice_off) & (twice_off <= upper)).all():
            return False
    return True


class TestResample:
    @RELAXED
    @given(
        scale=st.tuples(SCALES, SCALES),
        offset=st.tuples(OFFSETS, OFFSETS),
        size=st.integers(1, 20),
        missing=st.booleans(),
        seed=st.integers(0, 9),
    )
    def test_it_averages_areas(
        self,
        scale: tuple[float, float],
        offset: tuple[float, float],
        size: int,
        missing: bool,
        seed: int,
    ) -> None:
        rounded = math.floor if missing else math.ceil
        width, height = (max(1, rounded(o + size * s)) for o, s in zip(offset, scale, strict=True))
        region = noise(height, width, seed)
        tile = resample(region, offset, scale, (size, size))
        assert tile.shape == (size, size, 3)
        assert tile.dtype == np.uint8
        whole = all(abs(s - round(s)) < EPSILON for s in scale)
        allowed = ROUNDING + (0.5 / (scale[0] * scale[1]) if whole else 0)
        assert abs(tile - averaged(region, offset, scale, size)).max() <= allowed

    @pytest.mark.parametrize("factor", [(f, f) for f in range(1, 9)] + [(2, 3), (8, 1), (1, 16)])
    def test_whole_factors_give_block_means(self, factor: tuple[int, int]) -> None:
        region = noise(32 * factor[1], 32 * factor[0])
        scale = (float(factor[0]), float(factor[1]))
        assert is_block_mean(resample(region, (0.0, 0.0), scale, (32, 32)), region, factor)

    def test_both_ways_of_averaging_round_alike(self) -> None:
        region = np.pad(noise(64, 64), ((0, 0), (0, 1), (0, 0)))
        one = resample(region[:, :64], (0.0, 0.0), (2.0, 2.0), (32, 32))
        other = resample(region, (0.0, 0.0), (2.0, 2.0), (32, 32))
        assert np.array_equal(one, other)

    @RELAXED
    @given(
        colour=st.tuples(*[st.integers(0, 255)] * 3),
        scale=st.tuples(st.floats(0.3, 8), st.floats(0.3, 8)),
        offset=st.tuples(OFFSETS, OFFSETS),
        size=st.integers(1, 20),
    )
    def test_one_colour_stays_that_colour(
        self,
        colour: tuple[int, int, int],
        scale: tuple[float, float],
        offset: tuple[float, float],
        size: int,
    ) -> None:
        width, height = (math.ceil(o + size * s) for o, s in zip(offset, scale, strict=True))
        region = np.empty((height, width, 3), dtype=np.uint8)
        region[:] = colour
        assert (resample(region, offset, scale, (size, size)) == colour).all()

    @pytest.mark.parametrize("scale", [1.04, 1.48, 2.0, 2.004, 3.7])
    def test_the_mean_of_a_tile_is_that_of_its_area(self, scale: float) -> None:
        side = math.ceil(64 * scale)
        region = noise(side, side)
        tile = resample(region, (0.0, 0.0), (scale, scale), (64, 64))
        whole = averaged(region, (0.0, 0.0), (64 * scale, 64 * scale), 1)
        assert tile.mean(axis=(0, 1)) == pytest.approx(whole[0, 0], abs=0.2)

    def test_scale_one_returns_the_very_pixels(self) -> None:
        region = noise(64, 64)
        assert resample(region, (0.0, 0.0), (1.0, 1.0), (64, 64)) is region


def cut(cutter: TileCutter, l0_xy: Ints) -> list[Rgb]:
    tiles = list(cutter.cut(l0_xy))
    assert all(tile.native is None and tile.unread == 0 for tile in tiles)
    return [tile.pixels for tile in tiles if tile.pixels is not None]


def positions(slide: FakeSlide, read: ReadPlan, spec: TileSpec) -> Ints:
    return plan_tiles(slide.facts, read, spec, None, "key").l0_xy


def planned(slide: FakeSlide, spec: TileSpec) -> ReadPlan:
    assert slide.facts.mpp is not None
    return plan_read(slide.facts.levels, slide.facts.mpp, spec.mpps[0], spec)


def naive_tile(pixels: Rgb, read: ReadPlan, level_xy: tuple[float, float], size: int) -> Floats:
    """A tile made from a whole decoded level, with background where pixels lie beyond it."""
    if read.rest == (1.0, 1.0):
        level_xy = (math.floor(level_xy[0] + 0.5), math.floor(level_xy[1] + 0.5))
    height, width = pixels.shape[:2]
    beyond_x = max(0, math.floor(level_xy[0] + size * read.rest[0] + 1e-6) - width)
    beyond_y = max(0, math.floor(level_xy[1] + size * read.rest[1] + 1e-6) - height)
    canvas = np.empty((height + beyond_y, width + beyond_x, 3), dtype=np.uint8)
    canvas[:] = BACKGROUND
    canvas[:height, :width] = pixels
    return averaged(canvas, level_xy, read.rest, size)


LEVEL_0 = noise(203, 251)
LEVEL_1 = noise(50, 62, seed=1)


class TestCut:
    @pytest.mark.parametrize(
        ("mpp", "cell"),
        [
            (0.5, (16, 16)),
            (0.505, (7, 31)),
            (0.61, (7, 31)),
            (1.0, (512, 512)),
            (1.7, (16, 16)),
            (2.0, (16, 16)),
            (2.3, (24, 9)),
        ],
    )
    @pytest.mark.parametrize("edge", ["drop", "pad"])
    def test_tiles_are_those_of_the_whole_level(
        self, cell: tuple[int, int], mpp: float, edge: Edge
    ) -> None:
        pixels = (LEVEL_0, LEVEL_1)
        slide = FakeSlide(pixels, cell)
        spec = TileSpec((mpp,), 20, 37, edge)
        read = planned(slide, spec)
        level = reduced(slide.facts.levels[read.level], read.reduce)
        decoded = block_mean(pixels[read.level], read.reduce)
        l0_xy = positions(slide, read, spec)
        cutter = TileCutter(slide, read, 20)
        tiles = cut(cutter, l0_xy)
        assert len(tiles) == len(l0_xy) >= 1
        for tile, (x, y) in zip(tiles, l0_xy.tolist(), strict=True):
            place = (x / level.downsample_x, y / level.downsample_y)
            expected = naive_tile(decoded, read, place, 20)
            assert tile.shape == (20, 20, 3)
            assert tile.dtype == np.uint8
            assert abs(tile - expected).max() <= ROUNDING
        assert cutter.decoded == len(slide.reads) == len(set(slide.reads))

    def test_tiles_taken_as_they_are_are_the_very_pixels(self) -> None:
        slide = FakeSlide([LEVEL_0], (48, 32))
        spec = TileSpec((0.5,), 20)
        read = planned(slide, spec)
        l0_xy = positions(slide, read, spec)
        for tile, (x, y) in zip(cut(TileCutter(slide, read, 20), l0_xy), l0_xy, strict=True):
            assert np.array_equal(tile, LEVEL_0[y : y + 20, x : x + 20])

    def test_a_coarse_level_taken_as_it_is_gives_its_very_pixels(self) -> None:
        slide = FakeSlide([LEVEL_0, LEVEL_1])
        spec = TileSpec((2.03,), 8, 3, shard_tiles=1000)
        read = planned(slide, spec)
        assert (read.level, read.as_is) == (1, True)
        tiles = cut(TileCutter(slide, read, 8), positions(slide, read, spec))
        places = [(x, y) for y in range(0, 50 - 8 + 1, 3) for x in range(0, 62 - 8 + 1, 3)]
        assert len(tiles) == len(places)
        for tile, (x, y) in zip(tiles, places, strict=True):
            assert np.array_equal(tile, LEVEL_1[y : y + 8, x : x + 8])

    @pytest.mark.parametrize(("mpp", "scale"), [(0.5, 1), (1.0, 2)])
    def test_background_fills_what_lies_beyond_the_slide_and_nothing_else(
        self, mpp: float, scale: int
    ) -> None:
        slide = FakeSlide([LEVEL_0[:40, :44]])
        read = planned(slide, TileSpec((mpp,)))
        tile = cut(TileCutter(slide, read, 32), np.array([[20, 10]], dtype=np.int32))[0]
        height, width = 30 // scale, 24 // scale
        assert is_block_mean(tile[:height, :width], LEVEL_0[10:40, 20:44], (scale, scale))
        assert (tile[height:] == BACKGROUND).all()
        assert (tile[:, width:] == BACKGROUND).all()

    def test_a_tile_larger_than_the_slide_holds_all_of_it(self) -> None:
        slide = FakeSlide([LEVEL_0[:5, :7]])
        read = planned(slide, TileSpec((0.5,)))
        tile = cut(TileCutter(slide, read, 16), np.zeros((1, 2), dtype=np.int32))[0]
        assert np.array_equal(tile[:5, :7], LEVEL_0[:5, :7])
        assert (tile[5:] == BACKGROUND).all()

    def test_the_order_asked_for_is_the_order_given(self) -> None:
        slide = FakeSlide([LEVEL_0])
        read = planned(slide, TileSpec((0.5,)))
        places = np.array([[100, 90], [0, 0], [100, 90], [50, 3]], dtype=np.int32)
        for tile, (x, y) in zip(cut(TileCutter(slide, read, 8), places), places, strict=True):
            assert np.array_equal(tile, LEVEL_0[y : y + 8, x : x + 8])

    def test_few_cells_are_held_at_a_time(self) -> None:
        class Watched(HugeSlide):
            alive = most = 0

            def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
                cell = super().read_cell(level, column, row, reduce)
                self.alive += 1
                self.most = max(self.most, self.alive)
                weakref.finalize(cell, self._died)
                return cell

            def _died(self) -> None:
                self.alive -= 1

        slide = Watched(64 * 100, 64 * 100, 32, 0.25)
        spec = TileSpec((0.5,), 32, shard_tiles=512)
        read = planned(slide, spec)
        shard = positions(slide, read, spec)[512:1024]
        cutter = TileCutter(slide, read, 32)
        for _ in cutter.cut(shard):
            pass
        gc.collect()
        assert cutter.decoded == 512 * 4
        assert slide.most <= 2 * 23 * 2, "two columns of the patch of 23 rows of tiles"
        assert slide.alive == 0

    def test_a_damaged_cell_costs_the_tiles_that_need_it_that_part_and_no_other(self) -> None:
        slide = FakeSlide([LEVEL_0], (16, 16), damaged=frozenset({(3, 3)}))
        read = planned(slide, TileSpec((0.5,)))
        cutter = TileCutter(slide, read, 16)
        places = np.array([[0, 0], [64, 48], [40, 48], [32, 48], [48, 48], [52, 60]], np.int32)
        tiles = list(cutter.cut(places))
        assert [tile.unread for tile in tiles] == [0, 0, 0.5, 0, 1, 12 * 4 / 256]
        assert cutter.damage == "the tile at column 3, row 3 cannot be decoded"
        for tile, (x, y) in zip(tiles, places.tolist(), strict=True):
            assert tile.pixels is not None
            whole = LEVEL_0.copy()
            whole[48:64, 48:64] = BACKGROUND
            assert np.array_equal(tile.pixels, whole[y : y + 16, x : x + 16])
        assert cutter.decoded == len(slide.reads) == len(set(slide.reads))

    def test_a_reader_that_gives_cells_of_a_wrong_size_is_found_out(self) -> None:
        class Wrong(FakeSlide):
            def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
                return super().read_cell(level, column, row, reduce)[:-1]

        slide = Wrong([LEVEL_0])
        cutter = TileCutter(slide, planned(slide, TileSpec((0.5,))), 16)
        with pytest.raises(UnreadableSlide, match=r"cell \(0, 0\) of level 0 has shape"):
            next(cutter.cut(np.zeros((1, 2), dtype=np.int32)))


class TestEnlarge:
    @pytest.mark.parametrize(
        ("mpp", "requested"), [((0.5, 0.5), 0.25), ((0.5, 0.5), 0.37), ((0.5, 0.51), 0.505)]
    )
    def test_tiles_join_without_a_seam(self, mpp: tuple[float, float], requested: float) -> None:
        slide = FakeSlide([LEVEL_0], (48, 48), mpp)
        spec = TileSpec((requested,), 40, mpp_tolerance=0.001, allow_upsample=True)
        read = planned(slide, spec)
        assert min(read.scale) < 1
        whole = Image.fromarray(LEVEL_0)
        l0_xy = positions(slide, read, spec)
        cutter = TileCutter(slide, read, 40)
        for tile, (x, y) in zip(cut(cutter, l0_xy), l0_xy.tolist(), strict=True):
            right, bottom = x + 40 * read.scale[0], y + 40 * read.scale[1]
            if right > 251 or bottom > 203:
                continue  # up to half a pixel beyond: rounding, and Pillow has nothing to give
            expected = whole.resize((40, 40), Image.Resampling.BICUBIC, (x, y, right, bottom))
            assert abs(tile.astype(int) - np.asarray(expected)).max() <= 1
        assert cutter.decoded == len(set(slide.reads))

    def test_a_padded_tile_keeps_its_scale(self) -> None:
        ramp = np.repeat(np.arange(0, 200, 10, dtype=np.uint8)[None, :], 20, axis=0)
        slide = FakeSlide([np.stack([ramp] * 3, axis=2)])
        spec = TileSpec((0.15,), 16, edge="pad", allow_upsample=True)
        cutter = TileCutter(slide, planned(slide, spec), 16)
        tile = cut(cutter, np.array([[16, 0]], dtype=np.int32))[0]
        centres = 16 + 0.3 * (np.arange(8) + 0.5) - 0.5
        assert tile[8, :8, 0] == pytest.approx(10 * centres, abs=1.5)


class TestRealSlide:
    @pytest.fixture
    def path(self, real_data: Path) -> Path:
        return real_data / "svs" / "CMU-1-Small-Region.svs"

    @staticmethod
    def tiles(path: Path, spec: TileSpec) -> tuple[ReadPlan, Ints, list[Rgb]]:
        spec = replace(spec, tile_size=224, stride=301)
        with open_slide(path, exact=spec.exact) as slide:
            assert slide.facts.mpp is not None
            read = plan_read(slide.facts.levels, slide.facts.mpp, spec.mpps[0], spec)
            l0_xy = plan_tiles(slide.facts, read, spec, None, "key").l0_xy
            return read, l0_xy, cut(TileCutter(slide, read, 224), l0_xy)

    def test_tiles_taken_as_they_are_are_those_of_openslide(self, path: Path) -> None:
        read, l0_xy, tiles = self.tiles(path, TileSpec((0.499,)))
        assert read.as_is
        assert len(tiles) == 7 * 10
        with openslide.OpenSlide(path) as other:
            for tile, (x, y) in zip(tiles, l0_xy.tolist(), strict=True):
                region = other.read_region((x, y), 0, (224, 224)).convert("RGB")
                assert np.array_equal(tile, np.asarray(region))

    @pytest.mark.parametrize(
        ("mpp", "scale"), [(1.0, 2.0), (0.74, 0.74 / 0.499), (1.1, 1.1 / 0.499), (2.0, 4.0)]
    )
    def test_tiles_cut_exactly_are_area_averages_of_openslides_pixels(
        self, path: Path, mpp: float, scale: float
    ) -> None:
        read, l0_xy, tiles = self.tiles(path, TileSpec((mpp,), exact=True))
        assert read.scale == pytest.approx((scale, scale))
        for tile, average in zip(tiles, self.averages(path, l0_xy, read.scale), strict=True):
            assert abs(tile - average).max() <= ROUNDING + 0.5 / scale**2

    @pytest.mark.parametrize(
        ("mpp", "reduce", "psnr"),
        [(1.0, 2, 50), (2.0, 4, 50), (2.1, 2, 40), (3.0, 2, 44), (4.0, 8, 50)],
    )
    def test_tiles_decoded_at_a_smaller_scale_come_close_to_that(
        self, path: Path, mpp: float, reduce: int, psnr: float
    ) -> None:
        read, l0_xy, tiles = self.tiles(path, TileSpec((mpp,)))
        assert read.reduce == reduce
        errors = [
            ((tile - average) ** 2).mean()
            for tile, average in zip(tiles, self.averages(path, l0_xy, read.scale), strict=True)
        ]
        assert 10 * math.log10(255**2 / float(np.mean(errors))) >= psnr

    @staticmethod
    def averages(path: Path, l0_xy: Ints, scale: tuple[float, float]) -> Iterator[Floats]:
        side = math.ceil(224 * scale[0])
        with openslide.OpenSlide(path) as other:
            whole = np.asarray(other.read_region((0, 0), 0, other.dimensions).convert("RGB"))
        for x, y in l0_xy.tolist():
            yield averaged(whole[y : y + side, x : x + side], (0, 0), scale, 224)


class TestNative:
    """Tiles that are whole tiles of the slide's own are given as the slide holds them."""

    def slide(self) -> FakeSlide:
        slide = FakeSlide([LEVEL_0], (16, 16))
        for column, row in np.ndindex(15, 12):
            slide.natives[0, column, row] = f"{column} {row}".encode()
        return slide

    def test_whole_cells_come_as_bytes_and_other_tiles_as_pixels(self) -> None:
        slide = self.slide()
        cutter = TileCutter(slide, planned(slide, TileSpec((0.5,))), 16, native=True)
        places = np.array([[0, 0], [8, 0], [32, 48], [32, 49]], dtype=np.int32)
        tiles = list(cutter.cut(places))
        assert [tile.native for tile in tiles] == [b"0 0", None, b"2 3", None]
        for tile, (x, y) in zip(tiles, places.tolist(), strict=True):
            assert tile.pixels is not None
            assert np.array_equal(tile.pixels, LEVEL_0[y : y + 16, x : x + 16])

    def test_bytes_that_nobody_measures_are_not_decoded(self) -> None:
        slide = self.slide()
        read = planned(slide, TileSpec((0.5,)))
        cutter = TileCutter(slide, read, 16, native=True, pixels=False)
        tiles = list(cutter.cut(np.array([[0, 0], [32, 48], [8, 8]], dtype=np.int32)))
        assert [tile.pixels is None for tile in tiles] == [True, True, False]
        assert cutter.decoded == 4, "the four cells below the last tile"

    @pytest.mark.parametrize("mpp", [1.0, 0.77])
    def test_resampled_tiles_are_never_native(self, mpp: float) -> None:
        slide = self.slide()
        cutter = TileCutter(slide, planned(slide, TileSpec((mpp,))), 16, native=True)
        assert [tile.native for tile in cutter.cut(np.zeros((1, 2), np.int32))] == [None]

    def test_a_cell_that_is_damaged_in_sight_or_not_is_no_native_tile(self) -> None:
        slide = FakeSlide([LEVEL_0], (16, 16), damaged=frozenset({(1, 0)}))
        slide.natives[0, 0, 0] = b"whole"
        read = planned(slide, TileSpec((0.5,)))
        for pixels in (True, False):
            cutter = TileCutter(slide, read, 16, native=True, pixels=pixels)
            whole, lost = cutter.cut(np.array([[0, 0], [16, 0]], dtype=np.int32))
            assert (whole.native, whole.unread) == (b"whole", 0)
            assert (lost.native, lost.unread) == (None, 1)
            assert lost.pixels is not None
            assert (lost.pixels == BACKGROUND).all()


class Watched(FakeSlide):
    """Knows which of the cells that it gave are still held."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.alive: set[int] = set()

    def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
        cell = super().read_cell(level, column, row, reduce).copy()
        number = len(self.reads)
        self.alive.add(number)
        weakref.finalize(cell, self.alive.discard, number)
        return cell


class TestMemory:
    def test_cells_beyond_the_limit_are_decoded_again_and_the_tiles_stay_right(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tiler.pixels, "CACHE_BYTES", 12 * 16 * 16 * 3)
        slide = Watched([LEVEL_0], (16, 16))
        spec = TileSpec((0.5,), 40, stride=20)
        read = planned(slide, spec)
        l0_xy = positions(slide, read, spec)
        cutter = TileCutter(slide, read, 40)
        most = 0
        gc.freeze()  # what other tests left is not to be gone through for every tile
        for tile, (x, y) in zip(cutter.cut(l0_xy), l0_xy.tolist(), strict=True):
            assert tile.pixels is not None
            assert np.array_equal(tile.pixels, LEVEL_0[y : y + 40, x : x + 40])
            gc.collect()
            most = max(most, len(slide.alive))
        gc.unfreeze()
        assert most <= 12 + 16, "the limit, and what one tile needs"
        assert cutter.decoded > len(set(slide.reads))

    @pytest.mark.parametrize("scale", [1.0, 1.3, 2.0, 2.4])
    def test_a_large_tile_is_made_in_strips_like_a_small_one(
        self, monkeypatch: pytest.MonkeyPatch, scale: float
    ) -> None:
        slide = FakeSlide([LEVEL_0], (16, 16))
        spec = TileSpec((0.5 * scale,), 80, exact=True)
        read = planned(slide, spec)
        places = np.array([[3, 5], [120, 110]], dtype=np.int32)
        whole = cut(TileCutter(slide, read, 80), places)
        monkeypatch.setattr(tiler.pixels, "_REGION_BYTES", 3000)
        assert np.array_equal(cut(TileCutter(slide, read, 80), places), whole)
        if scale.is_integer():
            # Plain copies and means of whole pixels have quicker ways; strips must take them.
            monkeypatch.setattr(tiler.pixels, "_average", lambda *_: pytest.fail("slow"))
            cut(TileCutter(slide, read, 80), places[:1])

    def test_an_enlarged_tile_is_made_in_strips_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        slide = FakeSlide([LEVEL_0], (16, 16))
        read = planned(slide, TileSpec((0.2,), 80, allow_upsample=True))
        places = np.array([[3, 5], [215, 110], [120, 180]], dtype=np.int32)
        whole = cut(TileCutter(slide, read, 80), places)
        monkeypatch.setattr(tiler.pixels, "_REGION_BYTES", 3000)
        strips = cut(TileCutter(slide, read, 80), places)
        assert abs(np.array(strips).astype(int) - np.array(whole)).max() <= 1
