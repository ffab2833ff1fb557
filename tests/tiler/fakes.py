"""A slide in memory: the simple twin of the readers, with any cell size and any levels.

Pixels are uint8 RGB, (height, width, 3); a level is told from the next by its downsample.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tiler.errors import PixelReadError
from tiler.slides.base import Level, Rgb, Slide, SlideFacts

BACKGROUND = (200, 210, 220)


def noise(height: int, width: int, seed: int = 0) -> Rgb:
    """Pixels that have nothing in common with their neighbours, so that no shift goes unseen."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def facts_of(
    levels: Sequence[Level],
    mpp: tuple[float, float] | None = (0.5, 0.5),
    bounds: tuple[int, int, int, int] | None = None,
    mpp_problem: str | None = None,
) -> SlideFacts:
    """The facts of a slide with these levels; bounds of None are the whole slide."""
    return SlideFacts(
        reader="fake",
        vendor="memory",
        compression="none",
        levels=tuple(levels),
        mpp=mpp,
        mpp_source="none" if mpp is None else "openslide",
        mpp_problem=mpp_problem,
        objective_power=None,
        bounds=bounds or (0, 0, levels[0].width, levels[0].height),
        background=BACKGROUND,
        fingerprint="file1:fake",
        pixels="direct",
        pixels_why="they lie in memory",
    )


def block_mean(pixels: Rgb, factor: int) -> Rgb:
    """Mean of whole blocks, halves up: uint8 (h // factor, w // factor, 3)."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    means: Rgb = ((2 * blocks.sum((1, 3), int) + factor**2) // (2 * factor**2)).astype(np.uint8)
    return means


class FakeSlide(Slide):
    """A slide over arrays, see `tiler.slides.base.Slide`; counts its reads."""

    def __init__(
        self,
        pixels: Sequence[Rgb],
        cell: tuple[int, int] = (16, 16),
        mpp: tuple[float, float] | None = (0.5, 0.5),
        bounds: tuple[int, int, int, int] | None = None,
        damaged: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        """Hold the pixels of each level, finest first; `damaged` cells of any level do not read."""
        self._pixels = list(pixels)
        self._damaged = damaged
        self.reads: list[tuple[int, int, int]] = []
        """(level, column, row) of every cell that was read, in order."""
        self.advised: list[tuple[int, int, int]] = []
        """The same of every cell that was announced."""
        self.natives: dict[tuple[int, int, int], bytes] = {}
        """Compressed bytes of cells."""
        height, width = pixels[0].shape[:2]
        levels = [
            Level(p.shape[1], p.shape[0], width / p.shape[1], height / p.shape[0], *cell)
            for p in pixels
        ]
        self._facts = facts_of(levels, mpp, bounds)

    @property
    def facts(self) -> SlideFacts:
        """What is known about the slide."""
        return self._facts

    def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
        """Cut one cell out of a level."""
        self.reads.append((level, column, row))
        if (column, row) in self._damaged:
            raise PixelReadError(f"the tile at column {column}, row {row} cannot be decoded")
        place = self._facts.levels[level]
        x, y = column * place.cell_width, row * place.cell_height
        assert 0 <= x < place.width, "the cell is in the level"
        assert 0 <= y < place.height, "the cell is in the level"
        cell = self._pixels[level][y : y + place.cell_height, x : x + place.cell_width]
        return cell if reduce == 1 else block_mean(cell, reduce)

    def native_tile(self, level: int, column: int, row: int) -> bytes | None:
        """The bytes that a test gave for a cell."""
        if (column, row) in self._damaged:
            raise PixelReadError(f"the tile at column {column}, row {row} is cut off")
        return self.natives.get((level, column, row))

    def will_need(self, level: int, cells: Iterable[tuple[int, int]]) -> None:
        """Take note."""
        self.advised += [(level, *cell) for cell in cells]

    def close(self) -> None:
        """Nothing to release."""


class HugeSlide(FakeSlide):
    """A slide of one level, one colour and any size: for counting reads, not for pixels."""

    def __init__(self, width: int, height: int, cell: int, mpp: float) -> None:
        """Make no pixels but those of the cells that are read."""
        super().__init__([np.zeros((1, 1, 3), np.uint8)])
        level = Level(width, height, 1.0, 1.0, cell, cell)
        self._facts = facts_of([level], (mpp, mpp))

    def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
        """Make one cell."""
        self.reads.append((level, column, row))
        place = self._facts.levels[level]
        height = min(place.cell_height, place.height - row * place.cell_height)
        width = min(place.cell_width, place.width - column * place.cell_width)
        return np.full((height // reduce, width // reduce, 3), 128, np.uint8)
