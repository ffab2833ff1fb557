"""JPEG 2000 tiles of TIFFs: checked, then decoded in full or at a coarser wavelet level.

OpenJPEG decodes, through imagecodecs in full (a fifth faster than through Pillow) and through
Pillow at reduced size (imagecodecs cannot). Both use one thread, and both raise on a tile that is
cut off. Sizes are in pixels.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from tiler.slides import colour

_START: Final = b"\xff\x4f\xff\x51"
"""Start of a codestream, and the marker of the image's size that must follow it."""
_END: Final = b"\xff\xd9"
_LONGEST_PADDING = 16
_SUBSAMPLINGS: Final = frozenset({((1, 1), (2, 1), (2, 1)), ((1, 1), (2, 2), (2, 2))})
"""4:2:2 and 4:2:0, which imagecodecs turns to RGB by itself."""

_LONGEST_BOXES: Final = 4096
"""Bytes that may come before the codestream, where a tile is a whole JP2 file."""
_CODING_STYLE, _CODING_STYLE_OF_COMPONENT, _START_OF_TILE_PART = 0xFF52, 0xFF53, 0xFF90


@dataclass(frozen=True, slots=True)
class Header:
    """What the main header of a codestream says (ISO 15444-1, A.5.1 and A.6.1)."""

    width: int
    height: int
    components: int
    bits: int
    is_signed: bool
    steps: tuple[tuple[int, int], ...]
    """Pixels per value of each component, in x and y; more than 1 where colours are subsampled."""
    levels: int
    """How often the picture can be halved while decoding; 0 where that is not certain."""
    has_end: bool
    """The stream ends with its marker, but for a little padding. Without it, half of the tile may
    be zeros of an interrupted copy, which decode to a blurred picture without an error."""

    @property
    def is_subsampled(self) -> bool:
        """Whether some components have fewer values than the picture has pixels."""
        return set(self.steps) != {(1, 1)}

    def can_be_reduced(self, reduce: int) -> bool:
        """Whether it can be decoded at 1 / reduce (1, 2, 4, 8) of its size."""
        halvings = reduce.bit_length() - 1
        is_whole = self.width % reduce == 0 and self.height % reduce == 0
        # The colours of a subsampled picture would lose twice.
        return self.levels >= halvings and is_whole and not (halvings and self.is_subsampled)


def read_header(tile: bytes) -> Header:
    """Read the main header of a tile.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    start = tile.find(_START, 0, _LONGEST_BOXES)
    if start < 0 or start + 45 > len(tile):
        raise ValueError("the JPEG 2000 tile has no size header")
    length, _, x1, y1, x0, y0 = struct.unpack_from(">HHIIII", tile, start + 4)
    (components,) = struct.unpack_from(">H", tile, start + 40)
    # Depth, and steps in x and y, of each component.
    shapes = tile[start + 42 : start + 42 + 3 * components]
    if length != 38 + 3 * components or len(shapes) < 3 * components or not components:
        raise ValueError("the JPEG 2000 tile has a damaged size header")
    return Header(
        width=x1 - x0,
        height=y1 - y0,
        components=components,
        bits=(shapes[0] & 127) + 1,
        is_signed=bool(shapes[0] & 128),
        steps=tuple(zip(shapes[1::3], shapes[2::3], strict=True)),
        levels=_levels(tile, start + 4 + length),
        has_end=tile.find(_END, max(0, len(tile) - _LONGEST_PADDING)) >= 0,
    )


def _levels(tile: bytes, place: int) -> int:
    levels = 0
    while place + 10 <= len(tile):
        marker, length = struct.unpack_from(">HH", tile, place)
        if marker == _START_OF_TILE_PART:
            return levels
        if marker == _CODING_STYLE_OF_COMPONENT:
            return 0  # each component may have its own number
        if marker == _CODING_STYLE:
            levels = tile[place + 9]
        place += 2 + length
    return 0


def why_unusual(header: Header, *, is_ycbcr: bool) -> str | None:
    """Say why tiles with such a header are not decoded here, as half a sentence, or None."""
    if not header.has_end:
        return "a JPEG 2000 tile has no end"
    if not header.is_subsampled or (is_ycbcr and header.steps in _SUBSAMPLINGS):
        return None
    steps = ", ".join(f"{x} x {y}" for x, y in header.steps)
    return f"its JPEG 2000 components have steps of {steps} pixels"


def check(
    header: Header,
    samples: int,
    least: tuple[int, int],
    most: tuple[int, int],
    *,
    is_ycbcr: bool = False,
) -> None:
    """Hold a header against what the TIFF says.

    Args:
        header: of the tile.
        samples: components that are expected.
        least: (width, height) that is needed of the tile.
        most: (width, height) that it may have.
        is_ycbcr: the components are YCbCr.

    Raises:
        ValueError: the size or the colours are not as expected.
    """
    unusual = why_unusual(header, is_ycbcr=is_ycbcr)
    if unusual:
        raise ValueError(unusual)
    fits_x = least[0] <= header.width <= most[0]
    fits_y = least[1] <= header.height <= most[1]
    if not (fits_x and fits_y):
        raise ValueError(
            f"the JPEG 2000 tile is {header.width} x {header.height} px where "
            f"{most[0]} x {most[1]} should be"
        )
    if header.components != samples or header.bits != 8 or header.is_signed:
        raise ValueError(
            f"the JPEG 2000 tile has {header.components} components of {header.bits} bits where "
            f"{samples} of 8 should be"
        )


def decode(
    header: Header, tile: bytes, reduce: int = 1, *, is_ycbcr: bool = False
) -> npt.NDArray[np.uint8]:
    """Decode a tile, in full or at a coarser wavelet level.

    Args:
        header: of the tile; it was checked.
        tile: a codestream or a JP2 file.
        reduce: 1; or 2, 4, 8 if the header allows it. A coarser level is no mean of pixels: it is
            a little sharper, and its pixels lie (reduce - 1) / 2 pixels up and left of where the
            means lie.
        is_ycbcr: the components are YCbCr.

    Returns:
        uint8 (height // reduce, width // reduce, components), RGB where there are colours.

    Raises:
        ValueError, OSError, or an error of imagecodecs: the tile is damaged or cut off.
    """
    pixels = _decode_full(tile) if reduce == 1 else _decode_reduced(tile, reduce)
    shape = (header.height // reduce, header.width // reduce, header.components)
    if pixels.size != shape[0] * shape[1] * shape[2]:
        raise ValueError(f"the tile was decoded to {pixels.shape} where {shape} should be")
    pixels = pixels.reshape(shape)
    return colour.ycbcr_to_rgb(pixels) if is_ycbcr and not header.is_subsampled else pixels


def _decode_full(tile: bytes) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = imagecodecs.jpeg2k_decode(tile, numthreads=1)
    return pixels


def _decode_reduced(tile: bytes, reduce: int) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(tile), formats=("JPEG2000",)) as image:
        image.reduce = reduce.bit_length() - 1  # type: ignore[assignment, method-assign]
        image.load()
        return np.asarray(image)
