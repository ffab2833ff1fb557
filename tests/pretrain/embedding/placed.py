"""Slides whose tiles have places, and encoder files, for tests of features."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from manifests import Manifest, StoreEntry, load_manifest
from manifests.codec import Rgb
from manifests.files import spec_hash
from manifests.layout import TilesLayout
from manifests.model import Resolution, Selection, SlideInfo
from manifests.store import GroupPlan, StoreWriter, TileStore
from manifests.tileset import TileSet
from tests.manifests.make import tile_pixels
from tests.pretrain.make import LOSSLESS, SHARD_TILES, save

FEW_ROWS = 4
"""Rows of a chunk in tests, so that a small slide has several."""


def make_placed(
    root: Path,
    name: str,
    groups: Mapping[str, Rgb],
    *,
    unread: Sequence[int] = (),
    selected: Sequence[int] | None = None,
    packed: Sequence[int] | None = None,
    names: Sequence[str] = (),
) -> StoreEntry:
    """A committed store `name.zarr` whose tiles have `x` and `y`, and its entry.

    Args:
        unread: tiles of the first resolution that were not wholly read.
        selected: tiles of the first resolution that are meant; None: all.
        packed: which picture each tile is of; None for a slide.
        names: of the pictures.
    """
    spec = {"codec": LOSSLESS.to_json()}
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
    plans = {g: _plan(g, tiles, packed) for g, tiles in groups.items()}
    attributes = {
        "format": "histotile-store",
        "version": 1,
        "uuid": identity,
        "groups": list(groups),
        "spec": spec,
        "spec_hash": spec_hash(spec),
    }
    writer = StoreWriter(root / f"{name}.zarr")
    pictures = None if packed is None else [{"name": name} for name in names]
    writer.plan(attributes, plans, {}, pictures)
    for group, tiles in groups.items():
        bad = unread if group == next(iter(groups)) else ()
        for shard in writer.missing_shards(group):
            members = plans[group].layout.shard_range(shard)
            columns = {"unread": 0.25 * np.isin(members, bad).astype("f4")}
            writer.write_shard(group, shard, [LOSSLESS.encode(tiles[i]) for i in members], columns)
    writer.commit()
    first = next(iter(groups))
    return StoreEntry(
        id=name,
        status="done",
        source=f"{name}.svs",
        path=f"{name}.zarr",
        uuid=identity,
        spec_hash=spec_hash(spec),
        commit=TileStore(root / f"{name}.zarr").commit_sha256,
        packed=packed is not None,
        slide=SlideInfo("openslide", "aperio", "jpeg", "x:1", 4000, 3000, (0.25, 0.25)),
        resolutions=tuple(
            Resolution(g, (float(g),) * 2, float(g), t.shape[1], len(t), 0, (1.0, 1.0))
            for g, t in groups.items()
        ),
        unread=len(unread),
        selection=None if selected is None else Selection((), {first: TileSet.of(selected)}),
    )


def _plan(group: str, tiles: Rgb, packed: Sequence[int] | None) -> GroupPlan:
    numbers = np.arange(len(tiles))
    columns = {
        "x": (numbers % 5 * 128).astype(np.int32),
        "y": (numbers // 5 * 128 + 7).astype(np.int32),
        "tissue": np.linspace(0, 1, len(tiles), dtype=np.float32),
    }
    if packed is not None:
        columns["source"] = np.array(packed, dtype=np.int32)
    size = tiles.shape[1]
    attributes = {
        "mpp": [float(group)] * 2,
        "mpp_requested": float(group),
        "l0_per_px": [float(group) / 0.25] * 2,
        "stride": size - 8,
    }
    return GroupPlan(TilesLayout(len(tiles), size, SHARD_TILES, LOSSLESS), attributes, columns)


def two_slides(root: Path) -> Path:
    """A manifest of two slides with 11 and 6 tiles, of which 9 and 5 are meant and whole."""
    root.mkdir(parents=True, exist_ok=True)
    return save(
        root,
        make_placed(
            root, "a", {"0.5": tile_pixels(11, seed=1)}, selected=(0, 1, *range(3, 11)), unread=[5]
        ),
        make_placed(root, "b", {"0.5": tile_pixels(6, seed=2)}, unread=[0]),
    )


def wanted_of(manifest: Path, name: str) -> tuple[TileStore, list[int]]:
    """The store of a slide, and the numbers of the tiles that are meant and whole."""
    from manifests.store import open_store

    loaded: Manifest = load_manifest(manifest)
    store = open_store(loaded, next(entry for entry in loaded.stores if entry.id == name))
    return store, store[store.groups[0]].usable().tolist()


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder but locks, by name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
