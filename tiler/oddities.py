"""What is odd about a slide at first sight: things that a person should look at, never a refusal.

Judged on the overview, uint8 RGB (height, width, 3). Grey levels run from 0 to 255.
"""

from __future__ import annotations

import numpy as np

from tiler.slides.base import Rgb

COLOUR_STEP = 16
"""Grey levels that count as one when the commonest colour is looked for."""

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
    if float((overview.max(axis=2) < DARK).mean()) >= DARK_SHARE:
        found.append("most of it is dark: is it fluorescence? Tissue is sought on bright glass")
    return tuple(found)


def _commonest_colour(overview: Rgb) -> tuple[tuple[int, int, int], float]:
    steps = (overview.reshape(-1, 3) // COLOUR_STEP).astype(np.int64)
    codes, counts = np.unique(steps @ np.array([10_000, 100, 1]), return_counts=True)
    code, middle = int(codes[counts.argmax()]), COLOUR_STEP // 2
    red, green, blue = (
        part * COLOUR_STEP + middle for part in (code // 10_000, code // 100 % 100, code % 100)
    )
    return (red, green, blue), float(counts.max()) / len(steps)
