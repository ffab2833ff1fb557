"""Tile stores: `TileStore` reads committed ones, `StoreWriter` makes them.

Tile indices run from 0 to N - 1 within a group (one resolution); pixels are uint8 RGB. Columns `x`
and `y` are the level-0 pixel of a tile's top-left corner. A store without a valid `commit.json`
does not exist for readers; `StoreWriter` can continue one that was interrupted, shard by shard.
Shards, columns and metadata depend on the slide and the spec alone, so a repeated or continued
run gives the same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests import layout
from manifests.codec import Rgb, TileCodec, codec_from_zarr
from manifests.errors import StoreError
from manifests.files import Json, crc32c, pretty_json, remove_temporaries, write_atomic
from manifests.layout import TilesLayout
from manifests.shard import Shard, build_shard

Column = npt.NDArray[Any]
"""One value per tile, shape (N,)."""

_MAX_OPEN_SHARDS = 128


class TileStore:
    """A committed store, open for reading.

    Cheap to open (two small JSON files), safe for threads and after a fork, picklable.

    >>> store = TileStore("tiles/slide-1.zarr")          # doctest: +SKIP
    >>> store["0.5"].read(0).shape                       # doctest: +SKIP
    (256, 256, 3)
    """

    def __init__(self, path: str | Path) -> None:
        """Open the store.

        Raises:
            StoreError: there is no store, it is not committed, or its metadata were changed.
        """
        self.path = Path(path)
        commit = _read_commit(self.path)
        self._files: dict[str, list[Any]] = commit["files"]
        self.totals: dict[str, int] = commit["totals"]
        """`tiles` (number) and `bytes` (of all files but `commit.json`)."""
        self.attributes: dict[str, Json] = json.loads(self.read_file("zarr.json"))["attributes"]
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

    def __reduce__(self) -> tuple[type[TileStore], tuple[Path]]:
        return TileStore, (self.path,)

    def read_file(self, name: str) -> bytes:
        """The bytes of one file of the store, checked against the commit record."""
        if name not in self._files:
            raise StoreError(f"{self.path} has no file {name}")
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise StoreError(f"{self.path / name} cannot be read ({error.strerror})") from error
        if [len(data), crc32c(data)] != self._files[name]:
            raise StoreError(f"{self.path / name} was changed after the store was committed")
        return data

    def committed_file(self, name: str) -> tuple[int, int]:
        """Bytes and crc32c that the commit record says a file has."""
        size, checksum = self._files[name]
        return int(size), int(checksum)

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
        metadata = json.loads(self.read_file(f"{name}/zarr.json"))
        chunk = f"{name}/c" + ".0" * len(metadata["shape"])
        return layout.decode_picture(self.read_file(chunk), metadata, name)

    def sources(self) -> list[dict[str, Json]]:
        """Packed stores: the pictures behind the tiles (`name`, and what is known of each)."""
        if not self.has_file(layout.SOURCES_FILE):
            return []
        found: list[dict[str, Json]] = json.loads(self.read_file(layout.SOURCES_FILE))["sources"]
        return found


class TileGroup:
    """The tiles of one resolution of a store."""

    def __init__(self, store: TileStore, name: str) -> None:
        self.store = store
        self.name = name
        self.attributes: dict[str, Json] = json.loads(store.read_file(f"{name}/zarr.json"))[
            "attributes"
        ]
        """`mpp` (true, [x, y]), `mpp_requested`, `level`, `scale`, `stride`, ..."""
        self.layout = _tiles_layout(json.loads(store.read_file(f"{name}/tiles/zarr.json")))
        self.columns: tuple[str, ...] = store.columns_of(name)
        """Names of the columns, sorted."""
        self._columns: dict[str, Column] = {}

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

    def read(self, index: int) -> Rgb:
        """One tile as uint8 (S, S, 3).

        Raises:
            StoreError: the tile or its shard is damaged.
            IndexError: no such tile.
        """
        size = self.tile_size
        return self.layout.codec.decode(self.read_encoded(index), size, size)

    def read_batch(self, indices: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Rgb:
        """Tiles as uint8 (B, S, S, 3), in the order of `indices`."""
        size = self.tile_size
        batch = np.empty((len(indices), size, size, 3), dtype=np.uint8)
        for place, index in enumerate(indices):
            batch[place] = self.read(int(index))
        return batch

    def column(self, name: str) -> Column:
        """A column's values, shape (N,); an unknown name raises `StoreError`."""
        if name not in self.columns:
            raise StoreError(
                f"{self.store.path} has no column {name!r}; it has {', '.join(self.columns)}"
            )
        if name not in self._columns:
            where = f"{self.name}/{name}"
            metadata = json.loads(self.store.read_file(f"{where}/zarr.json"))
            if metadata["shape"] == [0]:
                return np.empty(0, dtype=metadata["data_type"])
            data = self.store.read_file(f"{where}/c.0")
            self._columns[name] = layout.decode_column(data, metadata, where)
        return self._columns[name]

    def _shard(self, shard: int) -> Shard:
        name = f"{self.name}/{TilesLayout.shard_file(shard)}"
        size, checksum = self.store.committed_file(name)
        path = self.store.path / name
        opened = _open_shard(path, checksum, self.layout.shard_tiles)
        if opened.size != size:
            raise StoreError(f"{path} has {opened.size} bytes, but {size} were committed")
        return opened


class _ShardCache:
    """The shards that this process holds open, least recently used first."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.shards: OrderedDict[tuple[Path, int], Shard] = OrderedDict()


_cache = _ShardCache()


def _open_shard(path: Path, checksum: int, slots: int) -> Shard:
    # The checksum is part of the key: a store that was written anew has other shards.
    key = (path, checksum)
    with _cache.lock:
        shard = _cache.shards.get(key)
        if shard is None:
            shard = _cache.shards[key] = Shard(path, slots)
        _cache.shards.move_to_end(key)
        while len(_cache.shards) > _MAX_OPEN_SHARDS:
            # Dropped, not closed: another thread may be reading it; it closes with its last user.
            _cache.shards.popitem(last=False)
        return shard


def _tiles_layout(metadata: Json) -> TilesLayout:
    sharding = metadata["codecs"][0]
    if sharding["name"] != "sharding_indexed":
        raise StoreError(f"tiles are stored with {sharding['name']}, not sharding_indexed")
    return TilesLayout(
        count=metadata["shape"][0],
        tile_size=metadata["shape"][1],
        shard_tiles=metadata["chunk_grid"]["configuration"]["chunk_shape"][0],
        codec=codec_from_zarr(sharding["configuration"]["codecs"]),
    )


def is_committed(path: Path) -> bool:
    """Whether a store is there and whole, as far as its commit record tells."""
    try:
        _read_commit(path)
    except StoreError:
        return False
    return True


def _read_commit(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise StoreError(f"there is no store at {path}")
    file = path / layout.COMMIT_FILE
    if not file.is_file():
        raise StoreError(f"{path} is not committed: its run was interrupted; run it again")
    try:
        commit = json.loads(file.read_bytes())
    except ValueError as error:
        raise StoreError(f"{file} is not valid JSON ({error})") from error
    if not isinstance(commit, dict) or commit.get("format") != layout.COMMIT_FORMAT:
        raise StoreError(f"{file} is not a commit record of a histotile store")
    if commit.get("version") != layout.FORMAT_VERSION:
        raise StoreError(
            f"{path} has store format {commit.get('version')!r}; "
            f"this version of histotile reads {layout.FORMAT_VERSION}"
        )
    body = {key: value for key, value in commit.items() if key != "crc32c"}
    if commit.get("crc32c") != crc32c(pretty_json(body)):
        raise StoreError(f"{file} fails its own checksum")
    return commit


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What is known of a finished shard before its store is committed."""

    bytes: int
    crc32c: int
    columns: Mapping[str, list[float]]
    """Columns that were measured on the pixels, one value per tile of the shard."""


class StoreWriter:
    """Makes a store: `plan` once, `write_shard` for each shard in any order, `commit` last.

    Holds no state but the path: shards can be written by any process, each by one task.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_planned(self) -> bool:
        """Whether `plan` has finished: then the store can be continued."""
        return (self.path / "zarr.json").is_file()

    def attributes(self) -> dict[str, Json]:
        """The store's attributes, as planned."""
        found: dict[str, Json] = json.loads((self.path / "zarr.json").read_bytes())["attributes"]
        return found

    def plan(
        self,
        attributes: Mapping[str, Json],
        groups: Mapping[str, GroupPlan],
        pictures: Mapping[str, npt.NDArray[np.generic]],
        sources: Sequence[Mapping[str, Json]] | None = None,
    ) -> None:
        """Write everything that is known before pixels are read; the root metadata come last."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / layout.PARTS_FOLDER).mkdir(exist_ok=True)
        for name, group in groups.items():
            self._write_json(f"{name}/zarr.json", layout.group_json(group.attributes))
            self._write_json(f"{name}/tiles/zarr.json", group.layout.zarr_json())
            for column, values in group.columns.items():
                self._write_column(name, column, values)
        for name, pixels in pictures.items():
            codec = TileCodec("jpeg", quality=85, subsampling="444")
            self._write_json(f"{name}/zarr.json", layout.picture_json(pixels, codec))
            file, data = layout.picture_chunk(pixels, codec)
            write_atomic(self.path / name / file, data)
        if sources is not None:
            self._write_json(layout.SOURCES_FILE, {"sources": [dict(s) for s in sources]})
        self._write_json("zarr.json", layout.group_json(attributes))

    def group_attributes(self, group: str) -> dict[str, Json]:
        """A group's attributes, as planned."""
        data = json.loads((self.path / group / "zarr.json").read_bytes())
        found: dict[str, Json] = data["attributes"]
        return found

    def layouts(self) -> dict[str, TilesLayout]:
        """The planned tiles of each group."""
        return {
            name: _tiles_layout(json.loads((self.path / name / "tiles/zarr.json").read_bytes()))
            for name in self.attributes()["groups"]
        }

    def planned_column(self, group: str, name: str) -> Column:
        """A column that `plan` wrote, shape (N,)."""
        folder = self.path / group / name
        metadata = json.loads((folder / "zarr.json").read_bytes())
        if metadata["shape"] == [0]:
            return np.empty(0, dtype=metadata["data_type"])
        return layout.decode_column((folder / "c.0").read_bytes(), metadata, name)

    def write_shard(
        self,
        group: str,
        shard: int,
        tiles: Sequence[bytes],
        columns: Mapping[str, npt.NDArray[np.float32]],
    ) -> int:
        """Write one whole shard, then the record that it is there; return its bytes.

        Args:
            tiles: encoded tiles in the order of the plan.
            columns: float32 (len(tiles),) each, measured on the pixels.
        """
        slots = self.layouts()[group].shard_tiles
        data = build_shard(tiles, slots)
        write_atomic(self.path / group / TilesLayout.shard_file(shard), data)
        record = {
            "bytes": len(data),
            "crc32c": crc32c(data),
            "columns": {name: values.tolist() for name, values in columns.items()},
        }
        write_atomic(self._part(group, shard), pretty_json(record))
        return len(data)

    def missing_shards(self, group: str) -> list[int]:
        """Shards that still have to be written, in order."""
        count = self.layouts()[group].shards
        return [shard for shard in range(count) if self._record(group, shard) is None]

    def commit(self) -> dict[str, int]:
        """Write the measured columns and `commit.json`; return the totals (`tiles`, `bytes`).

        Raises:
            StoreError: a shard is missing.
        """
        attributes = self.attributes()
        shards: dict[str, list[int]] = {}
        tiles = 0
        for group, tiles_layout in self.layouts().items():
            records = list(self._records(group, tiles_layout))
            self._join_columns(group, records)
            tiles += tiles_layout.count
            for number, record in enumerate(records):
                name = f"{group}/{TilesLayout.shard_file(number)}"
                shards[name] = [record.bytes, record.crc32c]
        remove_temporaries(self.path)
        files = self._checksums(shards)
        totals = {"tiles": tiles, "bytes": sum(size for size, _ in files.values())}
        body: dict[str, Json] = {
            "format": layout.COMMIT_FORMAT,
            "version": layout.FORMAT_VERSION,
            "uuid": attributes["uuid"],
            "spec_hash": attributes["spec_hash"],
            "groups": attributes["groups"],
            "files": files,
            "totals": totals,
        }
        body["crc32c"] = crc32c(pretty_json(body))
        write_atomic(self.path / layout.COMMIT_FILE, pretty_json(body))
        self.remove_parts()
        return totals

    def remove_parts(self) -> None:
        """Delete the records of single shards, which the commit record replaces."""
        if (self.path / layout.PARTS_FOLDER).is_dir():
            shutil.rmtree(self.path / layout.PARTS_FOLDER)

    def _join_columns(self, group: str, records: Sequence[ShardRecord]) -> None:
        names = list(records[0].columns) if records else []
        for name in names:
            values = np.concatenate([np.asarray(r.columns[name], np.float32) for r in records])
            self._write_column(group, name, values)

    def _records(self, group: str, tiles_layout: TilesLayout) -> Iterator[ShardRecord]:
        for shard in range(tiles_layout.shards):
            record = self._record(group, shard)
            if record is None:
                raise StoreError(f"{self.path}: shard {shard} of {group} is missing")
            yield record

    def _record(self, group: str, shard: int) -> ShardRecord | None:
        """The record of a finished shard, or None if the shard is not (wholly) there."""
        file = self.path / group / TilesLayout.shard_file(shard)
        try:
            found = json.loads(self._part(group, shard).read_bytes())
            size = file.stat().st_size
        except FileNotFoundError:
            return None
        return ShardRecord(**found) if found["bytes"] == size else None

    def _checksums(self, known: Mapping[str, list[int]]) -> dict[str, list[int]]:
        files: dict[str, list[int]] = {}
        for file in sorted(self.path.rglob("*")):
            name = file.relative_to(self.path).as_posix()
            if not file.is_file() or name == layout.COMMIT_FILE:
                continue
            if any(part.startswith(".") for part in Path(name).parts):
                continue
            if name in known:
                files[name] = known[name]
            else:
                data = file.read_bytes()
                files[name] = [len(data), crc32c(data)]
        return files

    def _part(self, group: str, shard: int) -> Path:
        return self.path / layout.PARTS_FOLDER / f"{group}.{shard}.json"

    def _write_column(self, group: str, name: str, values: npt.NDArray[np.generic]) -> None:
        folder = f"{group}/{name}"
        self._write_json(f"{folder}/zarr.json", layout.column_json(values))
        if len(values):
            write_atomic(self.path / folder / "c.0", layout.encode_column(values))

    def _write_json(self, name: str, value: Json) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, pretty_json(value))


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """One resolution of a store that is about to be made."""

    layout: TilesLayout
    attributes: Mapping[str, Json]
    """Group attributes: `mpp` ([x, y], true), `mpp_requested`, `level`, `scale`, `stride`."""
    columns: Mapping[str, npt.NDArray[np.generic]]
    """Columns known from planning (`x`, `y`, `tissue`), shape (N,) each."""
