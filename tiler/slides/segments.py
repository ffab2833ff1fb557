"""The pixels of one TIFF image, cell by cell, straight from the file's bytes.

A segment is a tile or a strip of the file. A cell is one tile, or as many whole strips as make
about `PREFERRED_CELL` rows. Cells are counted in columns (x) and rows (y); sizes are pixels of the
image itself. Every decoder is told the size of its result, or its header is checked against it,
before it allocates: a segment cannot ask for more than the TIFF says it holds.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt

from tiler.slides import colour, jpegstream, limits
from tiler.slides.base import Rgb
from tiler.slides.tiffpages import TiffImage

Samples = npt.NDArray[np.uint8]
"""uint8 (height, width, samples)."""

MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR = 0, 1, 2, 6
"""TIFF codes of the photometric interpretations that are read."""

_JPEG = 7
_JPEG2000: Final = frozenset({33004, 33005, 34712})
_JPEG2000_YCBCR = 33003
_BOUNDED: Final[dict[int, Callable[[bytes, int], bytes]]] = {
    1: lambda data, _size: data,
    5: lambda data, size: bytes(imagecodecs.lzw_decode(data, out=size)),
    8: lambda data, size: bytes(imagecodecs.zlib_decode(data, out=size)),
    32773: lambda data, size: bytes(imagecodecs.packbits_decode(data, out=size)),
    32946: lambda data, size: bytes(imagecodecs.zlib_decode(data, out=size)),
    34925: lambda data, size: bytes(imagecodecs.lzma_decode(data, out=size)),
    50000: lambda data, size: bytes(imagecodecs.zstd_decode(data, out=size)),
}
"""Decoders that write at most `size` bytes."""

_ASSOCIATED_ALPHA, _ALPHA = 1, 2
_COLOURS: Final = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB: 3, YCBCR: 3}
_PHOTOMETRICS: Final = {3: "palette", 4: "mask", 5: "CMYK", 8: "CIELab", 32803: "colour filter"}


def why_not(image: TiffImage) -> str | None:
    """Say why the image cannot be decoded here, as half a sentence, or None if it can."""
    if image.kind != "uint8":
        return limits.wrong_pixels(image.samples, image.kind)
    colours = _COLOURS.get(image.photometric)
    if colours is None:
        name = _PHOTOMETRICS.get(image.photometric, f"photometric {image.photometric}")
        return f"needs RGB or gray; found {name} colours"
    extra = image.samples - colours
    if extra not in (0, 1):
        return limits.wrong_pixels(image.samples, image.kind)
    return _why_not_compression(image, extra) or _why_not_size(image)


def _why_not_compression(image: TiffImage, extra: int) -> str | None:
    named = f"{image.compression_name} (TIFF code {image.compression})"
    if image.compression == _JPEG:
        return "found JPEG tiles with a channel besides the colours" if extra else None
    if image.photometric == YCBCR or image.compression == _JPEG2000_YCBCR:
        return f"YCbCr colours with compression {named} are not supported"
    if image.compression in _JPEG2000:
        return None
    if image.compression not in _BOUNDED:
        return f"compression {named} is not supported; convert the file to JPEG or deflate"
    if image.predictor not in (1, 2) or image.fill_order != 1:
        return f"predictor {image.predictor} with fill order {image.fill_order} is not supported"
    return None


def _why_not_size(image: TiffImage) -> str | None:
    size = image.segment_width * image.segment_height * max(image.samples, 3)
    if size > limits.MAX_CELL_BYTES:
        return (
            f"its strips of {image.segment_width} x {image.segment_height} px are above the limit "
            f"of {limits.MAX_CELL_BYTES // 2**20} MiB; convert it to a tiled TIFF"
        )
    return None


def cell_size(image: TiffImage) -> tuple[int, int]:
    """(width, height) of a cell: the tile, or the strips of about `PREFERRED_CELL` rows."""
    return image.segment_width, image.segment_height * _strips_per_cell(image)


def _strips_per_cell(image: TiffImage) -> int:
    if image.is_tiled:
        return 1
    strip = image.segment_width * image.segment_height * 3
    by_rows = limits.PREFERRED_CELL // image.segment_height
    return max(1, min(by_rows, limits.MAX_CELL_BYTES // strip, image.rows))


def is_sparse(image: TiffImage, column: int, row: int) -> bool:
    """Whether the file holds no bytes for a cell of a tiled image."""
    return bool(image.byte_counts[row * image.columns + column] == 0)


def read_cell(
    fd: int, image: TiffImage, column: int, row: int, background: tuple[int, int, int]
) -> Rgb:
    """Read and decode one cell.

    Returns:
        uint8 (height, width, 3), cut off at the right and bottom edge of the image.

    Raises:
        ValueError, OSError, or an error of imagecodecs: the cell cannot be read or decoded.
    """
    strips = _strips_per_cell(image)
    first = row * strips
    parts = [
        _read_segment(fd, image, column, segment_row, background)
        for segment_row in range(first, min(first + strips, image.rows))
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _read_segment(
    fd: int, image: TiffImage, column: int, row: int, background: tuple[int, int, int]
) -> Rgb:
    width = min(image.segment_width, image.width - column * image.segment_width)
    height = min(image.segment_height, image.height - row * image.segment_height)
    index = row * image.columns + column
    per_plane = image.columns * image.rows
    planes = range(image.samples) if image.is_planar else range(1)
    indices = [index + plane * per_plane for plane in planes]
    if any(image.byte_counts[i] == 0 for i in indices):
        return colour.filled(height, width, background)
    samples = 1 if image.is_planar else image.samples
    decoded = [
        _decode(image, _bytes_of(fd, image, i), samples, (width, height))[:height, :width]
        for i in indices
    ]
    pixels = decoded[0] if len(decoded) == 1 else np.concatenate(decoded, axis=2)
    return _to_rgb(image, pixels)


def _bytes_of(fd: int, image: TiffImage, index: int) -> bytes:
    count, offset = int(image.byte_counts[index]), int(image.offsets[index])
    if count > limits.MAX_CELL_BYTES * 2:
        raise ValueError(f"a segment claims {count:,} bytes")
    data = os.pread(fd, count, offset)
    while len(data) < count:
        more = os.pread(fd, count - len(data), offset + len(data))
        if not more:
            raise ValueError("the file ends inside the segment")
        data += more
    return data


def _decode(image: TiffImage, data: bytes, samples: int, needed: tuple[int, int]) -> Samples:
    full = (image.segment_width, image.segment_height)
    if image.compression == _JPEG:
        photometric = image.photometric if samples == 3 else MIN_IS_BLACK
        stream = jpegstream.whole_stream(data, image.jpeg_tables, photometric)
        return jpegstream.decode(stream, samples, needed, full)
    if image.compression in _JPEG2000:
        _check_jpeg2000(data, samples, needed, full)
        pixels: Samples = imagecodecs.jpeg2k_decode(data)
        return pixels.reshape(*pixels.shape[:2], samples)
    # Tiles are padded to their full size, the last strip of an image mostly is not.
    height = full[1] if image.is_tiled else needed[1]
    size = full[0] * height * samples
    raw = _BOUNDED[image.compression](data, full[0] * full[1] * samples)
    if len(raw) < size:
        raise ValueError(f"the segment holds {len(raw):,} of {size:,} bytes")
    flat = np.frombuffer(raw, np.uint8, size).reshape(height, full[0], samples)
    if image.predictor == 2:
        return np.cumsum(flat, axis=1, dtype=np.uint8)
    return flat


def _check_jpeg2000(
    data: bytes, samples: int, least: tuple[int, int], most: tuple[int, int]
) -> None:
    """Hold the size in a JPEG 2000 header (SIZ marker, ISO 15444-1 A.5.1) against the TIFF's."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or start + 45 > len(data):
        raise ValueError("the JPEG 2000 tile has no size header")
    x1, y1, x0, y0 = struct.unpack_from(">4I", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    width, height, depth = x1 - x0, y1 - y0, data[start + 42]
    if not (least[0] <= width <= most[0] and least[1] <= height <= most[1]):
        raise ValueError(
            f"the JPEG 2000 tile is {width} x {height} px where {most[0]} x {most[1]} should be"
        )
    if components != samples or depth != 7:
        raise ValueError(
            f"the JPEG 2000 tile has {components} components of {(depth & 127) + 1} bits where "
            f"{samples} of 8 should be"
        )


def _to_rgb(image: TiffImage, pixels: Samples) -> Rgb:
    colours = _COLOURS[image.photometric]
    if colours == 1:
        gray = pixels[:, :, 0]
        rgb = colour.gray_to_rgb(255 - gray if image.photometric == MIN_IS_WHITE else gray)
    else:
        rgb = pixels[:, :, :3]
    kinds = image.extra_samples[:1]
    if pixels.shape[2] > colours and kinds in ((_ALPHA,), (_ASSOCIATED_ALPHA,)):
        return colour.over_background(
            rgb,
            pixels[:, :, colours],
            colour.WHITE,
            premultiplied=kinds == (_ASSOCIATED_ALPHA,),
        )
    return np.ascontiguousarray(rgb)


def fingerprint(fd: int, images: tuple[TiffImage, ...]) -> str:
    """Hash the sizes of all levels and the encoded bytes of the coarsest, prefixed `tiles1:`.

    Where those bytes are many, `FINGERPRINT_SAMPLES` evenly spaced segments stand for them.

    Args:
        fd: descriptor of the file.
        images: the levels, finest first.
    """
    digest = hashlib.sha256()
    for image in images:
        digest.update(struct.pack("<QQ", image.width, image.height))
    coarsest = images[-1]
    count = len(coarsest.byte_counts)
    total = int(coarsest.byte_counts.sum())
    samples = count if total <= limits.FINGERPRINT_BYTES else limits.FINGERPRINT_SAMPLES
    for index in limits.evenly_spaced(count, samples):
        data = _bytes_of(fd, coarsest, index)
        digest.update(struct.pack("<QQ", index, len(data)))
        digest.update(data)
    return f"tiles1:{digest.hexdigest()}"
