"""The grid: what it covers, where its tiles lie, the order of shards, the draw, and its cost."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.tiler.fakes import HugeSlide
from tiler.grid import Grid, Ints, draw, make_grid, spatial_order
from tiler.options import Edge, TileSpec
from tiler.pixels import TileCutter
from tiler.plan import plan_read, plan_tiles

SCALES = st.fractions(Fraction(1, 2), Fraction(40), max_denominator=20)
"""Coarse enough that no tile misses the edge by less than the grid's slack for rounding."""

EDGES = st.sampled_from(("drop", "pad"))
RELAXED = settings(deadline=None)


def square(extent: float, scale: float, tile: int, step: int, edge: Edge) -> Grid:
    return make_grid((0.0, 0.0), (extent, extent), (scale, scale), tile, step, edge)


def naive_count(extent: Fraction, scale: Fraction, tile: int, step: int, edge: Edge) -> int:
    """Walk from tile to tile in exact numbers: by the last px inside, or the last px covered."""
    count = 0
    while True:
        begin = count * step * scale
        end = begin + tile * scale
        if edge == "drop" and end > extent:
            return count
        count += 1
        if edge == "pad" and end >= extent:
            return count


@RELAXED
@given(
    extent=st.integers(1, 20_000),
    scale=SCALES,
    tile=st.integers(16, 512),
    step=st.integers(16, 600),
    edge=EDGES,
)
def test_the_number_of_tiles_is_that_of_a_naive_walk(
    extent: int, scale: Fraction, tile: int, step: int, edge: Edge
) -> None:
    grid = square(float(extent), float(scale), tile, step, edge)
    expected = naive_count(Fraction(extent), scale, tile, step, edge)
    assert (grid.columns, grid.rows) == (expected, expected)
    padded = naive_count(Fraction(extent), scale, tile, step, "pad")
    assert grid.dropped_at_edge == padded**2 - expected**2


@RELAXED
@given(
    origin=st.tuples(st.integers(0, 5000), st.integers(0, 5000)),
    extent=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    scale=st.tuples(SCALES, SCALES),
    tile=st.integers(32, 300),
    step=st.integers(32, 400),
)
def test_no_tile_reaches_over_the_edge_but_for_rounding(
    origin: tuple[int, int],
    extent: tuple[int, int],
    scale: tuple[Fraction, Fraction],
    tile: int,
    step: int,
) -> None:
    per_px = (float(scale[0]), float(scale[1]))
    grid = make_grid((origin[0], origin[1]), extent, per_px, tile, step, "drop")
    l0_xy = grid.l0_positions(*grid.cells())
    assert (l0_xy >= origin).all()
    assert (l0_xy + grid.l0_size <= np.add(origin, extent) + 0.5 + 1e-3).all()


@RELAXED
@given(
    extent=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    scale=SCALES,
    tile=st.integers(32, 256),
    overlap=st.integers(0, 30),
)
def test_padded_tiles_cover_every_pixel(
    extent: tuple[int, int], scale: Fraction, tile: int, overlap: int
) -> None:
    per_px = float(scale)
    grid = make_grid((0, 0), extent, (per_px, per_px), tile, tile - overlap, "pad")
    l0_xy = grid.l0_positions(*grid.cells())
    for axis in (0, 1):
        starts = np.unique(l0_xy[:, axis])
        ends = starts + grid.l0_size[axis]
        assert starts[0] == 0
        assert ends[-1] >= extent[axis] - 0.5 - 1e-3
        assert (starts[1:] <= ends[:-1] + 1).all(), "gaps are at most rounding"


@RELAXED
@given(scale=st.floats(0.5, 40), step=st.integers(16, 512), start=st.floats(0, 1000))
def test_a_thousand_tiles_do_not_drift(scale: float, step: int, start: float) -> None:
    extent = 1000 * step * scale + 1
    grid = make_grid((start, 0), (extent, step * scale), (scale, scale), step, step, "drop")
    assert (grid.columns, grid.rows) == (1000, 1)
    l0_x = grid.l0_positions(*grid.cells())[:, 0]
    exact = [Fraction(start) + index * step * Fraction(scale) for index in range(1000)]
    assert max(abs(int(x) - there) for x, there in zip(l0_x, exact, strict=True)) <= 0.5 + 1e-6
    assert abs(np.diff(l0_x) - step * scale).max() <= 1


FOUR_BY_TWO = [(x, y) for y in (0, 256) for x in (0, 256, 512, 768)]


@pytest.mark.parametrize(
    ("origin", "extent", "scale", "tile", "step", "edge", "expected"),
    [
        ((0, 0), (1024, 512), 1.0, 256, 256, "drop", FOUR_BY_TWO),
        ((0, 0), (1023, 511), 1.0, 256, 256, "drop", [(0, 0), (256, 0), (512, 0)]),
        ((0, 0), (513, 256), 1.0, 256, 256, "pad", [(0, 0), (256, 0), (512, 0)]),
        ((100, 7), (512, 256), 1.0, 256, 128, "drop", [(100, 7), (228, 7), (356, 7)]),
        ((0, 0), (1024, 512), 2.0, 256, 256, "drop", [(0, 0), (512, 0)]),
        ((0, 0), (7, 3), 1.5, 2, 1, "drop", [(0, 0), (2, 0), (3, 0)]),
        ((0, 0), (100, 100), 1.0, 256, 256, "drop", []),
        ((5, 5), (100, 100), 1.0, 256, 256, "pad", [(5, 5)]),
        ((0, 0), (1000, 10), 1.0, 10, 495, "drop", [(0, 0), (495, 0), (990, 0)]),
    ],
)  # fmt: skip
def test_known_positions(
    origin: tuple[int, int],
    extent: tuple[int, int],
    scale: float,
    tile: int,
    step: int,
    edge: Edge,
    expected: list[tuple[int, int]],
) -> None:
    grid = make_grid(origin, extent, (scale, scale), tile, step, edge)
    l0_xy = grid.l0_positions(*grid.cells())
    assert l0_xy.dtype == np.int32
    assert l0_xy.shape == (len(expected), 2)
    assert [tuple(xy) for xy in l0_xy.tolist()] == expected


def test_a_scale_that_is_off_by_rounding_loses_no_tile() -> None:
    exact = 0.5 / 0.1
    for error in (-1e-12, 0.0, 1e-12):
        grid = square(5 * 256 * 100, exact * (1 + error), 256, 256, "drop")
        assert (grid.columns, grid.rows) == (100, 100)
        assert grid.dropped_at_edge == 0


def hundred_by_hundred() -> tuple[Ints, Ints]:
    return square(25_600, 1.0, 256, 256, "drop").cells()


@pytest.mark.parametrize("band_rows", [1, 7, 23, 100, 20_000])
def test_the_order_of_tiles_is_a_permutation(band_rows: int) -> None:
    order = spatial_order(*hundred_by_hundred(), band_rows)
    assert np.array_equal(np.sort(order), np.arange(10_000))


def half_perimeters(column: Ints, row: Ints, order: npt.NDArray[np.intp], shard: int) -> list[int]:
    """Width plus height of the bounding box of each full shard, in tiles."""
    parts = [order[at : at + shard] for at in range(0, len(order) - shard + 1, shard)]
    return [int(np.ptp(column[p]) + np.ptp(row[p])) + 2 for p in parts]


@pytest.mark.parametrize("shard_tiles", [64, 256, 512])
def test_shards_are_compact_patches(shard_tiles: int) -> None:
    column, row = hundred_by_hundred()
    side = shard_tiles**0.5
    order = spatial_order(column, row, math.ceil(side))
    ordered = half_perimeters(column, row, order, shard_tiles)
    by_rows = half_perimeters(column, row, np.arange(len(column)), shard_tiles)
    assert np.median(ordered) <= 2.2 * side, "a square patch has 2 sides"
    assert np.median(ordered) < 0.5 * np.median(by_rows)


CELLS = square(2560, 1.0, 256, 256, "drop").cells()


def test_every_tile_is_drawn_equally_often() -> None:
    draws, kept = 2000, 30
    counts = np.zeros(100, dtype=np.int64)
    for index in range(draws):
        counts[draw(*CELLS, kept, seed=index % 50, key=f"slide-{index}")] += 1
    assert counts.sum() == draws * kept
    # Without replacement the counts vary less than a multinomial's, by the share left over.
    statistic = float(((counts - draws * 0.3) ** 2 / (draws * 0.3)).sum()) / 0.7
    assert 1e-4 < stats.chi2.sf(statistic, 99) < 1 - 1e-4


def test_pairs_of_tiles_are_drawn_independently() -> None:
    draws = np.zeros((2000, 100))
    for index in range(2000):
        draws[index, draw(*CELLS, 50, seed=0, key=str(index))] = 1
    correlation = np.asarray(np.corrcoef(draws.T))[np.triu_indices(100, 1)]
    assert abs(correlation + 1 / 99).max() < 5 / 2000**0.5


@RELAXED
@given(
    small=st.integers(0, 100),
    more=st.integers(0, 50),
    seed=st.integers(0, 2**63 - 1),
    key=st.text(),
)
def test_a_larger_draw_contains_the_smaller(small: int, more: int, seed: int, key: str) -> None:
    few = draw(*CELLS, small, seed, key).tolist()
    many = draw(*CELLS, small + more, seed, key).tolist()
    assert len(few) == small
    assert len(many) == min(100, small + more)
    assert sorted(set(few)) == few
    assert sorted(set(many)) == many
    assert set(few) <= set(many)


@RELAXED
@given(kept=st.sets(st.integers(0, 99), min_size=1), count=st.integers(1, 100))
def test_tiles_that_are_not_there_do_not_change_the_rank_of_the_others(
    kept: set[int], count: int
) -> None:
    column, row = CELLS
    some = np.array(sorted(kept))
    of_all = set(draw(column, row, count, 3, "a").tolist())
    of_some = set(some[draw(column[some], row[some], count, 3, "a")].tolist())
    assert of_all & kept <= of_some


@pytest.mark.parametrize(("seed", "key"), [(0, "slide-b"), (1, "slide-a")])
def test_other_seeds_and_other_slides_get_other_draws(seed: int, key: str) -> None:
    one = set(draw(*CELLS, 50, 0, "slide-a").tolist())
    other = set(draw(*CELLS, 50, seed, key).tolist())
    assert 10 < len(one & other) < 40


def splitmix64(state: int) -> int:
    """The first number of SplitMix64 in integers without an end: Steele, Lea, Flood 2014."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize(("seed", "key"), [(0, "slide-a"), (2**63 - 1, "file1:00ff/0.5")])
def test_the_draw_is_the_documented_one(seed: int, key: str) -> None:
    assert splitmix64(1234567) == 6457827717110365317, "the published first value"
    salt = int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "little")
    ranks = [splitmix64(splitmix64((r << 32) | c) ^ salt) for r in range(10) for c in range(10)]
    lowest = sorted(range(100), key=ranks.__getitem__)[:12]
    assert draw(*CELLS, 12, seed, key).tolist() == sorted(lowest)


def test_the_draw_stays_what_stores_were_made_with() -> None:
    assert draw(*CELLS, 8, 0, "slide-a").tolist() == [12, 16, 26, 34, 37, 68, 75, 78]
    assert draw(*CELLS, 8, 7, "file1:00ff/0.5").tolist() == [1, 24, 32, 47, 52, 67, 72, 82]


@pytest.mark.parametrize(
    ("cell", "slide_mpp", "mpp", "tile", "stride"),
    [
        (256, 0.25, 0.5, 256, None),
        (240, 0.25, 0.5, 224, None),
        (240, 0.5, 0.5, 256, 128),
        (240, 0.25, 0.37, 256, None),
    ],
    ids=["256 px at 0.5", "224 px, cells of 240", "stride 128", "mpp 0.37"],
)
def test_a_shard_decodes_each_of_its_cells_once(
    cell: int, slide_mpp: float, mpp: float, tile: int, stride: int | None
) -> None:
    slide = HugeSlide(20_003, 14_001, cell, slide_mpp)
    spec = TileSpec((mpp,), tile, stride, shard_tiles=150)
    read = plan_read(slide.facts.levels, (slide_mpp, slide_mpp), mpp, spec)
    plan = plan_tiles(slide.facts, read, spec, None, "key")
    cutter = TileCutter(slide, read, tile)
    for _ in cutter.cut(plan.l0_xy[150:300]):
        pass
    assert cutter.decoded == len(slide.reads) == len(set(slide.reads))
