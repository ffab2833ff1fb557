"""Bare glass: what a slide looks like where there is nothing on it, over the whole picture.

Pictures are float32 (3, rows, columns) in [0, 255], one plane per channel: numpy is many times
faster along rows than over three channels. One pixel is a *cell* of the tissue mask (about 8 µm).
Colours are compared as natural logarithms, so that their differences are optical densities (OD),
whatever the lamp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tiler.parts import connected_parts
from tiler.smooth import gaussian_matrix, quantile, row_strips, window_mean

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

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_MEAN = np.full(3, 1 / 3, dtype=np.float32)
_BIN = 3
"""Grey levels that count as one brightness when glass's colour is looked for."""
_BLOCK = 32
"""Cells across a block, over which values are added before they are spread."""


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Values that were known in some cells, carried to all."""

    lines: Floats
    """float32 (channels, blocks down, columns): values in the middle rows of the blocks."""

    def rows(self, part: slice) -> Floats:
        """The values in some rows, (channels, rows, columns)."""
        last = self.lines.shape[1] - 1
        before, share = _between_blocks(np.arange(part.start, part.stop), last)
        values = np.empty((len(self.lines), len(share), self.lines.shape[2]), dtype=np.float32)
        for block in range(before[0], before[-1] + 1):
            among = slice(*np.searchsorted(before, (block, block + 1)))
            weight = share[among, None]
            line, following = (self.lines[:, i, None] for i in (block, min(block + 1, last)))
            np.multiply(line, 1 - weight, out=values[:, among])
            values[:, among] += following * weight
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Glass:
    """Bare glass as seen in a picture."""

    cells: Bools
    """bool (rows, columns): where it was learnt; nowhere if no glass was seen."""
    reference: Floats
    """float32 (3,): natural logarithm of its brightest colour."""
    difference: Spread | None
    """What is to be added to that in each place; nothing if None."""

    def log_rgb(self, part: slice) -> Floats:
        """Natural logarithm of its colour in some rows, broadcasts to (3, rows, columns)."""
        reference = self.reference[:, None, None]
        return reference if self.difference is None else reference + self.difference.rows(part)


def highest(planes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Largest of three channels, (rows, columns)."""
    top: npt.NDArray[Any] = np.maximum(np.maximum(planes[0], planes[1]), planes[2])
    return top


def luminance_of(planes: Floats) -> Floats:
    """Luminance (Rec. 601), (rows, columns)."""
    return _weighed(planes, _LUMA)


def mean_of(planes: Floats) -> Floats:
    """Mean of the three channels, (rows, columns)."""
    return _weighed(planes, _MEAN)


def _weighed(planes: Floats, weights: Floats) -> Floats:
    total: Floats = planes[0] * weights[0]
    total += planes[1] * weights[1]
    total += planes[2] * weights[2]
    return total


def unscanned_cells(cells: npt.NDArray[Any], smooth: Floats, fill: Floats) -> Bools:
    """Tell cells the scanner never saw: of the fill colour, or black with the blur around it.

    Args:
        cells: numbers (3, rows, columns) in [0, 255].
        smooth: the same, smoothed by about one cell.
        fill: float32 (3,), RGB with which the reader fills what was not scanned.

    Returns:
        bool (rows, columns).
    """
    unscanned = grown(highest(cells) <= BLACK_LEVEL, 3)
    for part in row_strips(*unscanned.shape):
        off = highest(np.abs(smooth[:, part] - fill[:, None, None]))
        unscanned[part] |= off <= UNSCANNED_TOLERANCE
    return unscanned


def find_glass(smooth: Floats, unscanned: Bools) -> Glass:
    """Find bare glass and follow its colour over the picture.

    Args:
        smooth: float32 (3, rows, columns) in [0, 255], smoothed by about one cell.
        unscanned: bool (rows, columns), used as glass only where there is hardly any other.
    """
    luminance = luminance_of(smooth)
    candidates = _roughness(luminance) < GLASS_ROUGHNESS
    for part in row_strips(*candidates.shape):
        strip = smooth[:, part]
        saturation = 1 + highest(-strip) / np.maximum(highest(strip), 1)
        candidates[part] &= (saturation < GLASS_SATURATION) & (luminance[part] > GLASS_LUMINANCE)
    needed = max(16.0, GLASS_SHARE * candidates.size)
    scanned = candidates & ~unscanned
    cells = scanned if np.count_nonzero(scanned) >= needed else candidates
    if np.count_nonzero(cells) < needed:
        return _assumed_glass(smooth)
    reference = _brightest_mode(smooth, luminance, cells)
    lighter = np.empty_like(smooth)
    shade = luminance  # its memory
    for part in row_strips(*cells.shape):
        strip = lighter[:, part]
        np.log(np.maximum(smooth[:, part], 1), out=strip)
        strip -= reference[:, None, None]
        shade[part] = mean_of(strip)
        cells[part] &= highest(np.abs(strip - shade[part])) < GLASS_CHROMA_OD
    cells = _grown_glass(cells, shade)
    return Glass(cells, reference, _spread(cells, lighter))


def _roughness(luminance: Floats) -> Floats:
    """Standard deviation of luminance in a window, over its mean."""
    mean = window_mean(luminance, GLASS_WINDOW)
    rough = window_mean(luminance * luminance, GLASS_WINDOW)
    for part in row_strips(*mean.shape):
        strip, level = rough[part], mean[part]
        strip -= level * level
        np.sqrt(np.maximum(strip, 0), out=strip)
        strip /= np.maximum(level, 1)
    return rough


def _grown_glass(candidates: Bools, shade: Floats) -> Bools:
    """Start from the reference colour and follow the lamp's gradients outwards.

    Pale, smooth tissue is as bright as the shaded corner of a slide, but it has an edge, at which
    the candidates end.
    """
    distance = np.abs(shade)
    possible = candidates & (distance < GLASS_SHADE_OD)
    parts = connected_parts(possible)
    cells = parts.mask(parts.holding(possible & (distance < GLASS_STEP_OD)))
    for _ in range(GLASS_STEPS):
        expected = _spread(cells, shade[None])
        near = cells.copy()
        for part in row_strips(*near.shape):
            near[part] |= np.abs(shade[part] - expected.rows(part)[0]) < GLASS_STEP_OD
        more = parts.mask(parts.holding(possible & near))
        if np.count_nonzero(more) < 1.01 * np.count_nonzero(cells):
            break
        cells = more
    return cells


def _assumed_glass(smooth: Floats) -> Glass:
    """No glass in sight: nearly white, or the brightest colour of the picture."""
    peak = [quantile(plane.reshape(-1), 0.999) for plane in smooth]
    reference = np.log(np.maximum(peak, ASSUMED_GLASS)).astype(np.float32)
    return Glass(np.zeros(smooth.shape[1:], dtype=np.bool_), reference, None)


def _brightest_mode(smooth: Floats, luminance: Floats, cells: Bools) -> Floats:
    """The brightest colour that a sizeable part (2 %) of the glass candidates has, as logarithms.

    Not the commonest: tissue only ever takes light away, and may be smooth over a large area.
    """
    bins = ((luminance[cells] - np.float32(GLASS_LUMINANCE)) / np.float32(_BIN)).astype(np.uint8)
    counts = np.bincount(bins)
    top = GLASS_LUMINANCE + _BIN * np.nonzero(counts >= 0.02 * counts.sum())[0][-1]
    chosen = cells & (luminance > top - _BIN) & (luminance <= top + _BIN)
    mode = [quantile(np.log(np.maximum(channel[chosen], 1)), 0.5) for channel in smooth]
    return np.array(mode, dtype=np.float32)


def _spread(cells: Bools, values: Floats) -> Spread:
    """Carry values known in some cells to all, the nearer ones counting most.

    A normalised convolution over blocks of cells with the sum of a narrow, a wide and a very
    wide Gaussian, each a thousandth of the one before: where glass is near, only that counts.

    Args:
        cells: bool (rows, columns), where the values are known.
        values: float32 (channels, rows, columns).
    """
    weight, *total = _widely(_block_sums(cells, values))
    # The tiny constant draws what is beyond every Gaussian's reach to the reference (0).
    blocks = (np.stack(total) / (weight + 1e-9)).astype(np.float32)
    last = blocks.shape[2] - 1
    before, share = _between_blocks(np.arange(cells.shape[1]), last)
    after = np.minimum(before + 1, last)
    return Spread(blocks[..., before] * (1 - share) + blocks[..., after] * share)


def _widely(blocks: Floats) -> npt.NDArray[np.float64]:
    """Sum of the three Gaussians of pictures of blocks, (channels, down, across)."""
    total = np.zeros(blocks.shape)
    for order, sigma in enumerate((1.0, 4.0, 16.0)):
        down, across = (gaussian_matrix(length, sigma) for length in blocks.shape[1:])
        total += 1e-3**order * (down @ blocks @ across.T)
    return total


def _block_sums(cells: Bools, values: Floats) -> Floats:
    """Number of the cells in each block, and sums of their values: (1 + channels, down, across)."""
    rows, columns = cells.shape
    firsts = np.arange(0, columns, _BLOCK)
    sums = np.empty((1 + len(values), -(-rows // _BLOCK), len(firsts)), dtype=np.float32)
    for i in range(sums.shape[1]):
        part = slice(i * _BLOCK, (i + 1) * _BLOCK)
        known = cells[part]
        lines = [known.sum(axis=0, dtype=np.float32)]
        lines += [np.where(known, plane[part], np.float32(0)).sum(axis=0) for plane in values]
        sums[:, i] = np.add.reduceat(np.stack(lines), firsts, axis=1)
    return sums


def _between_blocks(cells: npt.NDArray[np.intp], last: int) -> tuple[Any, Floats]:
    """The block whose centre comes before each cell, and the share of the block after it."""
    position = np.clip((cells + 0.5) / _BLOCK - 0.5, 0, last)
    before = position.astype(np.intp)
    return before, (position - before).astype(np.float32)


def grown(mask: Bools, radius: int) -> Bools:
    """Dilate by an octagon of `radius` cells: a cross and a square in turn, by shifting."""
    larger = mask.copy()
    if mask.all() or not mask.any():
        return larger
    for step in range(radius):
        before = larger.copy()
        larger[1:] |= before[:-1]
        larger[:-1] |= before[1:]
        if step % 2:
            before = larger.copy()
        larger[:, 1:] |= before[:, :-1]
        larger[:, :-1] |= before[:, 1:]
    return larger
