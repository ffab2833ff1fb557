"""From what files hold (gray, inverted gray, YCbCr, colour with alpha) to plain 8-bit RGB.

Arrays are uint8, shape (height, width) or (height, width, channels), in RGB order.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tiler.slides.base import Rgb

WHITE = (255, 255, 255)
"""Background of brightfield slides: glass."""


def gray_to_rgb(gray: npt.NDArray[np.uint8]) -> Rgb:
    """Repeat a gray picture of shape (height, width) in all three channels."""
    return np.repeat(gray[:, :, np.newaxis], 3, axis=2)


_CHROMA: Final = np.arange(-128, 128)
_RED_OF_CR: Final = np.rint(1.402 * _CHROMA).astype(np.int16)
_BLUE_OF_CB: Final = np.rint(1.772 * _CHROMA).astype(np.int16)
_GREEN_OF_CB: Final = np.rint(-0.344136 * 65536 * _CHROMA).astype(np.int32)
_GREEN_OF_CR: Final = np.rint(-0.714136 * 65536 * _CHROMA).astype(np.int32) + 32768


def ycbcr_to_rgb(ycbcr: npt.NDArray[np.uint8]) -> Rgb:
    """Convert full-range YCbCr (ITU-T T.871, section 7), rounded to the nearest value.

    Args:
        ycbcr: uint8 (height, width, 3).
    """
    luma = ycbcr[:, :, 0].astype(np.int16)
    cb, cr = ycbcr[:, :, 1], ycbcr[:, :, 2]
    rgb = np.empty(ycbcr.shape, np.uint8)
    rgb[:, :, 0] = np.clip(luma + _RED_OF_CR[cr], 0, 255)
    rgb[:, :, 1] = np.clip(luma + ((_GREEN_OF_CB[cb] + _GREEN_OF_CR[cr]) >> 16), 0, 255)
    rgb[:, :, 2] = np.clip(luma + _BLUE_OF_CB[cb], 0, 255)
    return rgb


def over_background(
    rgb: Rgb,
    alpha: npt.NDArray[np.uint8],
    background: tuple[int, int, int],
    *,
    premultiplied: bool = False,
) -> Rgb:
    """Lay a partly transparent picture over one colour, rounded to the nearest value.

    Args:
        rgb: uint8 (height, width, 3).
        alpha: uint8 (height, width); 255 is opaque.
        background: RGB, each 0 to 255.
        premultiplied: the colours have been multiplied by alpha already ("associated").
    """
    if alpha.size == 0 or alpha.min() == 255:
        return packed(rgb)
    opacity = alpha[:, :, np.newaxis].astype(np.uint32)
    own = rgb.astype(np.uint32) * (255 if premultiplied else opacity)
    behind = np.asarray(background, np.uint32) * (255 - opacity)
    blended: Rgb = np.minimum((own + behind + 127) // 255, 255).astype(np.uint8)
    return blended


def packed(rgb: Rgb) -> Rgb:
    """Return the picture with its pixels side by side in memory, copied if they are not.

    Channel by channel: numpy takes more than twice as long for three of four values at once.
    """
    if rgb.flags.c_contiguous:
        return rgb
    copy = np.empty(rgb.shape, np.uint8)
    given, made = rgb.reshape(-1, 3), copy.reshape(-1, 3)
    for channel in range(3):
        made[:, channel] = given[:, channel]
    return copy


def filled(height: int, width: int, background: tuple[int, int, int]) -> Rgb:
    """Make a picture of one colour, uint8 (height, width, 3)."""
    return np.full((height, width, 3), background, np.uint8)
