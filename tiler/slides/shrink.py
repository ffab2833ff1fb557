"""Pictures made smaller by a whole factor: each pixel is the mean of a square of pixels.

The factors are those of `base.REDUCTIONS`.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from tiler.slides.base import Rgb


def shrunk(rgb: Rgb, factor: int) -> Rgb:
    """Average squares of factor x factor pixels, rounded to the nearest value.

    Args:
        rgb: uint8 (height, width, 3).
        factor: 1 gives the picture itself.

    Returns:
        uint8 (height // factor, width // factor, 3); what does not fill a square is left out.
    """
    if factor == 1:
        return rgb
    height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
    if not (height and width):
        return np.empty((height, width, 3), np.uint8)
    whole = rgb[: height * factor, : width * factor]
    return np.asarray(Image.fromarray(whole).reduce(factor))
