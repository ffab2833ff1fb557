"""Slides made for tests, and the way back from cells to a whole level.

Arrays are uint8 (height, width, 3); sizes of tiles are (height, width), as tifffile wants them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from tiler.slides import Slide, tiffpages
from tiler.slides.base import Rgb
from tiler.slides.tiff import TiffSlide

Pixels = npt.NDArray[np.uint8]


def tissue_like(height: int, width: int, seed: int = 0) -> Rgb:
    """Smooth colour blobs with a little noise: survives JPEG, and no two places look alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 17 + c) + np.cos(y / 23 - c) + np.sin((x + y) / 61) for c in range(3)]
    noise = rng.integers(-6, 7, (height, width, 3))
    return np.clip(np.stack(waves, axis=2) * 40 + 130 + noise, 0, 255).astype(np.uint8)


def write_tiff(path: Path, pixels: Any, **options: Any) -> Path:
    """Write an image, or its encoded tiles, with tifffile; RGB unless the options say otherwise."""
    options.setdefault("photometric", "rgb")
    tifffile.imwrite(path, pixels, metadata=None, **options)
    return path


def tiles_of(pixels: Rgb, side: int) -> Iterator[Rgb]:
    """Cut a picture into square tiles, row by row, the last ones padded with zeros."""
    height, width = pixels.shape[:2]
    for y in range(0, height, side):
        for x in range(0, width, side):
            part = pixels[y : y + side, x : x + side]
            padding = ((0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0))
            yield np.pad(part, padding)


def jpeg_parts(pixels: Pixels, colours: str, subsampling: str | None = None) -> tuple[bytes, bytes]:
    """Encode a JPEG and part it like TIFF does: (tables from SOI to EOI, tile without tables)."""
    stream = imagecodecs.jpeg8_encode(
        pixels, level=90, colorspace="rgb", outcolorspace=colours, subsampling=subsampling
    )
    tables, rest, place = [], [], 2
    while stream[place + 1] != 0xDA:
        marker = stream[place + 1]
        end = place + 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
        if marker in (0xC4, 0xDB):
            tables.append(stream[place:end])
        elif marker not in (0xE0, 0xEE):  # the JFIF and Adobe markers would tell the colours
            rest.append(stream[place:end])
        place = end
    soi, eoi = b"\xff\xd8", b"\xff\xd9"
    return b"".join((soi, *tables, eoi)), b"".join((soi, *rest, stream[place:]))


def write_encoded(
    path: Path, tiles: Sequence[bytes | None], shape: tuple[int, ...], side: int, **options: Any
) -> Path:
    """Write a TIFF of tiles that are encoded already, row by row; None is a tile without bytes."""
    return write_tiff(path, iter(tiles), shape=shape, dtype=np.uint8, tile=(side, side), **options)


def write_abbreviated(
    path: Path,
    pixels: Rgb,
    side: int,
    colours: str,
    subsampling: str | None = None,
    **options: Any,
) -> Path:
    """Write a tiled TIFF with JPEGTables, as scanners do: `colours` is `rgb` or `ycbcr`."""
    parts = [jpeg_parts(tile, colours, subsampling) for tile in tiles_of(pixels, side)]
    tables = parts[0][0]
    options.setdefault("photometric", colours)
    return write_encoded(
        path,
        [tile for _, tile in parts],
        pixels.shape,
        side,
        compression="jpeg",
        compressionargs={"outcolorspace": options["photometric"]},
        subsampling=(2, 2) if subsampling == "420" else (1, 1),
        extratags=[(347, 7, len(tables), tables, True)],
        **options,
    )


def write_svs(path: Path, levels: list[Rgb], description: str, secret: str) -> Path:
    """Write an Aperio slide with a label and a macro picture, and `secret` in many a tag."""
    with tifffile.TiffWriter(path) as tiff:
        for index, pixels in enumerate(levels):
            tiff.write(
                pixels,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                description=description,
                software=secret if index == 0 else None,
                datetime="2011:11:11 11:11:11",
                metadata=None,
                extratags=[(315, 2, len(secret) + 1, secret, True)],
            )
        for name in ("label", "macro"):
            tiff.write(
                np.full((64, 96, 3), 77, np.uint8),
                photometric="rgb",
                compression="lzw",
                rowsperstrip=64,
                subfiletype=1 if name == "label" else 9,
                description=f"Aperio Image {secret}\n{name} 96x64 {secret}",
                metadata=None,
            )
    return path


def open_tiff(path: Path) -> TiffSlide:
    """Open with the reader under test, also where OpenSlide would come first."""
    return TiffSlide(path, tiffpages.read_tiff(path))


def whole_level(slide: Slide, level: int = 0) -> Rgb:
    """Put the cells of a level together."""
    place = slide.facts.levels[level]
    columns = -(-place.width // place.cell_width)
    rows = -(-place.height // place.cell_height)
    pixels = np.vstack(
        [
            np.hstack([slide.read_cell(level, column, row) for column in range(columns)])
            for row in range(rows)
        ]
    )
    assert pixels.shape == (place.height, place.width, 3)
    assert pixels.dtype == np.uint8
    return pixels


def set_tag(path: Path, code: int, values: list[int], image: int = 0) -> None:
    """Overwrite the leading values of a tag in place, whatever that does to the file."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[image].aspage().tags[code]
        place, kind, order = tag.valueoffset, tag.dtype, tiff.byteorder
    letter = {1: "B", 3: "H", 4: "I", 5: "I", 16: "Q"}[int(kind)]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack(f"{order}{len(values)}{letter}", *values))


def dicom_bytes(
    series: str, sop_class: str = "1.2.840.10008.5.1.4.1.1.77.1.6", *, is_implicit: bool = False
) -> bytes:
    """A DICOM header up to the series' name, with nested sequences of both kinds before it."""
    syntax = "1.2.840.10008.1.2" + ("" if is_implicit else ".1")
    meta = _explicit(0x0002, 0x0002, b"UI", sop_class.encode()) + _explicit(
        0x0002, 0x0010, b"UI", syntax.encode()
    )
    element = _implicit if is_implicit else _explicit
    inner = element(0x0020, 0x000E, b"UI", b"9.9.9.decoy")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner
    item += struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    kind = b"" if is_implicit else b"SQ\0\0"
    undefined = struct.pack("<HH", 0x0008, 0x1115) + kind + struct.pack("<I", 0xFFFFFFFF)
    undefined += item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    known = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    defined = element(0x0008, 0x1140, b"SQ", known)
    body = undefined + defined + element(0x0020, 0x000E, b"UI", series.encode())
    return bytes(128) + b"DICM" + meta + body


def _explicit(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    if kind == b"SQ":
        return struct.pack("<HH2sHI", group, number, kind, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, kind, len(value)) + value


def _implicit(group: int, number: int, _kind: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", group, number, len(value)) + value
