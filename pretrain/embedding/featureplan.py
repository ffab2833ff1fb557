"""What a folder of features will hold, settled before a tile is read: stores, rows and identities.

A plan's UUID stands for all that its features depend on: the encoder's weights and how it is fed,
the stored type, the state of the tile store and the tiles that are wanted of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from manifests import Manifest, ManifestError, StoreEntry, StoreError
from manifests.files import Json, canonical_json, sha256, spec_hash
from manifests.layout import Column
from manifests.store import TileGroup, open_store
from pretrain.embedding import featurestore
from pretrain.embedding.encoders import Encoder
from pretrain.embedding.featurestore import STORE_FORMAT, VERSION, chunk_rows
from pretrain.embedding.settings import EmbedSettings
from pretrain.embedding.wanted import Wanted, is_meant, wanted_tiles
from pretrain.errors import ConfigError

_COPIED = ("x", "y", "source", "label")
"""Columns of tiles that features keep, where there are any."""
_KEPT_ATTRIBUTES = ("mpp", "mpp_requested", "l0_per_px", "stride")


def features_spec(encoder: Encoder, settings: EmbedSettings) -> dict[str, Json]:
    """All that decides what the features of a tile are; what the encoder is called is no part."""
    told = {k: v for k, v in encoder.to_json().items() if k not in ("name", "origin")}
    return {
        "encoder": told,
        "dtype": settings.stored_dtype,
        "precision": settings.precision,
        "chunk_rows": featurestore.CHUNK_ROWS,
    }


@dataclass(frozen=True, slots=True)
class StorePlan:
    """The features of one tile store."""

    entry: StoreEntry
    commit: str
    """sha256 of the tile store's commit record, as it lies on disk."""
    parts: tuple[Wanted, ...]
    """The tiles, a part for each resolution."""
    spec: Mapping[str, Json]

    @property
    def id(self) -> str:
        """Id of the tile store."""
        return self.entry.id

    @property
    def tiles(self) -> int:
        """Tiles of all resolutions."""
        return sum(map(len, self.parts))

    @property
    def uuid(self) -> str:
        """Identity: the same tiles and the same spec have the same."""
        text = canonical_json({"spec": self.spec, "tiles": self.tiles_json()})
        return str(uuid.uuid5(uuid.NAMESPACE_OID, sha256(text)))

    def tiles_json(self) -> dict[str, Json]:
        """Which tile store it is, and which of its tiles."""
        wanted = {p.group: sha256(p.indices.astype("<i8").tobytes()) for p in self.parts}
        found = {"id": self.id, "uuid": self.entry.uuid, "commit": self.commit}
        return {**found, "wanted_sha256": wanted}

    def attributes(self) -> dict[str, Json]:
        """What the root group of the store of features says."""
        return {
            "format": STORE_FORMAT,
            "version": VERSION,
            "uuid": self.uuid,
            "spec": dict(self.spec),
            "spec_hash": spec_hash(self.spec),
            "groups": [part.group for part in self.parts],
            "tiles": self.tiles_json(),
            "labels": list(self.entry.labels),
        }

    def chunks(self) -> Iterator[Chunk]:
        """All chunks, in order."""
        for part in self.parts:
            size = chunk_rows(len(part))
            for number in range(-(-len(part) // size)):
                yield Chunk(self, part, number)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is embedded and written at a time."""

    plan: StorePlan
    part: Wanted
    number: int
    """From 0, within its group."""

    @property
    def size(self) -> int:
        """Rows of the chunk as it is stored; the last one of a group may hold fewer tiles."""
        return chunk_rows(len(self.part))

    def wanted(self) -> Wanted:
        """Its tiles. Batches begin anew with it, so that its bytes depend on it alone."""
        first = self.number * self.size
        return replace(self.part, indices=self.part.indices[first : first + self.size])


def plan_stores(
    manifest: Manifest, spec: Mapping[str, Json], *, split: str | None, mpp: str | None
) -> tuple[tuple[StorePlan, ...], dict[str, str]]:
    """A plan for each tile store that has wanted tiles, and why others cannot be embedded, by id.

    Raises:
        ConfigError: no tile is wanted.
    """
    entries = [entry for entry in manifest.committed() if _is_wanted(entry, split, mpp)]
    if not entries:
        wanted_tiles(manifest, split=split, mpp=mpp)  # says what there is instead
    found: list[StorePlan] = []
    failed: dict[str, str] = {}
    for entry in entries:
        alone = replace(manifest, stores=(entry,))
        try:
            commit = open_store(manifest, entry).commit_sha256
            parts = wanted_tiles(alone, split=split, mpp=mpp)
        except (StoreError, ManifestError) as error:
            failed[entry.id] = str(error)
        except ConfigError:
            continue  # none of its tiles was read whole
        else:
            found.append(StorePlan(entry, commit, parts, spec))
    if not found and not failed:
        raise ConfigError("no tile was read whole from its slide: nothing to embed")
    return tuple(found), failed


def _is_wanted(entry: StoreEntry, split: str | None, mpp: str | None) -> bool:
    meant = [r for r in entry.resolutions if mpp is None or is_meant(r, mpp)]
    return any(entry.count(resolution, split) for resolution in meant)


def tile_columns(group: TileGroup, part: Wanted) -> dict[str, Column]:
    """`index`, and `x`, `y`, `source` and `label` where the tile store has them; (n,) each."""
    found: dict[str, Column] = {"index": part.indices}
    for name in _COPIED:
        if name in group.columns:
            values = group.column(name)[part.indices]
            found[name] = values.astype(np.int64 if name in ("x", "y") else np.int32)
    return found


def group_attributes(group: TileGroup) -> dict[str, Json]:
    """What a resolution of features says of its tiles."""
    said = {k: group.attributes[k] for k in _KEPT_ATTRIBUTES if k in group.attributes}
    return {**said, "tile_size": group.tile_size}


__all__ = [
    "Chunk",
    "StorePlan",
    "features_spec",
    "group_attributes",
    "plan_stores",
    "tile_columns",
]
