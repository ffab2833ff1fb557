"""Where tiles lie: pure functions from a slide's extent and tissue mask to tile positions.

Positions are level-0 pixels (x, y) of a tile's top-left corner, int32, shape (N, 2). The grid
starts at the origin of the slide's bounds; its step is a whole number of output pixels, which need
not be a whole number of level-0 pixels. All functions are deterministic on every machine.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tiler.options import Edge

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

_SLACK = 1e-6
"""Share of a step that rounding errors of mpp and downsample may cost before a tile is lost."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid of tiles over a slide's bounds."""

    columns: int
    rows: int
    l0_origin: tuple[float, float]
    """Top-left corner of tile (0, 0) in level-0 pixels, (x, y)."""
    l0_step: tuple[float, float]
    """Distance of neighbouring tiles in level-0 pixels, (x, y)."""
    l0_size: tuple[float, float]
    """Extent of a tile in level-0 pixels, (x, y)."""
    dropped_at_edge: int
    """Tiles that would reach over the edge and were left out."""

    def cells(self) -> tuple[Ints, Ints]:
        """Column and row of every tile, row by row, int32 (columns * rows,) each."""
        row, column = np.divmod(
            np.arange(self.columns * self.rows, dtype=np.int32), max(1, self.columns)
        )
        return column.astype(np.int32), row.astype(np.int32)

    def l0_positions(self, column: Ints, row: Ints) -> Ints:
        """Level-0 pixel of the top-left corner of tiles, int32 (N, 2) as (x, y)."""
        l0_x = self.l0_origin[0] + column * self.l0_step[0]
        l0_y = self.l0_origin[1] + row * self.l0_step[1]
        return np.floor(np.stack([l0_x, l0_y], axis=1) + 0.5).astype(np.int32)


def make_grid(
    l0_origin: tuple[float, float],
    l0_extent: tuple[float, float],
    l0_per_px: tuple[float, float],
    tile_size: int,
    step: int,
    edge: Edge,
) -> Grid:
    """Lay a grid over a rectangle.

    Args:
        l0_origin: top-left corner of the rectangle in level-0 pixels, (x, y).
        l0_extent: its width and height in level-0 pixels.
        l0_per_px: level-0 pixels per output pixel, (x, y).
        tile_size: side of a tile in output pixels.
        step: distance of neighbouring tiles in output pixels.
        edge: `drop` keeps tiles that lie wholly inside; `pad` as many as cover the rectangle.
    """
    counts, padded = [], []
    for extent, scale in zip(l0_extent, l0_per_px, strict=True):
        room = (extent / scale - tile_size) / step
        inside = 0 if room < -_SLACK else math.floor(room + _SLACK) + 1
        covering = max(1, math.ceil(room - _SLACK) + 1)
        counts.append(inside if edge == "drop" else covering)
        padded.append(covering)
    return Grid(
        columns=counts[0],
        rows=counts[1],
        l0_origin=l0_origin,
        l0_step=(step * l0_per_px[0], step * l0_per_px[1]),
        l0_size=(tile_size * l0_per_px[0], tile_size * l0_per_px[1]),
        dropped_at_edge=padded[0] * padded[1] - counts[0] * counts[1],
    )


def spatial_order(along: Ints, across: Ints, band_rows: int) -> npt.NDArray[np.intp]:
    """Order that makes each run of tiles a compact patch of the slide.

    Bands of `band_rows` rows, each walked along, row after row of it: neighbours share native
    tiles, few native tiles are in use at a time, and shards share few with each other.

    Args:
        along: place of each tile along the bands, in tiles: its column, or its row.
        across: place in the other direction.
        band_rows: width of a band in tiles.
    """
    band = across // band_rows
    return np.lexsort((across, along, band))


def draw(column: Ints, row: Ints, count: int, seed: int, key: str) -> npt.NDArray[np.intp]:
    """Indices of a uniform draw of `count` tiles without replacement, in ascending order.

    Each tile gets a pseudo-random rank from (seed, key, column, row) through SplitMix64 (Steele,
    Lea, Flood 2014), and the lowest ranks win: the same on any machine, and a larger draw contains
    the smaller one. `key` tells slides apart.
    """
    salt = int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "little")
    place = (row.astype(np.uint64) << np.uint64(32)) | column.astype(np.uint64)
    rank = _splitmix64(_splitmix64(place) ^ np.uint64(salt))
    return np.sort(np.argsort(rank, kind="stable")[:count])


def _splitmix64(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = value + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
