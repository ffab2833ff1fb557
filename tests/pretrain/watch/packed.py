"""Small packed stores with labels for training tests, and slides whose tiles have a colour."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from manifests import StoreEntry
from manifests.codec import Rgb
from manifests.files import spec_hash
from manifests.layout import TilesLayout
from manifests.model import Resolution
from manifests.store import GroupPlan, StoreWriter
from tests.pretrain.make import LOSSLESS, SHARD_TILES, make_slide


def make_packed(
    root: Path,
    name: str,
    tiles: Rgb,
    *,
    labels: Sequence[int] | None = None,
    names: Sequence[str] = (),
    source: Sequence[int] | None = None,
    columns: Sequence[Mapping[str, str]] = (),
    listed: bool = True,
    organ: str | None = "colon",
) -> StoreEntry:
    """A committed packed store of one resolution, uint8 (N, S, S, 3), and its entry.

    Args:
        labels: class of each tile, an index into `names`, or -1; None for no such column.
        source: which picture each tile is of; by default each is one of its own.
        columns: what the slides table says of each picture; by default nothing.
        listed: whether the store lists its pictures.
    """
    spec = {"codec": LOSSLESS.to_json()}
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
    source = range(len(tiles)) if source is None else source
    own = {"source": np.array(source, dtype=np.int32)}
    if labels is not None:
        own["label"] = np.array(labels, dtype=np.int32)
    layout = TilesLayout(len(tiles), tiles.shape[1], SHARD_TILES, LOSSLESS)
    plan = GroupPlan(layout, {"mpp": [0.5, 0.5], "mpp_requested": 0.5}, own)
    pictures = [
        {"name": f"picture-{number}.png", "columns": columns[number] if columns else {}}
        for number in range(max(source, default=-1) + 1)
    ]
    attributes = {
        "format": "histotile-store",
        "version": 1,
        "uuid": identity,
        "groups": ["0.5"],
        "spec": spec,
        "spec_hash": spec_hash(spec),
    }
    writer = StoreWriter(root / f"{name}.zarr")
    writer.plan(attributes, {"0.5": plan}, {}, pictures if listed else None)
    for shard in writer.missing_shards("0.5"):
        encoded = [LOSSLESS.encode(tiles[i]) for i in layout.shard_range(shard)]
        writer.write_shard("0.5", shard, encoded, {})
    writer.commit()
    return StoreEntry(
        id=name,
        status="done",
        source=name,
        path=f"{name}.zarr",
        uuid=identity,
        spec_hash=spec_hash(spec),
        stain="H&E",
        organ=organ,
        packed=True,
        labels=tuple(names),
        resolutions=(
            Resolution("0.5", (0.5, 0.5), 0.5, tiles.shape[1], len(tiles), 0, (1.0, 1.0)),
        ),
    )


def coloured(count: int, colour: Sequence[int], seed: int = 0, size: int = 32) -> Rgb:
    """Tiles (count, size, size, 3) of about one colour, each a little different."""
    random = np.random.default_rng(seed)
    noise = random.integers(-12, 13, size=(count, size, size, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def coloured_slide(
    root: Path,
    name: str,
    colour: Sequence[int],
    *,
    tiles: int = 4,
    organ: str | None = "colon",
    patient: str | None = None,
    split: str | None = None,
    size: int = 32,
) -> StoreEntry:
    """A slide whose tiles have about one colour."""
    pixels = coloured(tiles, colour, seed=sum(name.encode()), size=size)
    entry = make_slide(root, name, {"0.5": pixels}, organ=organ)
    return replace(entry, patient=patient, split=split)
