"""The frames of a DICOM level, described like the tiles of a TIFF, and checked.

Each level of a DICOM slide is a file. Where its frames are whole JPEG or JPEG 2000 streams, one for
each tile, row by row (`TILED_FULL`, DICOM PS3.3 C.7.6.17.3), they can be read and decoded like a
TIFF's tiles, without OpenSlide. Its frames lie in items, one behind the other (PS3.5 A.4); where
they begin is told by one of two tables, or by the items themselves.

Sizes are in pixels of the level; offsets and counts in bytes of the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from tiler.errors import UnreadableSlide
from tiler.slides import dicom, direct, segments
from tiler.slides.base import Level
from tiler.slides.direct import Road
from tiler.slides.rawfile import RawFile
from tiler.slides.segments import CellReader
from tiler.slides.tiffpages import TiffImage

Offsets = npt.NDArray[np.int64]

_IMAGE_TYPE, _CONCATENATION, _ORGANIZATION = 0x00080008, 0x00209161, 0x00209311
_PHOTOMETRIC, _FRAMES, _FRAME_HEIGHT, _FRAME_WIDTH = 0x00280004, 0x00280008, 0x00280010, 0x00280011
_WIDTH, _HEIGHT, _PER_FRAME = 0x00480006, 0x00480007, 0x52009230
_EXTENDED_OFFSETS = 0x7FE00001
"""Tags, group and element in one number (DICOM PS3.6, table 6-1)."""

_JPEG, _JPEG2000 = 7, 34712
_COMPRESSIONS: Final = {
    "1.2.840.10008.1.2.4.50": _JPEG,
    "1.2.840.10008.1.2.4.90": _JPEG2000,
    "1.2.840.10008.1.2.4.91": _JPEG2000,
}
"""TIFF compression code by transfer syntax (DICOM PS3.6, table A-1)."""

_COLOURS: Final = {
    (_JPEG, "RGB"): segments.RGB,
    (_JPEG, "YBR_FULL_422"): segments.YCBCR,
    (_JPEG2000, "RGB"): segments.RGB,
    (_JPEG2000, "YBR_ICT"): segments.RGB,
    (_JPEG2000, "YBR_RCT"): segments.RGB,
}
"""TIFF photometric code; JPEG 2000 undoes its colour transform itself."""

_PLACED: Final = frozenset({"TILED_SPARSE", "3D"})
"""Organizations whose frames tell their places; OpenSlide 4.0.1 crashes if they do not."""

_LONGEST_VALUE = 256
_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_ITEM_HEADER = 8
"""Bytes of an item's tag and length."""
_MOST_WALKED = 300_000
"""Frames without a table that are looked for one by one: half a second."""
_LONGEST_START = 64 * 1024
"""Bytes of a frame that are looked at for its markers."""


@dataclass(frozen=True, slots=True, eq=False)
class LevelFile:
    """A DICOM file that holds one level of a slide."""

    path: Path
    width: int
    height: int
    image: TiffImage | str
    """Its frames as tiles; or why OpenSlide has to read them, as half a sentence."""


def read_levels(paths: tuple[Path, ...]) -> tuple[LevelFile, ...]:
    """Describe the files of a slide, without labels, overviews, and what cannot be read.

    Args:
        paths: see `dicom.slide_files`.

    Raises:
        UnreadableSlide: a file is damaged in a way that OpenSlide does not survive.
    """
    return tuple(file for path in paths if (file := _read_level(path)))


def find_roads(
    files: tuple[LevelFile, ...],
    levels: tuple[Level, ...],
    background: tuple[int, int, int],
    open_file: Callable[[Path], RawFile],
    *,
    is_exact: bool,
) -> tuple[Road, ...]:
    """Choose how to read each level.

    Args:
        files: of the slide.
        levels: as OpenSlide tells them.
        background: RGB of what was not scanned.
        open_file: opens a file that the caller closes.
        is_exact: see `open_slide`.
    """
    roads = []
    for level in levels:
        same = [f for f in files if (f.width, f.height) == (level.width, level.height)]
        if len(same) != 1:
            why = f"{len(same) or 'no'} files of the slide have the size of the level"
            roads.append(Road(None, why))
        elif isinstance(same[0].image, str):
            roads.append(Road(None, same[0].image))
        else:
            found = open_file(same[0].path), same[0].image, level, background
            roads.append(direct.road_to(*found, is_exact=is_exact, kind=_FrameReader))
    return tuple(roads)


class _FrameReader(CellReader):
    """Reads the frames of one level."""

    def is_elsewhere(self, column: int, row: int) -> bool:
        """Whether a frame is not one item that reaches to the next frame.

        A frame may be divided into several items, whose headers would be taken for pixels.
        """
        index = row * self._image.columns + column
        offset, count = int(self._image.offsets[index]), int(self._image.byte_counts[index])
        header = self._file.read(offset - _ITEM_HEADER, _ITEM_HEADER)
        return header[:4] != _ITEM or int.from_bytes(header[4:], "little") != count


def _read_level(path: Path) -> LevelFile | None:
    try:
        with path.open("rb") as file:
            header = _read_header(file)
            if "VOLUME" not in header.text(_IMAGE_TYPE).split("\\"):
                return None
            image: TiffImage | str
            try:
                image = _describe(file, header)
            except ValueError as error:
                image = str(error)
            return LevelFile(path, header.number(_WIDTH), header.number(_HEIGHT), image)
    except (OSError, struct.error):
        return None  # OpenSlide says what is wrong with it


@dataclass(frozen=True, slots=True)
class _Header:
    """The elements of a DICOM file that are not inside a sequence."""

    values: dict[int, bytes]
    """Short values by tag."""
    places: dict[int, tuple[int, int]]
    """(offset, length) by tag."""

    def text(self, tag: int) -> str:
        return self.values.get(tag, b"").strip(b"\0 ").decode("ascii", "replace")

    def number(self, tag: int) -> int:
        return int.from_bytes(self.values.get(tag, b"")[:4], "little")

    @property
    def frames(self) -> int:
        """How many there are; 0 if that cannot be told."""
        text = self.text(_FRAMES)
        return int(text) if text.isdecimal() else 0


def _read_header(file: BinaryIO) -> _Header:
    header = _Header({}, {})
    for tag, length in dicom.elements(file):
        header.places[tag] = file.tell(), length
        if tag == dicom.PIXELS:
            break
        if length <= _LONGEST_VALUE:
            header.values[tag] = file.read(length)
    return header


def _describe(file: BinaryIO, header: _Header) -> TiffImage:
    """Describe the frames of a level.

    Raises:
        ValueError: they cannot be read as tiles; half a sentence.
        UnreadableSlide: they are damaged in a way that OpenSlide does not survive.
    """
    is_complete = dicom.PIXELS in header.places
    if is_complete and _PER_FRAME not in header.places and header.text(_ORGANIZATION) in _PLACED:
        raise UnreadableSlide("the DICOM file does not say where its frames belong")
    starts = _read_table(file, header)
    compression, photometric = _format(header)
    sides = tuple(header.number(tag) for tag in (_WIDTH, _HEIGHT, _FRAME_WIDTH, _FRAME_HEIGHT))
    width, height, frame_width, frame_height = sides
    if min(sides) < 1:
        raise ValueError("the size of the level or of its frames is missing")
    _check_organization(header, -(-width // frame_width) * -(-height // frame_height))
    offsets, counts = _walk(file, header) if starts is None else _places(file, starts)
    start = os.pread(file.fileno(), min(int(counts[0]), _LONGEST_START), int(offsets[0]))
    return TiffImage(
        width=width,
        height=height,
        segment_width=frame_width,
        segment_height=frame_height,
        is_tiled=True,
        samples=3,
        is_planar=False,
        kind="uint8",
        photometric=photometric,
        compression=compression,
        predictor=1,
        fill_order=1,
        extra_samples=(),
        is_jfif=compression == _JPEG and b"JFIF" in start,
        jpeg_tables=b"",
        is_reduced=False,
        offsets=offsets,
        byte_counts=counts,
    )


def _format(header: _Header) -> tuple[int, int]:
    """TIFF codes of compression and colours."""
    compression = _COMPRESSIONS.get(header.text(dicom.TRANSFER_SYNTAX))
    if compression is None:
        raise ValueError("its frames are neither baseline JPEG nor JPEG 2000")
    photometric = _COLOURS.get((compression, header.text(_PHOTOMETRIC)))
    if photometric is None:
        raise ValueError("its colours are none of those that frames of its compression should have")
    return compression, photometric


def _check_organization(header: _Header, frames: int) -> None:
    if header.text(_ORGANIZATION) != "TILED_FULL" or _PER_FRAME in header.places:
        raise ValueError("its frames are placed one by one (no plain TILED_FULL)")
    if _CONCATENATION in header.places:
        raise ValueError("the level is spread over several files")
    if header.frames != frames:
        raise ValueError("the number of its frames is not that of its tiles")


def _read_table(file: BinaryIO, header: _Header) -> Offsets | None:
    """Where the items of the frames start, if a table tells.

    OpenSlide 4.0.1 crashes on tables that point outside of the file, or back.
    """
    size = os.fstat(file.fileno()).st_size
    start, length = header.places.get(dicom.PIXELS, (0, 0))
    if length != dicom.UNDEFINED:
        raise ValueError("its pixels are not in frames")
    if not 0 < header.frames <= size // _ITEM_HEADER:
        raise ValueError("the number of its frames cannot be")
    table = start + _ITEM_HEADER, _item_length(file, start)
    place, kind = table, "<u4"
    if header.places.get(_EXTENDED_OFFSETS, (0, 0))[1] == header.frames * 8:
        place, kind = header.places[_EXTENDED_OFFSETS], "<u8"
    if not place[1]:
        return None
    if place[1] != header.frames * np.dtype(kind).itemsize:
        raise ValueError("its table of frames has not one entry for each")
    data = os.pread(file.fileno(), place[1], place[0])
    if len(data) == place[1]:
        told = np.frombuffer(data, kind).astype(np.int64)
        starts = told + sum(table)
        is_inside = told.min() >= 0 and told.max() < size
        is_ascending = bool((np.diff(told) > _ITEM_HEADER).all())
        if is_inside and is_ascending and _item_header(file, int(starts[-1])):
            return starts
    raise UnreadableSlide("the table of frames in the DICOM file is damaged")


def _places(file: BinaryIO, starts: Offsets) -> tuple[Offsets, Offsets]:
    """Offset and length of each frame, from where the items start."""
    last = int(starts[-1])
    end = last + _ITEM_HEADER + _item_length(file, last)
    _check_end(file, end)
    return starts + _ITEM_HEADER, np.diff(starts, append=end) - _ITEM_HEADER


def _walk(file: BinaryIO, header: _Header) -> tuple[Offsets, Offsets]:
    """Offset and length of each frame, from the header of each item to the next."""
    if header.frames > _MOST_WALKED:
        raise ValueError(f"it has {header.frames:,} frames and no table of them")
    place = header.places[dicom.PIXELS][0] + _ITEM_HEADER
    found = np.empty((2, header.frames), np.int64)
    for index in range(header.frames):
        length = _item_length(file, place)
        found[:, index] = place + _ITEM_HEADER, length
        place += _ITEM_HEADER + length
    _check_end(file, place)
    return found[0], found[1]


def _check_end(file: BinaryIO, offset: int) -> None:
    if os.pread(file.fileno(), 4, offset) != _SEQUENCE_END:
        raise ValueError("its frames are divided, or more than its tiles")


def _item_length(file: BinaryIO, offset: int) -> int:
    header = _item_header(file, offset)
    if not header:
        raise ValueError("its frames do not lie one behind the other in the file")
    return int.from_bytes(header[4:], "little")


def _item_header(file: BinaryIO, offset: int) -> bytes:
    """Tag and length of an item; nothing if none is there."""
    header = os.pread(file.fileno(), _ITEM_HEADER, offset)
    return header if len(header) == _ITEM_HEADER and header.startswith(_ITEM) else b""
