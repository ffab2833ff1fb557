"""From sample numbers to batches of pixels.

B is the batch of this rank, S the side of a tile in pixels: tiles are uint8 (B, S, S, 3), RGB. A
batch depends on its step alone: on how many threads it is read, and when, changes nothing in it.
Stores are opened when they are first drawn from, and a bounded number is kept open, so that tens of
thousands of slides can be trained on.
"""

from __future__ import annotations

import errno
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt
from PIL import Image

from manifests import Manifest, StoreError
from manifests.codec import Rgb
from manifests.store import TileGroup, TileStore, is_committed, open_store
from pretrain.errors import ConfigError
from pretrain.mixing.mix import Mix
from pretrain.mixing.sampler import Draw, Sampler

_MOST_OPEN_STORES = 4096
"""Some 20 kB each; to open one anew takes half as long as to read a tile. The files that stay
open are bounded by `manifests.store`."""
_MOST_ATTEMPTS = 1000
"""Tiles of a slide that are tried before the whole store counts as damaged."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The tiles of one step."""

    tiles: Rgb
    """uint8 (B, S, S, 3)."""
    numbers: npt.NDArray[np.int64]
    """Sample numbers, (B,)."""
    ids: npt.NDArray[np.int64]
    """Which tile of the mix each is, (B,); equal ids are the same tile."""
    damaged: tuple[int, ...] = ()
    """Ids of tiles that could not be read and were replaced."""


class Filling:
    """A batch that is being read. Parts of it may be read by several threads at once."""

    def __init__(self, loader: TileLoader, draws: Sequence[Draw], tiles: Rgb) -> None:
        self._loader = loader
        self._draws = draws
        self._tiles = tiles
        self._ids = np.empty(len(draws), dtype=np.int64)
        self._damaged: list[tuple[int, int, int]] = []

    def read(self, place: int) -> None:
        """Read the tile at a place of the batch, from 0 to B - 1.

        Raises:
            StoreError: a store is gone, or no tile of a slide can be read.
        """
        self._ids[place], damaged = self._loader.read(self._draws[place], self._tiles[place])
        self._damaged += [(place, turn, tile) for turn, tile in enumerate(damaged)]

    def batch(self) -> Batch:
        """The batch, once every place was read."""
        numbers = np.array([draw.number for draw in self._draws], dtype=np.int64)
        damaged = tuple(tile for _, _, tile in sorted(self._damaged))
        return Batch(self._tiles, numbers, self._ids, damaged)


class TileLoader:
    """Reads batches from the stores of a mix. Safe for threads."""

    def __init__(
        self,
        manifest: Manifest,
        mix: Mix,
        sampler: Sampler,
        batch_size: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        """Prepare to read; no store is opened yet.

        Args:
            batch_size: tiles a step, over all ranks.
            part: rank and number of ranks. Rank r has the r-th of so many equal parts of each
                batch: laid one after another, the parts are the batch.

        Raises:
            ConfigError: the batch cannot be shared out evenly.
        """
        rank, ranks = part
        if batch_size % ranks:
            raise ConfigError(
                f"a batch of {batch_size} tiles cannot be shared evenly by {ranks} GPUs; "
                f"give --batch-size {max(1, batch_size // ranks) * ranks}"
            )
        self._mine = slice(rank * batch_size // ranks, (rank + 1) * batch_size // ranks)
        self._slides = mix.slides
        self._tile_size = mix.tile_size
        self._sampler = sampler
        self._first_id = [0, *accumulate(slide.tiles for slide in mix.slides)]
        self._stores = OpenStores(manifest)

    @property
    def batch_shape(self) -> tuple[int, int, int, int]:
        """Shape of this rank's tiles of a step, (B, S, S, 3)."""
        return self._mine.stop - self._mine.start, self._tile_size, self._tile_size, 3

    def begin(self, step: int, tiles: Rgb | None = None) -> Filling:
        """What is drawn in a step, from 0, to be read place by place.

        Args:
            tiles: uint8 of `batch_shape`, contiguous: where to put the tiles.
        """
        draws = self._sampler.batch(step, self._mine)
        if tiles is None:
            tiles = np.empty(self.batch_shape, dtype=np.uint8)
        return Filling(self, draws, tiles)

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 0.

        Raises:
            StoreError: a store is gone, or no tile of a slide can be read.
        """
        filling = self.begin(step)
        for place in range(self.batch_shape[0]):
            filling.read(place)
        return filling.batch()

    def name_of(self, tile_id: int) -> str:
        """Slide, group and index in the group of the tile with that id, `colon-1/0.5/17`."""
        slide = bisect_right(self._first_id, tile_id) - 1
        group, index = self._slides[slide].locate(tile_id - self._first_id[slide])
        return f"{self._slides[slide].id}/{group}/{index}"

    def read(self, draw: Draw, out: Rgb) -> tuple[int, list[int]]:
        """Read the tile drawn, or the next of its slide that can be read.

        Args:
            out: uint8 (S, S, 3), contiguous: where to put it.

        Returns:
            The tile's id, and the ids of those that could not be read.

        Raises:
            StoreError: a store is gone, or no tile of a slide can be read.
        """
        slide, tile = self._slides[draw.slide], draw.tile
        first_id = self._first_id[draw.slide]
        damaged: list[int] = []
        # Two passes, less a tile: from wherever the draw stands, that holds one whole pass.
        for attempt in range(1, min(2 * slide.tiles, _MOST_ATTEMPTS)):
            name, index = slide.locate(tile)
            group = self._stores.group(slide.id, name)
            try:
                self._decode(group, index, out)
                return first_id + tile, damaged
            except StoreError as error:
                if is_short_of_files(error):
                    raise StoreError(f"{error}: raise the limit, ulimit -n") from error
                if not damaged and not is_committed(group.store.path):
                    raise store_removed(group.store.path, error) from error
                damaged.append(first_id + tile)
            tile = self._sampler.substitute(draw, attempt).tile
        raise StoreError(
            f"no tile of {group.store.path} can be read, of {len(set(damaged))} that were drawn; "
            "delete that store and cut the slide again"
        )

    def _decode(self, group: TileGroup, index: int, out: Rgb) -> None:
        if group.tile_size == self._tile_size:
            group.read(index, out)
        else:
            out[:] = resized(group.read(index), self._tile_size)


class OpenStores:
    """The stores that a loader holds open, least recently used first. Safe for threads."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._entries = {entry.id: entry for entry in manifest.committed()}
        self._lock = Lock()
        self._stores: OrderedDict[str, TileStore] = OrderedDict()

    def group(self, slide: str, name: str) -> TileGroup:
        """The tiles of one resolution of a slide.

        Raises:
            StoreError: the store is gone, not the one of the manifest, or its metadata are damaged.
        """
        with self._lock:
            store = self._stores.get(slide)
            if store is not None:
                self._stores.move_to_end(slide)
        # Files are read outside of the lock: on a slow disk, all threads would wait for one.
        return (store or self._open(slide))[name]

    def _open(self, slide: str) -> TileStore:
        entry = self._entries[slide]
        try:
            opened = open_store(self._manifest, entry)
        except StoreError as error:
            path = self._manifest.store_path(entry)
            if not is_committed(path):
                raise store_removed(path, error) from error
            raise
        with self._lock:
            # Another thread may have been faster.
            store = self._stores.setdefault(slide, opened)
            self._stores.move_to_end(slide)
            while len(self._stores) > _MOST_OPEN_STORES:
                self._stores.popitem(last=False)
            return store


def is_short_of_files(error: StoreError) -> bool:
    """Whether a tile could not be read for want of files to open, not for damage."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE)


def store_removed(store: Path, error: StoreError) -> StoreError:
    return StoreError(f"{store} was removed while it was read ({error})")


def resized(tile: Rgb, size: int) -> Rgb:
    """A tile brought to `size` pixels, uint8 (S, S, 3) to (size, size, 3).

    Smaller ones are means over areas, as the tiles are that were cut at that scale: exact for whole
    factors; for others by the filter of Pillow that comes nearest, 46 to 48 dB on tissue, where
    Lanczos has 35 to 37 dB. Larger ones are interpolated (bicubic), as cutting does.
    """
    factor = tile.shape[0] / size
    image = Image.fromarray(tile)
    if factor < 1:
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    if factor.is_integer():
        return np.asarray(image.reduce(int(factor)))
    near = Image.Resampling.BILINEAR if factor < 2 else Image.Resampling.HAMMING
    return np.asarray(image.resize((size, size), near))
