"""How the levels of a pyramid lie on each other, and the cells that they are read in.

Downsamples are level-0 pixels per pixel of a level. Writers cut a level's size to whole pixels,
so the ratio of two sizes is a little off: 2967 / 741 = 4.004 stands for a level that was made by
halving twice. Over 100,000 px that error is 100 px, so whole factors are restored here.
"""

from __future__ import annotations

import math
from typing import Final

from tiler.slides import limits
from tiler.slides.base import REDUCTIONS, Level

MAX_STRETCH = 0.01
"""Relative difference of the downsamples in x and y that is passed over in silence."""

_CELL_SIDES: Final = (64, 1024)
"""Tile sides that make good cells as they are."""

_CELL_PIXELS: Final = 2**20
_WIDEST_TILE: Final = 8192


def downsamples(size: tuple[int, int], l0_size: tuple[int, int]) -> tuple[float, float]:
    """Downsample of a level in (x, y), from the sizes (width, height) of it and of level 0.

    A whole factor, preferably a power of two, that gives this size by rounding down, up or to the
    nearest pixel in both directions is taken for the truth; else the ratios are.
    """
    ratio_x, ratio_y = l0_size[0] / size[0], l0_size[1] / size[1]
    mean = math.sqrt(ratio_x * ratio_y)
    candidates = (2 ** round(math.log2(mean)), round(ratio_x), round(ratio_y)) if mean >= 1 else ()
    for factor in candidates:
        if all(_is_cut(n, n0, factor) for n, n0 in zip(size, l0_size, strict=True)):
            return float(factor), float(factor)
    return ratio_x, ratio_y


def _is_cut(size: int, l0_size: int, factor: int) -> bool:
    return size in (l0_size // factor, -(-l0_size // factor))


def cell_size(tile: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Choose the cells of a level that OpenSlide reads, from the tiles that it has.

    Cells are whole tiles, so that each is decoded once: OpenSlide decodes a tile again for every
    region that reaches into it, unless its cache still holds it.

    Args:
        tile: (width, height) of a tile; (0, 0) if they do not lie edge to edge.
        size: (width, height) of the level.

    Returns:
        (width, height): the tile if it is of a good size or all there is, else a power of two of
        them in x and in y, up to about a million pixels.

    >>> cell_size((240, 240), (90_000, 60_000)), cell_size((4096, 8), (90_000, 60_000))
    ((240, 240), (4096, 256))
    """
    low, high = _CELL_SIDES
    is_good = low <= min(tile) and max(tile) <= high
    is_all = tile[0] >= size[0] and tile[1] >= size[1]
    if is_good or is_all:
        return tile
    if min(tile) < 1 or max(tile) > _WIDEST_TILE:
        return limits.PREFERRED_CELL, limits.PREFERRED_CELL
    columns = min(limits.PREFERRED_CELL // tile[0], _CELL_PIXELS // (tile[0] * tile[1]))
    width = tile[0] * _power_of_two(columns)
    rows = min(high // tile[1], _CELL_PIXELS // (width * tile[1]))
    return width, tile[1] * _power_of_two(rows)


def _power_of_two(most: int) -> int:
    """The largest one up to `most`; at least 1."""
    return 1 << (max(most, 1).bit_length() - 1)


def stretch_warnings(levels: tuple[Level, ...]) -> tuple[str, ...]:
    """Name the levels that are stretched: different downsamples in x and y."""
    return tuple(
        f"level {index} is stretched: its downsample is {level.downsample_x:.4g} in x "
        f"and {level.downsample_y:.4g} in y"
        for index, level in enumerate(levels)
        if abs(level.downsample_x / level.downsample_y - 1) > MAX_STRETCH
    )


def check_cell(
    levels: tuple[Level, ...], level: int, column: int, row: int, reduce: int = 1
) -> Level:
    """Return the level a cell lies on.

    Raises:
        IndexError: there is no such level or cell.
        ValueError: cells cannot be reduced by such a factor.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"a cell can be reduced by {REDUCTIONS}, not by {reduce}")
    if not 0 <= level < len(levels):
        raise IndexError(f"there is no level {level}, the slide has {len(levels)}")
    place = levels[level]
    columns, rows = -(-place.width // place.cell_width), -(-place.height // place.cell_height)
    if not (0 <= column < columns and 0 <= row < rows):
        raise IndexError(
            f"there is no cell ({column}, {row}) on level {level}, it has {columns} x {rows}"
        )
    return place


def cell_failure(place: Level, level: int, column: int, row: int, reason: str) -> str:
    """Word why a cell could not be read, with its top-left corner in level-0 pixels."""
    l0_x = round(column * place.cell_width * place.downsample_x)
    l0_y = round(row * place.cell_height * place.downsample_y)
    return f"level {level} cannot be read at level-0 ({l0_x}, {l0_y}): {reason}"
