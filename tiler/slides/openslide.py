"""Slides that OpenSlide reads: SVS, NDPI, MRXS, SCN, BIF, VMS, DICOM and others.

OpenSlide tells the facts and decodes. Where a level is a plain grid of tiles, they are decoded
straight from the file's bytes instead, see `direct`: several times faster, and exact. OpenSlide
addresses a level in whole level-0 pixels, so where a downsample is no whole number (2967 / 741) it
blends neighbouring pixels of the level; that remains for formats that have no direct way. Frames
and units are those of `base`.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import openslide

from tiler.errors import PixelReadError, UnreadableSlide
from tiler.slides import colour, dicomframes, direct, limits, pyramid, resolution
from tiler.slides.base import Level, Rgb, Slide, SlideFacts
from tiler.slides.dicomframes import LevelFile
from tiler.slides.direct import Road
from tiler.slides.rawfile import RawFile
from tiler.slides.resolution import PixelSize
from tiler.slides.shrink import shrunk
from tiler.slides.tiffpages import TiffContent

_CACHE_BYTES: Final = 128 * 2**20
"""OpenSlide's cache where tiles do not lie edge to edge, so that cells share them. With its own
32 MiB, tiles of 512 and 1024 px that cells cut took 14 and 36 % longer."""

_SCANNER_PROPERTIES: Final = (
    "tiff.Model",
    "dicom.ManufacturerModelName",
    "hamamatsu.Product",
    "leica.device-model",
    "ventana.ScannerModel",
)
"""All that is asked for a scanner's name; other properties name people, places and dates."""

_SCANNER_NAME: Final = re.compile(r"[\w .+/()-]{1,64}", re.ASCII)

_TRANSFER_SYNTAXES: Final = {
    "1.2.840.10008.1.2": "none",
    "1.2.840.10008.1.2.1": "none",
    "1.2.840.10008.1.2.4.50": "jpeg",
    "1.2.840.10008.1.2.4.51": "jpeg",
    "1.2.840.10008.1.2.4.90": "jpeg2000",
    "1.2.840.10008.1.2.4.91": "jpeg2000",
    "1.2.840.10008.1.2.5": "rle",
}
"""Compression by DICOM transfer syntax (DICOM PS3.6, table A-1)."""

_MPP_AT_POWER_ONE: Final = 10.0
_POWER_TOLERANCE: Final = 1.6
_FINGERPRINT_CELLS: Final = 64


class OpenSlideSlide(Slide):
    """A slide that OpenSlide reads, see `base.Slide`."""

    def __init__(
        self,
        path: Path,
        content: TiffContent | None = None,
        dicom_levels: tuple[LevelFile, ...] = (),
        *,
        is_direct: bool = True,
        is_exact: bool = False,
    ) -> None:
        """Open the slide.

        Args:
            path: the file.
            content: what `read_tiff` found in it; None if it is no TIFF.
            dicom_levels: what `read_levels` found in its files; nothing if it is no DICOM.
            is_direct: decode the file's own tiles where that gives the same pixels.
            is_exact: never reduce a cell while it is decoded, see `open_slide`.

        Raises:
            UnreadableSlide: OpenSlide cannot open it, or its levels do not hold.
        """
        self._path = path
        self._files: list[RawFile] = []
        self._background = colour.WHITE
        self._open_handle()
        try:
            properties = dict(self._handle.properties)
            self._levels = _levels(self._handle, properties)
            self._background = _background(properties)
            self._vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
            self._roads = self._find_roads(
                content, dicom_levels, is_direct=is_direct, is_exact=is_exact
            )
            self._facts = self._gather_facts(properties, content)
        except BaseException:
            self.close()
            raise

    def _find_roads(
        self,
        content: TiffContent | None,
        dicom_levels: tuple[LevelFile, ...],
        *,
        is_direct: bool,
        is_exact: bool,
    ) -> tuple[Road, ...]:
        if not is_direct:
            return (Road(None, "asked for by --reader openslide"),) * len(self._levels)
        if dicom_levels:
            return dicomframes.find_roads(
                dicom_levels, self._levels, self._background, self._open_file, is_exact=is_exact
            )
        if content is None or self._vendor not in direct.PLAIN_GRIDS:
            road = Road(None, f"the format {self._vendor} has no direct road")
            return (road,) * len(self._levels)
        file = self._open_file(self._path)
        return direct.find_roads(
            file, self._levels, self._vendor, content, self._background, is_exact=is_exact
        )

    def _open_file(self, path: Path) -> RawFile:
        self._files.append(RawFile(path))
        return self._files[-1]

    def _open_handle(self) -> None:
        try:
            self._handle = openslide.OpenSlide(str(self._path))
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            raise UnreadableSlide(
                f"OpenSlide cannot open it: {limits.spoken(error, self._path)}"
            ) from error
        if "openslide.level[0].tile-width" not in self._handle.properties:
            self._handle.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        self._owner = os.getpid()

    def _gather_facts(
        self, properties: Mapping[str, str], content: TiffContent | None
    ) -> SlideFacts:
        size, power = _pixel_size(properties), _objective_power(properties)
        quickhash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
        pixels, pixels_why = direct.summary(self._roads)
        return SlideFacts(
            reader="openslide",
            vendor=self._vendor,
            compression=_compression(properties, content),
            levels=self._levels,
            mpp=size.mpp,
            mpp_source=size.source,
            mpp_problem=size.problem,
            objective_power=power,
            bounds=_bounds(properties, self._levels[0]),
            background=self._background,
            pixels=pixels,
            pixels_why=pixels_why,
            fingerprint=f"quickhash1:{quickhash}" if quickhash else self._fingerprint(),
            scanner=_scanner(properties),
            warnings=(
                *_size_warnings(size, power),
                *pyramid.stretch_warnings(self._levels),
            ),
        )

    @property
    def facts(self) -> SlideFacts:
        """What is known about the slide."""
        return self._facts

    def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
        """Decode one cell, see `base.Slide.read_cell`."""
        place = pyramid.check_cell(self._levels, level, column, row, reduce)
        reader = self._roads[level].reader
        try:
            if reader is None or reader.is_elsewhere(column, row):
                return shrunk(self._read_region(place, level, column, row), reduce)
            return reader.read(column, row, reduce)
        except Exception as error:
            # OpenSlideError, OSError, ValueError, and one class for each codec of imagecodecs.
            reason = limits.spoken(error, self._path)
            raise PixelReadError(pyramid.cell_failure(place, level, column, row, reason)) from error

    def native_tile(self, level: int, column: int, row: int) -> bytes | None:
        """Fetch one cell as the file's own JPEG, see `base.Slide.native_tile`."""
        place = pyramid.check_cell(self._levels, level, column, row)
        reader = self._roads[level].reader
        try:
            if reader is None or reader.is_elsewhere(column, row):
                return None
            return reader.native_tile(column, row)
        except (OSError, ValueError) as error:
            reason = limits.spoken(error, self._path)
            raise PixelReadError(pyramid.cell_failure(place, level, column, row, reason)) from error

    def will_need(self, level: int, cells: Iterable[tuple[int, int]]) -> None:
        """Announce cells, see `base.Slide.will_need`; does nothing where OpenSlide reads."""
        reader = self._roads[level].reader
        if reader is not None:
            reader.will_need(cells)

    def _read_region(self, place: Level, level: int, column: int, row: int) -> Rgb:
        if self._owner != os.getpid():
            # A handle from before a fork shares its file position with the parent's.
            self._open_handle()
        level_x, level_y = column * place.cell_width, row * place.cell_height
        width = min(place.cell_width, place.width - level_x)
        height = min(place.cell_height, place.height - level_y)
        # OpenSlide divides by its own downsample, the mean of x and y, so that one is used here.
        downsample = self._handle.level_downsamples[level]
        corner = (round(level_x * downsample), round(level_y * downsample))
        try:
            pixels = np.asarray(self._handle.read_region(corner, level, (width, height)))
        except openslide.OpenSlideError:
            # After an error OpenSlide refuses all further reads on the handle.
            self._handle.close()
            self._open_handle()
            raise
        return colour.over_background(pixels[:, :, :3], pixels[:, :, 3], self._background)

    def _fingerprint(self) -> str:
        """Hash sizes and the pixels of the coarsest level, where OpenSlide offers no hash."""
        digest = hashlib.sha256()
        for place in self._levels:
            digest.update(struct.pack("<QQ", place.width, place.height))
        last, place = len(self._levels) - 1, self._levels[-1]
        columns = -(-place.width // place.cell_width)
        rows = -(-place.height // place.cell_height)
        for index in limits.evenly_spaced(columns * rows, _FINGERPRINT_CELLS):
            row, column = divmod(index, columns)
            try:
                digest.update(self.read_cell(last, column, row).tobytes())
            except PixelReadError:
                digest.update(b"unreadable")  # damage is part of what the file is
        return f"tiles1:{digest.hexdigest()}"

    def close(self) -> None:
        """Release the file handles; closing twice is allowed."""
        self._handle.close()
        for file in self._files:
            file.close()


def _levels(handle: openslide.OpenSlide, properties: Mapping[str, str]) -> tuple[Level, ...]:
    sizes = handle.level_dimensions
    if not sizes:
        raise UnreadableSlide("it has no levels")
    limits.check_slide_size(*sizes[0])
    levels = []
    for index, (width, height) in enumerate(sizes):
        if width < 1 or height < 1:
            break  # a pyramid that was halved once too often
        tile = _tile_size(properties, index)
        cell_width, cell_height = pyramid.cell_size(tile, (width, height))
        downsample_x, downsample_y = pyramid.downsamples((width, height), sizes[0])
        levels.append(Level(width, height, downsample_x, downsample_y, cell_width, cell_height))
    return tuple(levels)


def _tile_size(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    """(width, height) of a level's tiles; (0, 0) if they do not lie edge to edge."""
    width, height = (
        int(properties.get(f"openslide.level[{level}].tile-{side}", "0"))
        for side in ("width", "height")
    )
    if width * height * 3 > limits.MAX_CELL_BYTES:
        raise UnreadableSlide(
            f"tiles of {width} x {height} px on level {level} are above the limit of "
            f"{limits.MAX_CELL_BYTES // 2**20} MiB"
        )
    return width, height


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return math.nan


def _pixel_size(properties: Mapping[str, str]) -> PixelSize:
    mpp_x = _number(properties.get(openslide.PROPERTY_NAME_MPP_X))
    mpp_y = _number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    if mpp_x is None or mpp_y is None:
        return resolution.NO_PIXEL_SIZE
    return resolution.checked(mpp_x, mpp_y, "openslide")


def _objective_power(properties: Mapping[str, str]) -> float | None:
    power = _number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
    is_believable = power is not None and math.isfinite(power) and 0 < power <= 200
    return power if is_believable else None


def _size_warnings(size: PixelSize, power: float | None) -> list[str]:
    if size.mpp is None or not power:
        return []
    expected = _MPP_AT_POWER_ONE / power
    ratio = size.mpp[0] / expected
    if max(ratio, 1 / ratio) <= _POWER_TOLERANCE:
        return []
    return [
        f"an objective of {power:g}x and {size.mpp[0]:.4g} µm/px disagree: "
        f"about {expected:.2g} µm/px would be usual"
    ]


def _bounds(properties: Mapping[str, str], place: Level) -> tuple[int, int, int, int]:
    """Scanned part as (l0_x, l0_y, width, height), cut to the slide; the whole slide by default."""
    try:
        l0_x, l0_y, width, height = (
            int(properties[f"openslide.bounds-{name}"]) for name in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return 0, 0, place.width, place.height
    left, top = max(l0_x, 0), max(l0_y, 0)
    right, bottom = min(l0_x + width, place.width), min(l0_y + height, place.height)
    if right <= left or bottom <= top:
        return 0, 0, place.width, place.height
    return left, top, right - left, bottom - top


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "")
    if not re.fullmatch(r"[0-9A-Fa-f]{6}", text):
        return colour.WHITE
    red, green, blue = bytes.fromhex(text)
    return red, green, blue


def _compression(properties: Mapping[str, str], content: TiffContent | None) -> str:
    if content is not None:
        return content.largest().compression_name
    return _TRANSFER_SYNTAXES.get(properties.get("dicom.TransferSyntaxUID", ""), "unknown")


def _scanner(properties: Mapping[str, str]) -> str | None:
    names = (properties.get(name, "").strip() for name in _SCANNER_PROPERTIES)
    return next((name for name in names if _SCANNER_NAME.fullmatch(name)), None)
