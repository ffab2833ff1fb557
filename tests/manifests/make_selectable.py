"""A small set of slides and packed pictures to select from, with a table of what is true of each
tile, written out by hand: the oracle that selections are held against."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.codec import TileCodec
from manifests.layout import TilesLayout
from manifests.model import Manifest, Resolution, Selection, SlideInfo, StoreEntry
from manifests.store import GroupPlan, StoreWriter
from manifests.tileset import TileSet
from tests.manifests.make_manifest import SPEC_HASH, failed_entry

Fact = str | float | bool | None
Columns = Mapping[str, npt.NDArray[Any]]
SIZE = 16
NAN = float("nan")


def store_uuid(name: str) -> str:
    """A UUID that hangs on the name alone."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def make_entry(
    folder: Path,
    name: str,
    groups: Mapping[str, Columns],
    *,
    sources: Sequence[Mapping[str, Any]] | None = None,
    **fields: Any,
) -> StoreEntry:
    """Write a store with the given columns for each resolution; return its entry.

    The tiles hold no pixels that could be read. A resolution has as many tiles as its columns have
    values.
    """
    own = store_uuid(name)
    counts = {group: len(next(iter(columns.values()))) for group, columns in groups.items()}
    plans = {
        group: GroupPlan(
            layout=TilesLayout(counts[group], SIZE, 64, TileCodec("zstd")),
            attributes={"mpp": [float(group) * 1.01] * 2, "mpp_requested": float(group)},
            columns=dict(columns),
        )
        for group, columns in groups.items()
    }
    attributes = {"uuid": own, "groups": list(groups), "spec": {}, "spec_hash": SPEC_HASH}
    writer = StoreWriter(folder / f"{name}.zarr")
    writer.plan(attributes, plans, {}, sources)
    for group in groups:
        for shard in writer.missing_shards(group):
            members = writer.layouts()[group].shard_range(shard)
            writer.write_shard(group, shard, [b"tile"] * len(members), {})
    writer.commit()
    resolutions = tuple(
        Resolution(group, (float(group) * 1.01,) * 2, float(group), SIZE, count, 0, (1.0, 1.0))
        for group, count in counts.items()
    )
    known: dict[str, Any] = {
        "status": "done",
        "source": f"{name}.svs",
        "path": f"{name}.zarr",
        "uuid": own,
        "spec_hash": SPEC_HASH,
        "resolutions": resolutions,
        "codec": {"name": "zstd"},
    }
    return StoreEntry(id=name, **{**known, **fields})


@dataclass(frozen=True, slots=True)
class World:
    """A manifest, and all that is true of its tiles."""

    manifest: Manifest
    facts: Mapping[tuple[str, str], list[dict[str, Fact]]]
    """By entry and resolution: for each tile its values by name; None is not known."""
    base: Mapping[tuple[str, str], set[int]]
    """The tiles that the manifest selects."""


def tiles_of(manifest: Manifest) -> dict[tuple[str, str], set[int]]:
    """The tiles that are meant, by entry and resolution, where there are any."""
    found = {}
    for entry in manifest.stores:
        for resolution in entry.resolutions:
            members = entry.members(resolution.group)
            every = range(resolution.tiles)
            found[entry.id, resolution.group] = set(every if members is None else members.indices())
    return {key: tiles for key, tiles in found.items() if tiles}


def f32(*values: float) -> npt.NDArray[np.float32]:
    """A column as histotile measures them."""
    return np.array(values, dtype=np.float32)


def _position(count: int) -> dict[str, npt.NDArray[Any]]:
    return {"x": np.arange(count) * SIZE, "y": np.full(count, 3)}


def make_world(folder: Path) -> World:
    """Two slides of two resolutions and of one, an odd one, and packed pictures."""
    fine = {
        **_position(7),
        "tissue": f32(0.0, 0.2, 0.6, 0.6, 0.7, 1.0, 1.0),
        "focus": f32(0.05, 0.1, 0.3, NAN, 0.7, 0.9, 0.1),
        "unread": f32(0, 0, 0, 0.5, 0, 0, 0),
        "native": np.array([1, 0, 1, 0, 0, 0, 1], dtype=np.bool_),
    }
    coarse = {**_position(3), "tissue": f32(0.1, 0.6, 0.9), "focus": f32(0.7, 0.0, 0.2)}
    slide_a = make_entry(
        folder,
        "a",
        {"0.5": fine, "1": coarse},
        organ="lung",
        stain="HE",
        dataset="D1",
        patient="P1",
        unread=1,
        split="train",
        columns={"batch": "7", "Sample Type": "biopsy"},
        slide=SlideInfo("openslide", "aperio", "jpeg", "sha256:0", objective_power=40.0),
    )
    plain = {**_position(4), "tissue": f32(0.3, 0.5, 0.7, 0.9)}
    slide_b = make_entry(
        folder,
        "b",
        {"0.5": plain},
        organ="Breast",
        stain="IHC: Ki67",
        split="test",
        columns={"batch": "x"},
    )
    measured = {**plain, "cellularity": np.array([0.1, NAN, 1e300, -1.0])}
    chosen = Selection(({"where": "x != 16"},), {"2": TileSet.of([0, 2, 3])})
    slide_c = make_entry(folder, "c", {"2": measured}, dataset="D2", selection=chosen)
    pictures: list[dict[str, Any]] = [
        {"name": "n/1.png", "columns": {"patient": "P1", "group": "10"}},
        {"name": "t/2.png", "columns": {"patient": "P2", "group": "g", "batch": "9"}},
        {"name": "t/3.png"},
    ]
    source = np.array([0, 0, 1, 2, 2, 1], dtype=np.int32)
    label = np.array([0, 0, 1, 1, -1, 1], dtype=np.int32)
    tiles = {**_position(6), "source": source, "label": label, "focus": f32(0, 0.2, 0.4, 1, 1, 1)}
    packed = make_entry(
        folder,
        "p",
        {"0.5": tiles},
        sources=pictures,
        source="pictures",
        packed=True,
        labels=("normal", "tumour"),
        organ="Lung",
        stain="H&E",
        patient="P0",
        splits={
            "train": {"0.5": TileSet.of([0, 1, 4])},
            "test": {"0.5": TileSet.of([2])},
        },
        columns={"batch": "8"},
    )
    nothing = make_entry(
        folder, "empty", {"0.5": {"x": np.empty(0, np.int64)}}, status="empty", reason="no tissue"
    )
    entries = (slide_a, slide_b, slide_c, packed, nothing, failed_entry("failed"))
    facts = {
        ("a", "0.5"): _tiles(_A, fine, resolution="0.5", mpp=0.505, mpp_requested=0.5),
        ("a", "1"): _tiles(_A, coarse, resolution="1", mpp=1.01, mpp_requested=1.0),
        ("b", "0.5"): _tiles(_B, plain, resolution="0.5", mpp=0.505, mpp_requested=0.5),
        ("c", "2"): _tiles(_C, measured, resolution="2", mpp=2.02, mpp_requested=2.0),
        ("p", "0.5"): [
            {**tile, **_PICTURES[source[i]], **_LABELS[label[i]], "split": _SPLITS.get(i)}
            for i, tile in enumerate(
                _tiles(_P, tiles, resolution="0.5", mpp=0.505, mpp_requested=0.5)
            )
        ],
    }
    base = {key: set(range(len(tiles))) for key, tiles in facts.items()} | {("c", "2"): {0, 2, 3}}
    return World(Manifest(entries, root=folder), facts, base)


_A: dict[str, Fact] = {
    "id": "a",
    "source": "a.svs",
    "organ": "lung",
    "stain": "H&E",
    "dataset": "D1",
    "patient": "P1",
    "split": "train",
    "batch": "7",
    "Sample Type": "biopsy",
    "vendor": "aperio",
    "reader": "openslide",
    "objective_power": 40.0,
}
_B: dict[str, Fact] = {
    "id": "b",
    "source": "b.svs",
    "organ": "breast",
    "stain": "IHC: Ki67",
    "split": "test",
    "batch": "x",
}
_C: dict[str, Fact] = {"id": "c", "source": "c.svs", "dataset": "D2"}
_P: dict[str, Fact] = {"id": "p", "organ": "lung", "stain": "H&E", "packed": True}
_PICTURES: dict[int, dict[str, Fact]] = {
    0: {"source": "n/1.png", "patient": "P1", "group": "10", "batch": "8"},
    1: {"source": "t/2.png", "patient": "P2", "group": "g", "batch": "9"},
    2: {"source": "t/3.png", "patient": "P0", "group": None, "batch": "8"},
}
_LABELS: dict[int, dict[str, Fact]] = {
    0: {"label": "normal"},
    1: {"label": "tumour"},
    -1: {"label": None},
}
_SPLITS = {0: "train", 1: "train", 4: "train", 2: "test"}
_MEASURED = ("x", "y", "tissue", "focus", "unread", "native", "cellularity")


def _tiles(entry: dict[str, Fact], columns: Columns, **own: Fact) -> list[dict[str, Fact]]:
    count = len(columns["x"])
    always: dict[str, Fact] = {
        "packed": False,
        "codec": "zstd",
        "tile_size": SIZE,
        "unread": 0.0,
        "native": False,
    }
    found = []
    for i in range(count):
        there = {name: columns[name][i].item() for name in _MEASURED if name in columns}
        known = {name: value for name, value in there.items() if value == value}  # not NaN
        found.append({**always, **entry, **own, **known})
    return found
