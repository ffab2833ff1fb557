"""Segmentation without a network: a linear classifier of each pixel's colour and of that around.

It knows neither shapes nor textures. Where a decoder is no better, the classes differ by colour,
and its encoder has shown nothing. S is a tile's side in pixels; a pixel has 9 numbers, 0 to 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from manifests.codec import Rgb
from pretrain.scoring.probe import LinearProbe, fit_linear
from pretrain.segmenting.maskedtiles import TRAIN, VAL, MaskedReader
from pretrain.segmenting.masks import IGNORED

PIXEL_COLOUR = "colour of pixels"

_SQUARES = (5, 17)
"""Sides of the squares around a pixel, in pixels, whose mean colour goes with its own."""
_MOST_TILES = 512
_MOST_PIXELS = {TRAIN: 20_000, VAL: 10_000}
_READ_AT_A_TIME = 16

Floats = npt.NDArray[np.float32]


def pixel_colours(tiles: Rgb) -> Floats:
    """Colour of each pixel and means over the squares around it, float32 (n, S, S, 9).

    Squares end at the tile's border: means are of what lies within.
    """
    pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
    means = [_mean_along(_mean_along(pixels, (side, 1)), (1, side)) for side in _SQUARES]
    found: Floats = torch.cat([pixels, *means], dim=1).permute(0, 2, 3, 1).contiguous().numpy()
    return found


def _mean_along(pixels: Tensor, square: tuple[int, int]) -> Tensor:
    """Means over so many rows and columns. A square's are those of one and then of the other."""
    padding = (square[0] // 2, square[1] // 2)
    return functional.avg_pool2d(pixels, square, 1, padding, count_include_pad=False)


def fit_pixel_colour(reader: MaskedReader, classes: int, seed: int) -> LinearProbe:
    """Fit it on pixels drawn from training tiles.

    Once on pixels as they come, once on as many of each class, without which rare classes are never
    said; validation pixels choose between them, and the regularisation.
    """
    val = _drawn_pixels(reader, VAL, seed, classes, even=False)
    fitted = [
        fit_linear(*_drawn_pixels(reader, TRAIN, seed, classes, even=even), *val, classes)
        for even in (False, True)
    ]
    return max(fitted, key=lambda probe: probe.val_macro_f1)


def predict_by_colour(probe: LinearProbe, tiles: Rgb) -> npt.NDArray[np.int64]:
    """Class of each pixel, int64 (n, S, S)."""
    colours = pixel_colours(tiles)
    return probe.predict(colours.reshape(-1, colours.shape[-1])).reshape(colours.shape[:3])


def _drawn_pixels(
    reader: MaskedReader, split: int, seed: int, classes: int, *, even: bool
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Colours (n, 9) and classes (n,) of known pixels, drawn from the tiles of a split.

    Args:
        even: as many of each class from each tile, where it has them.
    """
    random = np.random.default_rng((seed, split))
    rows = random.permutation(reader.tiles.rows(split))[:_MOST_TILES]
    each = -(-_MOST_PIXELS[split] // len(rows))
    colours, numbers = [], []
    for _, (tiles, truth) in reader.batches(rows, _READ_AT_A_TIME):
        for colour, true in zip(pixel_colours(tiles), truth, strict=True):
            heaps = [true == c for c in range(classes)] if even else [true != IGNORED]
            for heap in heaps:
                y, x = random.permutation(np.argwhere(heap))[: -(-each // len(heaps))].T
                colours.append(colour[y, x])
                numbers.append(true[y, x].astype(np.int64))
    return np.concatenate(colours), np.concatenate(numbers)
