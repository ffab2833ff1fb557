"""Which DICOM files belong to one slide.

A DICOM slide is a series: one file or more for each level, beside each other in a folder. Only the
structure of the files is walked (DICOM PS3.10 section 7, PS3.5 section 7 and annex A.4), for the
name of the series and for the end of the pixels; OpenSlide does the rest.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tiler.errors import UnreadableSlide

WHOLE_SLIDE_CLASS: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of whole-slide microscopy images; annotations and reports have others."""

TRANSFER_SYNTAX, PIXELS, ITEM, SEQUENCE_END = 0x00020010, 0x7FE00010, 0xFFFEE000, 0xFFFEE0DD
"""Tags, group and element in one number."""

UNDEFINED: Final = 0xFFFFFFFF
"""Length of what ends with a delimiter."""

_PREAMBLE: Final = 128
_MARK: Final = b"DICM"
_LONG_VALUES: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations whose length takes four bytes, behind two reserved ones."""
_ITEM_END = 0xFFFEE00D
_META_GROUP = 0x0002
_MEDIA_CLASS = 0x00020002
_SERIES = 0x0020000E
_LAST_BYTES: Final = b"\xfe\xff\xdd\xe0\0\0\0\0"
"""A sequence's end, with which most files with compressed pixels end."""
_IMPLICIT = "1.2.840.10008.1.2"
_UNREADABLE_SYNTAXES = frozenset({"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})
"""Big-endian and deflated headers."""
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
            return file.read(len(_MARK)) == _MARK
    except OSError:
        return False


def read_header(path: Path) -> DicomHeader | None:
    """Read which series a DICOM file belongs to; None where its header does not tell."""
    sop_class = ""
    try:
        with path.open("rb") as file:
            for tag, length in elements(file):
                if tag == _MEDIA_CLASS:
                    sop_class = _read_uid(file, length)
                elif tag == _SERIES:
                    series = _read_uid(file, length)
                    return DicomHeader(series, sop_class) if series else None
                elif tag > _SERIES:
                    return None  # elements come in ascending order, so it is not there
    except (OSError, struct.error):
        return None
    return None


def check_complete(path: Path) -> None:
    """Refuse a DICOM file whose pixels end behind its own end, which OpenSlide opens all the same.

    Raises:
        UnreadableSlide: the file is cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        if file.read(8) == _LAST_BYTES:
            return
        try:
            is_complete = _reaches_end_of_pixels(file, size)
        except struct.error:
            is_complete = False
    if not is_complete:
        raise UnreadableSlide("the DICOM file is cut off: its pixels reach behind its end")


def _reaches_end_of_pixels(file: BinaryIO, size: int) -> bool:
    for tag, length in elements(file):
        if tag != PIXELS:
            continue
        if length != UNDEFINED:
            return file.tell() + length <= size
        while (item := _read_tag(file)) == ITEM:
            (length,) = struct.unpack("<I", file.read(4))
            file.seek(length, 1)
        return item == SEQUENCE_END and len(file.read(4)) == 4
    return True  # not followed so far; nothing says that something is missing


def slide_files(path: Path) -> tuple[Path, ...]:
    """Return the files of the DICOM slide that is in a folder, or that a file belongs to.

    Raises:
        UnreadableSlide: `path` is a folder that holds none, or more than one.
    """
    if path.is_dir():
        return _only_series(path)
    header = read_header(path)
    series = series_beside(path.parent) if header else {}
    return series.get(header.series, (path,)) if header else (path,)


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


def _only_series(folder: Path) -> tuple[Path, ...]:
    series = series_beside(folder)
    if len(series) != 1:
        found = "no DICOM slide" if not series else f"{len(series)} DICOM slides"
        hint = "" if not series else "; name one file of the slide that is meant"
        raise UnreadableSlide(f"the folder holds {found}{hint}")
    return next(iter(series.values()))


def elements(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Visit the elements that are not inside a sequence, with the file at the element's value.

    Yields:
        Tag and length in bytes.

    Raises:
        struct.error: the file ends.
    """
    file.seek(_PREAMBLE + len(_MARK))
    syntax = ""
    nested: list[bool] = []  # for each open sequence or item, whether it is in implicit form
    for _ in range(_MOST_ELEMENTS):
        tag = _read_tag(file)
        is_meta = tag >> 16 == _META_GROUP
        if not is_meta and syntax in _UNREADABLE_SYNTAXES:
            return
        is_implicit = nested[-1] if nested else syntax == _IMPLICIT and not is_meta
        length, kind = _read_length(file, tag, is_implicit=is_implicit)
        start = file.tell()
        if tag == TRANSFER_SYNTAX:
            syntax = _read_uid(file, length)
            file.seek(start)
        if not nested:
            yield tag, length
            file.seek(start)
        if tag in (_ITEM_END, SEQUENCE_END):
            del nested[-1:]
        elif length == UNDEFINED:
            nested.append(is_implicit or kind == b"UN")  # unknown sequences are implicit inside
        else:
            file.seek(length, 1)


def _read_tag(file: BinaryIO) -> int:
    group, element = struct.unpack("<HH", file.read(4))
    return int(group) << 16 | int(element)


def _read_length(file: BinaryIO, tag: int, *, is_implicit: bool) -> tuple[int, bytes]:
    """Return the length of an element's value in bytes, and its kind where that is written."""
    if is_implicit or tag in (ITEM, _ITEM_END, SEQUENCE_END):
        (length,) = struct.unpack("<I", file.read(4))
        return int(length), b""
    kind = file.read(2)
    if kind in _LONG_VALUES:
        file.read(2)
        (length,) = struct.unpack("<I", file.read(4))
        return int(length), kind
    (length,) = struct.unpack("<H", file.read(2))
    return int(length), kind


def _read_uid(file: BinaryIO, length: int) -> str:
    if length > _LONGEST_UID:
        return ""
    return file.read(length).rstrip(b"\0 ").decode("ascii", "replace")
