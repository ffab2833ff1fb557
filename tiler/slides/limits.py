"""What a file may ask of this machine, and how the reasons for a refusal are worded.

A slide is input that nobody vouches for: sizes in its headers are checked against these limits
before anything is allocated by them. Sizes are in pixels and in bytes of decoded RGB.
"""

from __future__ import annotations

import math
from pathlib import Path

from tiler.errors import UnreadableSlide

MAX_CELL_BYTES = 64 * 1024 * 1024
"""Decoded size of one cell, or of one tile or strip of a file."""

MAX_PICTURE_PIXELS = 178_000_000
"""Size of a plain picture, which is decoded whole (534 MB); Pillow's own limit lies just above."""

MAX_SLIDE_PIXELS = 400_000_000_000
"""Size of level 0: a double-wide slide (50 x 75 mm) at 0.1 µm/px has 375 Gpx."""

MAX_SLIDE_SIDE = 2_000_000
"""Pixels in x or in y: a 75 mm slide at 0.1 µm/px has 750,000."""

MAX_TIFF_IMAGES = 10_000
"""Images in one TIFF, pyramid levels and focal planes counted."""

PREFERRED_CELL = 512
"""Side of a cell where the file does not prescribe one, in pixels of its level."""

FINGERPRINT_BYTES = 32 * 1024 * 1024
"""Encoded bytes that are hashed whole for a fingerprint; beyond it, evenly spaced samples are."""

FINGERPRINT_SAMPLES = 256
"""Segments that stand for a coarsest level with more than `FINGERPRINT_BYTES`."""

_LONGEST_REASON = 160
_SHORT_NAME = 4
"""A name of so few letters may be part of any word, and is no person's."""


def check_slide_size(width: int, height: int) -> None:
    """Refuse a slide whose level 0 of `width` x `height` pixels is empty or absurdly large.

    Raises:
        UnreadableSlide: the size is not between 1 px and the limits of this module.
    """
    if width < 1 or height < 1:
        raise UnreadableSlide(f"the image is empty ({width} x {height} px)")
    if max(width, height) > MAX_SLIDE_SIDE or width * height > MAX_SLIDE_PIXELS:
        raise UnreadableSlide(
            f"a size of {width} x {height} px cannot be that of a slide (the limit is "
            f"{MAX_SLIDE_SIDE:,} px a side and {MAX_SLIDE_PIXELS // 10**9} Gpx); "
            "the header is probably damaged"
        )


def wrong_pixels(channels: int, kind: str) -> str:
    """Say why pixels that are no 8-bit RGB are refused, as half a sentence.

    >>> wrong_pixels(1, "uint16")
    'needs 8-bit RGB; found 1 channel of uint16 (fluorescence?)'
    """
    plural = "" if channels == 1 else "s"
    separate = "separate " if channels > 1 and kind == "uint8" else ""
    return f"needs 8-bit RGB; found {channels} {separate}channel{plural} of {kind} (fluorescence?)"


def spoken(error: BaseException, path: Path) -> str:
    """Word a library's error in one short line, without the name of the file.

    File names may hold a patient's name, and these reasons end up in reports.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = str(error).replace(str(path), "the file")
    if len(path.name) > _SHORT_NAME:
        said = said.replace(path.name, "the file")
    lines = said.splitlines()
    text = next((line.strip() for line in lines if line.strip()), "")
    if len(text) > _LONGEST_REASON:
        text = text[:_LONGEST_REASON] + "…"
    return text or type(error).__name__


def evenly_spaced(count: int, samples: int) -> list[int]:
    """Pick at most `samples` of the indices 0 to `count` - 1, evenly, first and last included."""
    if count <= samples:
        return list(range(count))
    return [math.floor(i * (count - 1) / (samples - 1)) for i in range(samples)]
