"""Small manifests with stores for training tests, made through the writer and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from manifests import Manifest, Resolution, StoreEntry, save_manifest
from manifests.codec import Rgb, TileCodec
from manifests.files import spec_hash
from manifests.layout import TilesLayout
from manifests.store import GroupPlan, StoreWriter
from pretrain.mixing.mix import Mix, Slide, Source, Stratum
from tests.manifests.make import tile_pixels

LOSSLESS = TileCodec("zstd", level=1)
SHARD_TILES = 16


def make_slide(
    root: Path,
    name: str,
    groups: Mapping[str, Rgb],
    *,
    stain: str | None = "H&E",
    organ: str | None = "colon",
    codec: TileCodec = LOSSLESS,
    unread: Mapping[str, Sequence[int]] | None = None,
) -> StoreEntry:
    """A committed store `name.zarr` with uint8 (N, S, S, 3) tiles for each mpp, and its entry.

    Args:
        unread: tiles by mpp that are marked as not wholly read; None for no such column.
    """
    spec = {"codec": codec.to_json()}
    identity = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
    writer = StoreWriter(root / f"{name}.zarr")
    plans = {
        group: GroupPlan(
            layout=TilesLayout(len(tiles), tiles.shape[1], SHARD_TILES, codec),
            attributes={"mpp": [float(group)] * 2, "mpp_requested": float(group)},
            columns={},
        )
        for group, tiles in groups.items()
    }
    attributes = {
        "format": "histotile-store",
        "version": 1,
        "uuid": identity,
        "groups": list(groups),
        "spec": spec,
        "spec_hash": spec_hash(spec),
    }
    writer.plan(attributes, plans, {})
    for group, tiles in groups.items():
        for shard in writer.missing_shards(group):
            members = plans[group].layout.shard_range(shard)
            columns = {}
            if unread is not None:
                columns["unread"] = 0.25 * np.isin(members, unread.get(group, ())).astype("f4")
            writer.write_shard(group, shard, [codec.encode(tiles[i]) for i in members], columns)
    writer.commit()
    resolutions = tuple(
        Resolution(g, (float(g),) * 2, float(g), t.shape[1], len(t), 0, (1.0, 1.0))
        for g, t in groups.items()
    )
    return StoreEntry(
        id=name,
        status="done",
        source=name,
        path=f"{name}.zarr",
        uuid=identity,
        spec_hash=spec_hash(spec),
        stain=stain,
        organ=organ,
        resolutions=resolutions,
        unread=sum(len(tiles) for tiles in (unread or {}).values()),
    )


def damage_tile(store: Path, group: str, slot: int) -> None:
    """Flip a byte of the tile in that slot of the group's first shard."""
    file = store / group / TilesLayout.shard_file(0)
    data = bytearray(file.read_bytes())
    index = np.frombuffer(bytes(data[-16 * SHARD_TILES - 4 : -4]), dtype="<u8")
    data[int(index[2 * slot]) + 3] ^= 0xFF
    file.write_bytes(bytes(data))


def save(root: Path, *entries: StoreEntry) -> Path:
    """Save a manifest of these entries in `root`; return its path."""
    path = root / "manifest.json"
    save_manifest(Manifest(entries, root), path)
    return path


def two_by_two(root: Path, tiles: int = 8, size: int = 32) -> Path:
    """A manifest of two stains × two organs with one slide each; return its path."""
    root.mkdir(parents=True, exist_ok=True)
    entries = [
        make_slide(
            root,
            f"{organ}-{number}",
            {"0.5": tile_pixels(tiles, size, seed=10 * number + len(organ))},
            stain=stain,
            organ=organ,
        )
        for number, stain in enumerate(("H&E", "Ki67"))
        for organ in ("colon", "lung")
    ]
    return save(root, *entries)


def mix_of(*strata: tuple[int, ...], weights: Sequence[int] | None = None) -> Mix:
    """A mix with slides of so many tiles in each stratum, without any store; even by default."""
    whole = [1] * len(strata) if weights is None else list(weights)
    return Mix(
        tuple(
            Stratum(
                (("stain", f"stain-{i}"), ("organ", "organ")),
                tuple(
                    Slide(f"slide-{i}-{j}", (Source("0.5", (0.5, 0.5), tiles),))
                    for j, tiles in enumerate(slides)
                ),
                weight=weight,
                probability=weight / sum(whole),
            )
            for i, (slides, weight) in enumerate(zip(strata, whole, strict=True))
        ),
        tile_size=32,
    )


def numbered_tiles(count: int, first: int = 0, size: int = 8) -> Rgb:
    """Tiles whose every pixel is the tile's number, uint8 (count, size, size, 3)."""
    values = np.arange(first, first + count, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, size, size, 3)).copy()
