"""The pixels of one TIFF image, cell by cell, straight from the file's bytes.

A segment is a tile or a strip of the file. A cell is one tile, or as many whole strips as make
about `PREFERRED_CELL` rows. Cells are counted in columns (x) and rows (y); sizes are pixels of the
image itself. Every decoder is told the size of its result, or its header is checked against it,
before it allocates: a segment cannot ask for more than the TIFF says it holds.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt

from tiler.slides import colour, jpeg2000, jpegstream, limits
from tiler.slides.base import Rgb
from tiler.slides.rawfile import RawFile
from tiler.slides.shrink import shrunk
from tiler.slides.tiffpages import TiffImage

Samples = npt.NDArray[np.uint8]
"""uint8 (height, width, samples)."""

Tiles = npt.NDArray[np.bool_]
"""One value for each tile of an image, row by row."""

MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR = 0, 1, 2, 6
"""TIFF codes of the photometric interpretations that are read."""

_JPEG = 7
_JPEG2000_YCBCR = 33003
"""Aperio's code for tiles that hold YCbCr, whatever the photometric tag says."""
_JPEG2000: Final = frozenset({_JPEG2000_YCBCR, 33004, 33005, 34712})
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
    if image.compression == _JPEG2000_YCBCR and image.samples == 3 and not image.is_planar:
        return None
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


def describe(image: TiffImage) -> str:
    """Say what an image is made of, such as `jpeg tiles of 240 x 240 px`."""
    kind = "tiles" if image.is_tiled else "strips"
    return f"{image.compression_name} {kind} of {image.segment_width} x {image.segment_height} px"


def cell_size(image: TiffImage) -> tuple[int, int]:
    """(width, height) of a cell: the tile, or the strips of about `PREFERRED_CELL` rows."""
    return image.segment_width, image.segment_height * _strips_per_cell(image)


def _strips_per_cell(image: TiffImage) -> int:
    if image.is_tiled:
        return 1
    strip = image.segment_width * image.segment_height * 3
    by_rows = limits.PREFERRED_CELL // image.segment_height
    return max(1, min(by_rows, limits.MAX_CELL_BYTES // strip, image.rows))


def why_unusual(file: RawFile, image: TiffImage) -> str | None:
    """Say why another decoder may know more of an image than ours, as half a sentence.

    Its first tile stands for all. Damage is not unusual: it is met again where it is read.
    """
    first = int(np.argmax(image.byte_counts > 0))
    try:
        data = file.read(int(image.offsets[first]), int(image.byte_counts[first]))
        if image.compression == _JPEG:
            tiles = jpegstream.JpegTiles(image.jpeg_tables, image.photometric)
            return None if tiles.header(data).is_usual else "its JPEG tiles are coded unusually"
        if image.compression in _JPEG2000:
            is_ycbcr = image.compression == _JPEG2000_YCBCR
            return jpeg2000.why_unusual(jpeg2000.read_header(data), is_ycbcr=is_ycbcr)
    except (OSError, ValueError):
        return None
    return None


class CellReader:
    """Reads the cells of one image."""

    def __init__(
        self,
        file: RawFile,
        image: TiffImage,
        background: tuple[int, int, int],
        *,
        size: tuple[int, int] | None = None,
        is_exact: bool = False,
    ) -> None:
        """Prepare to read.

        Args:
            file: it holds the image, and is closed by its owner.
            image: `why_not` says nothing against it.
            background: RGB of tiles that the file has no bytes for.
            size: (width, height) of the level, where the image is padded beyond it.
            is_exact: cells are reduced by averaging alone, never by decoding less of them.

        Raises:
            ValueError: the image's JPEG tables are damaged.
        """
        self._file = file
        self._image = image
        self._size = size or (image.width, image.height)
        self._background = background
        self._is_exact = is_exact
        self._elsewhere: Tiles | None = None
        self._full = (image.segment_width, image.segment_height)
        self._samples = 1 if image.is_planar else image.samples
        self._planes = image.samples if image.is_planar else 1
        self._strips_per_cell = _strips_per_cell(image)
        photometric = image.photometric if self._samples == 3 else MIN_IS_BLACK
        self._jpegs = (
            jpegstream.JpegTiles(image.jpeg_tables, photometric, is_jfif=image.is_jfif)
            if image.compression == _JPEG
            else None
        )

    def leave_out(self, tiles: Tiles) -> None:
        """Take note of tiles that somebody else has to read."""
        self._elsewhere = tiles if tiles.any() else None

    def is_elsewhere(self, column: int, row: int) -> bool:
        """Whether somebody else has to read a cell of a tiled image."""
        if self._elsewhere is None:
            return False
        return bool(self._elsewhere[row * self._image.columns + column])

    def read(self, column: int, row: int, reduce: int = 1) -> Rgb:
        """Read and decode one cell.

        Args:
            column: of the cell.
            row: of the cell.
            reduce: 1, 2, 4 or 8 pixels in x and y are averaged to one.

        Returns:
            uint8 (height // reduce, width // reduce, 3), cut off at the right and bottom edge of
            the level.

        Raises:
            ValueError, OSError, or an error of imagecodecs: the cell cannot be read or decoded.
        """
        if self._image.is_tiled:
            return self._read_segment(column, row, reduce)
        first = row * self._strips_per_cell
        rows = range(first, min(first + self._strips_per_cell, self._image.rows))
        return shrunk(np.concatenate([self._read_segment(column, r, 1) for r in rows]), reduce)

    def native_tile(self, column: int, row: int) -> bytes | None:
        """A tile's own JPEG, completed, see `base.Slide.native_tile`.

        Raises:
            ValueError, OSError: it cannot be read, or is damaged in a way that shows.
        """
        image = self._image
        if self._jpegs is None or not image.is_tiled or self._samples != 3:
            return None
        index = row * image.columns + column
        if self._needed(column, row) != self._full or not image.byte_counts[index]:
            return None
        data = self._bytes_of(index)
        return self._jpegs.for_storing(data, self._full)

    def will_need(self, cells: Iterable[tuple[int, int]]) -> None:
        """Announce that these cells (column, row) will be read soon."""
        if not self._file.is_slow():
            return
        counts, offsets = self._image.byte_counts, self._image.offsets
        self._file.will_need(
            (int(offsets[i]), int(counts[i]))
            for column, row in cells
            for i in self._indices_of_cell(column, row)
            if counts[i]
        )

    def _indices_of_cell(self, column: int, row: int) -> Iterable[int]:
        first = row * self._strips_per_cell
        for segment_row in range(first, min(first + self._strips_per_cell, self._image.rows)):
            yield from self._indices(column, segment_row)

    def _indices(self, column: int, row: int) -> list[int]:
        """Where the planes of a segment stand in the lists of offsets and byte counts."""
        image = self._image
        first = row * image.columns + column
        return [first + plane * image.columns * image.rows for plane in range(self._planes)]

    def _needed(self, column: int, row: int) -> tuple[int, int]:
        """(width, height) of a segment without what lies outside of the level."""
        width, height = self._full
        return (
            min(width, self._size[0] - column * width),
            min(height, self._size[1] - row * height),
        )

    def _bytes_of(self, index: int) -> bytes:
        image = self._image
        return self._file.read(int(image.offsets[index]), int(image.byte_counts[index]))

    def _read_segment(self, column: int, row: int, reduce: int) -> Rgb:
        needed = self._needed(column, row)
        indices = self._indices(column, row)
        if not self._image.byte_counts[indices].all():
            width, height = needed[0] // reduce, needed[1] // reduce
            return colour.filled(height, width, self._background)
        if self._planes > 1:
            planes = [self._decode(self._bytes_of(i), needed, 1)[0] for i in indices]
            pixels, done = np.concatenate(planes, axis=2), 1
        else:
            wanted = 1 if self._is_exact else reduce
            pixels, done = self._decode(self._bytes_of(indices[0]), needed, wanted)
        cut = pixels[: needed[1] // done, : needed[0] // done]
        return shrunk(_to_rgb(self._image, cut), reduce // done)

    def _decode(self, data: bytes, needed: tuple[int, int], reduce: int) -> tuple[Samples, int]:
        """Decode a segment, reduced if its codec can do that; say by what it was reduced."""
        if self._jpegs is not None:
            jpeg, stream = self._jpegs.for_decoding(data, self._samples, needed, self._full)
            done = reduce if jpeg.can_be_scaled else 1
            return jpegstream.decode(jpeg, stream, done), done
        if self._image.compression in _JPEG2000:
            header = jpeg2000.read_header(data)
            is_ycbcr = self._image.compression == _JPEG2000_YCBCR
            jpeg2000.check(header, self._samples, needed, self._full, is_ycbcr=is_ycbcr)
            # Each level of wavelets lies half a pixel off, so the last halving is averaged instead.
            done = reduce if reduce <= 2 else reduce // 2
            done = done if header.can_be_reduced(done) else 1
            return jpeg2000.decode(header, data, done, is_ycbcr=is_ycbcr), done
        return self._unpack(data, needed[1]), 1

    def _unpack(self, data: bytes, needed_height: int) -> Samples:
        """Undo a compression that knows bytes alone."""
        image = self._image
        width, height = self._full
        most = width * height * self._samples
        # Tiles are padded to their full size, the last strip of an image mostly is not.
        if not image.is_tiled:
            height = needed_height
        size = width * height * self._samples
        raw = _BOUNDED[image.compression](data, most)
        if len(raw) < size:
            raise ValueError(f"the segment holds {len(raw):,} of {size:,} bytes")
        flat = np.frombuffer(raw, np.uint8, size).reshape(height, width, self._samples)
        return np.cumsum(flat, axis=1, dtype=np.uint8) if image.predictor == 2 else flat


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


def fingerprint(file: RawFile, images: tuple[TiffImage, ...]) -> str:
    """Hash the sizes of all levels and the encoded bytes of the coarsest, prefixed `tiles1:`.

    Where those bytes are many, `FINGERPRINT_SAMPLES` evenly spaced segments stand for them.

    Args:
        file: it holds the images.
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
        data = file.read(int(coarsest.offsets[index]), int(coarsest.byte_counts[index]))
        digest.update(struct.pack("<QQ", index, len(data)))
        digest.update(data)
    return f"tiles1:{digest.hexdigest()}"
