"""Whole sets for tests: small stores on disk, and a manifest that lists them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from manifests.codec import TileCodec
from manifests.layout import TilesLayout
from manifests.model import Manifest, Resolution, SlideInfo, StoreEntry
from manifests.store import GroupPlan, StoreWriter, TileStore

SPEC_HASH = "cd" * 32
CODEC = TileCodec("zstd")
TILE_SIZE = 8


def store_uuid(number: int) -> str:
    """A UUID of one's own for each store."""
    return f"12345678-1234-5678-1234-{number:012d}"


def make_tiny_store(
    path: Path,
    number: int = 0,
    tiles: dict[str, int] | None = None,
    *,
    columns: dict[str, Any] | None = None,
    sources: list[Any] | None = None,
    attributes: dict[str, Any] | None = None,
) -> None:
    """A committed store of tiny grey tiles; tiles are counted by group (`{"0.5": 5}`)."""
    counts = {"0.5": 5} if tiles is None else tiles
    groups = {name: _plan(name, count, columns or {}) for name, count in counts.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = StoreWriter(path)
    writer.plan(
        {
            "format": "histotile-store",
            "version": 1,
            "uuid": store_uuid(number),
            "groups": list(groups),
            "spec": {},
            "spec_hash": SPEC_HASH,
            **(attributes or {}),
        },
        groups,
        {},
        sources,
    )
    for name, count in counts.items():
        for shard in writer.missing_shards(name):
            members = writer.layouts()[name].shard_range(shard)
            pixels = np.full((TILE_SIZE, TILE_SIZE, 3), 10 * number + shard, dtype=np.uint8)
            focus = np.linspace(0, 1, count, dtype=np.float32)[members.start : members.stop]
            writer.write_shard(name, shard, [CODEC.encode(pixels)] * len(members), {"focus": focus})
    writer.commit()


def _plan(name: str, count: int, columns: dict[str, Any]) -> GroupPlan:
    return GroupPlan(
        layout=TilesLayout(count, TILE_SIZE, 4, CODEC),
        attributes={"mpp": [float(name)] * 2, "mpp_requested": float(name)},
        columns={
            "x": np.arange(count, dtype=np.int64) * 100,
            "y": np.arange(count, dtype=np.int64) * 7,
            **{key: np.asarray(values) for key, values in columns.items()},
        },
    )


def stored_entry(root: Path, path: str, number: int = 0, **changes: Any) -> StoreEntry:
    """The entry of a store that lies at `path` below `root`; its id is the store's name."""
    store = TileStore(root / path)
    fields: dict[str, Any] = {
        "id": Path(path).stem,
        "status": "done",
        "source": f"{Path(path).stem}.svs",
        "path": path,
        "uuid": store.attributes["uuid"],
        "spec_hash": SPEC_HASH,
        "commit": store.commit_sha256,
        "slide": SlideInfo("openslide", "aperio", "jpeg", f"sha256:{number:04x}"),
        "resolutions": tuple(
            Resolution(name, store[name].mpp, float(name), TILE_SIZE, len(store[name]), 0, (1, 1))
            for name in store.groups
        ),
    }
    return StoreEntry(**{**fields, **changes})


def tiny_set(root: Path, *paths: str, **changes: Any) -> Manifest:
    """Stores at the paths below `root`, each with a UUID of its own, and their manifest."""
    for number, path in enumerate(paths):
        make_tiny_store(root / path, number)
    entries = (stored_entry(root, path, n, **changes) for n, path in enumerate(paths))
    return Manifest(tuple(entries), root=root)
