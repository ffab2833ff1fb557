"""Small DICOM slides made for tests: one level, as whole-slide files that OpenSlide opens.

Only what OpenSlide and the reader under test look at is written; pictures are uint8
(height, width, 3).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import imagecodecs

from tests.tiler.slides import make
from tiler.slides.base import Rgb

JPEG, JPEG2000_LOSSLESS, JPEG2000 = (f"1.2.840.10008.1.2.4.{n}" for n in (50, 90, 91))
UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OV", b"SQ", b"UN"})


@dataclass(frozen=True, slots=True)
class Dicom:
    """What is written into a file, one element each unless said otherwise."""

    frames: Sequence[bytes]
    width: int
    height: int
    side: int
    """Rows and Columns."""
    syntax: str = JPEG
    photometric: str = "YBR_FULL_422"
    image_type: str = "ORIGINAL\\PRIMARY\\VOLUME\\NONE"
    organization: str = "TILED_FULL"
    number_of_frames: int | None = None
    """The number of `frames` if None."""
    instance: str = "1.2.3.4"
    table: str = "none"
    """Where the frames are told: `none`, `basic`, `extended`."""
    spare_entries: int = 0
    """Entries of a basic table behind those of the frames."""
    fragments: int = 1
    """Items that a frame is divided into."""
    extra: dict[tuple[int, int], tuple[bytes, bytes]] = field(default_factory=dict)
    """Further elements: (group, number) to (kind, value)."""


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    """An element with explicit kind."""
    value += (b"\0" if kind in (b"UI", b"OB", b"OV") else b" ") * (len(value) % 2)
    if kind in _LONG:
        return struct.pack("<HH2sHI", group, number, kind, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


def item(value: bytes) -> bytes:
    """An item of a sequence, padded to an even length."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value) + len(value) % 2) + padded(value)


def padded(value: bytes) -> bytes:
    """The value with an even length."""
    return value + b"\0" * (len(value) % 2)


def write(path: Path, dicom: Dicom) -> Path:
    """Write the file."""
    meta = element(2, 1, b"OB", b"\0\1")
    meta += element(2, 2, b"UI", b"1.2.840.10008.5.1.4.1.1.77.1.6")
    meta += element(2, 3, b"UI", dicom.instance.encode())
    meta += element(2, 0x10, b"UI", dicom.syntax.encode())
    head = element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta
    elements = {**_elements(dicom), **dicom.extra}
    body = b"".join(element(*tag, *elements[tag]) for tag in sorted(elements))
    path.write_bytes(bytes(128) + b"DICM" + head + body + _pixels(dicom))
    return path


def _elements(dicom: Dicom) -> dict[tuple[int, int], tuple[bytes, bytes]]:
    count = len(dicom.frames) if dicom.number_of_frames is None else dicom.number_of_frames

    def short(value: int) -> tuple[bytes, bytes]:
        return b"US", struct.pack("<H", value)

    elements = {
        (0x0008, 0x0008): (b"CS", dicom.image_type.encode()),
        (0x0008, 0x0016): (b"UI", b"1.2.840.10008.5.1.4.1.1.77.1.6"),
        (0x0008, 0x0018): (b"UI", dicom.instance.encode()),
        (0x0020, 0x000E): (b"UI", b"1.2.3"),
        (0x0020, 0x9311): (b"CS", dicom.organization.encode()),
        (0x0028, 0x0002): short(3),
        (0x0028, 0x0004): (b"CS", dicom.photometric.encode()),
        (0x0028, 0x0006): short(0),
        (0x0028, 0x0008): (b"IS", str(count).encode()),
        (0x0028, 0x0010): short(dicom.side),
        (0x0028, 0x0011): short(dicom.side),
        (0x0028, 0x0100): short(8),
        (0x0028, 0x0101): short(8),
        (0x0028, 0x0102): short(7),
        (0x0028, 0x0103): short(0),
        (0x0048, 0x0006): (b"UL", struct.pack("<I", dicom.width)),
        (0x0048, 0x0007): (b"UL", struct.pack("<I", dicom.height)),
    }
    if dicom.table == "extended":
        counts = [len(frame) for frame in dicom.frames]
        elements[0x7FE0, 1] = b"OV", struct.pack(f"<{len(counts)}Q", *_starts(dicom))
        elements[0x7FE0, 2] = b"OV", struct.pack(f"<{len(counts)}Q", *counts)
    return elements


def _starts(dicom: Dicom) -> list[int]:
    """Where the first item of each frame starts, from the first item on."""
    starts = [0]
    for frame in dicom.frames:
        starts.append(starts[-1] + sum(len(item(part)) for part in _parts(frame, dicom.fragments)))
    return starts[:-1]


def _parts(frame: bytes, fragments: int) -> list[bytes]:
    step = -(-len(frame) // fragments)
    step += step % 2
    return [frame[place : place + step] for place in range(0, len(frame), step)]


def _pixels(dicom: Dicom) -> bytes:
    starts = [*_starts(dicom), *[0] * dicom.spare_entries]
    table = struct.pack(f"<{len(starts)}I", *starts)
    head = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, UNDEFINED)
    items = [item(part) for frame in dicom.frames for part in _parts(frame, dicom.fragments)]
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return b"".join((head, item(table if dicom.table == "basic" else b""), *items, end))


def jpeg(tile: Rgb, colours: str, subsampling: str | None, markers: bytes = b"") -> bytes:
    """A whole JPEG with those markers alone that are given: `colours` is `rgb` or `ycbcr`."""
    tables, rest = make.jpeg_parts(tile, colours, subsampling)
    return b"".join((tables[:2], markers, tables[2:-2], rest[2:]))


def jpeg2000(tile: Rgb, *, is_lossless: bool) -> bytes:
    """A JPEG 2000 codestream whose colours are transformed and back by the codec itself."""
    level = 0 if is_lossless else 35
    return bytes(
        imagecodecs.jpeg2k_encode(
            tile, level=level, codecformat="j2k", reversible=is_lossless, mct=True
        )
    )


def slide(pixels: Rgb, side: int = 128, **changes: Any) -> Dicom:
    """What to write for a picture in JPEG frames of `side` px; `changes` are fields of `Dicom`."""
    height, width = pixels.shape[:2]
    frames = [jpeg(tile, "ycbcr", "422") for tile in make.tiles_of(pixels, side)]
    return replace(Dicom(frames, width, height, side), **changes)
