"""Pixel sizes from OME-XML and TIFF tags, in µm per level-0 pixel, in (x, y) order.

What a file says is believed only after `mpp_problem` found nothing wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from tiler.errors import UnreadableSlide
from tiler.slides.base import mpp_problem

_UM_PER_UNIT: Final = {
    "µm": 1.0,
    "μm": 1.0,  # the Greek letter, beside the micro sign above
    "um": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "Å": 1e-4,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "in": 25400.0,
    "thou": 25.4,
    "pt": 25400.0 / 72,
}
"""OME's length units that a pixel may be given in."""

_UM_PER_TIFF_UNIT: Final = {2: 25400.0, 3: 10000.0}
_LONGEST_XML = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PixelSize:
    """µm per level-0 pixel as a file says it."""

    mpp: tuple[float, float] | None
    source: str
    """`openslide`, `ome-xml`, `tiff tags` or `none`."""
    problem: str | None = None
    """Why the file's word was not taken, as half a sentence."""


NO_PIXEL_SIZE = PixelSize(None, "none")


@dataclass(frozen=True, slots=True)
class OmeImage:
    """What OME-XML says about the first image of a file."""

    channels: int
    planes: int
    """Focal planes times time points."""
    ifd: int
    """Place of its pixels among the TIFF's images."""
    pixel_size: PixelSize


def checked(mpp_x: float, mpp_y: float, source: str) -> PixelSize:
    """Believe a pair of µm per pixel, or say why not."""
    problem = mpp_problem(mpp_x, mpp_y)
    return PixelSize(None, "none", problem) if problem else PixelSize((mpp_x, mpp_y), source)


def from_tiff_tags(resolution: tuple[float, float] | None, unit: int) -> PixelSize:
    """Turn TIFF's pixels per inch or centimetre, in (x, y), into µm per pixel.

    Without a unit the two numbers are only an aspect ratio, and mean no size.
    """
    um = _UM_PER_TIFF_UNIT.get(unit)
    if resolution is None or um is None:
        return NO_PIXEL_SIZE
    mpp_x, mpp_y = (um / r if r else float("inf") for r in resolution)
    return checked(mpp_x, mpp_y, "tiff tags")


def read_ome(text: str) -> OmeImage:
    """Read what OME-XML says about the first image.

    Raises:
        UnreadableSlide: the XML is too long, defines entities, is malformed, or has no image.
    """
    if len(text) > _LONGEST_XML or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UnreadableSlide("its OME-XML is longer than 16 MiB or defines entities")
    try:
        root = ElementTree.fromstring(text.encode())  # noqa: S314 - no DOCTYPE, so no entities
        pixels = root.find(".//{*}Image/{*}Pixels")
        if pixels is None:
            raise UnreadableSlide("its OME-XML describes no image")
        planes = int(pixels.get("SizeZ", "1")) * int(pixels.get("SizeT", "1"))
        first = pixels.find("{*}TiffData")
        return OmeImage(
            channels=int(pixels.get("SizeC", "1")),
            planes=planes,
            ifd=int(first.get("IFD", "0")) if first is not None else 0,
            pixel_size=_ome_pixel_size(pixels),
        )
    except (ElementTree.ParseError, ValueError) as error:
        raise UnreadableSlide("its OME-XML is malformed") from error


def _ome_pixel_size(pixels: ElementTree.Element) -> PixelSize:
    sizes = []
    for axis in "XY":
        size = pixels.get(f"PhysicalSize{axis}")
        if size is None:
            return NO_PIXEL_SIZE
        um = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip())
        if um is None:
            return PixelSize(None, "none", "its OME-XML gives the pixel size in an unknown unit")
        try:
            sizes.append(float(size) * um)
        except ValueError:
            return PixelSize(None, "none", "the pixel size in its OME-XML is not a number")
    return checked(sizes[0], sizes[1], "ome-xml")
