"""What is odd about a slide at first sight: things that a person should look at, never a refusal.

Judged on the overview, uint8 RGB (height, width, 3). Grey levels run from 0 to 255.
"""

from __future__ import annotations

import numpy as np

from tiler.slides.base import Rgb
from tiler.smooth import row_strips

COLOUR_STEP = 16
"""Grey levels that count as one when the commonest colour is looked for: four bits are left."""

GAUDY = 90
"""Difference of colour channels that no bright and common colour of a stained slide has."""

GAUDY_SHARE = 0.25
"""Share of the picture from which a colour is common."""

BRIGHT = 130
"""Mean grey level from which a colour is bright."""

DARK = 40
"""Grey level below which a pixel shows nothing in bright field."""

DARK_SHARE = 0.5
"""Share of dark pixels from which a picture is no bright-field one."""


def oddities(overview: Rgb) -> tuple[str, ...]:
    """Sentences on what is odd, most often none.

    A commonest colour that is bright and gaudy means that the file's colour space is mislabelled
    (RGB read as YCbCr, or the other way round); a dark picture means fluorescence.
    """
    found = []
    colour, share = _commonest_colour(overview)
    gaudy = max(colour) - min(colour) >= GAUDY and sum(colour) / 3 >= BRIGHT
    if gaudy and share >= GAUDY_SHARE:
        found.append(
            f"much of it has the colour {colour}: "
            "is the colour space of the file (RGB or YCbCr) labelled rightly?"
        )
    if _dark_share(overview) >= DARK_SHARE:
        found.append("most of it is dark: is it fluorescence? Tissue is sought on bright glass")
    return tuple(found)


def _commonest_colour(overview: Rgb) -> tuple[tuple[int, ...], float]:
    """The colour and its share; of several the one that is darkest in red, then green."""
    counts = np.zeros(COLOUR_STEP**3, dtype=np.int64)
    for part in row_strips(*overview.shape[:2]):
        red, green, blue = np.moveaxis(overview[part], 2, 0)
        codes = (red & 0xF0).astype(np.uint16) << 4 | green & 0xF0 | blue >> 4
        counts += np.bincount(codes.reshape(-1), minlength=len(counts))
    code = int(counts.argmax())
    steps, middle = (code >> 8, code >> 4 & 15, code & 15), COLOUR_STEP // 2
    colour = tuple(step * COLOUR_STEP + middle for step in steps)
    return colour, int(counts.max()) / int(counts.sum())


def _dark_share(overview: Rgb) -> float:
    """Share of pixels that are dark in all channels."""
    dark = 0
    for part in row_strips(*overview.shape[:2]):
        red, green, blue = np.moveaxis(overview[part], 2, 0) < DARK
        dark += int(np.count_nonzero(red & green & blue))
    return dark / (overview.size // 3)
