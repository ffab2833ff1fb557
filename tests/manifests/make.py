"""Small stores for tests, made through the writer and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.codec import Rgb, TileCodec
from manifests.files import crc32c, spec_hash
from manifests.layout import TilesLayout
from manifests.likeness.duplicates import DuplicateGroup, find_duplicates
from manifests.model import Manifest
from manifests.store import GroupPlan, StoreWriter

UUID = "12345678-1234-5678-1234-567812345678"


def tile_pixels(count: int, size: int = 32, seed: int = 0) -> Rgb:
    """Smooth random tiles, uint8 (count, size, size, 3); tile 0 is all black."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, size // 8, size // 8, 3), dtype=np.uint8)
    tiles = coarse.repeat(8, axis=1).repeat(8, axis=2)
    tiles[:1] = 0
    return tiles


def plan_store(
    path: Path, tiles: Rgb, *, codec: TileCodec, shard_tiles: int = 8, uuid: str = UUID
) -> StoreWriter:
    """A planned store without shards: one group `0.5`, columns x, y, tissue."""
    count, size = len(tiles), tiles.shape[1]
    group = GroupPlan(
        layout=TilesLayout(count, size, shard_tiles, codec),
        attributes={"mpp": [0.5, 0.5], "mpp_requested": 0.5},
        columns={
            "x": np.arange(count, dtype=np.int64) * size,
            "y": np.zeros(count, dtype=np.int64),
            "tissue": np.linspace(0, 1, count, dtype=np.float32),
        },
    )
    spec = {"tile_size": size, "codec": codec.to_json()}
    attributes = {
        "format": "histotile-store",
        "version": 1,
        "uuid": uuid,
        "groups": ["0.5"],
        "spec": spec,
        "spec_hash": spec_hash(spec),
    }
    writer = StoreWriter(path)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:9, 7:20] = True
    thumbnail = np.full((20, 30, 3), 200, dtype=np.uint8)
    writer.plan(attributes, {"0.5": group}, {"thumbnail": thumbnail, "tissue_mask": mask})
    return writer


def shard_bytes(label: bytes, tiles: Sequence[bytes], slots: int) -> bytes:
    """A whole shard built in memory: what the writer must come to, tile by tile."""
    index = np.full((slots, 2), 2**64 - 1, dtype="<u8")
    parts, offset = [label], len(label)
    for slot, tile in enumerate(tiles):
        index[slot] = offset, len(tile) + 4
        parts += [tile, crc32c(tile).to_bytes(4, "little")]
        offset += len(tile) + 4
    parts += [index.tobytes(), crc32c(index.tobytes()).to_bytes(4, "little")]
    return b"".join(parts)


def write_shard(writer: StoreWriter, tiles: Rgb, shard: int) -> None:
    """Write one shard of a store that `plan_store` planned."""
    layout = writer.layouts()["0.5"]
    members = layout.shard_range(shard)
    encoded = [layout.codec.encode(tiles[i]) for i in members]
    focus = np.array([i / 7 for i in members], dtype=np.float32)
    native = np.array([i % 3 == 0 for i in members], dtype=np.bool_)
    writer.write_shard("0.5", shard, encoded, {"focus": focus, "native": native})


def make_store_with_unread(path: Path, unread: npt.ArrayLike, shard_tiles: int = 8) -> None:
    """A committed store of as many tiles as there are values in the column `unread`."""
    values = np.asarray(unread, dtype=np.float32)
    writer = plan_store(
        path, tile_pixels(len(values)), codec=TileCodec("zstd"), shard_tiles=shard_tiles
    )
    for shard in writer.missing_shards("0.5"):
        members = writer.layouts()["0.5"].shard_range(shard)
        part = {"unread": values[members.start : members.stop]}
        writer.write_shard("0.5", shard, [b"tile"] * len(members), part)
    writer.commit()


def groups_of(manifest: Manifest, **options: Any) -> list[DuplicateGroup]:
    """The groups of duplicates of a manifest."""
    return list(find_duplicates(manifest, **options).groups)


def make_store(path: Path, tiles: Rgb, *, codec: TileCodec, shard_tiles: int = 8) -> None:
    """A committed store."""
    writer = plan_store(path, tiles, codec=codec, shard_tiles=shard_tiles)
    for shard in writer.missing_shards("0.5"):
        write_shard(writer, tiles, shard)
    writer.commit()
