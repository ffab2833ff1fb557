"""JPEG tiles of TIFFs: made into whole JPEG streams, checked, decoded.

A TIFF keeps the tables of its JPEG tiles in one place and leaves them out of the tiles. Decoders
allocate what a stream's frame header asks for, and 14 kB can ask for 12 GiB; so that header is
held against the size of the TIFF's tile first. Sizes are in pixels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

SOI = b"\xff\xd8"
_EOI = b"\xff\xd9"
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
_ADOBE_YCBCR = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PARAMETERLESS = frozenset({0x01, *range(0xD0, 0xD9)})
_START_OF_SCAN = 0xDA


@dataclass(frozen=True, slots=True)
class Frame:
    """What the frame header of a JPEG says."""

    width: int
    height: int
    components: int
    bits: int


def whole_stream(tile: bytes, tables: bytes, photometric: int) -> bytes:
    """Join the tables of a TIFF and one of its tiles to a JPEG that any decoder understands.

    Without a marker, decoders guess the colours; the TIFF knows them. A JFIF tile is YCbCr by
    definition, also where the TIFF says RGB (Bio-Formats writes that), and stays as it is.

    Args:
        tile: from SOI on.
        tables: the JPEGTables tag, from SOI to EOI, or empty.
        photometric: TIFF code, 2 RGB or 6 YCbCr; others add no marker.

    Raises:
        ValueError: the tile does not start like a JPEG.
    """
    if not tile.startswith(SOI):
        raise ValueError("the JPEG tile does not start with a JPEG marker")
    if tile[6:10] == b"JFIF":
        colours = b""
    else:
        colours = {2: _ADOBE_RGB, 6: _ADOBE_YCBCR}.get(photometric, b"")
    inner = tables.removeprefix(SOI).removesuffix(_EOI)
    return b"".join((SOI, colours, inner, tile[2:]))


def read_frame(stream: bytes) -> Frame:
    """Find the frame header of a JPEG.

    Raises:
        ValueError: there is none before the pixels.
    """
    place = 2
    while place + 4 <= len(stream):
        if stream[place] != 0xFF:
            break
        marker = stream[place + 1]
        if marker == 0xFF or marker in _PARAMETERLESS:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME_MARKERS and place + 10 <= len(stream):
            bits, height, width, components = struct.unpack_from(">BHHB", stream, place + 4)
            return Frame(width, height, components, bits)
        if marker == _START_OF_SCAN:
            break
        place += 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    raise ValueError("the JPEG tile has no frame header")


def decode(
    stream: bytes, samples: int, least: tuple[int, int], most: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Decode a whole JPEG stream after checking what it asks for.

    Args:
        stream: as `whole_stream` gives it.
        samples: 3 for RGB, 1 for gray.
        least: (width, height) that is needed of it.
        most: (width, height) that it may have.

    Returns:
        uint8 (height, width, samples).

    Raises:
        ValueError: the size or the colours are not as expected, or the stream is damaged or
            cut off.
    """
    frame = read_frame(stream)
    fits_x = least[0] <= frame.width <= most[0]
    fits_y = least[1] <= frame.height <= most[1]
    if not (fits_x and fits_y):
        raise ValueError(
            f"the JPEG tile is {frame.width} x {frame.height} px where {most[0]} x {most[1]} "
            "should be"
        )
    if frame.components != samples or frame.bits != 8:
        raise ValueError(
            f"the JPEG tile has {frame.components} components of {frame.bits} bits where "
            f"{samples} of 8 should be"
        )
    pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
        stream, colorspace="RGB" if samples == 3 else "GRAY"
    )
    return pixels
