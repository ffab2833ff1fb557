"""What the tiler knows of a slide: the `Slide` protocol and the facts behind it.

Coordinates. `l0_` is a pixel of level 0 (the finest), `level_` a pixel of one level; both have
their origin at the slide's top-left corner, x to the right and y down. A *cell* is the unit in
which a level is decoded: the file's own tile where it has tiles, else a square of our choosing.
Cell (column, row) covers level_x from column * cell_width up to, not including,
(column + 1) * cell_width, and the same in y; cells at the right and bottom edge are cut off there.
Resolutions (`mpp`) are µm per pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]
"""uint8 pixels, shape (height, width, 3), sRGB order."""

REDUCTIONS = (1, 2, 4, 8)
"""What a cell can be reduced by: what both JPEG and JPEG 2000 can do while they decode."""

MPP_PLAUSIBLE = (0.01, 50.0)
"""µm/px that a light-microscope picture can have; 72, 96 and 300 dpi lie above it."""

MPP_ANISOTROPY = 0.05
"""Largest believable relative difference of the mpp in x and in y."""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution level of a slide."""

    width: int
    """Pixels in x."""
    height: int
    """Pixels in y."""
    downsample_x: float
    """Level-0 pixels per pixel of this level, in x."""
    downsample_y: float
    """Level-0 pixels per pixel of this level, in y."""
    cell_width: int
    """Pixels of this level that are decoded together, in x."""
    cell_height: int
    """Pixels of this level that are decoded together, in y."""

    def __post_init__(self) -> None:
        sizes = (self.width, self.height, self.cell_width, self.cell_height)
        if min(sizes) < 1:
            raise ValueError(f"a level needs sizes of at least 1 px, got {sizes}")
        if not (self.downsample_x > 0 and self.downsample_y > 0):
            raise ValueError(f"downsamples must be positive, got {self}")


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """What a reader found out about a slide. Nothing here identifies a patient or a person."""

    reader: str
    """`openslide`, `tiff` or `picture`."""
    vendor: str
    """Format in OpenSlide's words (`aperio`, `hamamatsu`, ...), or `ome-tiff`, `png`, ..."""
    compression: str
    """Compression of level 0 (`jpeg`, `jpeg2000`, `deflate`, ...), or `unknown`."""
    levels: tuple[Level, ...]
    """Finest first."""
    mpp: tuple[float, float] | None
    """µm per level-0 pixel in (x, y), checked; None if the file has none that is believable."""
    mpp_source: str
    """Where the mpp was found (`openslide`, `ome-xml`, `tiff tags`); `none` without one."""
    mpp_problem: str | None
    """Why the file's mpp was not believed, as half a sentence; None if there is no such problem."""
    objective_power: float | None
    """Nominal magnification (20, 40)."""
    bounds: tuple[int, int, int, int]
    """Scanned part as (l0_x, l0_y, width, height) in level-0 pixels; the whole slide by default."""
    background: tuple[int, int, int]
    """RGB of what was not scanned."""
    pixels: str
    """Who decodes: `direct` (every level is decoded from the file's own tiles or strips),
    `openslide`, `mixed` (some levels each), or `whole picture` (decoded at once)."""
    pixels_why: str
    """Why it is they, as half a sentence."""
    fingerprint: str
    """Hash of the content, prefixed by its kind: `quickhash1:`, `tiles1:` or `file1:`."""
    scanner: str | None = None
    """Scanner model from an allow-list of properties."""
    warnings: tuple[str, ...] = ()
    """What a person should know before trusting this slide."""

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("a slide needs at least one level")


class Slide(Protocol):
    """An open slide; readers inherit from it.

    Not picklable, not for use by several threads: open one per task, by path.
    """

    @property
    def facts(self) -> SlideFacts:
        """What is known about the slide."""
        ...

    def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
        """Decode one cell.

        Args:
            level: index of the level.
            column: of the cell.
            row: of the cell.
            reduce: 1, 2, 4 or 8: so many pixels in x and in y become one, their mean. Where the
                codec can decode less of a cell, and the slide was not opened as `exact`, that
                stands for the mean: within a few grey levels for JPEG, with a shift of half a pixel
                of the level for JPEG 2000.

        Returns:
            uint8 (height // reduce, width // reduce, 3), where (height, width) is the cell, cut
            off at the right and bottom edge of the level; transparent or unscanned parts are
            filled with the background colour.

        Raises:
            PixelReadError: the bytes cannot be read or decoded. Other cells stay readable.
            IndexError: there is no such level or cell.
            ValueError: another `reduce`.
        """
        ...

    def native_tile(self, level: int, column: int, row: int) -> bytes | None:
        """Fetch one cell as the JPEG that the file itself holds, without decoding it.

        Decoded by any decoder, it is what `read_cell` gives. The stream is completed with the
        file's tables and a marker that states the colours; application data, comments and what
        follows its end are cut out.

        Returns:
            A whole sequential JPEG of three 8-bit components; None if the cell is none in the
            file, reaches over the level's edge, or has no bytes.

        Raises:
            PixelReadError: it cannot be read, has another size than the cell, or is cut off or
                damaged in a way that shows without decoding.
            IndexError: there is no such level or cell.
        """
        ...

    def will_need(self, level: int, cells: Iterable[tuple[int, int]]) -> None:
        """Announce that these cells (column, row) will be read soon.

        The system may then fetch their bytes side by side; does nothing where it cannot.
        """
        ...

    def close(self) -> None:
        """Release the file handles."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def mpp_problem(mpp_x: float, mpp_y: float) -> str | None:
    """Say why a pair of µm per pixel is not believable, as half a sentence, or None if it is.

    >>> mpp_problem(0.25, 0.25)
    >>> mpp_problem(0.25, 0.0)
    'an mpp of 0.25 x 0 µm/px is not a positive number'
    """
    shown = f"{mpp_x:.6g} x {mpp_y:.6g} µm/px"
    if not all(math.isfinite(v) and v > 0 for v in (mpp_x, mpp_y)):
        return f"an mpp of {shown} is not a positive number"
    low, high = MPP_PLAUSIBLE
    if not all(low <= v <= high for v in (mpp_x, mpp_y)):
        hint = " (a screen resolution, or another unit?)" if mpp_x > high else " (another unit?)"
        return f"an mpp of {shown} is outside the believable {low:g} to {high:g}{hint}"
    if abs(mpp_x - mpp_y) > MPP_ANISOTROPY * min(mpp_x, mpp_y):
        return f"an mpp of {shown} differs by more than {MPP_ANISOTROPY:.0%} between x and y"
    return None
