"""From sample numbers to batches of pixels, read ahead of the training step by threads.

B is the batch, S the side of a tile in pixels: tiles are uint8 (B, S, S, 3), RGB. Reading and
decoding release the GIL, so threads are enough, and no pixel is copied between processes. A batch
depends on its step alone; threads change when it is ready, never what is in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
import numpy.typing as npt

from manifests import Manifest, StoreError
from manifests.codec import Rgb
from manifests.store import is_committed, open_store
from pretrain.mix import Mix
from pretrain.sampler import Draw, Sampler


@dataclass(frozen=True, slots=True)
class Batch:
    """The tiles of one step."""

    tiles: Rgb
    """uint8 (B, S, S, 3)."""
    numbers: npt.NDArray[np.int64]
    """Sample numbers, (B,)."""
    ids: npt.NDArray[np.int64]
    """Which tile of the mix each is, (B,); equal ids are the same tile."""
    damaged: tuple[tuple[str, int], ...] = ()
    """Slide and tile of those that could not be read and were replaced."""


class TileLoader:
    """Reads batches from the stores of a mix. Safe for threads."""

    def __init__(self, manifest: Manifest, mix: Mix, sampler: Sampler, batch_size: int) -> None:
        """Open all stores.

        Raises:
            StoreError: a store is missing, not committed, or not the one of the manifest.
        """
        self._slides = mix.slides
        self._tile_size = mix.tile_size
        self._sampler = sampler
        self._batch_size = batch_size
        self._first_id = [0, *accumulate(slide.tiles for slide in self._slides)]
        entries = {entry.id: entry for entry in manifest.committed()}
        self._stores = [open_store(manifest, entries[slide.id]) for slide in self._slides]

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0.

        Raises:
            StoreError: a store is gone, or no tile of a slide can be read.
        """
        first = step * self._batch_size
        numbers = np.arange(first, first + self._batch_size, dtype=np.int64)
        size = self._tile_size
        tiles = np.empty((self._batch_size, size, size, 3), dtype=np.uint8)
        ids = np.empty(self._batch_size, dtype=np.int64)
        damaged: list[tuple[str, int]] = []
        for place, number in enumerate(numbers.tolist()):
            draw = self._sampler.draw(number)
            tiles[place], tile = self._read(draw, damaged)
            ids[place] = self._first_id[draw.slide] + tile
        return Batch(tiles, numbers, ids, tuple(damaged))

    def _read(self, draw: Draw, damaged: list[tuple[str, int]]) -> tuple[Rgb, int]:
        """Pixels and number of the tile drawn, or of the next of its slide that can be read."""
        slide, store = self._slides[draw.slide], self._stores[draw.slide]
        tile = draw.tile
        # Two passes, less a tile: from wherever the draw stands, that holds one whole pass.
        for attempt in range(1, 2 * slide.tiles):
            group, index = slide.locate(tile)
            try:
                return store[group].read(index), tile
            except StoreError as error:
                if not is_committed(store.path):
                    raise StoreError(
                        f"{store.path} was removed while training ({error})"
                    ) from error
                damaged.append((slide.id, tile))
            tile = self._sampler.substitute(draw, attempt).tile
        raise StoreError(
            f"no tile of {store.path} can be read; delete that store and cut the slide again"
        )


def prefetch(
    read: Callable[[int], Batch], steps: Iterable[int], threads: int
) -> Generator[Batch, None, None]:
    """The batches of `steps` in order, up to `threads` + 1 of them read ahead.

    An error in a thread is raised where its batch would have come. Closing the generator drops
    what was read ahead and ends the threads.
    """
    todo = iter(steps)
    with ThreadPoolExecutor(threads, thread_name_prefix="tiles") as pool:
        ahead: deque[Future[Batch]] = deque()
        try:
            ahead.extend(pool.submit(read, step) for step in islice(todo, threads + 1))
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(pool.submit(read, step) for step in islice(todo, 1))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
