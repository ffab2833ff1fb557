"""The colour histogram of a tile: the baseline that knows colours and nothing else.

Tiles are uint8 (B, H, W, 3), RGB. On sets whose classes differ in stain, it alone reaches much of
what a network does, so that a table without it flatters every network.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 16


def colour_histogram(tiles: npt.NDArray[np.uint8], bins: int = BINS) -> npt.NDArray[np.float32]:
    """The share of pixels in each bin of each channel, float32 (B, 3 · bins): R, then G, then B.

    Args:
        tiles: uint8 (B, H, W, 3).
        bins: bins of a channel, of equal width, 1 to 256; the shares of a channel sum to 1.

    Raises:
        ValueError: the tiles are of another form.
    """
    if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
        raise ValueError(f"tiles are {tiles.dtype} {tiles.shape}, not uint8 (B, H, W, 3)")
    bin_of = np.arange(256) * bins // 256
    pixels = tiles.shape[1] * tiles.shape[2]
    shares = np.empty((len(tiles), 3, bins), dtype=np.float32)
    for row, tile in enumerate(tiles):
        for channel in range(3):
            levels = np.bincount(tile[:, :, channel].ravel(), minlength=256)
            shares[row, channel] = np.bincount(bin_of, levels, bins) / pixels
    return shares.reshape(len(tiles), 3 * bins)
