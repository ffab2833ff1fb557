"""Tile stores, read: `TileStore` opens committed ones; `manifests.writer` makes them.

Tile indices run from 0 to N - 1 within a group (one resolution); pixels are uint8 RGB. Columns `x`
and `y` are the level-0 pixel of a tile's top-left corner. A store without a valid `commit.json`
does not exist for readers. Everything that is read is checked against a checksum first.
"""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests import layout
from manifests.codec import Rgb
from manifests.commit import (
    is_committed,
    is_complete,
    json_object,
    own_file,
    read_commit,
    read_committed,
)
from manifests.errors import StoreError
from manifests.files import Json
from manifests.layout import Column, TilesLayout
from manifests.model import Manifest, StoreEntry
from manifests.shard import Shard, shard_label
from manifests.tileset import TileSet
from manifests.writer import GroupPlan, ShardRecord, StoreWriter

_MAX_OPEN_SHARDS = 4096
"""Each holds a file open and its index, 8 kB, in memory."""
_SHARE_OF_FILES = 4
"""A quarter of the files that the process may open is for shards, whatever the limit above."""


class TileStore:
    """A committed store, open for reading.

    Cheap to open (two small JSON files), safe for threads and after a fork, picklable.

    >>> store = TileStore("tiles/slide-1.zarr")          # doctest: +SKIP
    >>> store["0.5"].read(0).shape                       # doctest: +SKIP
    (256, 256, 3)
    """

    def __init__(self, path: str | Path, members: Mapping[str, TileSet] | None = None) -> None:
        """Open the store.

        Args:
            members: the tiles that a manifest selected, by group; a group that it does not name has
                none. They change what `usable` says, never the numbers of tiles.

        Raises:
            StoreError: there is no store, it is not committed, or its metadata were changed.
        """
        self.path = Path(path)
        self._members = members
        commit = read_commit(self.path)
        self.commit_sha256: str = commit["sha256"]
        """What the manifest calls `commit`: it stands for the bytes of every file."""
        self._files: dict[str, list[Any]] = commit["files"]
        self.totals: dict[str, int] = commit["totals"]
        """`tiles` (number) and `bytes` (of all files but `commit.json`)."""
        self.attributes = self.read_attributes("zarr.json")
        """What the store is and how it was made (`uuid`, `spec`, `spec_hash`, `source`, ...)."""
        if self.attributes.get("uuid") != commit["uuid"]:
            raise StoreError(f"{self.path}: commit.json belongs to another store")
        self.groups: tuple[str, ...] = tuple(commit["groups"])
        """Names of the resolutions, finest first ("0.25", "0.5")."""
        self._open: dict[str, TileGroup] = {}

    def __getitem__(self, group: str) -> TileGroup:
        """The tiles of one resolution; a name that is not in `groups` raises `StoreError`."""
        if group not in self.groups:
            raise StoreError(
                f"{self.path} has no resolution {group!r}; it has {', '.join(self.groups)}"
            )
        if group not in self._open:
            self._open[group] = TileGroup(self, group)
        return self._open[group]

    def __reduce__(self) -> tuple[type[TileStore], tuple[Path, Mapping[str, TileSet] | None]]:
        return TileStore, (self.path, self._members)

    def members(self, group: str) -> TileSet | None:
        """The tiles of a group that a manifest selected; None where it takes all of them."""
        return None if self._members is None else self._members.get(group, TileSet())

    def read_file(self, name: str) -> bytes:
        """The bytes of one file of the store, checked against the commit record."""
        return read_committed(self.path, name, self.committed_file(name))

    def read_attributes(self, name: str) -> dict[str, Json]:
        """The attributes of a group, given the name of its `zarr.json`."""
        found = self.read_json(name).get("attributes", {})
        if not isinstance(found, dict):
            raise StoreError(f"{self.path / name} has attributes that are no object")
        return found

    def read_json(self, name: str) -> dict[str, Json]:
        """The object in a JSON file of the store, checked against the commit record."""
        return json_object(self.read_file(name), self.path / name)

    def committed_file(self, name: str) -> tuple[int, str]:
        """Bytes and sha256 that the commit record says a file has."""
        if name not in self._files:
            raise StoreError(f"{self.path} has no file {name}")
        size, digest = self._files[name]
        return int(size), str(digest)

    def files(self) -> tuple[str, ...]:
        """Names of all files that were committed, sorted; `commit.json` is not one of them."""
        return tuple(sorted(self._files))

    def has_file(self, name: str) -> bool:
        """Whether the commit record lists the file."""
        return name in self._files

    def columns_of(self, group: str) -> tuple[str, ...]:
        """Names of the columns of a group, sorted."""
        depth = [name.split("/") for name in self._files if name.startswith(f"{group}/")]
        found = {parts[1] for parts in depth if len(parts) == 3 and parts[2] == "zarr.json"}
        return tuple(sorted(found - {"tiles"}))

    def picture(self, name: str) -> npt.NDArray[np.generic]:
        """`thumbnail`, uint8 (h, w, 3), or `tissue_mask`, bool (h, w), over the whole slide."""
        metadata = self.read_json(f"{name}/zarr.json")
        chunk = f"{name}/c" + ".0" * len(metadata["shape"])
        return layout.decode_picture(self.read_file(chunk), metadata, name)

    def sources(self) -> list[dict[str, Json]]:
        """Packed stores: the pictures behind the tiles (`name`, and what is known of each)."""
        if not self.has_file(layout.SOURCES_FILE):
            return []
        found: list[dict[str, Json]] = self.read_json(layout.SOURCES_FILE)["sources"]
        return found


class TileGroup:
    """The tiles of one resolution of a store."""

    def __init__(self, store: TileStore, name: str) -> None:
        self.store = store
        self.name = name
        self.attributes = store.read_attributes(f"{name}/zarr.json")
        """`mpp` (true, [x, y]), `mpp_requested`, `level`, `scale`, `stride`, ..."""
        self.layout = TilesLayout.from_zarr_json(store.read_json(f"{name}/tiles/zarr.json"))
        self.columns: tuple[str, ...] = store.columns_of(name)
        """Names of the columns, sorted."""
        self._columns: dict[str, Column] = {}
        self._wanted: dict[int, _WantedShard] = {}

    def __len__(self) -> int:
        return self.layout.count

    @property
    def tile_size(self) -> int:
        """Pixels of a tile's side."""
        return self.layout.tile_size

    @property
    def mpp(self) -> tuple[float, float]:
        """True µm per pixel of the tiles in (x, y)."""
        x, y = self.attributes["mpp"]
        return float(x), float(y)

    def read_encoded(self, index: int) -> bytes:
        """The stored bytes of a tile (a whole JPEG, or a zstd frame), checksum verified."""
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of a group of {len(self)} tiles")
        shard, slot = divmod(index, self.layout.shard_tiles)
        return self._shard(shard).read(slot)

    def read(self, index: int, out: Rgb | None = None) -> Rgb:
        """One tile as uint8 (S, S, 3).

        Args:
            out: contiguous, of that shape: where to put the tile; it is returned. Holds anything
                after an error.

        Raises:
            StoreError: the tile or its shard is damaged.
            IndexError: no such tile.
        """
        size = self.tile_size
        return self.layout.codec.decode(self.read_encoded(index), size, size, out)

    def read_batch(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Rgb:
        """Tiles as uint8 (B, S, S, 3), in the order of `indices`."""
        size = self.tile_size
        batch = np.empty((len(indices), size, size, 3), dtype=np.uint8)
        for place, index in enumerate(indices):
            self.read(int(index), batch[place])
        return batch

    def column(self, name: str) -> Column:
        """A column's values, shape (N,); an unknown name raises `StoreError`."""
        if name not in self._columns:
            self._columns[name] = self._read_column(name)
        return self._columns[name]

    def unread(self) -> npt.NDArray[np.int64]:
        """Indices of the tiles that could not be read whole from the slide, ascending.

        Their missing parts have the colour of the background: never train on them. Nearly always
        there are none. Tiles of a store without the column `unread` were all read.
        """
        if "unread" not in self.columns:
            return np.empty(0, dtype=np.int64)
        # Not kept: a value per tile is much for a column that says nothing of nearly all.
        return np.flatnonzero(self._read_column("unread"))

    def usable(self) -> npt.NDArray[np.int64]:
        """Indices of the tiles to work with, ascending: selected, and not in `unread`."""
        members = self.store.members(self.name)
        if members is None:
            return np.delete(np.arange(len(self), dtype=np.int64), self.unread())
        return np.setdiff1d(members.indices(), self.unread(), assume_unique=True)

    def _read_column(self, name: str) -> Column:
        if name not in self.columns:
            raise StoreError(
                f"{self.store.path} has no column {name!r}; it has {', '.join(self.columns)}"
            )
        where = f"{self.name}/{name}"
        metadata = self.store.read_json(f"{where}/zarr.json")
        if metadata["shape"] == [0]:
            return np.empty(0, dtype=metadata["data_type"])
        return layout.decode_column(self.store.read_file(f"{where}/c.0"), metadata, where)

    def _shard(self, shard: int) -> Shard:
        wanted = self._wanted.get(shard)
        if wanted is None:
            name = f"{self.name}/{TilesLayout.shard_file(shard)}"
            size, digest = self.store.committed_file(name)
            label = shard_label(self.store.attributes["uuid"], self.name, shard)
            wanted = _WantedShard(
                key=(str(self.store.path), name, digest),
                store=self.store.path,
                name=name,
                size=size,
                slots=self.layout.shard_tiles,
                label=label,
            )
            self._wanted[shard] = wanted
        return _open_shard(wanted)


@dataclass(frozen=True, slots=True)
class _WantedShard:
    """A shard as it was committed."""

    key: tuple[str, str, str]
    """Store, name and digest: a store that was written anew has other shards."""
    store: Path
    name: str
    size: int
    """Bytes of the file."""
    slots: int
    label: bytes

    def open(self) -> Shard:
        opened = open_shard(self.store, self.name, self.slots, self.label)
        if opened.size != self.size:
            path = self.store / self.name
            raise StoreError(f"{path} has {opened.size} bytes, but {self.size} were committed")
        return opened


def open_shard(store: Path, name: str, slots: int, label: bytes) -> Shard:
    """Open a file of a store as a shard.

    Raises:
        StoreError: as `Shard`; or a symbolic link leads out of the store.
    """
    try:
        path, _ = own_file(store, name)
    except OSError as error:
        raise StoreError(f"shard {store / name} cannot be opened ({error.strerror})") from error
    return Shard(path, slots, label)


class _ShardCache:
    """The shards that this process holds open, least recently used first."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = Lock()
        self.shards: OrderedDict[tuple[str, str, str], Shard] = OrderedDict()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unlimited = files == resource.RLIM_INFINITY
        self.most = _MAX_OPEN_SHARDS if unlimited else max(1, files // _SHARE_OF_FILES)

    def open(self, wanted: _WantedShard) -> Shard:
        key = wanted.key
        with self.lock:
            shard = self.shards.get(key)
            if shard is not None:
                self.shards.move_to_end(key)
                return shard
        # Not under the lock: on a slow disk, all threads would wait for one.
        opened = wanted.open()
        with self.lock:
            # Another thread may have been faster.
            shard = self.shards.setdefault(key, opened)
            self.shards.move_to_end(key)
            while len(self.shards) > min(self.most, _MAX_OPEN_SHARDS):
                # Dropped, not closed: another thread may be reading it; its last user closes it.
                self.shards.popitem(last=False)
            return shard


_cache = _ShardCache()


def _open_shard(wanted: _WantedShard) -> Shard:
    global _cache
    if _cache.process != os.getpid():
        # A lock that another thread held during the fork would never be released here.
        _cache = _ShardCache()
    return _cache.open(wanted)


def open_store(manifest: Manifest, entry: StoreEntry, split: str | None = None) -> TileStore:
    """Open the store of an entry, with the tiles that the entry selects.

    Args:
        split: take only the tiles of this split.

    Raises:
        ManifestError: the entry has no store on this machine, or one outside the manifest's folder.
        StoreError: it is missing, not committed, or not the one of the manifest.
    """
    groups = [resolution.group for resolution in entry.resolutions]
    sets = {group: entry.members(group, split) for group in groups}
    chosen = {group: members for group, members in sets.items() if members is not None}
    store = TileStore(manifest.store_path(entry), chosen if chosen else None)
    if store.attributes["uuid"] != entry.uuid:
        raise StoreError(f"{store.path} is not the store that the manifest lists")
    for resolution in entry.resolutions:
        group = store[resolution.group]
        if (len(group), group.tile_size) != (resolution.tiles, resolution.tile_size):
            raise StoreError(
                f"{store.path} has {len(group)} tiles of {group.tile_size} px in {group.name}, "
                f"but the manifest says {resolution.tiles} of {resolution.tile_size} px"
            )
    return store


__all__ = [
    "Column",
    "GroupPlan",
    "ShardRecord",
    "StoreWriter",
    "TileGroup",
    "TileStore",
    "is_committed",
    "is_complete",
    "open_store",
]
