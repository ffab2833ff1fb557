"""A small picture of a whole slide, for finding tissue and for people.

Pixels are uint8 RGB, (height, width, 3); `l0_` is level-0 pixels, mpp µm per pixel, pairs (x, y).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tiler.pixels import CellCache
from tiler.plan import reductions
from tiler.slides.base import REDUCTIONS, Rgb, Slide

OVERVIEW_MPP = 8.0
"""µm/px of the overview that the tissue mask is made from."""

_OVERVIEW_PIXELS = 16e6
"""Largest overview in pixels; a larger slide gets a coarser one."""


@dataclass(frozen=True, slots=True)
class Overview:
    """A small picture of the whole slide."""

    pixels: Rgb
    """uint8 (h, w, 3)."""
    mpp: float
    """µm per pixel of the overview, mean of x and y."""
    l0_per_px: tuple[float, float]
    """Level-0 pixels per pixel of the overview, (x, y); its last row and column may hold less."""
    unread: npt.NDArray[np.bool_]
    """Pixels that no level could give, bool (h, w); they are background."""
    damage: str | None = None
    """Why, for some of them."""


def read_overview(
    slide: Slide, mpp: tuple[float, float], target_mpp: float = OVERVIEW_MPP
) -> Overview:
    """Read the whole slide at about `target_mpp` by reducing a level by a whole factor.

    The level is walked in strips, so that memory stays small even for a slide without a pyramid.
    What cannot be read of it comes from the next finer level.
    """
    levels = slide.facts.levels
    finest = levels[0]
    area_um2 = finest.width * mpp[0] * finest.height * mpp[1]
    target = max(target_mpp, math.sqrt(area_um2 / _OVERVIEW_PIXELS))
    fine = [i for i, lv in enumerate(levels) if mpp[0] * lv.downsample_x <= target * 1.05]
    number = max(fine, key=lambda i: levels[i].downsample_x, default=0)
    level_mpp = mpp[0] * levels[number].downsample_x
    factor = max(1, math.floor(target / level_mpp + 0.05))
    pixels, unread, damage = _reduce_level(slide, number, factor)
    per_px = (factor * levels[number].downsample_x, factor * levels[number].downsample_y)
    mean_mpp = (mpp[0] * per_px[0] + mpp[1] * per_px[1]) / 2
    return Overview(pixels, mean_mpp, per_px, unread, damage)


def _reduce_level(
    slide: Slide, number: int, factor: int
) -> tuple[Rgb, npt.NDArray[np.bool_], str | None]:
    """A level by a whole factor smaller, which of its pixels could not be read, and why."""
    place = slide.facts.levels[number]
    reduce = max(f for f in REDUCTIONS if factor % f == 0 and f in reductions(place))
    cache, factor = CellCache(slide, number, reduce), factor // reduce
    lv = cache.level
    strip_height = max(1, lv.cell_height // factor) * factor
    strips = []
    for top in range(0, lv.height, strip_height):
        bottom = min(lv.height, top + strip_height)
        strip = cache.region(0, top, lv.width, bottom)
        strips.append(np.asarray(Image.fromarray(strip).reduce(factor)) if factor > 1 else strip)
        finished = bottom // lv.cell_height
        cache.forget([cell for cell in cache.held() if cell // cache.columns < finished])
    pixels = np.concatenate(strips)
    unread = np.zeros(pixels.shape[:2], dtype=np.bool_)
    for hole in cache.holes:
        row, column = divmod(hole, cache.columns)
        left, top = column * lv.cell_width // factor, row * lv.cell_height // factor
        right = -(-min(lv.width, (column + 1) * lv.cell_width) // factor)
        bottom = -(-min(lv.height, (row + 1) * lv.cell_height) // factor)
        part = (slice(top, bottom), slice(left, right))
        finer = _from_finer(slide, number, (left, top, right, bottom), pixels.shape)
        unread[part] = finer is None
        if finer is not None:
            pixels[part] = finer
    return pixels, unread, next(iter(cache.holes.values()), None)


def _from_finer(
    slide: Slide, number: int, box: tuple[int, int, int, int], shape: tuple[int, ...]
) -> Rgb | None:
    """Part of an overview of a level, from the next finer level; None if that cannot be read."""
    levels = slide.facts.levels
    finer = max(
        (i for i, lv in enumerate(levels) if lv.downsample_x < levels[number].downsample_x),
        key=lambda i: levels[i].downsample_x,
        default=None,
    )
    if finer is None:
        return None
    cache = CellCache(slide, finer)
    scale = (cache.level.width / shape[1], cache.level.height / shape[0])
    left, top, right, bottom = box
    part = [math.floor(left * scale[0]), math.floor(top * scale[1])]
    part += [min(cache.level.width, math.ceil(right * scale[0]))]
    part += [min(cache.level.height, math.ceil(bottom * scale[1]))]
    region = cache.region(*part)
    if cache.holes:
        return None
    size = (right - left, bottom - top)
    return np.asarray(Image.fromarray(region).resize(size, Image.Resampling.BOX))
