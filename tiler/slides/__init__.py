"""The door to slides: find them, open one, whatever its format.

`open_slide` chooses a reader by the content of a file: OpenSlide where it knows the format
(OME-TIFF excepted, whose pyramids it does not see), the reader of plain TIFFs, the one of PNG and
JPEG. Pixel frames and units are those of `tiler.slides.base`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tiler.errors import UnreadableSlide
from tiler.slides.base import Level, Slide, SlideFacts
from tiler.slides.discover import (
    Source,
    Sources,
    find_pictures,
    find_sources,
    source_token,
)

if TYPE_CHECKING:
    from tiler.slides.tiffpages import TiffContent

__all__ = [
    "READERS",
    "Level",
    "Slide",
    "SlideFacts",
    "Source",
    "Sources",
    "find_pictures",
    "find_sources",
    "open_slide",
    "source_token",
]

READERS = ("auto", "openslide")
"""Who may be asked to decode."""

_NOT_OPENSLIDE = "OpenSlide does not read {} as a slide; leave out --reader openslide"

_ANY_TIFF = "generic-tiff"
"""OpenSlide's word for a TIFF of no vendor."""


def open_slide(path: Path, *, reader: str = "auto", exact: bool = False) -> Slide:
    """Open a slide or a picture.

    Open it in the process that reads it; the handles are not for sharing.

    Args:
        path: a file, or a folder that holds the files of one DICOM slide.
        reader: `auto` decodes the file's own tiles where that gives the pixels that OpenSlide
            gives, and is then several times faster; `openslide` leaves all pixels to OpenSlide.
        exact: cells that are reduced are decoded in full and averaged. By default less of a JPEG
            or JPEG 2000 tile is decoded instead, see `Slide.read_cell`.

    Raises:
        UnreadableSlide: no reader opens it, or what it says about itself does not hold. The
            message is one sentence without the file's name, which may be a patient's.
        ValueError: there is no such `reader`.
    """
    from tiler.slides import limits

    if reader not in READERS:
        raise ValueError(f"reader is one of {', '.join(READERS)}, not {reader!r}")
    try:
        return _open(path, is_direct=reader == "auto", is_exact=exact)
    except UnreadableSlide:
        raise
    except Exception as error:
        # A damaged file makes the libraries raise nearly anything; one slide must not stop a run.
        raise UnreadableSlide(f"it cannot be opened: {limits.spoken(error, path)}") from error


def _open(path: Path, *, is_direct: bool, is_exact: bool) -> Slide:
    # Imported here so that `import tiler.slides` costs no decoders.
    from tiler.slides import dicom, dicomframes, picture, tiffpages
    from tiler.slides.openslide import OpenSlideSlide

    file = dicom.slide_files(path)[0] if path.is_dir() else path
    start = _first_bytes(file)
    if start[:4] in tiffpages.TIFF_MAGIC:
        return _open_tiff(file, tiffpages.read_tiff(file), is_direct=is_direct, is_exact=is_exact)
    parts = dicom.slide_files(file) if dicom.is_dicom(file) else ()
    for part in parts:
        dicom.check_complete(part)
    levels = dicomframes.read_levels(parts)
    if _vendor(file) is not None:
        return OpenSlideSlide(file, dicom_levels=levels, is_direct=is_direct, is_exact=is_exact)
    if start.startswith((picture.PNG_MAGIC, picture.JPEG_MAGIC)):
        if not is_direct:
            raise UnreadableSlide(_NOT_OPENSLIDE.format("a plain picture"))
        return picture.PictureSlide(file)
    raise UnreadableSlide("the file is no slide or picture of a known format")


def _open_tiff(path: Path, content: TiffContent, *, is_direct: bool, is_exact: bool) -> Slide:
    from tiler.slides import limits
    from tiler.slides.openslide import OpenSlideSlide
    from tiler.slides.tiff import TiffSlide

    main = content.largest()
    vendor = None if content.ome_xml else _vendor(path)
    # Gray images of one file may be channels of fluorescence, which OpenSlide does not ask.
    if vendor is None or (vendor == _ANY_TIFF and main.samples < 3):
        if not is_direct:
            raise UnreadableSlide(
                _NOT_OPENSLIDE.format("an OME-TIFF" if content.ome_xml else "such a TIFF")
            )
        return TiffSlide(path, content, is_exact=is_exact)
    if main.kind != "uint8":
        # OpenSlide would scale 16-bit values down to 8 bits without a word.
        raise UnreadableSlide(limits.wrong_pixels(main.samples, main.kind))
    try:
        return OpenSlideSlide(path, content, is_direct=is_direct, is_exact=is_exact)
    except UnreadableSlide:
        if vendor != _ANY_TIFF or not is_direct:
            raise
        return TiffSlide(path, content, is_exact=is_exact)  # a codec that OpenSlide lacks, perhaps


def _vendor(path: Path) -> str | None:
    import openslide

    try:
        return openslide.OpenSlide.detect_format(str(path))
    except openslide.OpenSlideError:
        return None  # looked like a format, but does not hold: the other readers may know better


def _first_bytes(path: Path) -> bytes:
    if not path.exists():
        raise UnreadableSlide("there is no such file")
    if not path.is_file():
        raise UnreadableSlide("it is neither a file nor a folder")
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise UnreadableSlide("the file is empty (0 bytes)")
    return start
