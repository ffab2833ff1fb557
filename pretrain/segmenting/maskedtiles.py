"""Tiles together with their masks, read in any order, and how well masks are predicted.

N are the tiles, S is their side in pixels, U the units, C the classes. A tile that cannot be read
has no known pixel, so that it is neither learnt from nor scored.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from manifests import Manifest, StoreError
from manifests.codec import Rgb
from manifests.store import is_committed
from pretrain.embedding.wanted import Integers, Wanted
from pretrain.loading.loader import OpenStores, is_short_of_files, store_removed
from pretrain.scoring.metrics import confusion
from pretrain.segmenting.maskfiles import Pixels
from pretrain.segmenting.masks import IGNORED, Masks

TRAIN, VAL, TEST = 0, 1, 2

Predict = Callable[[Rgb], npt.NDArray[np.integer]]
"""From tiles uint8 (n, S, S, 3) to the class of each pixel, (n, S, S)."""


@dataclass(frozen=True, slots=True)
class MaskedTiles:
    """N tiles with their masks; rows are the tiles of `parts`, one after another."""

    manifest: Manifest
    parts: tuple[Wanted, ...]
    masks: Masks
    split: npt.NDArray[np.int8]
    """(N,): 0 train, 1 val, 2 test; anything else does not count."""
    units: Integers
    """(N,): what intervals resample."""

    def rows(self, split: int) -> Integers:
        """Rows of a split that have masks, ascending."""
        return np.flatnonzero((self.split == split) & self.masks.has)


class MaskedReader:
    """Reads tiles and their masks on several threads."""

    def __init__(self, tiles: MaskedTiles, threads: int) -> None:
        self.tiles = tiles
        self.damaged: set[int] = set()
        """Rows whose tiles could not be read, of those that were asked for."""
        self._first = [0, *accumulate(map(len, tiles.parts))]
        self._stores = OpenStores(tiles.manifest)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, rows: Sequence[int] | Integers) -> tuple[Rgb, Pixels]:
        """Tiles uint8 (n, S, S, 3), and the classes of their pixels, uint8 (n, S, S).

        Raises:
            StoreError: a store is gone.
        """
        size = self.tiles.masks.size
        pixels = np.empty((len(rows), size, size, 3), dtype=np.uint8)
        truth = self.tiles.masks.read(rows)
        good = list(self._pool.map(self._read, rows, pixels))
        truth[[place for place, whole in enumerate(good) if not whole]] = IGNORED
        return pixels, truth

    def batches(
        self, rows: Integers, batch_size: int
    ) -> Iterator[tuple[Integers, tuple[Rgb, Pixels]]]:
        """Rows, tiles and truth, batch by batch."""
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            yield part, self.read(part)

    def _read(self, row: int, out: Rgb) -> bool:
        place = bisect_right(self._first, row) - 1
        part = self.tiles.parts[place]
        group = self._stores.group(part.entry.id, part.group)
        try:
            group.read(int(part.indices[row - self._first[place]]), out)
        except StoreError as error:
            if is_short_of_files(error):
                raise StoreError(f"{error}: raise the limit, ulimit -n") from error
            if not is_committed(group.store.path):
                raise store_removed(group.store.path, error) from error
            out[:] = 0
            self.damaged.add(int(row))
            return False
        return True


def confusions(
    reader: MaskedReader, rows: Integers, classes: int, predict: Predict, batch_size: int
) -> npt.NDArray[np.int64]:
    """Confusion of the known pixels of each unit that the rows are of, int64 (U, C, C)."""
    units, unit_of = np.unique(reader.tiles.units[rows], return_inverse=True)
    found = np.zeros((len(units), classes, classes), dtype=np.int64)
    place = 0
    for _, (pixels, truth) in reader.batches(rows, batch_size):
        for said, true in zip(predict(pixels), truth, strict=True):
            known = true != IGNORED
            found[unit_of[place]] += confusion(true[known], said[known], classes)
            place += 1
    # A unit without a known pixel says nothing: to draw it would widen nothing but the noise.
    return found[found.any(axis=(1, 2))]
