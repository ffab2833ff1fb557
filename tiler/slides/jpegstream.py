"""JPEG tiles of TIFFs: made into whole JPEG streams, checked, decoded.

A TIFF keeps the tables of its JPEG tiles in one place and leaves them out of the tiles. Decoders
allocate what a stream's frame header asks for, and 14 kB can ask for 12 GiB; so that header is
held against the size of the TIFF's tile first. The tiles of an image mostly begin with the very
same bytes, so what was understood of them is kept: then a tile costs a comparison. Sizes are in
pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import simplejpeg

SOI = b"\xff\xd8"
_EOI = b"\xff\xd9"
_ADOBE: Final = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_RGB, _YCBCR = 2, 6
"""TIFF codes of the photometric interpretations."""
_COLOUR_TRANSFORM: Final = {_RGB: b"\x00", _YCBCR: b"\x01"}
"""Last byte of Adobe's marker."""

_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
"""Baseline and extended sequential Huffman coding: what every decoder knows."""
_PROGRESSIVE = 0xC2
_PARAMETERLESS = frozenset({0x01, *range(0xD0, 0xD9)})
_HUFFMAN_TABLES, _QUANTISATION_TABLES = 0xC4, 0xDB
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_REMARKS = frozenset({*range(0xE0, 0xF0), 0xFE})
"""Application data and comments: names, dates, previews and colour hints."""

_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A marker among entropy-coded bytes: there 0xFF itself is stuffed with a zero."""

_LONGEST_PADDING = 1024
"""Bytes that may follow the end of a tile; more are pixels behind a false end."""

_USUAL_SAMPLINGS: Final = frozenset({0x11, 0x21, 0x12, 0x22, 0x41, 0x14})
"""Sampling factors of the first component that all decoders know, if the others have 1 x 1."""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the pixels of a JPEG tile."""

    width: int
    height: int
    components: int
    bits: int
    length: int
    """Bytes of the tile before its pixels."""
    whole: bytes
    """What takes their place in a whole JPEG: tables and a marker of the colours, no remarks."""
    is_usual: bool
    """Every decoder knows the kind of coding and the sampling factors."""
    is_plain: bool
    """Usual, sequential, one scan, tables and colours known."""

    @property
    def can_be_scaled(self) -> bool:
        """Whether the tile is made of whole blocks, which is what can be scaled by 2, 4 and 8."""
        return self.width % 8 == 0 and self.height % 8 == 0


class JpegTiles:
    """Completes the tiles of one TIFF image to JPEGs that any decoder understands.

    Without a marker, decoders guess the colours; the TIFF knows them. A JFIF tile is YCbCr by
    definition, also where the TIFF says RGB (Bio-Formats writes that); but one JFIF tile among
    others is not believed against the TIFF.
    """

    def __init__(self, tables: bytes, photometric: int, *, is_jfif: bool = True) -> None:
        """Take the tables.

        Args:
            tables: the JPEGTables tag, from SOI to EOI, or empty.
            photometric: TIFF code, 2 RGB or 6 YCbCr; others add no marker.
            is_jfif: whether the tiles of the image are JFIF streams.

        Raises:
            ValueError: the tables are damaged.
        """
        self._photometric = photometric
        self._is_jfif = is_jfif
        kept = list(_kept_segments(tables)) if tables else []
        self._tables = b"".join(part for _, part in kept)
        self._table_kinds = {marker for marker, _ in kept}
        self._last_start = b"nothing yet"
        self._last: Header | None = None

    def header(self, tile: bytes) -> Header:
        """Understand the bytes before the pixels.

        Raises:
            ValueError: they are not those of a JPEG.
        """
        if self._last is None or not tile.startswith(self._last_start):
            self._last = self._parse(tile)
            self._last_start = tile[: self._last.length]
        return self._last

    def for_decoding(
        self, tile: bytes, samples: int, least: tuple[int, int], most: tuple[int, int]
    ) -> tuple[Header, bytes]:
        """Complete a tile after checking what it asks for.

        Args:
            tile: from SOI on.
            samples: components that are expected, 3 for colours, 1 for gray.
            least: (width, height) that is needed of it.
            most: (width, height) that it may have.

        Raises:
            ValueError: the tile does not start like a JPEG, or size or colours are not as expected.
        """
        header = self.header(tile)
        fits_x = least[0] <= header.width <= most[0]
        fits_y = least[1] <= header.height <= most[1]
        if not (fits_x and fits_y):
            raise ValueError(
                f"the JPEG tile is {header.width} x {header.height} px where "
                f"{most[0]} x {most[1]} should be"
            )
        if header.components != samples or header.bits != 8:
            raise ValueError(
                f"the JPEG tile has {header.components} components of {header.bits} bits where "
                f"{samples} of 8 should be"
            )
        return header, b"".join((header.whole, memoryview(tile)[header.length :]))

    def for_storing(self, tile: bytes, size: tuple[int, int]) -> bytes | None:
        """Complete a tile that may be kept as it is, without decoding it.

        Nothing but the picture is kept: application data, comments and what follows the end are
        cut out, and one new marker says what the colours are.

        Args:
            tile: from SOI on.
            size: (width, height) that it must have.

        Returns:
            A whole sequential JPEG of three 8-bit components in one scan; None if the tile is of
            another kind.

        Raises:
            ValueError: it is no JPEG, has another size, or is cut off or damaged in a way that
                shows without decoding.
        """
        header = self.header(tile)
        if (header.width, header.height) != size:
            raise ValueError(
                f"the JPEG tile is {header.width} x {header.height} px where "
                f"{size[0]} x {size[1]} should be"
            )
        if not header.is_plain:
            return None
        marker = _MARKER.search(tile, header.length)
        if marker is None:
            raise ValueError("the JPEG tile is cut off: it has no end")
        if tile[marker.end() - 1] != _END_OF_IMAGE:
            raise ValueError("the JPEG tile is damaged: a marker stands among its pixels")
        if len(tile) - marker.end() > _LONGEST_PADDING:
            raise ValueError("the JPEG tile is damaged: it ends in the middle of its bytes")
        return b"".join((header.whole, memoryview(tile)[header.length : marker.end()]))

    def _parse(self, tile: bytes) -> Header:
        coding, frame, is_jfif = 0, b"", False
        kinds, kept = set(self._table_kinds), []
        for marker, start, end in _segments(tile):
            if marker in _REMARKS:
                is_jfif |= marker == 0xE0 and tile[start + 4 : start + 8] == b"JFIF"
                continue
            kinds.add(marker)
            kept.append(tile[start:end])
            if marker in _FRAME_MARKERS:
                coding, frame = marker, tile[start:end]
        if len(frame) < 10 or kept[-1][1] != _START_OF_SCAN:
            raise ValueError("the JPEG tile has no frame header before its pixels")
        bits, height, width, components = struct.unpack_from(">BHHB", frame, 4)
        transform = _COLOUR_TRANSFORM.get(
            _YCBCR if is_jfif and self._is_jfif else self._photometric
        )
        is_colour = components == 3 and transform is not None
        colours = _ADOBE + transform if is_colour and transform else b""
        is_usual = _is_usual(coding, list(frame[11 : 10 + 3 * components : 3]))
        is_whole = {_HUFFMAN_TABLES, _QUANTISATION_TABLES} <= kinds
        has_one_scan = kept[-1][4:5] == bytes([components])
        return Header(
            width=width,
            height=height,
            components=components,
            bits=bits,
            length=end,
            whole=b"".join((SOI, colours, self._tables, *kept)),
            is_usual=is_usual,
            is_plain=(
                is_usual
                and coding in _SEQUENTIAL
                and is_whole
                and has_one_scan
                and is_colour
                and bits == 8
            ),
        )


def _is_usual(coding: int, samplings: list[int]) -> bool:
    """Whether every decoder knows a kind of coding, and the sampling factors of components."""
    if coding not in _SEQUENTIAL and coding != _PROGRESSIVE:
        return False
    return samplings[:1] != [] and samplings[0] in _USUAL_SAMPLINGS and set(samplings[1:]) <= {0x11}


def _segments(stream: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment between SOI and EOI or the end of the bytes.

    The first scan's is the last: it ends before its pixels.
    """
    if not stream.startswith(SOI):
        raise ValueError("the JPEG tile does not start with a JPEG marker")
    place = 2
    while place + 4 <= len(stream):
        marker = stream[place + 1]
        if stream[place] != 0xFF or marker == 0:
            raise ValueError("the JPEG tile is damaged before its pixels")
        if marker == _END_OF_IMAGE:
            return
        if marker == 0xFF or marker in _PARAMETERLESS:
            place += 1 if marker == 0xFF else 2
            continue
        end = place + 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
        if end > len(stream):
            raise ValueError("the JPEG tile is cut off before its pixels")
        yield marker, place, end
        if marker == _START_OF_SCAN:
            return
        place = end


def _kept_segments(tables: bytes) -> Iterator[tuple[int, bytes]]:
    for marker, start, end in _segments(tables):
        if marker not in _REMARKS:
            yield marker, tables[start:end]


def decode(header: Header, stream: bytes, reduce: int = 1) -> npt.NDArray[np.uint8]:
    """Decode a whole JPEG stream, in full or scaled down.

    Args:
        header: of the stream; it was checked.
        stream: as `JpegTiles.for_decoding` gives it.
        reduce: 1; or 2, 4, 8 if the header allows it, which leaves out the high frequencies of
            each 8 x 8 block and so comes close to the mean over reduce x reduce pixels.

    Returns:
        uint8 (height // reduce, width // reduce, components).

    Raises:
        ValueError: the stream is damaged or cut off.
    """
    shape = (header.height // reduce, header.width // reduce, header.components)
    pixels: npt.NDArray[np.uint8] = simplejpeg.decode_jpeg(
        stream,
        "RGB" if header.components == 3 else "GRAY",
        min_height=shape[0],
        min_width=shape[1],
    )
    if pixels.shape != shape:
        raise ValueError(f"the JPEG tile was decoded to {pixels.shape} where {shape} should be")
    return pixels
