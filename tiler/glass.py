"""Bare glass: what a slide looks like where there is nothing on it, over the whole picture.

Pictures are float32 (rows, columns, 3) in [0, 255], one pixel of which is a *cell* of the tissue
mask (about 8 µm). Colours are compared as natural logarithms, so that their differences are
optical densities (OD), whatever the lamp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

GLASS_WINDOW = 7
"""Cells across the window in which glass must be smooth."""
GLASS_ROUGHNESS = 0.006
"""Relative luminance deviation of glass at most. Measured: glass 0.000-0.005, also with noise of 8
grey levels; the palest, smoothest tissue (IHC without antigen) above 0.009."""
GLASS_SATURATION = 0.2
"""HSV saturation of glass at most: yellowish lamps reach 0.15, eosin begins near 0.2."""
GLASS_LUMINANCE = 100.0
"""Luminance of glass at least, of 255."""
GLASS_SHARE = 0.003
"""Share of the picture that must be glass to believe in it; lumens in a field stay below."""
GLASS_CHROMA_OD = 0.05
"""Other glass than the reference: at most this far in colour ..."""
GLASS_SHADE_OD = 0.35
"""... and this much darker (vignetting by 30 %), if it passes into the reference smoothly ..."""
GLASS_STEP_OD = 0.03
"""... or differs this little from the glass around, if tissue lies between."""
GLASS_STEPS = 4
"""How often glass beyond tissue is looked for."""
ASSUMED_GLASS = 225.0
"""Where no glass is seen: its grey level at least, or the brightest the picture has."""

UNSCANNED_TOLERANCE = 3.0
"""Grey levels around the slide's fill colour that count as never scanned."""
BLACK_LEVEL = 12.0
"""Grey level up to which a cell is a scanner's black, darker than any stain or ink."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
MEAN = np.full(3, 1 / 3, dtype=np.float32)
_BLOCK = 32


@dataclass(frozen=True, slots=True, eq=False)
class Glass:
    """Bare glass as seen in a picture."""

    cells: Bools
    """bool (rows, columns): where it was learnt; nowhere if no glass was seen."""
    reference: Floats
    """float32 (3,): natural logarithm of its brightest colour."""
    log_rgb: Floats
    """float32, broadcast to (rows, columns, 3): natural logarithm of its colour in each place."""


def highest(cells: Floats) -> Floats:
    """Largest of three channels; ten times faster than `max(axis=2)`."""
    top: Floats = np.maximum(np.maximum(cells[..., 0], cells[..., 1]), cells[..., 2])
    return top


def unscanned_cells(cells: Floats, smooth: Floats, fill: Floats) -> Bools:
    """Tell cells the scanner never saw: of the fill colour, or black with the blur around it.

    Args:
        cells: float32 (rows, columns, 3) in [0, 255].
        smooth: the same, smoothed by about one cell.
        fill: float32 (3,), RGB with which the reader fills what was not scanned.

    Returns:
        bool (rows, columns).
    """
    black = grown(highest(cells) <= BLACK_LEVEL, 3)
    filled: Bools = highest(np.abs(smooth - fill)) <= UNSCANNED_TOLERANCE
    return filled | black


def find_glass(smooth: Floats, unscanned: Bools) -> Glass:
    """Find bare glass and follow its colour over the picture.

    Args:
        smooth: float32 (rows, columns, 3) in [0, 255], smoothed by about one cell.
        unscanned: bool (rows, columns), used as glass only where there is hardly any other.
    """
    luminance = smooth @ LUMA
    saturation = 1 + highest(-smooth) / np.maximum(highest(smooth), 1)
    candidates = (saturation < GLASS_SATURATION) & (luminance > GLASS_LUMINANCE)
    candidates &= _roughness(luminance) < GLASS_ROUGHNESS
    needed = max(16.0, GLASS_SHARE * candidates.size)
    scanned = candidates & ~unscanned
    cells = scanned if scanned.sum() >= needed else candidates
    if cells.sum() < needed:
        return _assumed_glass(smooth)
    log_rgb = np.log(np.maximum(smooth, 1))
    reference = _brightest_mode(log_rgb[cells], luminance[cells])
    lighter = log_rgb - reference
    shade = lighter @ MEAN
    tint = highest(np.abs(lighter - shade[..., None]))
    cells = _grown_glass(cells & (tint < GLASS_CHROMA_OD), shade)
    return Glass(cells, reference, reference + _spread(cells, lighter))


def _roughness(luminance: Floats) -> Floats:
    """Standard deviation of luminance in a window, over its mean."""
    mean = ndimage.uniform_filter(luminance, GLASS_WINDOW)
    square = ndimage.uniform_filter(luminance * luminance, GLASS_WINDOW)
    rough: Floats = np.sqrt(np.maximum(square - mean * mean, 0)) / np.maximum(mean, 1)
    return rough


def _grown_glass(candidates: Bools, shade: Floats) -> Bools:
    """Start from the reference colour and follow the lamp's gradients outwards.

    Pale, smooth tissue is as bright as the shaded corner of a slide, but it has an edge, at which
    the candidates end.
    """
    possible = candidates & (np.abs(shade) < GLASS_SHADE_OD)
    cells = reaching(possible, np.abs(shade) < GLASS_STEP_OD)
    for _ in range(GLASS_STEPS):
        expected = _spread(cells, shade[..., None])[..., 0]
        more = reaching(possible, cells | (np.abs(shade - expected) < GLASS_STEP_OD))
        if more.sum() < 1.01 * cells.sum():
            break
        cells = more
    return cells


def _assumed_glass(smooth: Floats) -> Glass:
    """No glass in sight: nearly white, or the brightest colour of the picture."""
    peak = np.percentile(smooth.reshape(-1, 3), 99.9, axis=0)
    reference = np.log(np.maximum(peak, ASSUMED_GLASS)).astype(np.float32)
    none = np.zeros(smooth.shape[:2], dtype=np.bool_)
    return Glass(none, reference, reference[None, None, :])


def _brightest_mode(log_rgb: Floats, luminance: Floats) -> Floats:
    """The brightest colour that a sizeable part (2 %) of the glass candidates has.

    Not the commonest: tissue only ever takes light away, and may be smooth over a large area.
    """
    counts, edges = np.histogram(luminance, bins=52, range=(GLASS_LUMINANCE, 256.0))
    top = np.nonzero(counts >= 0.02 * counts.sum())[0][-1]
    chosen = (luminance > edges[top] - 3) & (luminance <= edges[top + 1])
    mode: Floats = np.median(log_rgb[chosen], axis=0).astype(np.float32)
    return mode


def _spread(cells: Bools, values: Floats) -> Floats:
    """Carry values known in some cells to all, the nearer ones counting most.

    A normalised convolution over blocks of cells with the sum of a narrow, a wide and a very
    wide Gaussian, each a thousandth of the one before: where glass is near, only that counts.
    """
    weight = _block_sums(cells.astype(np.float32))
    total = _block_sums(np.where(cells[..., None], values, np.float32(0)))
    weights = np.zeros_like(weight)
    totals = np.zeros_like(total)
    for order, sigma in enumerate((1.0, 4.0, 16.0)):
        share = np.float32(1e-3**order)
        weights += share * ndimage.gaussian_filter(weight, sigma, mode="nearest", truncate=3)
        totals += share * ndimage.gaussian_filter(
            total, (sigma, sigma, 0), mode="nearest", truncate=3
        )
    # The tiny constant draws what is beyond every Gaussian's reach to the reference (0).
    blocks = totals / (weights[..., None] + np.float32(1e-9))
    rows = _between_blocks(cells.shape[0], blocks.shape[0])
    columns = _between_blocks(cells.shape[1], blocks.shape[1])
    spread = [rows @ blocks[..., channel] @ columns.T for channel in range(values.shape[2])]
    return np.stack(spread, axis=-1)


def _block_sums(cells: Floats) -> Floats:
    rows = np.add.reduceat(cells, np.arange(0, cells.shape[0], _BLOCK), axis=0)
    sums: Floats = np.add.reduceat(rows, np.arange(0, cells.shape[1], _BLOCK), axis=1)
    return sums


def _between_blocks(cells: int, blocks: int) -> Floats:
    """Matrix (cells, blocks) that interpolates linearly between the centres of blocks."""
    position = np.clip((np.arange(cells) + 0.5) / _BLOCK - 0.5, 0, blocks - 1)
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(blocks)))
    return np.asarray(weights, dtype=np.float32)


def grown(mask: Bools, radius: int) -> Bools:
    """Dilate by an octagon of `radius` cells: a cross and a square in turn, by shifting."""
    larger = mask.copy()
    for step in range(radius):
        before = larger.copy()
        larger[1:] |= before[:-1]
        larger[:-1] |= before[1:]
        if step % 2:
            before = larger.copy()
        larger[:, 1:] |= before[:, :-1]
        larger[:, :-1] |= before[:, 1:]
    return larger


def reaching(mask: Bools, strong: Bools) -> Bools:
    """Keep the connected parts of a mask that hold a strong cell."""
    labels, count = ndimage.label(mask)
    keep = np.zeros(count + 1, dtype=np.bool_)
    keep[labels[strong]] = True
    keep[0] = False
    return np.asarray(keep[labels])
