"""Tile stores, written: `StoreWriter` plans one, writes it shard by shard, and commits it.

Shards, columns and metadata depend on the slide and the spec alone, so a repeated or continued
run gives the same bytes. Until `commit` has written `commit.json`, the store does not exist for
readers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests import layout
from manifests.codec import TileCodec
from manifests.errors import StoreError
from manifests.files import (
    Json,
    atomic_file,
    canonical_json,
    pretty_json,
    remove_temporaries,
    sha256,
    write_atomic,
)
from manifests.layout import Column, TilesLayout
from manifests.shard import shard_label, shard_pieces

Columns = Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """What is known of a finished shard before its store is committed."""

    bytes: int
    sha256: str
    columns: Columns
    """Columns that were measured on the pixels, one value per tile of the shard."""


class StoreWriter:
    """Makes a store: `plan` once, `write_shard` for each shard in any order, `commit` last.

    Holds no state but the path: shards can be written by any process, each by one task.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_planned(self) -> bool:
        """Whether `plan` has finished; the store may have been committed since."""
        return (self.path / "zarr.json").is_file()

    def is_begun(self) -> bool:
        """Whether the store was planned and waits for shards; not so if it was once committed."""
        return (
            self.is_planned()
            and (self.path / layout.PARTS_FOLDER).is_dir()
            and not (self.path / layout.COMMIT_FILE).exists()
        )

    def is_own(self) -> bool:
        """Whether files lie here that only a store of histotile has."""
        own = (layout.COMMIT_FILE, layout.PARTS_FOLDER)
        return any((self.path / name).exists() for name in own)

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
        """Write everything that is known before pixels are read; the root metadata come last.

        Shards that were written under the same UUID are kept; a store of another UUID, or one
        whose planning was interrupted, is begun anew.

        Raises:
            StoreError: the folder holds something that is not a store.
        """
        if not (self.is_planned() and self.attributes().get("uuid") == attributes["uuid"]):
            self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / layout.COMMIT_FILE).unlink(missing_ok=True)
        (self.path / layout.PARTS_FOLDER).mkdir(exist_ok=True)
        for name, group in groups.items():
            self._write_json(f"{name}/zarr.json", layout.group_json(group.attributes))
            self._write_json(f"{name}/tiles/zarr.json", group.layout.zarr_json())
            for column, values in group.columns.items():
                self._write_column(name, column, values)
        for name, pixels in pictures.items():
            codec = _picture_codec(groups)
            self._write_json(f"{name}/zarr.json", layout.picture_json(pixels, codec))
            file, data = layout.picture_chunk(pixels, codec)
            write_atomic(self.path / name / file, data)
        if sources is not None:
            self._write_json(layout.SOURCES_FILE, {"sources": [dict(s) for s in sources]})
        self._write_json("zarr.json", layout.group_json(attributes))

    def _clear(self) -> None:
        """Empty the store's folder, the files that make it a store for readers first."""
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not (self.is_planned() or self.is_own()):
            raise StoreError(f"{self.path} holds files that are no store; give another folder")
        # Stays till the end, so that a folder that was half emptied is still known as a store.
        (self.path / layout.PARTS_FOLDER).mkdir(exist_ok=True)
        (self.path / layout.COMMIT_FILE).unlink(missing_ok=True)
        (self.path / "zarr.json").unlink(missing_ok=True)
        for item in self.path.iterdir():
            if item.name == layout.PARTS_FOLDER:
                continue
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()
        self.remove_parts()

    def group_attributes(self, group: str) -> dict[str, Json]:
        """A group's attributes, as planned."""
        data = json.loads((self.path / group / "zarr.json").read_bytes())
        found: dict[str, Json] = data["attributes"]
        return found

    def sources(self) -> list[dict[str, Json]]:
        """Packed stores: the pictures behind the tiles, as planned."""
        found: list[dict[str, Json]] = json.loads((self.path / layout.SOURCES_FILE).read_bytes())[
            "sources"
        ]
        return found

    def layouts(self) -> dict[str, TilesLayout]:
        """The planned tiles of each group."""
        return {name: self._layout(name) for name in self.attributes()["groups"]}

    def _layout(self, group: str) -> TilesLayout:
        file = self.path / group / "tiles/zarr.json"
        return TilesLayout.from_zarr_json(json.loads(file.read_bytes()))

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
        tiles: Iterable[bytes],
        columns: Callable[[], Columns] | Columns,
    ) -> int:
        """Write one whole shard, then the record that it is there; return its bytes.

        Args:
            tiles: encoded tiles in the order of the plan, written as they come. If getting one
                fails, nothing is left of the shard.
            columns: what was measured on the pixels, one value per tile of the shard; a function is
                called after the last tile.

        Raises:
            ValueError: there are more or fewer tiles, or values, than planned.
        """
        tiles_layout = self._layout(group)
        count = len(tiles_layout.shard_range(shard))
        label = shard_label(self.attributes()["uuid"], group, shard)
        digest = hashlib.sha256()
        with atomic_file(self.path / group / TilesLayout.shard_file(shard)) as file:
            for piece in shard_pieces(label, tiles, count, tiles_layout.shard_tiles):
                file.write(piece)
                digest.update(piece)
            size = file.tell()
            measured = columns() if callable(columns) else columns
            record = {
                "bytes": size,
                "sha256": digest.hexdigest(),
                "columns": {n: layout.pack_column(v, count) for n, v in measured.items()},
            }
        # A record that a power cut loses costs this shard once more, a sync costs every shard.
        write_atomic(self._part(group, shard), canonical_json(record), sync=False)
        return size

    def missing_shards(self, group: str) -> list[int]:
        """Shards that still have to be written, in order."""
        tiles_layout = self._layout(group)
        shards = range(tiles_layout.shards)
        return [k for k in shards if self._record(group, tiles_layout, k) is None]

    def measured_column(self, group: str, name: str) -> Column:
        """A column measured on the pixels, shape (N,), while the store waits for its commit.

        Raises:
            StoreError: a shard is missing.
            KeyError: there is no such column.
        """
        records = list(self._records(group, self._layout(group)))
        parts = [record.columns[name] for record in records]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

    def commit(self) -> dict[str, int]:
        """Write the measured columns and `commit.json`; return the totals (`tiles`, `bytes`).

        Raises:
            StoreError: a shard is missing.
        """
        attributes = self.attributes()
        shards: dict[str, tuple[int, str]] = {}
        tiles = 0
        for group, tiles_layout in self.layouts().items():
            records = list(self._records(group, tiles_layout))
            self._join_columns(group, records)
            tiles += tiles_layout.count
            for number, record in enumerate(records):
                name = f"{group}/{TilesLayout.shard_file(number)}"
                shards[name] = (record.bytes, record.sha256)
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
        body["sha256"] = sha256(pretty_json(body))
        write_atomic(self.path / layout.COMMIT_FILE, pretty_json(body))
        self.remove_parts()
        return totals

    def remove_parts(self) -> None:
        """Delete the records of single shards, which the commit record replaces."""
        if (self.path / layout.PARTS_FOLDER).is_dir():
            shutil.rmtree(self.path / layout.PARTS_FOLDER)

    def _join_columns(self, group: str, records: Sequence[ShardRecord]) -> None:
        kinds = [{name: c.dtype for name, c in record.columns.items()} for record in records]
        if any(kind != kinds[0] for kind in kinds):
            raise StoreError(
                f"the shards of {self.path} were cut by different versions of histotile; "
                "delete that folder and cut the slide again"
            )
        for name in kinds[0] if kinds else ():
            self._write_column(group, name, np.concatenate([r.columns[name] for r in records]))

    def _records(self, group: str, tiles_layout: TilesLayout) -> Iterator[ShardRecord]:
        for shard in range(tiles_layout.shards):
            record = self._record(group, tiles_layout, shard)
            if record is None:
                raise StoreError(f"{self.path}: shard {shard} of {group} is missing")
            yield record

    def _record(self, group: str, tiles_layout: TilesLayout, shard: int) -> ShardRecord | None:
        """The record of a finished shard, or None if the shard is not (wholly) there."""
        count = len(tiles_layout.shard_range(shard))
        try:
            found = json.loads(self._part(group, shard).read_bytes())
            packed = found["columns"].items()
            columns = {name: layout.unpack_column(c, count, name) for name, c in packed}
            record = ShardRecord(found["bytes"], found["sha256"], columns)
            size = (self.path / group / TilesLayout.shard_file(shard)).stat().st_size
        except (FileNotFoundError, KeyError, TypeError, ValueError, AttributeError, StoreError):
            # No record, or a damaged one: the shard is written again.
            return None
        return record if record.bytes == size else None

    def _checksums(self, known: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
        files: dict[str, tuple[int, str]] = {}
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
                files[name] = (len(data), sha256(data))
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


def _picture_codec(groups: Mapping[str, GroupPlan]) -> TileCodec:
    """The thumbnail's: without loss where the tiles are, so that any Zarr reader has it too."""
    lossless = any(group.layout.codec.name == "zstd" for group in groups.values())
    return TileCodec("zstd") if lossless else TileCodec("jpeg", quality=85, subsampling="444")


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """One resolution of a store that is about to be made."""

    layout: TilesLayout
    attributes: Mapping[str, Json]
    """Group attributes: `mpp` ([x, y], true), `mpp_requested`, `level`, `scale`, `stride`."""
    columns: Mapping[str, npt.NDArray[np.generic]]
    """Columns known from planning (`x`, `y`, `tissue`), shape (N,) each."""
