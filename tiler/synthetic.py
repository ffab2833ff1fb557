"""Slides that never were: painted pixels for `histotile demo` and for tests.

`paint` makes level-0 pixels, uint8 (height, width, 3), that look like a stained section at
0.5 µm/px; x to the right, y down. `write_slide` stores pixels as a pyramidal tiled JPEG TIFF that
OpenSlide opens as `generic-tiff`. Both depend on their arguments alone.

The painter works as a microscope does: it lays out the amount of each dye, then takes light away
from a bright lamp after Beer and Lambert: pixel = lamp * exp(-sum of dye * its absorbance).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image
from scipy import ndimage

from tiler.slides.base import Rgb

Floats = npt.NDArray[np.float32]
Stain = Literal["he", "dab"]

LAMP = (243, 241, 244)
"""RGB of bare glass."""

ABSORBANCE = {
    "hematoxylin": (0.65, 0.70, 0.29),
    "eosin": (0.09, 0.95, 0.30),
    "dab": (0.27, 0.57, 0.78),
}
"""OD per channel of a unit of dye: Ruifrok and Johnston 2001, eosin a little warmer."""

LEVEL_STEP = 4
"""Each level of a written slide is this many times smaller than the one before."""

_COARSE = 4
"""Tissue architecture is laid out on pixels this many times larger, for time."""
_NUCLEUS_SHAPES = 96


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Shares in [0, 1] on the coarse grid, float32 (rows, columns)."""

    tissue: Floats
    """Tissue with its holes (lumens, fat) cut out."""
    epithelium: Floats
    positive: Floats
    """Where the antigen is."""


def paint(kind: Stain, width: int, height: int, seed: int) -> Rgb:
    """Paint a section at 0.5 µm/px: one irregular piece of tissue on bright glass.

    Args:
        kind: "he" (pink stroma, purple nuclei, glands, fat) or "dab" (the same with blue nuclei
            and brown glands in part of the tissue).
        width: pixels in x, at least 64.
        height: pixels in y, at least 64.
        seed: the same seed gives the same pixels; the generator is PCG64.

    Returns:
        uint8 (height, width, 3).

    Raises:
        ValueError: another kind, or too small a picture.
    """
    if kind not in ("he", "dab"):
        raise ValueError(f"a stain of 'he' or 'dab' is painted, got {kind!r}")
    if min(width, height) < 64:
        raise ValueError(f"at least 64 x 64 px are painted, got {width} x {height}")
    rng = np.random.Generator(np.random.PCG64(seed))
    layout = _layout(rng, -(-height // _COARSE), -(-width // _COARSE))
    nuclei = _nuclei(rng, layout, height, width)
    tissue = _enlarged(layout.tissue, height, width)
    epithelium = _enlarged(layout.epithelium, height, width)
    fibres = _fibres(rng, height, width)
    grain = rng.normal(0, 1.2, (height, width)).astype(np.float32)
    if kind == "he":
        dyes = {
            "eosin": tissue * (0.20 + 0.30 * fibres + 0.12 * epithelium),
            "hematoxylin": tissue * (0.04 + 0.14 * epithelium) + 1.15 * nuclei,
        }
    else:
        brown = _enlarged(layout.positive * layout.epithelium, height, width)
        dyes = {
            "dab": tissue * (0.02 + 0.05 * fibres + brown * (0.55 + 0.5 * fibres)),
            "hematoxylin": tissue * (0.04 + 0.10 * fibres) + 0.6 * nuclei,
        }
    return _exposed(dyes, grain)


def write_slide(
    path: Path,
    pixels: Rgb,
    mpp: float,
    *,
    tile: int = 256,
    levels: int = 3,
    quality: int = 85,
) -> None:
    """Write pixels as a pyramidal tiled JPEG TIFF, each level a page of its own.

    Args:
        path: the file, overwritten if there.
        pixels: uint8 (height, width, 3), level 0.
        mpp: µm per level-0 pixel, stored as pixels per centimetre.
        tile: edge of the native tiles, a multiple of 16.
        levels: levels at most, each `LEVEL_STEP` times smaller; none becomes less than one pixel.
        quality: JPEG quality; 4:2:0 subsampling as scanners write it.

    Raises:
        ValueError: not uint8 RGB pixels, or an mpp that is not positive.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"uint8 (height, width, 3) pixels needed, got {pixels.dtype} {pixels.shape}"
        )
    if not (np.isfinite(mpp) and mpp > 0):
        raise ValueError(f"the mpp must be a positive number of µm/px, got {mpp}")
    level = pixels
    with tifffile.TiffWriter(path, bigtiff=False) as writer:
        for index in range(levels):
            per_cm = 1e4 / (mpp * pixels.shape[1] / level.shape[1])
            writer.write(
                level,
                tile=(tile, tile),
                photometric="rgb",  # of the given pixels; the file's own is YCbCr
                subsampling=(2, 2),
                compression="jpeg",
                compressionargs={"level": quality},
                subfiletype=1 if index else 0,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                metadata=None,
                software="histotile",
            )
            if min(level.shape[:2]) < LEVEL_STEP:
                break
            level = _reduced(level)


def _reduced(pixels: Rgb) -> Rgb:
    """Mean of `LEVEL_STEP` x `LEVEL_STEP` pixels; what is left over at the far edges is cut off."""
    rows, columns = pixels.shape[0] // LEVEL_STEP, pixels.shape[1] // LEVEL_STEP
    whole = pixels[: rows * LEVEL_STEP, : columns * LEVEL_STEP]
    blocks = whole.reshape(rows, LEVEL_STEP, columns, LEVEL_STEP, 3)
    half = LEVEL_STEP * LEVEL_STEP // 2
    sums = blocks.sum(axis=(1, 3), dtype=np.uint32)
    return np.asarray((sums + half) // (LEVEL_STEP * LEVEL_STEP), dtype=np.uint8)


def _layout(rng: np.random.Generator, rows: int, columns: int) -> _Layout:
    """Lay out the piece of tissue, its glands in one part, fat in another."""
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    from_centre = np.hypot((y / rows - 0.5) / 0.5, (x / columns - 0.5) / 0.5)
    wide = max(8, min(rows, columns) // 4)
    body = 0.72 - from_centre + 0.16 * _clouds(rng, rows, columns, wide)
    body += 0.03 * _clouds(rng, rows, columns, max(4, wide // 6))
    tissue = _ramp(body, 0.01)
    kind_of_place = _clouds(rng, rows, columns, max(8, wide // 2))
    glandular = _ramp(kind_of_place + 0.1, 0.2)
    fatty = _ramp(-0.85 - kind_of_place, 0.1)
    wobble = _clouds(rng, rows, columns, 10)
    radius = _distance_to_points(rng, rows, columns, 40) + 2.0 * wobble
    lumen = glandular * _ramp(8.5 - radius, 2.0)
    epithelium = glandular * _ramp(17.0 - radius, 1.5) * (1 - lumen)
    fat_cell = fatty * _ramp(0.76 - _cell_walls(rng, rows, columns, 24), 0.08)
    return _Layout(
        tissue=tissue * (1 - lumen) * (1 - fat_cell),
        epithelium=epithelium * tissue,
        positive=_ramp(_clouds(rng, rows, columns, wide) + 0.2, 0.4),
    )


def _nuclei(rng: np.random.Generator, layout: _Layout, height: int, width: int) -> Floats:
    """Scatter nuclei: dense and round in epithelium, sparse and spindly in stroma, none in fat."""
    pitch = 13
    y, x = np.mgrid[pitch:height:pitch, pitch:width:pitch].astype(np.float64)
    y += rng.uniform(-5, 5, y.shape)
    x += rng.uniform(-5, 5, x.shape)
    row = np.clip(y / _COARSE, 0, layout.tissue.shape[0] - 1).astype(np.intp)
    column = np.clip(x / _COARSE, 0, layout.tissue.shape[1] - 1).astype(np.intp)
    epithelial = layout.epithelium[row, column] > 0.5
    chance = np.where(epithelial, 0.75, 0.2) * (layout.tissue[row, column] > 0.8)
    there = rng.random(y.shape) < chance
    shapes = [_nucleus(rng, spindly=index % 2 == 1) for index in range(_NUCLEUS_SHAPES)]
    chosen = 2 * rng.integers(0, _NUCLEUS_SHAPES // 2, y.shape) + ~epithelial
    size = shapes[0].shape[0]
    canvas = np.zeros((height + size, width + size), dtype=np.float32)
    for top, left, index in zip(
        y[there].astype(int), x[there].astype(int), chosen[there], strict=True
    ):
        patch = canvas[top : top + size, left : left + size]
        np.maximum(patch, shapes[index], out=patch)
    half = size // 2
    return canvas[half : half + height, half : half + width]


def _nucleus(rng: np.random.Generator, *, spindly: bool) -> Floats:
    """One nucleus with chromatin clumps and a soft rim, float32 (25, 25)."""
    y, x = np.mgrid[-12:13, -12:13].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    length = rng.uniform(8, 11) if spindly else rng.uniform(5.5, 8)
    breadth = rng.uniform(2, 3) if spindly else length * rng.uniform(0.7, 0.95)
    rim = 1 - np.hypot(along / length, across / breadth)
    chromatin = ndimage.gaussian_filter(rng.standard_normal(x.shape), 1.2)
    depth = rng.uniform(0.55, 1.0) * (0.8 + 0.9 * chromatin)
    stained = np.clip(rim * breadth / 1.5, 0, 1) * np.clip(depth, 0.3, 1.2)
    return np.asarray(stained, dtype=np.float32)


def _fibres(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Wavy collagen: stripes across a smoothly bending direction, in [0, 1]."""
    rows, columns = -(-height // 2), -(-width // 2)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    bend = 60 * _clouds(rng, rows, columns, 160) + 5 * _clouds(rng, rows, columns, 24)
    stripes = np.sin((0.5 * x + 0.85 * y + bend) / 2.6 + 1.5 * _clouds(rng, rows, columns, 9))
    mottle = _clouds(rng, rows, columns, 5) + 1.3 * _clouds(rng, rows, columns, 40)
    return _enlarged(np.clip(0.5 + 0.2 * stripes + 0.14 * mottle, 0, 1), height, width)


def _exposed(dyes: dict[str, Floats], grain: Floats) -> Rgb:
    """Shine the lamp through the dyes; `grain` is the sensor's noise in grey levels."""
    channels = []
    for channel, lamp in enumerate(LAMP):
        od = sum(amount * np.float32(ABSORBANCE[dye][channel]) for dye, amount in dyes.items())
        light = np.float32(lamp) * np.exp(-np.asarray(od, dtype=np.float32)) + grain
        channels.append(np.clip(np.rint(light), 0, 255).astype(np.uint8))
    return np.stack(channels, axis=-1)


def _clouds(rng: np.random.Generator, rows: int, columns: int, pitch: int) -> Floats:
    """Smooth noise of standard deviation near 0.7 that changes over `pitch` pixels."""
    coarse = rng.standard_normal((rows // pitch + 4, columns // pitch + 4), dtype=np.float32)
    high, wide = coarse.shape[0] * pitch, coarse.shape[1] * pitch
    top, left = 2 * pitch, 2 * pitch
    return _enlarged(coarse, high, wide)[top : top + rows, left : left + columns]


def _distance_to_points(rng: np.random.Generator, rows: int, columns: int, pitch: int) -> Floats:
    """Distance in pixels to the nearest of points scattered about a grid of `pitch`."""
    return np.asarray(
        ndimage.distance_transform_edt(~_scattered(rng, rows, columns, pitch)), dtype=np.float32
    )


def _cell_walls(rng: np.random.Generator, rows: int, columns: int, pitch: int) -> Floats:
    """0 in the middle of packed cells, 1 on the walls between them (Voronoi cells)."""
    points = _scattered(rng, rows, columns, pitch)
    nearest = ndimage.distance_transform_edt(~points, return_distances=False, return_indices=True)
    cell = nearest[0] * columns + nearest[1]
    wall = np.zeros(cell.shape, dtype=np.bool_)
    wall[:, 1:] |= cell[:, 1:] != cell[:, :-1]
    wall[1:] |= cell[1:] != cell[:-1]
    nearness = np.exp(-ndimage.distance_transform_edt(~wall) / 4).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(nearness, 0.8), dtype=np.float32)


def _scattered(
    rng: np.random.Generator, rows: int, columns: int, pitch: int
) -> npt.NDArray[np.bool_]:
    """Points about a grid of `pitch`, each moved by up to a third of it; at least one."""
    y, x = np.mgrid[pitch // 2 : rows + pitch : pitch, pitch // 2 : columns + pitch : pitch]
    y = y + rng.integers(-(pitch // 3), pitch // 3 + 1, y.shape)
    x = x + rng.integers(-(pitch // 3), pitch // 3 + 1, x.shape)
    points = np.zeros((rows, columns), dtype=np.bool_)
    points[np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)] = True
    return points


def _ramp(values: npt.NDArray[np.floating[Any]], softness: float) -> Floats:
    """0 below -softness, 1 above +softness, straight between."""
    return np.asarray(np.clip(values / (2 * softness) + 0.5, 0, 1), dtype=np.float32)


def _enlarged(values: Floats, height: int, width: int) -> Floats:
    picture = Image.fromarray(values.astype(np.float32, copy=False))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
