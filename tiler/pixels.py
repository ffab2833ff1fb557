"""Native cells in, output tiles out: each cell is decoded once, then cut and area-averaged.

`level_` coordinates are pixels of the level that is read; they may be fractions where a tile's
edge falls inside a pixel. Pixels are uint8 RGB, (height, width, 3). All arithmetic is elementwise,
so the same input gives the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tiler.errors import UnreadableSlide
from tiler.grid import Ints
from tiler.plan import ReadPlan
from tiler.slides.base import Level, Rgb, Slide

Cell = tuple[int, int]
"""(column, row) in the cell grid of a level."""

OVERVIEW_MPP = 8.0
"""µm/px of the overview that the tissue mask is made from."""

_OVERVIEW_PIXELS = 16e6
"""Largest overview in pixels; a larger slide gets a coarser one."""


class CellCache:
    """Decoded cells of one level, kept as long as somebody still needs them."""

    def __init__(self, slide: Slide, level: int) -> None:
        self._slide = slide
        self._number = level
        self.level: Level = slide.facts.levels[level]
        self._cells: dict[Cell, Rgb] = {}
        self.decoded = 0
        """Cells decoded so far."""

    def covering(self, left: int, top: int, right: int, bottom: int) -> list[Cell]:
        """Cells that cover level_x in left..right and level_y in top..bottom (exclusive)."""
        lv = self.level
        columns = range(left // lv.cell_width, -(-right // lv.cell_width))
        rows = range(top // lv.cell_height, -(-bottom // lv.cell_height))
        return [(column, row) for row in rows for column in columns]

    def region(self, left: int, top: int, right: int, bottom: int) -> Rgb:
        """Pixels of a rectangle that lies inside the level."""
        out = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        for column, row in self.covering(left, top, right, bottom):
            cell = self._get(column, row)
            x, y = column * self.level.cell_width, row * self.level.cell_height
            x0, x1 = max(left, x), min(right, x + cell.shape[1])
            y0, y1 = max(top, y), min(bottom, y + cell.shape[0])
            out[y0 - top : y1 - top, x0 - left : x1 - left] = cell[y0 - y : y1 - y, x0 - x : x1 - x]
        return out

    def forget(self, cells: list[Cell]) -> None:
        """Drop cells that nobody needs any more."""
        for cell in cells:
            self._cells.pop(cell, None)

    def _get(self, column: int, row: int) -> Rgb:
        cell = self._cells.get((column, row))
        if cell is None:
            cell = self._slide.read_cell(self._number, column, row)
            expected = self._cell_shape(column, row)
            if cell.shape != expected:
                raise UnreadableSlide(
                    f"cell ({column}, {row}) of level {self._number} has shape {cell.shape}, "
                    f"not {expected}"
                )
            self.decoded += 1
            self._cells[column, row] = cell
        return cell

    def _cell_shape(self, column: int, row: int) -> tuple[int, int, int]:
        lv = self.level
        width = min(lv.cell_width, lv.width - column * lv.cell_width)
        return min(lv.cell_height, lv.height - row * lv.cell_height), width, 3


@dataclass(frozen=True, slots=True)
class _Window:
    """The part of a level that one tile is made from."""

    level_x: float
    """Left edge of the tile; a whole number where the level is taken as it is."""
    level_y: float
    """Top edge of the tile."""
    left: int
    """First pixel that is read, inside the level."""
    top: int
    right: int
    """One past the last pixel that is read."""
    bottom: int


class TileCutter:
    """Cuts the tiles of one resolution out of an open slide."""

    def __init__(self, slide: Slide, read: ReadPlan, tile_size: int) -> None:
        self._read = read
        self._size = tile_size
        self._background = slide.facts.background
        self._cache = CellCache(slide, read.level)

    @property
    def decoded(self) -> int:
        """Cells decoded so far."""
        return self._cache.decoded

    def cut(self, l0_xy: Ints) -> Iterator[Rgb]:
        """Yield the tiles at `l0_xy`, int32 (N, 2), each uint8 (S, S, 3), in that order.

        Every cell is decoded once, and dropped after the last tile that needs it.

        Raises:
            PixelReadError: a cell cannot be decoded.
        """
        windows = [self._window(int(x), int(y)) for x, y in l0_xy]
        needed = [self._cache.covering(w.left, w.top, w.right, w.bottom) for w in windows]
        last_use = {cell: i for i, cells in enumerate(needed) for cell in cells}
        for i, (window, cells) in enumerate(zip(windows, needed, strict=True)):
            yield self._tile(window)
            self._cache.forget([cell for cell in cells if last_use[cell] == i])

    def _window(self, l0_x: int, l0_y: int) -> _Window:
        lv = self._cache.level
        level_x, level_y = l0_x / lv.downsample_x, l0_y / lv.downsample_y
        if self._read.as_is:
            level_x, level_y = math.floor(level_x + 0.5), math.floor(level_y + 0.5)
        reach_x, reach_y = (self._size * s for s in self._read.scale)
        margin = _BICUBIC_REACH if min(self._read.scale) < 1 else 0
        return _Window(
            level_x=level_x,
            level_y=level_y,
            left=min(max(0, math.floor(level_x + _EPSILON) - margin), lv.width - 1),
            top=min(max(0, math.floor(level_y + _EPSILON) - margin), lv.height - 1),
            right=min(lv.width, math.ceil(level_x + reach_x - _EPSILON) + margin),
            bottom=min(lv.height, math.ceil(level_y + reach_y - _EPSILON) + margin),
        )

    def _tile(self, window: _Window) -> Rgb:
        region = self._cache.region(window.left, window.top, window.right, window.bottom)
        offset = (window.level_x - window.left, window.level_y - window.top)
        region = self._pad(region, offset)
        return resample(region, offset, self._read.scale, self._size)

    def _pad(self, region: Rgb, offset: tuple[float, float]) -> Rgb:
        """Fill what lies beyond the slide with its background colour (`--edge pad`)."""
        height, width, _ = region.shape
        # Positions are rounded to whole level-0 pixels: a part of a pixel beyond is rounding.
        full_width = math.floor(offset[0] + self._size * self._read.scale[0] + _EPSILON)
        full_height = math.floor(offset[1] + self._size * self._read.scale[1] + _EPSILON)
        if full_width <= width and full_height <= height:
            return region
        shape = (max(height, full_height), max(width, full_width), 3)
        padded = np.empty(shape, dtype=np.uint8)
        padded[:] = self._background
        padded[:height, :width] = region
        return padded


_EPSILON = 1e-6

_BICUBIC_REACH = 2
"""Pixels beside a tile that its interpolated edge depends on."""


def resample(
    region: Rgb, offset: tuple[float, float], scale: tuple[float, float], size: int
) -> Rgb:
    """Turn a part of a level into one tile by area averaging.

    Output pixel (i, j) is the mean over the rectangle of `scale` input pixels whose top-left corner
    lies at `offset + (i, j) * scale`; input pixels that it covers in part count in part. Where the
    rectangle reaches beyond the region, the mean goes over what is there. Means are rounded to the
    nearest grey level, halves up; for whole factors by Pillow's `reduce`, whose means of n pixels
    may be 0.5 + 0.5 / n grey levels low.

    Args:
        region: uint8 (h, w, 3).
        offset: where the tile begins inside the region, in pixels, (x, y).
        scale: input pixels per output pixel, (x, y); below 1 the tile is interpolated (bicubic).
        size: side of the tile in pixels, S.

    Returns:
        uint8 (S, S, 3).
    """
    if scale == (1.0, 1.0) and max(offset) < _EPSILON and region.shape[:2] == (size, size):
        return region
    if min(scale) < 1:
        return _enlarge(region, offset, scale, size)
    factors = (round(scale[0]), round(scale[1]))
    whole = max(abs(s - f) for s, f in zip(scale, factors, strict=True)) < _EPSILON
    if (
        whole
        and max(offset) < _EPSILON
        and region.shape[:2] == (size * factors[1], size * factors[0])
    ):
        return np.asarray(Image.fromarray(region).reduce(factors))
    rows = _average(region.astype(np.float32), offset[1], scale[1], size)
    both = _average(np.ascontiguousarray(rows.transpose(1, 0, 2)), offset[0], scale[0], size)
    rounded: Rgb = np.floor(both.transpose(1, 0, 2) + np.float32(0.5)).astype(np.uint8)
    return rounded


def _average(
    values: npt.NDArray[np.float32], offset: float, scale: float, size: int
) -> npt.NDArray[np.float32]:
    """Area-average along the first axis: float32 (n, m, 3) to (size, m, 3)."""
    start = offset + scale * np.arange(size)
    end = start + scale
    first = np.floor(start + _EPSILON).astype(np.intp)
    taps = int(np.max(np.ceil(end - _EPSILON).astype(np.intp) - first))
    pixel = first[:, None] + np.arange(taps)
    weight = np.minimum(end[:, None], pixel + 1) - np.maximum(start[:, None], pixel)
    weight = np.where((pixel < len(values)) & (weight > _EPSILON), weight, 0)
    # A tile may begin up to half a level-0 pixel late: its last pixels then count as one pixel.
    weight[weight.sum(axis=1) == 0, 0] = 1
    weight /= weight.sum(axis=1, keepdims=True)
    pixel = np.minimum(pixel, len(values) - 1)
    out = np.zeros((size, *values.shape[1:]), dtype=np.float32)
    for tap in range(taps):
        out += values[pixel[:, tap]] * weight[:, tap, None, None].astype(np.float32)
    return out


def _enlarge(
    region: Rgb, offset: tuple[float, float], scale: tuple[float, float], size: int
) -> Rgb:
    height, width, _ = region.shape
    right, bottom = (o + size * s for o, s in zip(offset, scale, strict=True))
    missing = (max(0, math.ceil(bottom) - height), max(0, math.ceil(right) - width))
    if any(missing):
        # Rounding puts part of a pixel beyond: Pillow takes no such box, and less would stretch.
        region = np.pad(region, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    box = (offset[0], offset[1], right, bottom)
    image = Image.fromarray(region).resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image)


@dataclass(frozen=True, slots=True)
class Overview:
    """A small picture of the whole slide."""

    pixels: Rgb
    """uint8 (h, w, 3)."""
    mpp: float
    """µm per pixel of the overview, mean of x and y."""
    l0_per_px: tuple[float, float]
    """Level-0 pixels per pixel of the overview, (x, y); its last row and column may hold less."""


def read_overview(
    slide: Slide, mpp: tuple[float, float], target_mpp: float = OVERVIEW_MPP
) -> Overview:
    """Read the whole slide at about `target_mpp` by reducing a level by a whole factor.

    The level is walked in strips, so that memory stays small even for a slide without a pyramid.
    """
    levels = slide.facts.levels
    finest = levels[0]
    area_um2 = finest.width * mpp[0] * finest.height * mpp[1]
    target = max(target_mpp, math.sqrt(area_um2 / _OVERVIEW_PIXELS))
    fine = [i for i, lv in enumerate(levels) if mpp[0] * lv.downsample_x <= target * 1.05]
    number = max(fine, key=lambda i: levels[i].downsample_x, default=0)
    level_mpp = mpp[0] * levels[number].downsample_x
    factor = max(1, math.floor(target / level_mpp + 0.05))
    pixels = _reduce_level(CellCache(slide, number), factor)
    per_px = (factor * levels[number].downsample_x, factor * levels[number].downsample_y)
    return Overview(pixels, (mpp[0] * per_px[0] + mpp[1] * per_px[1]) / 2, per_px)


def _reduce_level(cache: CellCache, factor: int) -> Rgb:
    lv = cache.level
    strip_height = max(1, lv.cell_height // factor) * factor
    strips = []
    for top in range(0, lv.height, strip_height):
        bottom = min(lv.height, top + strip_height)
        strip = cache.region(0, top, lv.width, bottom)
        strips.append(np.asarray(Image.fromarray(strip).reduce(factor)) if factor > 1 else strip)
        finished = bottom // lv.cell_height
        used = cache.covering(0, top, lv.width, bottom)
        cache.forget([cell for cell in used if cell[1] < finished])
    return np.concatenate(strips)
