"""Native cells in, output tiles out: each cell is decoded once, then cut and area-averaged.

`level_` coordinates are pixels of the level as it is decoded (see `plan.reduced`); they may be
fractions where a tile's edge falls inside a pixel. Pixels are uint8 RGB, (height, width, 3). All
arithmetic is elementwise, so the same input gives the same bytes on every machine. A cell that
cannot be decoded is a hole: background, known as such, and never another cell's or tile's loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tiler.cells import BICUBIC_REACH, EPSILON, cell_boxes, cells_of, windows
from tiler.errors import PixelReadError, UnreadableSlide
from tiler.grid import Ints
from tiler.plan import ReadPlan, reduced
from tiler.slides.base import Level, Rgb, Slide

CACHE_BYTES = 128e6
"""Decoded cells that are kept; beyond it those that are needed last are decoded again."""

_REGION_BYTES = 4e6
"""Pixels that are resampled at once; a larger tile is made in strips."""

_ADVISED_TILES = 256
"""Tiles whose cells the operating system is told of together, ahead of reading them."""


class CellCache:
    """Decoded cells of one level, kept as long as somebody still needs them."""

    def __init__(self, slide: Slide, level: int, reduce: int = 1) -> None:
        self._slide = slide
        self._number = level
        self._reduce = reduce
        self.level: Level = reduced(slide.facts.levels[level], reduce)
        """The level as it is decoded."""
        self.columns = -(-self.level.width // self.level.cell_width)
        self._cells: dict[int, Rgb] = {}
        self.bytes = 0
        """Decoded pixels that are held."""
        self.decoded = 0
        """Cells decoded so far."""
        self.holes: dict[int, str] = {}
        """Cells (row * columns + column) that cannot be decoded, and why."""

    def region(self, left: int, top: int, right: int, bottom: int) -> Rgb:
        """Pixels of a rectangle that lies inside the level."""
        lv = self.level
        width, height = lv.cell_width, lv.cell_height
        columns = range(left // width, -(-right // width))
        rows = range(top // height, -(-bottom // height))
        if len(columns) == len(rows) == 1:
            cell, x, y = self._get(columns[0], rows[0]), columns[0] * width, rows[0] * height
            return cell[top - y : bottom - y, left - x : right - x]
        out = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        for row in rows:
            y = row * height
            y0, y1 = max(top, y), min(bottom, y + height)
            for column in columns:
                x = column * width
                x0, x1 = max(left, x), min(right, x + width)
                cell = self._get(column, row)
                out[y0 - top : y1 - top, x0 - left : x1 - left] = cell[
                    y0 - y : y1 - y, x0 - x : x1 - x
                ]
        return out

    def unread(self, left: float, top: float, right: float, bottom: float) -> float:
        """Share of a rectangle, of which parts may lie beyond the level, that lies in holes."""
        lv, lost = self.level, 0.0
        last_row = min(math.ceil(bottom), lv.height) - 1
        last_column = min(math.ceil(right), lv.width) - 1
        for row in range(int(top) // lv.cell_height, last_row // lv.cell_height + 1):
            y = row * lv.cell_height
            height = min(bottom, y + lv.cell_height, lv.height) - max(top, y)
            for column in range(int(left) // lv.cell_width, last_column // lv.cell_width + 1):
                x = column * lv.cell_width
                width = min(right, x + lv.cell_width, lv.width) - max(left, x)
                if row * self.columns + column in self.holes:
                    lost += max(0.0, width) * max(0.0, height)
        return lost / ((right - left) * (bottom - top))

    def held(self) -> Sequence[int]:
        """The cells that are held."""
        return tuple(self._cells)

    def forget(self, cells: Sequence[int]) -> None:
        """Drop cells that nobody needs any more."""
        for cell in cells:
            pixels = self._cells.pop(cell, None)
            if pixels is not None:
                self.bytes -= pixels.nbytes

    def _get(self, column: int, row: int) -> Rgb:
        number = row * self.columns + column
        cell = self._cells.get(number)
        if cell is None:
            cell = self._read(number, column, row)
            self._cells[number] = cell
            self.bytes += cell.nbytes
        return cell

    def _read(self, number: int, column: int, row: int) -> Rgb:
        lv = self.level
        width = min(lv.cell_width, lv.width - column * lv.cell_width)
        expected = (min(lv.cell_height, lv.height - row * lv.cell_height), width, 3)
        if number not in self.holes:
            self.decoded += 1
            try:
                cell = self._slide.read_cell(self._number, column, row, self._reduce)
            except PixelReadError as error:
                self.holes[number] = str(error)
            else:
                if cell.shape != expected:
                    raise UnreadableSlide(
                        f"cell ({column}, {row}) of level {self._number} has shape {cell.shape}, "
                        f"not {expected}"
                    )
                return cell
        return np.full(expected, self._slide.facts.background, dtype=np.uint8)


class _Uses:
    """Which tiles need which cells."""

    def __init__(self, boxes: npt.NDArray[np.int64], columns: int) -> None:
        """Take the boxes of `cells.cell_boxes`, in the order in which the tiles are cut."""
        wide, high = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
        counts = wide * high
        tile = np.repeat(np.arange(len(boxes)), counts)
        place = np.arange(len(tile)) - np.repeat(counts.cumsum() - counts, counts)
        row, column = np.divmod(place, wide[tile])
        cell = (boxes[tile, 2] + row) * columns + boxes[tile, 0] + column
        order = np.argsort(cell, kind="stable")
        self._cell, self._tile = cell[order], tile[order]
        self._last: dict[int, list[int]] = {}
        is_last = np.append(self._cell[1:] != self._cell[:-1], True)[: len(self._cell)]
        for number, last in zip(
            self._cell[is_last].tolist(), self._tile[is_last].tolist(), strict=True
        ):
            self._last.setdefault(last, []).append(number)

    def ending_with(self, tile: int) -> Sequence[int]:
        """Cells that no tile after this one needs."""
        return self._last.get(tile, ())

    def latest(self, cells: Sequence[int], tile: int) -> list[int]:
        """The cells in the order in which they are needed after a tile, the latest first."""
        begin, end = (np.searchsorted(self._cell, cells, side) for side in ("left", "right"))
        after = [
            self._tile[min(b - 1, a + int(np.searchsorted(self._tile[a:b], tile, "right")))]
            for a, b in zip(begin.tolist(), end.tolist(), strict=True)
        ]
        return [cells[i] for i in np.argsort(after, kind="stable")[::-1]]


@dataclass(frozen=True, slots=True)
class CutTile:
    """One tile."""

    pixels: Rgb | None
    """uint8 (S, S, 3); None where only the compressed bytes were asked for."""
    native: bytes | None = None
    """The JPEG that the slide holds of exactly this tile."""
    unread: float = 0.0
    """Share of the tile's area, in [0, 1], that could not be read and is background."""


class TileCutter:
    """Cuts the tiles of one resolution out of an open slide."""

    def __init__(
        self,
        slide: Slide,
        read: ReadPlan,
        tile_size: int,
        *,
        native: bool = False,
        pixels: bool = True,
    ) -> None:
        """Get ready to cut.

        Args:
            native: give tiles that are whole tiles of the file as the file holds them.
            pixels: decode these too.
        """
        self._slide = slide
        self._read = read
        self._size = tile_size
        self._cache = CellCache(slide, read.level, read.reduce)
        lv = self._cache.level
        self._native = native and read.as_is and (lv.cell_width, lv.cell_height) == (tile_size,) * 2
        self._pixels = pixels

    @property
    def decoded(self) -> int:
        """Cells decoded so far."""
        return self._cache.decoded

    @property
    def damage(self) -> str | None:
        """Why a cell could not be decoded; None if all could."""
        return next(iter(self._cache.holes.values()), None)

    def cut(self, l0_xy: Ints) -> Iterator[CutTile]:
        """Yield the tiles at `l0_xy`, int32 (N, 2), in that order.

        Every cell is decoded once, and dropped after the last tile that needs it; one that cannot
        be decoded costs the tiles that need it that part, which then is background.
        """
        lv = self._cache.level
        found = windows(lv, self._read, self._size, l0_xy)
        boxes = cell_boxes(lv, found.box)
        uses = _Uses(boxes, self._cache.columns)
        for begin in range(0, len(l0_xy), _ADVISED_TILES):
            part = slice(begin, begin + _ADVISED_TILES)
            coming = [(column, row) for column, row in cells_of(boxes[part]).tolist()]
            self._slide.will_need(self._read.level, coming)
            pairs = zip(found.level_xy[part].tolist(), found.box[part].tolist(), strict=True)
            for i, (level_xy, box) in enumerate(pairs, begin):
                ending = uses.ending_with(i)
                yield self._tile(level_xy, box, ending)
                self._cache.forget(ending)
                if self._cache.bytes > CACHE_BYTES:
                    self._make_room(uses, i)

    def _make_room(self, uses: _Uses, tile: int) -> None:
        for cell in uses.latest(self._cache.held(), tile):
            self._cache.forget((cell,))
            if self._cache.bytes <= CACHE_BYTES / 2:
                return

    def _tile(self, level_xy: list[float], box: list[int], ending: Sequence[int]) -> CutTile:
        native = self._native_bytes(level_xy, box) if self._native else None
        if native is not None and not self._pixels:
            return CutTile(None, native)
        pixels = self._pixels_of(level_xy, box, ending)
        if self._cache.holes:
            x, y = level_xy
            reach = [self._size * scale for scale in self._read.rest]
            unread = self._cache.unread(x, y, x + reach[0], y + reach[1])
            # A hole beside an interpolated tile spoils its edge.
            unread = unread or self._cache.unread(*box)
            native = None if unread else native
            return CutTile(pixels, native, unread)
        return CutTile(pixels, native)

    def _native_bytes(self, level_xy: list[float], box: list[int]) -> bytes | None:
        lv = self._cache.level
        column, x = divmod(level_xy[0], lv.cell_width)
        row, y = divmod(level_xy[1], lv.cell_height)
        is_whole = box[2] - box[0] == lv.cell_width and box[3] - box[1] == lv.cell_height
        if x or y or not is_whole:
            return None
        try:
            return self._slide.native_tile(self._read.level, int(column), int(row))
        except PixelReadError:
            return None  # decoding it finds the damage again, and tells it

    def _pixels_of(self, level_xy: list[float], box: list[int], ending: Sequence[int]) -> Rgb:
        """Make a tile; a large one some rows at a time."""
        left, top, right, bottom = box
        scale = self._read.rest[1]
        level_end = level_xy[1] + self._size * scale
        strips = self._size * 3 * max((right - left) * scale, self._size) / _REGION_BYTES
        if strips <= 1:
            return self._resampled(level_xy, box, self._size, level_end)
        step = math.ceil(self._size / math.ceil(strips))
        margin = BICUBIC_REACH if min(self._read.rest) < 1 else 0
        tile = np.empty((self._size, self._size, 3), dtype=np.uint8)
        for row in range(0, self._size, step):
            rows = min(step, self._size - row)
            level_y = level_xy[1] + row * scale
            first = min(max(top, math.floor(level_y + EPSILON) - margin), bottom - 1)
            last = min(bottom, math.ceil(level_y + rows * scale - EPSILON) + margin)
            self._drop_above(first, ending)
            part = [left, first, right, max(last, first + 1)]
            tile[row : row + rows] = self._resampled([level_xy[0], level_y], part, rows, level_end)
        return tile

    def _drop_above(self, level_y: int, ending: Sequence[int]) -> None:
        """Drop cells above a row that no other tile needs, and others if memory is short."""
        row = level_y // self._cache.level.cell_height
        end = row * self._cache.columns
        self._cache.forget([cell for cell in ending if cell < end])
        if self._cache.bytes > CACHE_BYTES:
            self._cache.forget([cell for cell in self._cache.held() if cell < end])

    def _resampled(self, level_xy: list[float], box: list[int], rows: int, level_end: float) -> Rgb:
        """Make some rows of a tile, which ends at `level_end`, from a box of the level."""
        region = self._cache.region(*box)
        offset = (level_xy[0] - box[0], level_xy[1] - box[1])
        # Positions are rounded to whole level-0 pixels: a part of a pixel beyond is rounding.
        most = math.floor(level_end - box[1] + EPSILON)
        margin = BICUBIC_REACH if min(self._read.rest) < 1 else 0
        reach = offset[1] + rows * self._read.rest[1] - EPSILON
        region = self._pad(region, offset[0], min(most, math.ceil(reach) + margin))
        return resample(region, offset, self._read.rest, (self._size, rows))

    def _pad(self, region: Rgb, offset_x: float, full_height: int) -> Rgb:
        """Fill what lies beyond the slide with its background colour (`--edge pad`)."""
        height, width, _ = region.shape
        full_width = math.floor(offset_x + self._size * self._read.rest[0] + EPSILON)
        if full_width <= width and full_height <= height:
            return region
        shape = (max(height, full_height), max(width, full_width), 3)
        padded = np.empty(shape, dtype=np.uint8)
        padded[:] = self._slide.facts.background
        padded[:height, :width] = region
        return padded


def resample(
    region: Rgb, offset: tuple[float, float], scale: tuple[float, float], size: tuple[int, int]
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
        size: width and height of the result in pixels.

    Returns:
        uint8 (height, width, 3).
    """
    width, height = size
    if scale == (1.0, 1.0) and max(offset) < EPSILON and region.shape[:2] == (height, width):
        return region
    if min(scale) < 1:
        return _enlarge(region, offset, scale, size)
    factors = (round(scale[0]), round(scale[1]))
    whole = max(abs(s - f) for s, f in zip(scale, factors, strict=True)) < EPSILON
    fits = region.shape[:2] == (height * factors[1], width * factors[0])
    if whole and fits and max(offset) < EPSILON:
        return np.asarray(Image.fromarray(region).reduce(factors))
    rows = _average(region.astype(np.float32), offset[1], scale[1], height)
    both = _average(np.ascontiguousarray(rows.transpose(1, 0, 2)), offset[0], scale[0], width)
    rounded: Rgb = np.floor(both.transpose(1, 0, 2) + np.float32(0.5)).astype(np.uint8)
    return rounded


def _average(
    values: npt.NDArray[np.float32], offset: float, scale: float, size: int
) -> npt.NDArray[np.float32]:
    """Area-average along the first axis: float32 (n, m, 3) to (size, m, 3)."""
    start = offset + scale * np.arange(size)
    end = start + scale
    first = np.floor(start + EPSILON).astype(np.intp)
    taps = int(np.max(np.ceil(end - EPSILON).astype(np.intp) - first))
    pixel = first[:, None] + np.arange(taps)
    weight = np.minimum(end[:, None], pixel + 1) - np.maximum(start[:, None], pixel)
    weight = np.where((pixel < len(values)) & (weight > EPSILON), weight, 0)
    # A tile may begin up to half a level-0 pixel late: its last pixels then count as one pixel.
    weight[weight.sum(axis=1) == 0, 0] = 1
    weight /= weight.sum(axis=1, keepdims=True)
    pixel = np.minimum(pixel, len(values) - 1)
    out = np.zeros((size, *values.shape[1:]), dtype=np.float32)
    for tap in range(taps):
        out += values[pixel[:, tap]] * weight[:, tap, None, None].astype(np.float32)
    return out


def _enlarge(
    region: Rgb, offset: tuple[float, float], scale: tuple[float, float], size: tuple[int, int]
) -> Rgb:
    height, width, _ = region.shape
    right, bottom = (o + n * s for o, n, s in zip(offset, size, scale, strict=True))
    missing = (max(0, math.ceil(bottom) - height), max(0, math.ceil(right) - width))
    if any(missing):
        # Rounding puts part of a pixel beyond: Pillow takes no such box, and less would stretch.
        region = np.pad(region, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    box = (offset[0], offset[1], right, bottom)
    image = Image.fromarray(region).resize(size, Image.Resampling.BICUBIC, box=box)
    return np.asarray(image)
