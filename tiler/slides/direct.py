"""Which levels of a slide that OpenSlide opened are decoded past it, from the file's own tiles.

Where a level is a plain grid of TIFF tiles that this package decodes bit for bit as OpenSlide
does, its tiles are read straight from the file: several times faster, reduced while they are
decoded, and whole as they are. Anything unusual stays with OpenSlide, and says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tiler.slides import segments
from tiler.slides.base import Level
from tiler.slides.rawfile import RawFile
from tiler.slides.segments import CellReader
from tiler.slides.tiffpages import TiffContent, TiffImage

PLAIN_GRIDS: Final = frozenset({"aperio", "generic-tiff", "philips"})
"""Formats (OpenSlide's vendors) whose TIFF tiles lie edge to edge, each at its place."""

_PADDED: Final = "philips"
"""Its images are padded to whole tiles, beyond their levels; OpenSlide's sizes are right."""


@dataclass(frozen=True, slots=True)
class Road:
    """How the pixels of one level are read."""

    reader: CellReader | None
    """None: through OpenSlide."""
    why: str
    """Half a sentence."""


def find_roads(
    file: RawFile,
    levels: tuple[Level, ...],
    vendor: str,
    content: TiffContent,
    background: tuple[int, int, int],
    *,
    is_exact: bool,
) -> tuple[Road, ...]:
    """Choose how to read each level.

    Args:
        file: the slide's file.
        levels: as OpenSlide tells them.
        vendor: one of `PLAIN_GRIDS`.
        content: the images of the file.
        background: RGB of what was not scanned.
        is_exact: see `open_slide`.
    """
    roads = []
    for index, level in enumerate(levels):
        image = _image_of(index, levels, vendor, content)
        if isinstance(image, str):
            roads.append(Road(None, image))
            continue
        reason = _why_not(file, image, level)
        reader = None
        if reason is None:
            size = (level.width, level.height)
            reader = CellReader(file, image, background, size=size, is_exact=is_exact)
        roads.append(Road(reader, reason or f"{segments.describe(image)} lie edge to edge"))
    return tuple(roads)


def summary(roads: tuple[Road, ...]) -> tuple[str, str]:
    """Put the roads of all levels together, as `SlideFacts.pixels` and `SlideFacts.pixels_why`."""
    others = {i: road.why for i, road in enumerate(roads) if road.reader is None}
    if not others:
        return "direct", roads[0].why
    if len(others) == len(roads) and len(set(others.values())) == 1:
        return "openslide", others[0]
    told = "; ".join(f"level {i}: {why}" for i, why in others.items())
    return ("openslide" if len(others) == len(roads) else "mixed"), told


def _image_of(
    index: int, levels: tuple[Level, ...], vendor: str, content: TiffContent
) -> TiffImage | str:
    """The image that is a level, or why none can be told to be it."""
    level = levels[index]
    tiled = [image for image in content.images if image.is_tiled]
    if vendor == _PADDED:
        if len(tiled) != len(levels):
            return f"the file has {len(tiled)} tiled images for {len(levels)} levels"
        image = tiled[index]
        is_inside = level.width <= image.width and level.height <= image.height
        return image if is_inside else "the level is larger than its image in the file"
    same = [i for i in tiled if (i.width, i.height) == (level.width, level.height)]
    if len(same) == 1:
        return same[0]
    return f"{len(same) or 'no'} tiled images of the file have the size of the level"


def _why_not(file: RawFile, image: TiffImage, level: Level) -> str | None:
    if image.photometric == segments.RGB and image.is_jfif:
        # OpenSlide believes the TIFF's RGB, other decoders the JFIF marker's YCbCr.
        return "JFIF tiles in a TIFF that says RGB are ambiguous"
    if image.samples not in (1, 3):
        return f"its pixels have {image.samples} values"
    if segments.cell_size(image) != (level.cell_width, level.cell_height):
        return f"tiles of {image.segment_width} x {image.segment_height} px make no good cells"
    return segments.why_not(image) or segments.why_unusual(file, image)
