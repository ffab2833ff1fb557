"""A store of features, written: planned once, chunk by chunk in any order, committed last.

Every file is whole or not there, and depends on the plan and the features alone; so a store that
was interrupted and went on has the same bytes as one that was not. A chunk ends in its own crc32c:
no other record says that it is there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from manifests import Manifest, StoreError, layout
from manifests.commit import is_complete, read_commit
from manifests.files import Json, pretty_json, remove_temporaries, sha256, write_atomic
from manifests.store import open_store
from pretrain.embedding.featureplan import Chunk, StorePlan, group_attributes, tile_columns
from pretrain.embedding.featurestore import (
    ARRAY,
    Features,
    chunk_file,
    decode_chunk,
    encode_chunk,
    features_json,
)


class FeatureWriter:
    """Makes the store of one plan."""

    def __init__(self, path: Path, plan: StorePlan) -> None:
        self.path = path
        self._plan = plan

    def existing_attributes(self) -> dict[str, Json] | None:
        """What a store that lies here says of itself; None if there is none, or a torn one."""
        try:
            found = json.loads((self.path / "zarr.json").read_bytes())["attributes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, dict) else None

    def is_committed(self) -> bool:
        """Whether the store is there, with all its files."""
        return is_complete(self.path)

    def prepare(self, manifest: Manifest) -> None:
        """Write everything but the features, the root metadata last; what is there is kept.

        Raises:
            StoreError: the tile store cannot be opened.
            OSError: the disk is full, ...
        """
        if self.existing_attributes() is not None:
            return
        store = open_store(manifest, self._plan.entry)
        for part in self._plan.parts:
            group = store[part.group]
            self._write_json(f"{part.group}/zarr.json", layout.group_json(group_attributes(group)))
            for name, values in tile_columns(group, part).items():
                self._write_json(f"{part.group}/{name}/zarr.json", layout.column_json(values))
                write_atomic(self.path / part.group / name / "c.0", layout.encode_column(values))
            features, dtype = self._plan.spec["encoder"]["features"], self._plan.spec["dtype"]
            metadata = features_json(len(part), features, dtype)
            self._write_json(f"{part.group}/{ARRAY}/zarr.json", metadata)
        if sources := store.sources():
            self._write_json(layout.SOURCES_FILE, {"sources": sources})
        self._write_json("zarr.json", layout.group_json(self._plan.attributes()))

    def has_chunk(self, chunk: Chunk) -> bool:
        """Whether a chunk is there and whole."""
        try:
            self._chunk(chunk)
        except (OSError, StoreError):
            return False
        return True

    def write_chunk(self, chunk: Chunk, features: Features) -> None:
        """Write the features of a chunk's tiles, (n, F), in the stored type.

        Raises:
            OSError: the disk is full, ...
        """
        write_atomic(self._chunk_path(chunk), encode_chunk(features, chunk.size))

    def commit(self) -> None:
        """Write `commit.json`, once all chunks are there.

        Raises:
            StoreError: a chunk is missing or damaged.
        """
        damaged: dict[str, list[int]] = {part.group: [] for part in self._plan.parts}
        for chunk in self._plan.chunks():
            try:
                rows = self._chunk(chunk)
            except OSError as error:
                raise StoreError(f"{self._chunk_path(chunk)} is missing") from error
            numbers = chunk.wanted().indices[np.isnan(rows).all(axis=1)]
            damaged[chunk.part.group] += numbers.tolist()
        remove_temporaries(self.path)
        files = self._digests()
        attributes = self._plan.attributes()
        body: dict[str, Json] = {
            "format": layout.COMMIT_FORMAT,
            "version": layout.FORMAT_VERSION,
            "uuid": attributes["uuid"],
            "spec_hash": attributes["spec_hash"],
            "groups": attributes["groups"],
            "files": files,
            "totals": {
                "tiles": self._plan.tiles,
                "bytes": sum(size for size, _ in files.values()),
            },
            "damaged": damaged,
        }
        body["sha256"] = sha256(pretty_json(body))
        write_atomic(self.path / layout.COMMIT_FILE, pretty_json(body))

    def committed(self) -> tuple[str, dict[str, list[int]]]:
        """sha256 of the commit record, and the damaged tiles of each resolution."""
        commit = read_commit(self.path)
        return commit["sha256"], commit["damaged"]

    def remove(self) -> None:
        """Delete the store."""
        if self.path.is_dir():
            shutil.rmtree(self.path)

    def _chunk_path(self, chunk: Chunk) -> Path:
        return self.path / chunk.part.group / chunk_file(chunk.number)

    def _chunk(self, chunk: Chunk) -> Features:
        spec = self._plan.spec
        metadata = features_json(len(chunk.part), spec["encoder"]["features"], spec["dtype"])
        return decode_chunk(self._chunk_path(chunk).read_bytes(), metadata, chunk.number)

    def _digests(self) -> dict[str, tuple[int, str]]:
        files: dict[str, tuple[int, str]] = {}
        for file in sorted(self.path.rglob("*")):
            name = file.relative_to(self.path).as_posix()
            is_hidden = any(part.startswith(".") for part in name.split("/"))
            if file.is_file() and not is_hidden and name != layout.COMMIT_FILE:
                data = file.read_bytes()
                files[name] = (len(data), sha256(data))
        return files

    def _write_json(self, name: str, value: Json) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, pretty_json(value))
