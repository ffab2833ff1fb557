"""Which DICOM files belong to one slide.

A DICOM slide is a series: one file or more for each level, beside each other in a folder. Only the
header up to the series' name is read (DICOM PS3.10 section 7 and PS3.5 section 7); OpenSlide does
the rest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tiler.errors import UnreadableSlide

WHOLE_SLIDE_CLASS: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of whole-slide microscopy images; annotations and reports have others."""

_PREAMBLE: Final = 128
_UNDEFINED: Final = 0xFFFFFFFF
_LONG_VALUES: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations whose length takes four bytes, behind two reserved ones."""
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_META_GROUP = 0x0002
_MEDIA_CLASS, _TRANSFER_SYNTAX = 0x00020002, 0x00020010
_SERIES = 0x0020000E
_IMPLICIT = "1.2.840.10008.1.2"
_NOT_LITTLE_ENDIAN = frozenset({"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})
_MOST_ELEMENTS = 20_000
_LONGEST_UID = 64


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """What tells one DICOM slide from another."""

    series: str
    """SeriesInstanceUID."""
    sop_class: str
    """What kind of object the file holds."""


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM mark behind its preamble; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(_PREAMBLE)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> DicomHeader | None:
    """Read which series a DICOM file belongs to; None where its header does not tell."""
    try:
        with path.open("rb") as file:
            file.seek(_PREAMBLE + 4)
            return _scan(file)
    except (OSError, struct.error):
        return None


def series_beside(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Group the whole-slide DICOM files of a folder, sub-folders left out, by series."""
    series: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or not is_dicom(path):
            continue
        header = read_header(path)
        if header is not None and header.sop_class == WHOLE_SLIDE_CLASS:
            series.setdefault(header.series, []).append(path)
    return {uid: tuple(files) for uid, files in series.items()}


def only_series(folder: Path) -> tuple[Path, ...]:
    """Return the files of the one DICOM slide in a folder.

    Raises:
        UnreadableSlide: there is none, or more than one.
    """
    series = series_beside(folder)
    if len(series) != 1:
        found = "no DICOM slide" if not series else f"{len(series)} DICOM slides"
        hint = "" if not series else "; name one file of the slide that is meant"
        raise UnreadableSlide(f"the folder holds {found}{hint}")
    return next(iter(series.values()))


def _scan(file: BinaryIO) -> DicomHeader | None:
    """Walk the elements from the first one on, and look at those that are not inside a sequence."""
    sop_class = syntax = ""
    depth = 0
    for _ in range(_MOST_ELEMENTS):
        tag = _read_tag(file)
        if tag >> 16 != _META_GROUP and syntax in _NOT_LITTLE_ENDIAN:
            return None
        is_implicit = syntax == _IMPLICIT and tag >> 16 != _META_GROUP
        length = _read_length(file, tag, is_implicit=is_implicit)
        if tag in (_ITEM_END, _SEQUENCE_END):
            depth -= 1
        elif length == _UNDEFINED:
            depth += 1
        elif depth == 0 and tag in (_MEDIA_CLASS, _TRANSFER_SYNTAX, _SERIES):
            value = _read_uid(file, length)
            if tag == _MEDIA_CLASS:
                sop_class = value
            elif tag == _TRANSFER_SYNTAX:
                syntax = value
            else:
                return DicomHeader(value, sop_class) if value else None
        elif depth == 0 and _SERIES < tag < _ITEM:
            return None  # elements come in ascending order, so it is not there
        else:
            file.seek(length, 1)
    return None


def _read_tag(file: BinaryIO) -> int:
    group, element = struct.unpack("<HH", file.read(4))
    return int(group) << 16 | int(element)


def _read_length(file: BinaryIO, tag: int, *, is_implicit: bool) -> int:
    """Return the length of an element's value in bytes."""
    if is_implicit or tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
        (length,) = struct.unpack("<I", file.read(4))
        return int(length)
    kind = file.read(2)
    if kind in _LONG_VALUES:
        file.read(2)
        (length,) = struct.unpack("<I", file.read(4))
        return int(length)
    (length,) = struct.unpack("<H", file.read(2))
    return int(length)


def _read_uid(file: BinaryIO, length: int) -> str:
    if length > _LONGEST_UID:
        return ""
    return file.read(length).rstrip(b"\0 ").decode("ascii", "replace")
