"""Which levels of a slide that OpenSlide opened are decoded past it, from the file's own tiles.

Where a level is a plain grid of TIFF tiles that this package decodes bit for bit as OpenSlide
does, its tiles are read straight from the file: several times faster, reduced while they are
decoded, and whole as they are. Anything unusual stays with OpenSlide, and says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from tiler.slides import segments
from tiler.slides.base import Level
from tiler.slides.rawfile import RawFile
from tiler.slides.segments import CellReader, Tiles
from tiler.slides.tiffpages import TiffContent, TiffImage

PLAIN_GRIDS: Final = frozenset({"aperio", "generic-tiff", "philips"})
"""Formats (OpenSlide's vendors) whose TIFF tiles lie edge to edge, each at its place."""

_IN_FILE_ORDER: Final = frozenset({"aperio", "philips"})
"""Formats whose tiled images are their levels, one by one; in others sizes tell."""

_PADDED: Final = "philips"
"""Its images are padded to whole tiles, beyond their levels; OpenSlide's sizes are right."""

_PAINTED: Final = "aperio"
"""Where it leaves out a tile, OpenSlide paints the finer level there, see `_missing_tiles`."""


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
    tiled = [image for image in content.images if image.is_tiled]
    missing = _missing_tiles(tiled) if vendor == _PAINTED else None
    roads = []
    for index, level in enumerate(levels):
        number = _number_of_image(index, levels, vendor, tiled)
        if isinstance(number, str):
            roads.append(Road(None, number))
            continue
        road = road_to(file, tiled[number], level, background, is_exact=is_exact)
        if missing and road.reader is not None:
            road.reader.leave_out(missing[number])
        roads.append(road)
    return tuple(roads)


def road_to(
    file: RawFile,
    image: TiffImage,
    level: Level,
    background: tuple[int, int, int],
    *,
    is_exact: bool,
    kind: type[CellReader] = CellReader,
) -> Road:
    """Choose how to read a level whose tiles are those of an image; `kind` is the reader's."""
    reason = why_not(file, image, level)
    if reason:
        return Road(None, reason)
    size = (level.width, level.height)
    reader = kind(file, image, background, size=size, is_exact=is_exact)
    return Road(reader, f"{segments.describe(image)} lie edge to edge")


def summary(roads: tuple[Road, ...]) -> tuple[str, str]:
    """Put the roads of all levels together, as `SlideFacts.pixels` and `SlideFacts.pixels_why`."""
    others = {i: road.why for i, road in enumerate(roads) if road.reader is None}
    if not others:
        return "direct", roads[0].why
    if len(others) == len(roads) and len(set(others.values())) == 1:
        return "openslide", others[0]
    told = "; ".join(f"level {i}: {why}" for i, why in others.items())
    return ("openslide" if len(others) == len(roads) else "mixed"), told


def _number_of_image(
    index: int, levels: tuple[Level, ...], vendor: str, tiled: list[TiffImage]
) -> int | str:
    """Which tiled image is a level, or why none can be told to be it."""
    level = levels[index]
    if vendor not in _IN_FILE_ORDER:
        same = [
            number
            for number, image in enumerate(tiled)
            if (image.width, image.height) == (level.width, level.height)
        ]
        if len(same) == 1:
            return same[0]
        return f"{len(same) or 'no'} tiled images of the file have the size of the level"
    if len(tiled) != len(levels):
        return f"the file has {len(tiled)} tiled images for {len(levels)} levels"
    more = (tiled[index].width - level.width, tiled[index].height - level.height)
    if min(more) < 0 or (max(more) > 0 and vendor != _PADDED):
        return "the level has another size than its image in the file"
    return index


def _missing_tiles(images: list[TiffImage]) -> list[Tiles]:
    """Find the tiles that an Aperio file leaves out, and those that are made of them.

    Tiles of a coarser level that cover one left out are sometimes corrupt; OpenSlide takes them
    for missing too, and so on to the coarsest (`propagate_missing_tile` of its Aperio reader, whose
    arithmetic this is).
    """
    found: list[Tiles] = []
    for index, image in enumerate(images):
        missing = image.byte_counts[: image.columns * image.rows] == 0
        if found:
            above = images[index - 1]
            row, column = np.divmod(np.flatnonzero(found[-1]), above.columns)
            covering = row // _ratio(above.rows, image.rows) * image.columns
            covering += column // _ratio(above.columns, image.columns)
            missing[covering[covering < missing.size]] = True
        found.append(missing)
    return found


def _ratio(finer: int, coarser: int) -> int:
    return max(1, math.floor(finer / coarser + 0.5))


def why_not(file: RawFile, image: TiffImage, level: Level) -> str | None:
    """Say why OpenSlide should read a level that is an image of a file, as half a sentence."""
    if image.photometric == segments.RGB and image.is_jfif:
        # OpenSlide believes the file's RGB, other decoders the JFIF marker's YCbCr.
        return "JFIF tiles in a file that says RGB are ambiguous"
    if image.samples not in (1, 3):
        return f"its pixels have {image.samples} values"
    if segments.cell_size(image) != (level.cell_width, level.cell_height):
        return f"tiles of {image.segment_width} x {image.segment_height} px make no good cells"
    return segments.why_not(image) or segments.why_unusual(file, image)
