"""Which cells tiles are made from: pure functions from tile positions to parts of a level.

`level_` coordinates are pixels of the level as it is decoded (see `plan.reduced`); they may be
fractions where a tile's edge falls inside a pixel. A cell is the unit of decoding (`slides.base`),
counted in (column, row). Work is split here so that few cells are decoded by two tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiler.grid import Ints
from tiler.plan import ReadPlan
from tiler.slides.base import Level

Counts = npt.NDArray[np.int64]

EPSILON = 1e-6
"""Pixels that rounding errors of mpp and downsample may cost."""

BICUBIC_REACH = 2
"""Pixels beside a tile that its interpolated edge depends on."""

MOST_DECODED_TWICE = 0.02
"""Share of a slide's cells that a split into tasks may make be decoded twice."""

TASK_PIXELS = 1e9
"""Work of a task in pixels, at most (see `tile_work`): some seconds."""


@dataclass(frozen=True, slots=True)
class Windows:
    """The part of a level that each tile is made from."""

    level_xy: npt.NDArray[np.float64]
    """Top-left corner of each tile, (N, 2) as (x, y); whole where pixels are taken as they are."""
    box: Counts
    """Pixels that are read, inside the level: (N, 4) as left, top, right, bottom (exclusive)."""


def windows(place: Level, read: ReadPlan, tile_size: int, l0_xy: Ints) -> Windows:
    """Find what tiles are made from.

    Args:
        place: the level as it is decoded.
        l0_xy: int32 (N, 2), the tiles' top-left corners in level-0 pixels.
    """
    level_xy = l0_xy / np.array([place.downsample_x, place.downsample_y])
    if read.rest == (1.0, 1.0):
        level_xy = np.floor(level_xy + 0.5)
    size = np.array([place.width, place.height])
    margin = BICUBIC_REACH if min(read.rest) < 1 else 0
    first = np.floor(level_xy + EPSILON).astype(np.int64) - margin
    reach = level_xy + tile_size * np.array(read.rest)
    last = np.ceil(reach - EPSILON).astype(np.int64) + margin
    # A tile that rounding puts beyond the level still gets its last pixel.
    first = np.minimum(np.maximum(first, 0), size - 1)
    return Windows(level_xy, np.concatenate([first, np.minimum(last, size)], axis=1))


def cell_boxes(place: Level, box: Counts) -> Counts:
    """Cells that cover boxes of pixels: int64 (N, 4) as first and last (exclusive) column, row."""
    cell = np.array([place.cell_width, place.cell_height])
    first, last = box[:, :2] // cell, -(-box[:, 2:] // cell)
    return np.stack([first[:, 0], last[:, 0], first[:, 1], last[:, 1]], axis=1)


def cells_of(boxes: Counts) -> Counts:
    """The cells of boxes (of `cell_boxes`), each once: int64 (M, 2) as (column, row), by rows."""
    if not len(boxes):
        return np.empty((0, 2), dtype=np.int64)
    first = boxes[:, ::2].min(axis=0)
    size = boxes[:, 1::2].max(axis=0) - first
    covered = _covered(boxes - np.repeat(first, 2), int(size[1]), int(size[0]))
    cells: Counts = np.argwhere(covered)[:, ::-1] + first
    return cells


def _covered(boxes: Counts, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    # Corners of the boxes, summed up twice: no loop over boxes, whatever their size.
    steps = np.zeros((rows + 1, columns + 1), dtype=np.int32)
    for row, column, step in ((2, 0, 1), (2, 1, -1), (3, 0, -1), (3, 1, 1)):
        np.add.at(steps, (boxes[:, row], boxes[:, column]), step)
    covered: npt.NDArray[np.bool_] = steps.cumsum(0).cumsum(1)[:rows, :columns] > 0
    return covered


def split_shards(
    place: Level,
    boxes: Counts,
    shard_tiles: int,
    shards: Sequence[int],
    pieces: int,
    pixels: float,
) -> list[tuple[int, ...]]:
    """Split shards into tasks: runs of neighbours, which so share decoded cells.

    As many tasks as are wanted, if that makes at most `MOST_DECODED_TWICE` of the cells be decoded
    twice; fewer if it makes more be, but as many as keep a task below `TASK_PIXELS`.

    Args:
        place: the level as it is decoded.
        boxes: of `cell_boxes`, of all tiles of the resolution.
        shard_tiles: tiles in a shard.
        shards: those to be cut, ascending.
        pieces: tasks that are wanted.
        pixels: work of a tile in pixels, see `tile_work`.
    """
    columns = -(-place.width // place.cell_width)
    parts = [
        cells_of(boxes[s * shard_tiles : (s + 1) * shard_tiles]) @ (1, columns) for s in shards
    ]
    distinct = _union(parts)
    least = min(len(shards), int(len(shards) * shard_tiles * pixels / TASK_PIXELS) + 1)
    for count in _fewer_and_fewer(min(pieces, len(shards)), least):
        runs = _runs(len(shards), count)
        decoded = sum(_union(parts[a:b]) for a, b in runs)
        if decoded <= distinct * (1 + MOST_DECODED_TWICE):
            return [tuple(shards[a:b]) for a, b in runs]
    return [tuple(shards[a:b]) for a, b in _runs(len(shards), least)]


def tile_work(tile_size: int, stride: int, read: ReadPlan) -> float:
    """Pixels of the level that a tile adds to its neighbours', or makes, whatever is more."""
    return max(stride**2 * read.scale[0] * read.scale[1], float(tile_size**2))


def _union(parts: Sequence[Counts]) -> int:
    """How many different cells there are."""
    if not parts:
        return 0
    cells = np.sort(np.concatenate(parts))  # np.unique would load numpy.ma for this
    return int(np.count_nonzero(cells[1:] != cells[:-1])) + min(1, len(cells))


def _fewer_and_fewer(most: int, least: int) -> Iterator[int]:
    """Numbers of tasks to try: by one while they are few, by a tenth while they are many."""
    while most > least:
        yield most
        most -= max(1, most // 10)


def _runs(length: int, count: int) -> list[tuple[int, int]]:
    """Cut 0..length into `count` runs of nearly the same length."""
    edges = [length * i // count for i in range(count + 1)] if count else []
    return list(itertools.pairwise(edges))
