"""Smooth pictures: Gaussian and window means of one channel, in plain numpy.

A picture is (rows, columns) of numbers; beyond its edge it is thought to be mirrored, the last
pixel twice. Results are float32. Sums are taken in float64 and rounded after each axis, as
`scipy.ndimage` does and with the same results, but in strips of rows that stay in the caches, which
is twice as fast. The import of scipy alone would take longer than all that is done here to a slide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Picture = npt.NDArray[Any]

_STRIP = 1 << 15
"""Pixels in a strip: few enough for the caches, many enough for the cost of numpy calls to fade."""


def row_strips(rows: int, columns: int) -> Iterator[slice]:
    """Cut the rows of a picture into strips that fit the caches."""
    step = max(1, _STRIP // max(1, columns))
    for top in range(0, rows, step):
        yield slice(top, min(rows, top + step))


def gaussian(picture: Picture, sigma: float) -> Floats:
    """Gaussian of `sigma` pixels, which is positive; numbers (rows, columns) of any type."""
    weights = _gaussian_weights(sigma)
    radius = len(weights) // 2

    def along(lines: Doubles) -> Doubles:
        count = len(lines) - 2 * radius
        total: Doubles = lines[radius : radius + count] * weights[radius]
        pair = np.empty_like(total)
        # From the ends to the middle: small numbers are added first.
        for start in range(radius):
            end = 2 * radius - start
            np.add(lines[start : start + count], lines[end : end + count], out=pair)
            pair *= weights[start]
            total += pair
        return total

    return _filtered(picture, radius, along)


def gaussian_matrix(length: int, sigma: float) -> Doubles:
    """A Gaussian along `length` pixels as a matrix, for short lines; the last pixel goes on."""
    weights = _gaussian_weights(sigma)
    rows = np.arange(length)[:, None]
    columns = np.clip(rows + np.arange(len(weights)) - len(weights) // 2, 0, length - 1)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (rows, columns), weights)
    return matrix


def _gaussian_weights(sigma: float) -> Doubles:
    """Of the pixels up to three sigmas away; they add up to 1."""
    radius = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 / sigma**2 * np.arange(-radius, radius + 1) ** 2)
    return np.asarray(weights / weights.sum())


def window_mean(picture: Picture, size: int) -> Floats:
    """Mean over a square window of `size` pixels, which is odd."""

    def along(lines: Doubles) -> Doubles:
        count = len(lines) - size + 1
        total = lines[:count] + lines[1 : count + 1]
        for start in range(2, size):
            total += lines[start : start + count]
        total /= size
        return total

    return _filtered(picture, size // 2, along)


def quantile(values: npt.NDArray[np.floating], share: float) -> float:
    """The value below which a share of the values lies; between two of them, in proportion.

    `np.quantile` and `np.median` load `numpy.ma`, which takes longer than their work here.
    """
    place = share * (len(values) - 1)
    lower = int(place)
    upper = min(lower + 1, len(values) - 1)
    ordered = np.partition(values, (lower, upper))
    low, high = float(ordered[lower]), float(ordered[upper])
    return low + (high - low) * (place - lower)


def _filtered(picture: Picture, radius: int, along: Callable[[Doubles], Doubles]) -> Floats:
    """Apply a filter down the columns, then along the rows.

    `along` takes lines along the first axis to their sums, `2 radius` fewer.
    """
    rows, columns = picture.shape
    padded = np.pad(picture, radius, mode="symmetric")
    result = np.empty((rows, columns), dtype=np.float32)
    for part in row_strips(rows, padded.shape[1]):
        lines = padded[part.start : part.stop + 2 * radius].astype(np.float64)
        down = along(lines).astype(np.float32).astype(np.float64)
        result[part] = along(down.T).T
    return result
