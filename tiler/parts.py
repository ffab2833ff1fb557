"""Connected parts of a mask, in plain numpy.

Cells belong together if they touch with a side. Positions are cells, (row, column). A mask is taken
for the *runs* of true cells along its rows; runs that touch are joined. There are far fewer runs
than cells, which makes this as fast as `scipy.ndimage.label`, whose import alone takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The connected parts of a mask, numbered from 0 in the order of their first cells."""

    shape: tuple[int, int]
    """(rows, columns) of the mask."""
    starts: Ints
    """First cell of each run, counted along rows that are one cell longer than the mask's."""
    stops: Ints
    """One past the last cell of each run."""
    part: Ints
    """Number of the part that each run belongs to."""
    count: int
    """Parts there are."""

    def areas(self) -> npt.NDArray[np.float64]:
        """Cells in each part, (count,)."""
        return _sums(self.part, self.stops - self.starts, self.count)

    def holding(self, cells: Bools) -> Bools:
        """Which parts hold one of these cells, (count,). All cells must lie in a part."""
        found = np.zeros(self.count, dtype=np.bool_)
        found[self._parts_of_runs(_runs(cells)[0])] = True
        return found

    def sums(self, cells: Bools, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Sum over each part of the values in these cells, (count,). All must lie in a part."""
        starts, stops = _runs(cells)
        part = np.repeat(self._parts_of_runs(starts), stops - starts)
        return _sums(part, values[cells], self.count)

    def mask(self, chosen: Bools) -> Bools:
        """Cells of the chosen parts; `chosen` is bool (count,)."""
        runs = chosen[self.part]
        rows, columns = self.shape
        marks = np.zeros((rows, columns + 1), dtype=np.int8)
        flat = marks.reshape(-1)
        flat[self.starts[runs]] = 1
        flat[self.stops[runs]] = -1
        np.cumsum(flat, out=flat)
        return marks.view(np.bool_)[:, :columns]

    def _parts_of_runs(self, starts: Ints) -> Ints:
        return self.part[np.searchsorted(self.starts, starts, side="right") - 1]


def connected_parts(mask: Bools) -> Parts:
    """Find the connected parts of a mask, bool (rows, columns)."""
    rows, columns = mask.shape
    starts, stops = _runs(mask)
    first = _joined(len(starts), *_touching(starts, stops, columns + 1))
    is_first = first == np.arange(len(first))
    number = np.cumsum(is_first) - 1
    return Parts((rows, columns), starts, stops, number[first], int(is_first.sum()))


def _sums(part: Ints, values: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """Sums of the values of each part."""
    return np.asarray(np.bincount(part, weights=values, minlength=count), dtype=np.float64)


def _runs(mask: Bools) -> tuple[Ints, Ints]:
    """Starts and stops of the runs, in rows with one false cell at the end of each."""
    rows, columns = mask.shape
    padded = np.zeros(rows * (columns + 1) + 1, dtype=np.bool_)
    padded[1:].reshape(rows, columns + 1)[:, :columns] = mask
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return edges[::2], edges[1::2]


def _touching(starts: Ints, stops: Ints, pitch: int) -> tuple[Ints, Ints]:
    """All pairs of runs of which the first lies right above the second."""
    first = np.searchsorted(stops, starts - pitch, side="right")
    last = np.searchsorted(starts, stops - pitch, side="left")
    counts = last - first
    below = np.repeat(np.arange(len(starts)), counts)
    before = np.cumsum(counts) - counts
    above = np.arange(len(below)) + np.repeat(first - before, counts)
    return above, below


def _joined(count: int, above: Ints, below: Ints) -> Ints:
    """For each run, the first run of its part.

    In each round all parts hook onto an earlier neighbour at once, so few rounds are needed.
    """
    first = np.arange(count)
    while len(above):
        ends = first[above], first[below]
        np.minimum.at(first, np.maximum(*ends), np.minimum(*ends))
        while not np.array_equal(shorter := first[first], first):
            first = shorter
        apart = first[above] != first[below]
        above, below = above[apart], below[apart]
    return first
