"""Where the tissue is: a picture of a whole slide in, a mask of it out.

Positions are pixels of the thumbnail, origin at its top-left corner, x to the right and y down;
the mask has the size of the thumbnail. Lengths and areas are in µm and µm², brought to
pixels by the thumbnail's mpp. Colour is judged as optical density (OD): the natural logarithm of
bare glass over pixel, per channel, 0 on glass.

How, and why not a global threshold: Otsu splits every picture in two, so it finds tissue on a
blank slide and glass in a field that is all tissue. Here the glass is looked for first.

1. Bin to *cells* of about 8 µm: noise falls, and the work stays the same at every mpp.
2. Glass is what is bright, hardly coloured and far smoother than any tissue (`GLASS_ROUGHNESS`).
   Its brightest sizeable colour is the reference; what the scanner never saw is set aside.
3. From those cells a glass colour is spread over the picture, so that tinted, grey, vignetted and
   uneven light is followed. Without such cells the picture is taken for a field full of tissue.
4. Every cell gets its OD distance from glass, in which a grey shadow counts half of a colour.
5. The threshold is what the glass itself reaches, held between two absolute limits, with
   hysteresis: pale tissue must touch something less pale, so faint smears fall away.
6. Marker ink is cut out, gaps of an adipocyte's or alveolus' size are closed, what is smaller
   than a speck or as grey as dust is removed, and small holes are filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tiler.glass import (
    GLASS_WINDOW,
    Glass,
    find_glass,
    grown,
    luminance_of,
    mean_of,
    unscanned_cells,
)
from tiler.parts import connected_parts
from tiler.quality import ink_masks
from tiler.slides.base import Rgb
from tiler.smooth import gaussian, quantile, row_strips, window_mean

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

CELL_UM = 8.0
"""Edge of a cell in µm: about one nucleus, so that texture of tissue survives the binning."""
MIN_CELLS_ACROSS = 64
"""Small fields are not binned below this many cells: glass needs room to be recognised."""
MAX_CELLS = 3_000_000
"""Cells at most (a 20 x 10 mm slide at 8 µm); larger slides get larger cells, for time."""

GREY_WEIGHT = 0.5
"""Weight of the colourless part of OD: dust, shadows and coverslip edges are grey, stains not."""
THRESHOLD_OD = (0.04, 0.07)
"""Limits of the threshold: below lies noise of good glass, above would be pale counterstain."""
FAINTEST_OD = 0.025
"""The threshold's lower limit in very coarse pictures."""
HYSTERESIS = 1.6
"""Tissue must reach this many times the threshold somewhere."""

CLOSING_UM = 48.0
"""Radius that bridges a fat cell or an alveolus (up to 96 µm across)."""
OBJECT_UM2 = 20_000.0
"""Smallest tissue kept, about the area of one 256 px tile at 0.5 µm/px; dust is smaller."""
HOLE_UM2 = 60_000.0
"""Largest hole filled: fat cells, small vessels; a bigger lumen is no tissue."""
OBJECT_COLOUR = 0.07
"""Coloured over colourless OD of an object at least. Measured: dust, hair and coverslip edges
0.01-0.06; the greyest tissue (pale hematoxylin) 0.11, H&E 0.3."""
COLOURLESS_OD = 1e-3
"""A picture whose colours all stay below is a greyscale one, in which dust cannot be told so."""

INK_UM2 = 40_000.0
"""Smallest solid patch of one ink that makes a pen stroke (0.2 x 0.2 mm)."""
INK_CORE_UM = 40.0
"""Half the width of the thinnest pen stroke; stained fibres and cells are thinner."""
INK_SOLIDITY = 0.5
"""Share of an ink's pixels that lie in solid patches. A stain of that colour is ragged."""
STAIN_SHARE = 0.1
"""Share of the picture from which on a solid ink colour is checked for being a stain ..."""
STAIN_TEXTURE = 0.06
"""... by its relative luminance deviation: blue-stained marrow 0.18; painted strokes 0.01-0.05."""
INK_MARGIN_UM = 48.0
"""How far around a stroke its faint edge is cut out too."""


@dataclass(frozen=True, slots=True, eq=False)
class TissueMask:
    """Where tissue and pen ink are on a thumbnail, and the figures behind the decision."""

    tissue: Bools
    """bool (height, width): tissue; never where `pen` is."""
    pen: Bools
    """bool (height, width): marker ink with its margin."""
    glass: tuple[float, float, float]
    """RGB of bare glass, in [0, 255]: the brightest found, or assumed."""
    glass_share: float
    """Share of the picture used to learn the glass, in [0, 1]; 0: none seen, a field of tissue."""
    threshold: float
    """OD distance from glass above which a cell is tissue."""

    def __post_init__(self) -> None:
        if self.tissue.shape != self.pen.shape or self.tissue.ndim != 2:
            raise ValueError(
                f"tissue and pen masks differ: {self.tissue.shape} and {self.pen.shape}"
            )

    @property
    def share(self) -> float:
        """Share of the thumbnail that is tissue, in [0, 1]."""
        return float(self.tissue.mean())


def find_tissue(
    thumbnail: Rgb, mpp: float, *, background: tuple[int, int, int] = (255, 255, 255)
) -> TissueMask:
    """Find the tissue on a thumbnail of a slide or of a field.

    Args:
        thumbnail: uint8 (height, width, 3); best near 8 µm/px, good from 2 to 60.
        mpp: µm per pixel of the thumbnail.
        background: RGB with which the reader fills what was never scanned.

    Returns:
        Masks of the thumbnail's size. A blank slide gives an empty mask, a field without any
        bare glass an (almost) full one. No randomness is involved.

    Raises:
        ValueError: not a uint8 RGB picture, an empty one, or an mpp that is not positive.
    """
    _check(thumbnail, mpp)
    height, width = thumbnail.shape[:2]
    factor = _bin_factor(height, width, mpp)
    cells = _binned(thumbnail, factor)
    cell_um = mpp * factor
    smooth = _smoothed(cells, 1.0)
    fill = np.array(background, dtype=np.float32)
    unscanned = unscanned_cells(cells, smooth, fill)
    glass = find_glass(smooth, unscanned)
    sigma = min(1.0, CELL_UM / cell_um)
    sharp = smooth if sigma == 1.0 else _smoothed(cells, sigma)
    grey, chroma, distance = _od_from_glass(sharp, glass)
    distance[unscanned] = 0.0
    threshold = _threshold(distance, glass.cells, cell_um)
    pen = _pen_strokes(smooth, unscanned, cell_um)
    parts = connected_parts(distance > threshold)
    raw = parts.mask(parts.holding(distance > HYSTERESIS * threshold))
    tissue = _cleaned(raw & ~pen, grey, chroma, cell_um) & ~pen
    red, green, blue = (float(value) for value in np.exp(glass.reference))
    return TissueMask(
        tissue=_enlarged(tissue, factor, height, width),
        pen=_enlarged(pen, factor, height, width),
        glass=(red, green, blue),
        glass_share=float(glass.cells.mean()),
        threshold=threshold,
    )


def tissue_share(mask: Bools, rects: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Share of each rectangle's area that is mask, exact for fractional rectangles.

    Args:
        mask: bool (height, width).
        rects: float64 (n, 4), each (x, y, w, h) in mask pixels, w and h positive. Pixel (column,
            row) covers column ≤ x < column + 1, and the same in y.

    Returns:
        float64 (n,) in [0, 1]. What lies outside the mask counts as no tissue.

    Raises:
        ValueError: wrong shapes, or a rectangle without an area.
    """
    if mask.ndim != 2 or rects.ndim != 2 or rects.shape[1] != 4:
        raise ValueError(
            f"a (height, width) mask and (n, 4) rectangles needed, got {mask.shape}, {rects.shape}"
        )
    if not (np.isfinite(rects).all() and (rects[:, 2:] > 0).all()):
        raise ValueError("rectangles need finite corners and a positive width and height")
    height, width = mask.shape
    integral = np.zeros((height + 1, width + 1), dtype=np.int32)
    np.cumsum(mask, axis=1, out=integral[1:, 1:])
    for row in range(2, height + 1):  # in place, which np.cumsum would do in a copy
        integral[row] += integral[row - 1]
    x0, y0, w, h = rects.T
    left, right = np.clip(x0, 0, width), np.clip(x0 + w, 0, width)
    top, bottom = np.clip(y0, 0, height), np.clip(y0 + h, 0, height)
    covered = (
        _area_before(integral, right, bottom)
        - _area_before(integral, left, bottom)
        - _area_before(integral, right, top)
        + _area_before(integral, left, top)
    )
    share: npt.NDArray[np.float64] = np.clip(covered / (w * h), 0.0, 1.0)
    return share


def _area_before(
    integral: npt.NDArray[np.int32], x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Mask area left of x and above y: the integral image is bilinear within a pixel, exactly."""
    column = np.minimum(x.astype(np.int64), integral.shape[1] - 2)
    row = np.minimum(y.astype(np.int64), integral.shape[0] - 2)
    u, v = x - column, y - row
    upper = (1 - u) * integral[row, column] + u * integral[row, column + 1]
    lower = (1 - u) * integral[row + 1, column] + u * integral[row + 1, column + 1]
    area: npt.NDArray[np.float64] = (1 - v) * upper + v * lower
    return area


def _check(thumbnail: Rgb, mpp: float) -> None:
    if thumbnail.dtype != np.uint8 or thumbnail.ndim != 3 or thumbnail.shape[2] != 3:
        raise ValueError(
            f"a uint8 (height, width, 3) picture needed, got {thumbnail.dtype} {thumbnail.shape}"
        )
    if thumbnail.size == 0:
        raise ValueError(f"an empty picture has no tissue to find, got {thumbnail.shape}")
    if not (np.isfinite(mpp) and mpp > 0):
        raise ValueError(f"the thumbnail's mpp must be a positive number of µm/px, got {mpp}")


def _bin_factor(height: int, width: int, mpp: float) -> int:
    factor = int(min(CELL_UM // mpp, min(height, width) // MIN_CELLS_ACROSS))
    return max(1, factor, int(np.ceil(np.sqrt(height * width / MAX_CELLS))))


def _binned(thumbnail: Rgb, factor: int) -> npt.NDArray[Any]:
    """Block means, (3, rows, columns); blocks cut by the edge repeat the last pixel.

    uint8 where a block is one pixel, else float32.
    """
    if factor == 1:
        return np.ascontiguousarray(np.moveaxis(thumbnail, 2, 0))
    height, width = thumbnail.shape[:2]
    rows, columns = -(-height // factor), -(-width // factor)
    cells = np.empty((3, rows, columns), dtype=np.float32)
    for part in row_strips(rows, width * factor):
        lines = np.minimum(np.arange(part.start * factor, part.stop * factor), height - 1)
        blocks = thumbnail[lines].reshape(-1, factor, width * 3)
        down = blocks.sum(axis=1, dtype=np.uint32).reshape(-1, width, 3)
        down = np.pad(down, ((0, 0), (0, -width % factor), (0, 0)), mode="edge")
        total = down[:, ::factor].copy()
        for column in range(1, factor):
            total += down[:, column::factor]
        cells[:, part] = np.moveaxis(total, 2, 0)
    cells /= factor * factor
    return cells


def _enlarged(mask: Bools, factor: int, height: int, width: int) -> Bools:
    large: Bools = mask.repeat(factor, axis=1).repeat(factor, axis=0)[:height, :width]
    return large


def _smoothed(cells: npt.NDArray[Any], sigma: float) -> Floats:
    """Gaussian of `sigma` cells; a sigma below a third of a cell changes nothing worth the time."""
    if sigma < 1 / 3:
        return cells.astype(np.float32)
    return np.stack([gaussian(plane, sigma) for plane in cells])


def _od_from_glass(cells: Floats, glass: Glass) -> tuple[Floats, Floats, Floats]:
    """Split the OD into its colourless and its coloured part, both as Euclidean lengths.

    Returns:
        The two parts, and the distance from glass that they make.
    """
    grey, chroma, distance = np.empty((3, *cells.shape[1:]), dtype=np.float32)
    for part in row_strips(*grey.shape):
        od = glass.log_rgb(part) - np.log(np.maximum(cells[:, part], 1))
        mean = mean_of(od)
        od -= mean
        od *= od
        np.sqrt(od[0] + od[1] + od[2], out=chroma[part])
        np.multiply(np.maximum(mean, 0), np.sqrt(np.float32(3)), out=grey[part])
        np.hypot(chroma[part], GREY_WEIGHT * grey[part], out=distance[part])
    return grey, chroma, distance


def _threshold(distance: Floats, glass_cells: Bools, cell_um: float) -> float:
    """One and a half times what 99 % of the glass keeps below, within limits.

    The lower limit sinks with the square root of the cell: a membrane thinner than a cell fades,
    and so does the noise.
    """
    fine_low, high = THRESHOLD_OD
    low: float = max(FAINTEST_OD, fine_low * min(1.0, (CELL_UM / cell_um) ** 0.5))
    if not glass_cells.any():
        return low
    return float(np.clip(1.5 * quantile(distance[glass_cells], 0.99), low, high))


def _pen_strokes(smooth: Floats, unscanned: Bools, cell_um: float) -> Bools:
    """Solid strokes of marker ink with their margin; a stain of an ink's colour stays."""
    strokes = np.zeros(smooth.shape[1:], dtype=np.bool_)
    core = max(1, round(INK_CORE_UM / cell_um))
    smallest = INK_UM2 / cell_um**2
    for ink in ink_masks(np.moveaxis(np.rint(smooth).astype(np.uint8), 0, 2)):
        ink &= ~unscanned
        if np.count_nonzero(ink) >= max(1, smallest):
            solid = grown(_shrunk(ink, core), core) & ink
            if not _is_stain(ink, solid, smooth):
                strokes |= _without_small(solid, smallest)
    return grown(strokes, max(1, round(INK_MARGIN_UM / cell_um)))


def _is_stain(ink: Bools, solid: Bools, smooth: Floats) -> bool:
    """Tell stained tissue from ink: it is ragged, or it is wide and has texture."""
    if np.count_nonzero(solid) < INK_SOLIDITY * np.count_nonzero(ink):
        return True
    if solid.mean() < STAIN_SHARE:
        return False
    luminance = luminance_of(smooth)
    # Texture among the ink's own pixels, so that the rims of strokes do not count.
    share = np.maximum(window_mean(solid, GLASS_WINDOW), 0.01)
    mean = window_mean(luminance * solid, GLASS_WINDOW) / share
    square = window_mean(luminance**2 * solid, GLASS_WINDOW) / share
    texture = np.sqrt(np.maximum(square - mean**2, 0)) / np.maximum(mean, 1)
    return quantile(texture[solid], 0.5) > STAIN_TEXTURE


def _cleaned(raw: Bools, grey: Floats, chroma: Floats, cell_um: float) -> Bools:
    """Bridge gaps, drop specks and grey objects, fill holes; sizes in µm."""
    if not raw.any():
        return raw
    parts = connected_parts(_closed(raw, round(CLOSING_UM / cell_um)))
    keep = parts.areas() >= min(OBJECT_UM2 / cell_um**2, 0.02 * raw.size)
    if chroma.max() > COLOURLESS_OD:
        keep &= parts.sums(raw, chroma - OBJECT_COLOUR * grey) >= 0
    kept = parts.mask(keep)
    holes = connected_parts(~kept)
    return kept | holes.mask(holes.areas() < HOLE_UM2 / cell_um**2)


def _without_small(mask: Bools, smallest: float) -> Bools:
    parts = connected_parts(mask)
    return parts.mask(parts.areas() >= smallest)


def _shrunk(mask: Bools, radius: int) -> Bools:
    """Erode by the same octagon; beyond the edge of the picture the mask is thought to go on."""
    return ~grown(~mask, radius)


def _closed(mask: Bools, radius: int) -> Bools:
    return _shrunk(grown(mask, radius), radius)
