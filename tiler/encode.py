"""From cut tiles to what a shard holds: encoded bytes and the columns measured on the pixels.

Tiles go by one at a time; only those of one batch of quality measurements are held. Columns are
one value per tile, shape (N,).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from manifests.codec import TileCodec
from tiler import quality
from tiler.pixels import CutTile
from tiler.slides.base import Rgb

_BATCH_BYTES = 1_600_000
"""Pixels of the tiles that are measured together: few enough to be still in the cache."""


class TileEncoder:
    """Encodes the tiles of one shard and measures them on the way."""

    def __init__(self, codec: TileCodec, *, measure: bool = True) -> None:
        """Begin a shard; without `measure` there are no quality columns."""
        self._codec = codec
        self._measure = measure
        self._batch: list[Rgb] = []
        self._measured: list[npt.NDArray[np.float32]] = []
        self._native: list[bool] = []
        self._unread: list[float] = []
        self._scratch = quality.Scratch()

    def encode(self, tiles: Iterable[CutTile]) -> Iterator[bytes]:
        """Yield the bytes of each tile: those of the slide where it has them."""
        for tile in tiles:
            self._native.append(tile.native is not None)
            self._unread.append(tile.unread)
            if self._measure and tile.pixels is not None:
                self._batch.append(tile.pixels)
                if len(self._batch) * tile.pixels.nbytes >= _BATCH_BYTES:
                    self._measure_batch()
            if tile.native is not None:
                yield tile.native
            else:
                assert tile.pixels is not None, "a tile has pixels or bytes"
                yield self._codec.encode(tile.pixels)
            del tile  # large tiles: not two of them at a time

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """The columns of all tiles that were encoded, in order.

        Returns:
            `native` bool, `unread` float32 and, if measured, those of `quality.COLUMNS`, float32.
        """
        found: dict[str, npt.NDArray[np.generic]] = {
            "native": np.asarray(self._native, dtype=np.bool_),
            "unread": np.asarray(self._unread, dtype=np.float32),
        }
        if self._measure:
            self._measure_batch()
            table = np.concatenate(
                [np.empty((0, len(quality.COLUMNS)), np.float32), *self._measured]
            )
            found |= {name: table[:, i] for i, name in enumerate(quality.COLUMNS)}
        return found

    @property
    def unread(self) -> int:
        """Tiles that could not be read in whole."""
        return sum(share > 0 for share in self._unread)

    @property
    def native(self) -> int:
        """Tiles that were kept as the slide holds them."""
        return sum(self._native)

    def _measure_batch(self) -> None:
        if self._batch:
            self._measured.append(quality.measure_all(self._batch, self._scratch))
            self._batch.clear()
