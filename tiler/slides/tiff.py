"""Slides in TIFF files that OpenSlide does not read: OME-TIFF and plain TIFF, tiled or in strips.

tifffile parses the structure, the pixels are decoded straight from the file's bytes. Level 0 is
the first OME image or the largest image of the file; the other levels are its SubIFDs, or smaller
images that the writer flagged as reduced versions. Frames and units are those of `base`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tiler.errors import PixelReadError, UnreadableSlide
from tiler.slides import limits, pyramid, resolution, segments
from tiler.slides.base import Level, Rgb, Slide, SlideFacts
from tiler.slides.colour import WHITE
from tiler.slides.rawfile import RawFile
from tiler.slides.resolution import OmeImage, PixelSize
from tiler.slides.segments import CellReader
from tiler.slides.tiffpages import TiffContent, TiffImage

_WHY_OME = "OpenSlide does not see the pyramid of an OME-TIFF"
_WHY_TIFF = "OpenSlide does not read such a TIFF"


class TiffSlide(Slide):
    """A slide in a TIFF, see `base.Slide`."""

    def __init__(self, path: Path, content: TiffContent, *, is_exact: bool = False) -> None:
        """Open the slide.

        Args:
            path: the file.
            content: what `read_tiff` found in it.
            is_exact: never reduce a cell while it is decoded, see `open_slide`.

        Raises:
            UnreadableSlide: it holds pixels that cannot be shown right as 8-bit RGB.
        """
        self._path = path
        ome = resolution.read_ome(content.ome_xml) if content.ome_xml else None
        main = _main_image(content, ome)
        images, warnings = _levels_of(main, content)
        self._file = RawFile(path)
        try:
            fingerprint = segments.fingerprint(self._file, images)
            self._readers = tuple(
                CellReader(self._file, image, WHITE, is_exact=is_exact) for image in images
            )
        except (OSError, ValueError) as error:
            self._file.close()
            raise UnreadableSlide(f"it cannot be read: {limits.spoken(error, path)}") from error
        size = _pixel_size(content, main, ome)
        levels = tuple(_level(image, main) for image in images)
        self._facts = SlideFacts(
            reader="tiff",
            vendor="ome-tiff" if ome else "tiff",
            compression=main.compression_name,
            levels=levels,
            mpp=size.mpp,
            mpp_source=size.source,
            mpp_problem=size.problem,
            objective_power=None,
            bounds=(0, 0, main.width, main.height),
            background=WHITE,
            pixels="direct",
            pixels_why=f"{segments.describe(main)}; {_WHY_OME if ome else _WHY_TIFF}",
            fingerprint=fingerprint,
            warnings=(
                *_content_warnings(content, main, ome),
                *warnings,
                *pyramid.stretch_warnings(levels),
            ),
        )

    @property
    def facts(self) -> SlideFacts:
        """What is known about the slide."""
        return self._facts

    def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
        """Decode one cell, see `base.Slide.read_cell`."""
        place = pyramid.check_cell(self._facts.levels, level, column, row, reduce)
        try:
            return self._readers[level].read(column, row, reduce)
        except Exception as error:
            # Each codec of imagecodecs has its own exception class.
            reason = limits.spoken(error, self._path)
            raise PixelReadError(pyramid.cell_failure(place, level, column, row, reason)) from error

    def native_tile(self, level: int, column: int, row: int) -> bytes | None:
        """Fetch one cell as the file's own JPEG, see `base.Slide.native_tile`."""
        place = pyramid.check_cell(self._facts.levels, level, column, row)
        try:
            return self._readers[level].native_tile(column, row)
        except (OSError, ValueError) as error:
            reason = limits.spoken(error, self._path)
            raise PixelReadError(pyramid.cell_failure(place, level, column, row, reason)) from error

    def will_need(self, level: int, cells: Iterable[tuple[int, int]]) -> None:
        """Announce cells, see `base.Slide.will_need`."""
        self._readers[level].will_need(cells)

    def close(self) -> None:
        """Release the file handle; closing twice is allowed."""
        self._file.close()


def _main_image(content: TiffContent, ome: OmeImage | None) -> TiffImage:
    """Choose level 0, and refuse what are channels of fluorescence rather than a picture."""
    if ome is None:
        main = content.largest()
        same = [i for i in content.images if (i.width, i.height) == (main.width, main.height)]
        channels = len(same) * main.samples if main.samples < 3 else main.samples
    else:
        if not 0 <= ome.ifd < len(content.images):
            raise UnreadableSlide(
                f"its OME-XML points to image {ome.ifd}, the TIFF has {len(content.images)}"
            )
        main = content.images[ome.ifd]
        channels = max(ome.channels, main.samples)
    if main.kind != "uint8" or channels > max(main.samples, 1):
        raise UnreadableSlide(limits.wrong_pixels(channels, main.kind))
    reason = segments.why_not(main)
    if reason:
        raise UnreadableSlide(reason)
    return main


def _levels_of(
    main: TiffImage, content: TiffContent
) -> tuple[tuple[TiffImage, ...], tuple[str, ...]]:
    """Level 0 and its smaller versions, finest first, and warnings about those left out."""
    if main.children:
        candidates = list(main.children)
    else:
        candidates = [i for i in content.images if i.is_reduced and _is_version(i, main)]
    levels, warnings = [main], []
    for image in sorted(candidates, key=lambda i: i.width * i.height, reverse=True):
        is_smaller = image.width < levels[-1].width and image.height <= levels[-1].height
        reason = segments.why_not(image)
        if is_smaller and _is_alike(image, main) and reason is None:
            levels.append(image)
        else:
            warnings.append(
                f"an image of {image.width} x {image.height} px is left out: "
                f"{reason or 'it is no smaller version of level 0'}"
            )
    return tuple(levels), tuple(warnings)


def _is_version(image: TiffImage, main: TiffImage) -> bool:
    """Whether an image has the shape of a pyramid level, and not of a label or a macro picture."""
    expected = image.width * main.height / main.width
    is_same_shape = abs(image.height - expected) <= max(1.0, pyramid.MAX_STRETCH * expected)
    return image is not main and image.is_tiled == main.is_tiled and is_same_shape


def _is_alike(image: TiffImage, main: TiffImage) -> bool:
    return image.samples == main.samples and image.kind == main.kind


def _level(image: TiffImage, main: TiffImage) -> Level:
    cell_width, cell_height = segments.cell_size(image)
    downsample_x, downsample_y = pyramid.downsamples(
        (image.width, image.height), (main.width, main.height)
    )
    return Level(image.width, image.height, downsample_x, downsample_y, cell_width, cell_height)


def _pixel_size(content: TiffContent, main: TiffImage, ome: OmeImage | None) -> PixelSize:
    """Take OME's word where it gives one, else that of the tags of the image they belong to."""
    if ome and ome.pixel_size is not resolution.NO_PIXEL_SIZE:
        return ome.pixel_size
    if main is not content.images[0]:
        return resolution.NO_PIXEL_SIZE
    return resolution.from_tiff_tags(content.resolution, content.resolution_unit)


def _content_warnings(content: TiffContent, main: TiffImage, ome: OmeImage | None) -> list[str]:
    warnings = []
    same = sum((i.width, i.height) == (main.width, main.height) for i in content.images)
    if ome is None and same > 1:
        warnings.append(f"it holds {same} images of the same size; only the first is read")
    if main.samples < 3:
        warnings.append("the picture is gray; its values are repeated in red, green and blue")
    if ome and ome.planes > 1:
        warnings.append(f"it holds {ome.planes} focal planes or times; only the first is read")
    if main.extra_samples[:1] == (0,):
        warnings.append("a channel of unknown meaning beside the colours is left out")
    return warnings
