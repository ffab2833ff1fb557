"""Segmentation without a network: a linear classifier of each pixel's colour and of that around.

It knows neither shapes nor textures. Where a decoder is no better, the classes differ by colour,
and its encoder has shown nothing. S is a tile's side in pixels; a pixel has 9 numbers, 0 to 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from manifests.codec import Rgb
from pretrain.evaluating.maskedtiles import TRAIN, VAL, MaskedReader
from pretrain.evaluating.masks import IGNORED
from pretrain.scoring.probe import LinearProbe, fit_linear

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
    means = [
        functional.avg_pool2d(pixels, side, stride=1, padding=side // 2, count_include_pad=False)
        for side in _SQUARES
    ]
    found: Floats = torch.cat([pixels, *means], dim=1).permute(0, 2, 3, 1).contiguous().numpy()
    return found


def fit_pixel_colour(reader: MaskedReader, classes: int, seed: int) -> LinearProbe:
    """Fit it on pixels drawn from training tiles; validation pixels choose the regularisation."""
    train, val = (_drawn_pixels(reader, split, seed) for split in (TRAIN, VAL))
    return fit_linear(*train, *val, classes)


def predict_by_colour(probe: LinearProbe, tiles: Rgb) -> npt.NDArray[np.int64]:
    """Class of each pixel, int64 (n, S, S)."""
    colours = pixel_colours(tiles)
    return probe.predict(colours.reshape(-1, colours.shape[-1])).reshape(colours.shape[:3])


def _drawn_pixels(
    reader: MaskedReader, split: int, seed: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Colours (n, 9) and classes (n,) of known pixels, drawn evenly from the tiles of a split."""
    random = np.random.default_rng((seed, split))
    rows = random.permutation(reader.tiles.rows(split))[:_MOST_TILES]
    each = -(-_MOST_PIXELS[split] // len(rows))
    colours, classes = [], []
    for _, (tiles, truth) in reader.batches(rows, _READ_AT_A_TIME):
        for colour, true in zip(pixel_colours(tiles), truth, strict=True):
            known = np.argwhere(true != IGNORED)
            y, x = random.permutation(known)[:each].T
            colours.append(colour[y, x])
            classes.append(true[y, x].astype(np.int64))
    return np.concatenate(colours), np.concatenate(classes)
