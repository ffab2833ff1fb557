"""The images inside a TIFF, described and checked without decoding a pixel.

tifffile parses; here its findings are checked against the file: sizes are positive and
believable, every tile or strip lies inside the file, the chain of images ends where it should.
Sizes are in pixels of the image itself; offsets and counts in bytes of the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from tiler.errors import UnreadableSlide
from tiler.slides import limits

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First four bytes of a TIFF or BigTIFF."""

COMPRESSIONS = {
    1: "none",
    5: "lzw",
    7: "jpeg",
    8: "deflate",
    32773: "packbits",
    32946: "deflate",
    33003: "jpeg2000",
    33004: "jpeg2000",
    33005: "jpeg2000",
    34712: "jpeg2000",
    34925: "lzma",
    50000: "zstd",
    50001: "webp",
    50002: "jpegxl",
}
"""Name of the TIFF compression codes that slides are found with."""


@dataclass(frozen=True, slots=True, eq=False)
class TiffImage:
    """One image of a TIFF. A segment is a tile or a strip."""

    width: int
    height: int
    segment_width: int
    segment_height: int
    is_tiled: bool
    samples: int
    """Values per pixel, alpha counted."""
    is_planar: bool
    """The samples lie in separate planes of segments."""
    kind: str
    """Data type in numpy's words, such as `uint8`."""
    photometric: int
    compression: int
    predictor: int
    fill_order: int
    extra_samples: tuple[int, ...]
    """TIFF codes of the values after the colours: 1 premultiplied alpha, 2 alpha, 0 unknown."""
    is_jfif: bool
    """The first JPEG segment is a complete JFIF stream."""
    jpeg_tables: bytes
    is_reduced: bool
    """The writer flagged it as a smaller version of another image."""
    offsets: npt.NDArray[np.int64]
    byte_counts: npt.NDArray[np.int64]
    children: tuple[TiffImage, ...] = ()
    """The images of its SubIFDs."""

    @property
    def columns(self) -> int:
        """Segments in x."""
        return -(-self.width // self.segment_width)

    @property
    def rows(self) -> int:
        """Segments in y."""
        return -(-self.height // self.segment_height)

    @property
    def compression_name(self) -> str:
        """Compression in a word, or `unknown`."""
        return COMPRESSIONS.get(self.compression, "unknown")


@dataclass(frozen=True, slots=True, eq=False)
class TiffContent:
    """What a TIFF holds."""

    images: tuple[TiffImage, ...]
    """In file order, those of SubIFDs inside their parents."""
    ome_xml: str | None
    resolution: tuple[float, float] | None
    """First image's pixels per unit in (x, y), unchecked."""
    resolution_unit: int
    """TIFF code: 2 inch, 3 centimetre, 1 none."""

    def largest(self) -> TiffImage:
        """The image with the most pixels, the first of several."""
        return max(self.images, key=lambda image: image.width * image.height)


def read_tiff(path: Path) -> TiffContent:
    """Describe the images of a TIFF.

    Raises:
        UnreadableSlide: the file is damaged, cut off, or asks for more than the limits allow.
    """
    size = path.stat().st_size
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = _all_pages(tiff, size)
            images = tuple(_describe_with_children(page, size) for page in pages)
            ome_xml = _ome_xml(pages[0])
            resolution, unit = _resolution(pages[0])
    except UnreadableSlide:
        raise
    except Exception as error:
        # tifffile meets damage with nine types of exceptions, MemoryError among them. Their
        # texts may quote the file's metadata, so only the type is shown.
        raise UnreadableSlide(
            f"the TIFF structure is damaged (tifffile: {type(error).__name__})"
        ) from error
    content = TiffContent(images, ome_xml, resolution, unit)
    largest = content.largest()
    limits.check_slide_size(largest.width, largest.height)
    return content


def _all_pages(tiff: Any, size: int) -> list[Any]:
    pages: list[Any] = []
    offsets: set[int] = set()
    for page in tiff.pages:
        if page.offset in offsets:
            raise UnreadableSlide("the chain of images in the TIFF is a ring")
        offsets.add(page.offset)
        pages.append(page)
        if len(pages) > limits.MAX_TIFF_IMAGES:
            raise UnreadableSlide(f"the TIFF chains more than {limits.MAX_TIFF_IMAGES:,} images")
    if not pages:
        raise UnreadableSlide("the TIFF holds no image: it was cut off, or only its header is left")
    follower = _next_offset(tiff, pages[-1])
    if follower >= size:
        raise UnreadableSlide(
            f"the file is cut off: an image directory should follow at byte {follower:,}, "
            f"the file has {size:,}"
        )
    if follower:
        raise UnreadableSlide("the chain of images in the TIFF is damaged")
    return pages


def _next_offset(tiff: Any, page: Any) -> int:
    """Where the image after the last one should be; 0 says that there is none."""
    form, handle = tiff.tiff, tiff.filehandle
    handle.seek(page.offset)
    (tags,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
    handle.seek(page.offset + form.tagnosize + tags * form.tagsize)
    (offset,) = struct.unpack(form.offsetformat, handle.read(form.offsetsize))
    return int(offset)


def _describe_with_children(page: Any, size: int) -> TiffImage:
    children = [_describe(child, size) for child in page.pages] if page.subifds else []
    return _describe(page, size, tuple(children))


def _describe(page: Any, size: int, children: tuple[TiffImage, ...] = ()) -> TiffImage:
    width, height = _whole(page.imagewidth), _whole(page.imagelength)
    is_tiled = bool(page.is_tiled)
    segment_width = _whole(page.tilewidth) if is_tiled else width
    segment_height = _whole(page.tilelength) if is_tiled else min(_whole(page.rowsperstrip), height)
    if min(width, height, segment_width, segment_height) < 1:
        raise UnreadableSlide(
            f"the TIFF says that an image has {width} x {height} px in segments of "
            f"{segment_width} x {segment_height}"
        )
    image = TiffImage(
        width=width,
        height=height,
        segment_width=segment_width,
        segment_height=segment_height,
        is_tiled=is_tiled,
        samples=_whole(page.samplesperpixel),
        is_planar=page.planarconfig == 2 and page.samplesperpixel > 1,
        kind=_kind(page),
        photometric=_whole(page.photometric),
        compression=_whole(page.compression),
        predictor=_whole(page.predictor),
        fill_order=_whole(page.fillorder),
        extra_samples=tuple(_whole(v) for v in page.extrasamples),
        is_jfif=bool(page.is_jfif),
        jpeg_tables=bytes(page.jpegtables or b""),
        is_reduced=bool(_whole(page.subfiletype) & 1),
        offsets=np.asarray(page.dataoffsets, np.int64),
        byte_counts=np.asarray(page.databytecounts, np.int64),
        children=children,
    )
    _check_segments(image, size)
    return image


def _kind(page: Any) -> str:
    if page.dtype is None:
        return f"{page.bitspersample}-bit values"
    # One-bit and packed values are widened by tifffile; their true size is in the tag.
    is_packed = page.bitspersample not in (8, 16, 32, 64)
    return f"{page.bitspersample}-bit values" if is_packed else str(page.dtype)


def _check_segments(image: TiffImage, size: int) -> None:
    planes = image.samples if image.is_planar else 1
    needed = image.columns * image.rows * planes
    if min(len(image.offsets), len(image.byte_counts)) < needed:
        raise UnreadableSlide(
            f"the TIFF lists {min(len(image.offsets), len(image.byte_counts)):,} of the "
            f"{needed:,} segments of an image"
        )
    if (image.offsets[:needed] < 0).any() or (image.byte_counts[:needed] < 0).any():
        raise UnreadableSlide("the TIFF lists segments of negative size or place")
    is_there = image.byte_counts > 0
    count = min(len(image.offsets), len(image.byte_counts))
    ends = (image.offsets[:count] + image.byte_counts[:count])[is_there[:count]]
    if ends.size and int(ends.max()) > size:
        raise UnreadableSlide(
            f"the file is cut off: its pixels reach to byte {int(ends.max()):,}, "
            f"the file has {size:,}"
        )
    segment = image.segment_width * image.segment_height * 3
    if image.is_tiled and segment > limits.MAX_CELL_BYTES:
        raise UnreadableSlide(
            f"tiles of {image.segment_width} x {image.segment_height} px are above the limit of "
            f"{limits.MAX_CELL_BYTES // 2**20} MiB"
        )


def _ome_xml(page: Any) -> str | None:
    text = page.description
    is_ome = isinstance(text, str) and "<OME" in text[:4000] and text[-10:].strip().endswith("OME>")
    return text if is_ome else None


def _resolution(page: Any) -> tuple[tuple[float, float] | None, int]:
    """Pixels per unit in (x, y) and the unit's code, as the tags say; infinite for x / 0."""
    tags = page.tags
    unit = tags.valueof(296, default=2)  # the TIFF specification's default is the inch
    values = [tags.valueof(code) for code in (282, 283)]
    if any(not (isinstance(v, tuple) and len(v) == 2) for v in values):
        return None, int(unit)
    x, y = (float(a) / float(b) if b else float("inf") for a, b in values)
    return (x, y), int(unit)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {type(value).__name__}")
    return int(value)
