"""Pictures for a page: tiles made small, side by side in one sheet, with masks laid over them.

Pixels are uint8 RGB; a text that a page can show is a data URI of a JPEG.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.codec import Rgb, encode_jpeg

THUMBNAIL_SIDE = 96
"""Pixels of the longer side of a tile that goes to a page."""

_QUALITY = 80
_SHEET_PIXELS = 1500 * 48 * 48
"""Of all tiles in a sheet: about 2 MB of JPEG."""
_STEP = 16
"""Pixels of a JPEG block with halved colour: tiles that start on one do not bleed into others."""
_SMALLEST = 2 * _STEP
_MASK_WEIGHT = 0.55


@dataclass(frozen=True, slots=True)
class Sheet:
    """Tiles in rows, in one picture."""

    uri: str
    side: int
    """Pixels of a tile."""
    columns: int
    rows: int


def shrunk(tiles: Rgb, side: int = THUMBNAIL_SIDE) -> Rgb:
    """Tiles (n, h, w, 3) so that their longer side has at most `side` pixels."""
    from PIL import Image

    height, width = tiles.shape[1:3]
    scale = side / max(height, width)
    if scale >= 1 or not len(tiles):
        return tiles
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = [Image.fromarray(tile).resize(size, Image.Resampling.LANCZOS) for tile in tiles]
    return np.stack([np.asarray(picture) for picture in small])


def jpeg_uri(pixels: Rgb) -> str:
    """A picture (h, w, 3) as a data URI."""
    data = encode_jpeg(np.ascontiguousarray(pixels), _QUALITY, "420")
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def sheet(tiles: Rgb) -> Sheet:
    """All tiles (n, h, w, 3) side by side, each a square; the more there are, the smaller.

    Raises:
        ValueError: there are no tiles.
    """
    from PIL import Image

    if not len(tiles):
        raise ValueError("a sheet needs tiles")
    largest = int((_SHEET_PIXELS / len(tiles)) ** 0.5)
    side = max(_SMALLEST, min(THUMBNAIL_SIDE, largest) // _STEP * _STEP)
    columns = int(np.ceil(len(tiles) ** 0.5))
    rows = -(-len(tiles) // columns)
    picture = np.zeros((rows * side, columns * side, 3), dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (side * place for place in divmod(number, columns))
        small = Image.fromarray(tile).resize((side, side), Image.Resampling.LANCZOS)
        picture[top : top + side, left : left + side] = np.asarray(small)
    return Sheet(jpeg_uri(picture), side, columns, rows)


def overlaid(
    tile: Rgb, mask: npt.NDArray[np.number], colours: Sequence[tuple[int, int, int]]
) -> Rgb:
    """A tile (h, w, 3) tinted by its mask (h, w): class c in `colours[c]`, the rest untouched.

    A class beyond the colours, or below 0, is left as it is.
    """
    tinted = tile.astype(np.float64)
    for number, colour in enumerate(colours):
        inside = mask == number
        tinted[inside] += _MASK_WEIGHT * (np.array(colour) - tinted[inside])
    return np.round(tinted).astype(np.uint8)
