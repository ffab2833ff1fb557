"""Cells: which of them tiles need, counted without loops, and work split along them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiler.fakes import facts_of
from tiler.cells import (
    MOST_DECODED_TWICE,
    TASK_PIXELS,
    Counts,
    cell_boxes,
    cells_of,
    split_shards,
    windows,
)
from tiler.grid import Ints
from tiler.options import TileSpec
from tiler.plan import ReadPlan, TileMask, plan_read, plan_tiles, reduced
from tiler.slides.base import Level

RELAXED = settings(deadline=None)


def planned(
    size: tuple[int, int], cell: int, spec: TileSpec, glass: float = 0.0
) -> tuple[Level, ReadPlan, Ints]:
    """The level as it is decoded, how it is read, and where the tiles lie, from 0.25 µm/px."""
    level = Level(size[0], size[1], 1.0, 1.0, cell, cell)
    facts = facts_of([level], (0.25, 0.25))
    read = plan_read(facts.levels, (0.25, 0.25), spec.mpps[0], spec)
    drawn = np.random.default_rng(0).random((size[1] // 4096 + 1, size[0] // 4096 + 1)) >= glass
    mask = TileMask(np.kron(drawn, np.ones((16, 16), bool)), (256.0, 256.0))
    return reduced(level, read.reduce), read, plan_tiles(facts, read, spec, mask, "key").l0_xy


def boxes_of(place: Level, read: ReadPlan, tile_size: int, l0_xy: Ints) -> Counts:
    return cell_boxes(place, windows(place, read, tile_size, l0_xy).box)


def looped(boxes: Counts) -> set[tuple[int, int]]:
    return {
        (column, row)
        for left, right, top, bottom in boxes.tolist()
        for row in range(top, bottom)
        for column in range(left, right)
    }


@RELAXED
@given(
    mpp=st.sampled_from((0.25, 0.37, 0.5, 0.77, 1.0, 3.1)),
    cell=st.sampled_from((240, 256, 37, 500)),
    tile_size=st.integers(1, 300),
    step=st.integers(20, 300),
)
def test_cells_are_those_that_a_loop_over_the_pixels_of_each_tile_finds(
    mpp: float, cell: int, tile_size: int, step: int
) -> None:
    spec = TileSpec((mpp,), tile_size, stride=step, min_tissue=0)
    place, read, l0_xy = planned((3001, 2003), cell, spec)
    boxes = boxes_of(place, read, tile_size, l0_xy)
    found = looped(boxes)
    assert {tuple(pair) for pair in cells_of(boxes).tolist()} == found
    assert len(cells_of(boxes)) == len(found)
    needed = set()
    for x, y in l0_xy[:: max(1, len(l0_xy) // 20)].tolist():
        right = min(place.width - 1, (x / read.l0_per_px[0] + tile_size) * read.rest[0] - 1e-3)
        bottom = min(place.height - 1, (y / read.l0_per_px[1] + tile_size) * read.rest[1] - 1e-3)
        left, top = x / place.downsample_x, y / place.downsample_y
        needed |= {
            (int(px // place.cell_width), int(py // place.cell_height))
            for px in (left, right)
            for py in (top, bottom)
        }
    assert needed <= found


def test_no_tiles_need_no_cells() -> None:
    nothing = np.empty((0, 4), dtype=np.int64)
    assert cells_of(nothing).shape == (0, 2)


LARGE = (32_768, 24_576)


@pytest.mark.parametrize(
    ("mpp", "tile_size", "stride", "cell"),
    [
        (0.5, 256, None, 256),
        (0.5, 256, None, 240),
        (0.5, 224, None, 240),
        (0.5, 256, 128, 240),
        (0.5, 256, 128, 256),
        (0.37, 256, None, 240),
        (0.25, 256, None, 240),
    ],
)
@pytest.mark.parametrize("glass", [0.0, 0.4])
@pytest.mark.parametrize("pieces", [1, 2, 4, 64])
def test_a_split_makes_few_cells_be_decoded_twice(
    mpp: float, tile_size: int, stride: int | None, cell: int, glass: float, pieces: int
) -> None:
    spec = TileSpec((mpp,), tile_size, stride=stride)
    place, read, l0_xy = planned(LARGE, cell, spec, glass)
    boxes = boxes_of(place, read, tile_size, l0_xy)
    shards = list(range(-(-len(boxes) // 512)))
    runs = split_shards(place, boxes, 512, shards, pieces, (spec.step * read.scale[0]) ** 2)
    assert [shard for run in runs for shard in run] == shards
    assert 1 <= len(runs) <= pieces
    decoded = [
        len(cells_of(np.concatenate([boxes[s * 512 : s * 512 + 512] for s in run]))) for run in runs
    ]
    assert sum(decoded) <= (1 + MOST_DECODED_TWICE) * len(cells_of(boxes))
    if pieces == 2 and glass == 0:
        assert len(runs) == 2, "two workers both get something to do"


def test_a_task_is_some_seconds_of_work_at_most() -> None:
    spec = TileSpec((0.5,))
    place, read, l0_xy = planned((96_000, 64_000), 240, spec)
    boxes = boxes_of(place, read, 256, l0_xy)
    shards = list(range(-(-len(boxes) // 512)))
    runs = split_shards(place, boxes, 512, shards, 1, 512.0**2)
    assert max(map(len, runs)) * 512 * 512**2 <= TASK_PIXELS * 1.2
    assert min(map(len, runs)) >= max(map(len, runs)) - 1


def test_shards_that_are_there_already_are_not_cut_again() -> None:
    place, read, l0_xy = planned(LARGE, 256, TileSpec((0.5,)))
    boxes = boxes_of(place, read, 256, l0_xy)
    assert split_shards(place, boxes, 512, [4], 8, 512.0**2) == [(4,)]
    assert split_shards(place, boxes, 512, [], 8, 512.0**2) == []
