"""A folder of features, read: one Zarr v3 store per tile store, its rows aligned with the tiles.

Row r of a group (one resolution) holds the features of tile `index[r]` of that group in the tile
store; `x` and `y` are the level-0 pixel of its top-left corner. Features are float16 or float32,
(n, F); a damaged tile's are NaN. Everything that is read is checked against the commit record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests import StoreError, layout
from manifests.commit import json_object, read_commit, read_committed
from manifests.files import Json, crc32c
from manifests.layout import Column
from pretrain.embedding.wanted import Wanted, row_count

FOLDER_FORMAT = "histotile-features"
STORE_FORMAT = "histotile-feature-store"
VERSION = 1
FEATURES_FILE = "features.json"
ARRAY = "features"
CHUNK_ROWS = 512
"""Rows of a chunk, which is what is written at a time and, at most, computed anew."""

Features = npt.NDArray[np.floating[Any]]
"""float16 or float32, (n, F)."""


def chunk_rows(rows: int) -> int:
    """Rows of each chunk of an array of so many rows: a small array is one chunk."""
    return max(1, min(CHUNK_ROWS, rows))


def chunk_file(number: int) -> str:
    """File of a chunk, relative to its group."""
    return f"{ARRAY}/c.{number}.0"


def features_json(rows: int, features: int, dtype: str) -> Json:
    """Zarr metadata of an array (rows, features); what no chunk holds is NaN."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, features],
        "data_type": dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [chunk_rows(rows), features]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN",
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
        "dimension_names": ["tile", "feature"],
        "attributes": {},
    }


def encode_chunk(values: Features, rows: int) -> bytes:
    """A chunk of `rows` rows, little-endian, then its crc32c; rows that `values` lacks are NaN."""
    whole = np.full((rows, values.shape[1]), np.nan, dtype=values.dtype.newbyteorder("<"))
    whole[: len(values)] = values
    raw = whole.tobytes()
    return raw + crc32c(raw).to_bytes(4, "little")


def decode_chunk(data: bytes, metadata: Json, number: int) -> Features:
    """The rows of the array that a chunk holds.

    Raises:
        StoreError: it is damaged.
    """
    raw, checksum = data[:-4], data[-4:]
    rows, features = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
    good = len(raw) == rows * features * dtype.itemsize
    if not good or crc32c(raw) != int.from_bytes(checksum, "little"):
        raise StoreError(f"chunk {number} of the features fails its checksum")
    values = np.frombuffer(raw, dtype=dtype).reshape(rows, features)
    return values[: metadata["shape"][0] - number * rows].astype(metadata["data_type"])


class FeatureStore:
    """The features of one tile store, open for reading."""

    def __init__(self, path: str | Path) -> None:
        """Open it.

        Raises:
            StoreError: it is missing, not committed, changed, or holds no features.
        """
        self.path = Path(path)
        commit = read_commit(self.path)
        self.commit_sha256: str = commit["sha256"]
        """Stands for the bytes of every file."""
        self._files: dict[str, list[Any]] = commit["files"]
        self.attributes: dict[str, Json] = self._json("zarr.json").get("attributes", {})
        """`spec` (what made the features), `tiles` (of which store: id, uuid, commit), ..."""
        said = self.attributes.get("format"), self.attributes.get("version")
        if said != (STORE_FORMAT, VERSION):
            raise StoreError(f"{self.path} is not a store of features, version {VERSION}")
        self.groups: tuple[str, ...] = tuple(commit["groups"])
        """Names of the resolutions."""

    @property
    def id(self) -> str:
        """Id of the tile store."""
        return str(self.attributes["tiles"]["id"])

    def rows(self, group: str) -> int:
        """n, the tiles of a resolution."""
        return int(self._array(group)["shape"][0])

    def read(self, group: str) -> Features:
        """All features of a resolution, (n, F), in the stored type; NaN where a tile is damaged.

        Raises:
            StoreError: there is no such resolution, or its bytes are not those that were committed.
        """
        metadata = self._array(group)
        rows, features = metadata["shape"]
        found = np.empty((rows, features), dtype=metadata["data_type"])
        size = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
        for number in range(-(-rows // size)):
            data = self._file(f"{group}/{chunk_file(number)}")
            found[number * size : (number + 1) * size] = decode_chunk(data, metadata, number)
        return found

    def column(self, group: str, name: str) -> Column:
        """A column, (n,): `index`, and where the tile store has them `x`, `y`, `source`, `label`.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        metadata = self._json(f"{group}/{name}/zarr.json")
        if metadata["shape"] == [0]:
            return np.empty(0, dtype=metadata["data_type"])
        return layout.decode_column(self._file(f"{group}/{name}/c.0"), metadata, name)

    def has_column(self, group: str, name: str) -> bool:
        """Whether a resolution has that column."""
        return f"{group}/{name}/zarr.json" in self._files

    def group_attributes(self, group: str) -> dict[str, Json]:
        """`mpp`, `tile_size`, `l0_per_px`, ... of a resolution, as in the tile store."""
        found: dict[str, Json] = self._json(f"{group}/zarr.json").get("attributes", {})
        return found

    def sources(self) -> list[dict[str, Json]]:
        """Packed stores: the pictures that the column `source` counts."""
        if layout.SOURCES_FILE not in self._files:
            return []
        found: list[dict[str, Json]] = self._json(layout.SOURCES_FILE)["sources"]
        return found

    def _array(self, group: str) -> dict[str, Json]:
        if group not in self.groups:
            listed = ", ".join(self.groups)
            raise StoreError(f"{self.path} has no features of {group!r}; it has {listed}")
        return self._json(f"{group}/{ARRAY}/zarr.json")

    def _json(self, name: str) -> dict[str, Json]:
        return json_object(self._file(name), self.path / name)

    def _file(self, name: str) -> bytes:
        if name not in self._files:
            raise StoreError(f"{self.path} has no file {name}")
        size, digest = self._files[name]
        return read_committed(self.path, name, (int(size), str(digest)))


@dataclass(frozen=True, slots=True)
class FeatureFolder:
    """What `histopretrain embed` wrote."""

    path: Path
    said: Mapping[str, Json]
    """`features.json`: `encoder`, `dtype`, `manifest_sha256`, `stores`, `failed`, ..."""
    commits: Mapping[str, str]
    """sha256 of the commit record of each store of features, by the id of its tile store."""

    @property
    def encoder(self) -> Mapping[str, Json]:
        """The encoder: `name`, `sha256`, `features`, `mpp`, `image_size`, ..."""
        found: Mapping[str, Json] = self.said["encoder"]
        return found

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the tile stores that there are features of, in the manifest's order."""
        return tuple(self.commits)

    def open(self, name: str) -> FeatureStore:
        """The features of the tile store with that id.

        Raises:
            StoreError: there are none, or they are damaged or not those that were written.
        """
        if name not in self.commits:
            raise StoreError(f"{self.path} has no features of {name}: embed that store as well")
        opened = FeatureStore(self.path / f"{name}.zarr")
        if opened.commit_sha256 != self.commits[name]:
            raise StoreError(f"{opened.path} is not the one that {FEATURES_FILE} lists")
        return opened


def open_features(folder: str | Path) -> FeatureFolder:
    """Open a folder of features in Zarr format; the stores are opened when they are asked for.

    Raises:
        StoreError: it is missing or unfinished, of another format or version, or damaged.
    """
    path = Path(folder)
    file = path / FEATURES_FILE
    try:
        said = json_object(file.read_bytes(), file)
    except OSError as error:
        raise StoreError(
            f"{path} holds no finished features ({error.strerror}): run histopretrain embed, or "
            "run it again if it was interrupted"
        ) from error
    if (said.get("format"), said.get("version")) != (FOLDER_FORMAT, VERSION):
        raise StoreError(f"{file} is not of features of version {VERSION}")
    if said.get("layout") != "zarr":
        raise StoreError(f"{path} holds HDF5 files: read them with h5py, or embed as --format zarr")
    commits = {store["id"]: store["features_commit"] for store in said["stores"]}
    return FeatureFolder(path, said, commits)


def load_features(
    folder: FeatureFolder, parts: Iterable[Wanted]
) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
    """The features of all tiles of `parts`, one after another, as `stream.all_features` gives them.

    Returns:
        float32 (N, F), and the rows whose tiles were damaged (NaN).

    Raises:
        StoreError: features of a tile are missing, or were made of another state of its store.
    """
    parts = tuple(parts)
    found = np.empty((row_count(parts), int(folder.encoder["features"])), dtype=np.float32)
    row = 0
    opened: FeatureStore | None = None
    for part in parts:
        if opened is None or opened.id != part.entry.id:
            opened = folder.open(part.entry.id)
            _check_tiles(opened, part)
        found[row : row + len(part)] = opened.read(part.group)[_places(opened, part)]
        row += len(part)
    return found, tuple(np.flatnonzero(np.isnan(found).all(axis=1)).tolist())


def _check_tiles(store: FeatureStore, part: Wanted) -> None:
    tiles, entry = store.attributes["tiles"], part.entry
    if tiles["uuid"] != entry.uuid or entry.commit not in (None, tiles["commit"]):
        raise StoreError(
            f"{store.path} holds features of another state of the tile store {entry.id}: "
            "embed it again into a new folder"
        )


def _places(store: FeatureStore, part: Wanted) -> npt.NDArray[np.int64]:
    """In which rows of a group the tiles of a part are."""
    index = store.column(part.group, "index")
    places = np.searchsorted(index, part.indices)
    lacking = int((index[np.minimum(places, len(index) - 1)] != part.indices).sum())
    if lacking:
        raise StoreError(
            f"{store.path} lacks the features of {lacking} tiles of {part.group}: embed all tiles "
            "that are wanted, without --split"
        )
    return places
