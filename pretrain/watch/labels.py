"""Tiles whose class is known: which of them to look at, and which of them are kin.

A class is a tile's label in a packed store, or what the manifest says of its slide or picture. Two
tiles are *kin* if they may show one piece of tissue: same store or picture, patient, or group.
Choosing is keyed by the seed, holds no state, and opens only the stores that it takes tiles from;
no pixel is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from manifests import Manifest, StoreEntry
from manifests.files import Json
from manifests.model import Resolution
from manifests.splits.units import FIELDS, LABEL, sources_of, value_of
from manifests.store import TileGroup, TileStore, open_store
from manifests.tileset import TileSet
from pretrain.mixing.keyed import key_of, permute

KIN_COLUMNS = ("patient", "group")
"""What besides its picture or slide keeps a tile from being scored by its own kin."""

_MOST_CLASSES = 100
_MOST_LABELLED_STORES = 64
"""Packed stores whose columns are read to know the classes of their tiles."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class KnownTile:
    """A tile, and what is known of it."""

    slide: str
    """Id of its entry in the manifest."""
    group: str
    index: int
    """Its number in the group."""
    size: int
    """Pixels of its side."""
    label: str | None
    """Its class; None where none was asked for."""
    kin: tuple[str, ...]
    """Marks, `kind=value`; tiles that share one are kin."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The tiles to choose from."""

    manifest: Manifest
    slides: frozenset[str]
    """Ids of the entries."""
    split: str | None
    """Only the tiles of this split; None: of any."""
    seed: int

    def entries(self) -> tuple[StoreEntry, ...]:
        """The entries, in the manifest's order."""
        return tuple(e for e in self.manifest.committed() if e.id in self.slides)


@dataclass(frozen=True, slots=True)
class _Heap:
    """Tiles of one class in one resolution of one store."""

    label: str | None
    entry: StoreEntry
    resolution: Resolution
    members: TileSet | None
    """The tiles; None: all of the group."""
    count: int


def choose_tiles(pool: Pool, name: str | None, count: int) -> tuple[KnownTile, ...]:
    """Choose up to `count` tiles, as many of each class, evenly over its slides.

    Classes with few tiles give all that they have; of more than 100 classes, those with the most
    tiles are taken. Classes take turns in the result, so that any beginning of it is balanced, too.

    Args:
        name: what the class is: `label`, a field of the manifest, or a column of the slides table;
            None for tiles of any class.

    Raises:
        StoreError: a store that tiles are taken from cannot be opened.
    """
    stores = _Stores(pool.manifest)
    classes: dict[str | None, list[_Heap]] = defaultdict(list)
    for heap in _heaps(pool, name, stores):
        classes[heap.label].append(heap)
    if not classes:
        return ()
    largest = sorted(classes, key=lambda c: (-sum(h.count for h in classes[c]), c or ""))
    labels = sorted(largest[:_MOST_CLASSES], key=lambda label: label or "")
    share = max(1, count // len(labels))
    chosen = [list(islice(_walk(classes[c], pool.seed, stores), share)) for c in labels]
    turns = [tiles[turn] for turn in range(share) for tiles in chosen if turn < len(tiles)]
    return tuple(turns)


def related(tiles: Sequence[KnownTile]) -> Flags:
    """Which pairs of N tiles are kin, bool (N, N); a tile is its own kin."""
    members: dict[str, list[int]] = defaultdict(list)
    for place, tile in enumerate(tiles):
        for mark in tile.kin:
            members[mark].append(place)
    found = np.eye(len(tiles), dtype=np.bool_)
    for places in members.values():
        found[np.ix_(places, places)] = True
    return found


def known_names(pool: Pool) -> list[str]:
    """Names that some entry of the pool says the value of, sorted; pictures are not asked."""
    entries = pool.entries()
    names = {*FIELDS, *(column for entry in entries for column in entry.columns)}
    found = {n for n in names if any(value_of(entry, n) is not None for entry in entries)}
    return sorted(found | ({LABEL} if any(entry.labels for entry in entries) else set()))


@dataclass(slots=True)
class _Stores:
    """Stores that were opened while choosing, and what was read of them."""

    manifest: Manifest
    opened: dict[str, TileStore] = field(default_factory=dict)
    pictures: dict[str, list[dict[str, Json]]] = field(default_factory=dict)
    unread: dict[tuple[str, str], frozenset[int]] = field(default_factory=dict)

    def group(self, entry: StoreEntry, resolution: Resolution) -> TileGroup:
        """The tiles of a resolution."""
        if entry.id not in self.opened:
            self.opened[entry.id] = open_store(self.manifest, entry)
        return self.opened[entry.id][resolution.group]

    def columns(self, group: TileGroup, entry: StoreEntry) -> list[Mapping[str, str]]:
        """What the slides table said of each picture of a packed store."""
        if entry.id not in self.pictures:
            self.pictures[entry.id] = group.store.sources()
        return [picture.get("columns", {}) for picture in self.pictures[entry.id]]

    def is_whole(self, heap: _Heap, index: int) -> bool:
        """Whether a tile could be read whole from its slide."""
        if not heap.entry.unread:
            return True
        key = heap.entry.id, heap.resolution.group
        if key not in self.unread:
            unread = self.group(heap.entry, heap.resolution).unread()
            self.unread[key] = frozenset(unread.tolist())
        return index not in self.unread[key]


def _heaps(pool: Pool, name: str | None, stores: _Stores) -> Iterator[_Heap]:
    looked_into = 0
    for entry in sorted(pool.entries(), key=lambda e: key_of(pool.seed, "monitor", e.id)):
        value = None if name in (None, LABEL) else value_of(entry, str(name))
        by_tile = name is not None and value is None
        if by_tile and (not entry.packed or (name == LABEL and not entry.labels)):
            continue
        looked_into += by_tile
        if by_tile and looked_into > _MOST_LABELLED_STORES:
            continue
        for resolution in entry.resolutions:
            members = entry.members(resolution.group, pool.split)
            count = resolution.tiles if members is None else len(members)
            if not count:
                continue
            whole = _Heap(value, entry, resolution, members, count)
            yield from _by_tile(whole, str(name), stores) if by_tile else (whole,)


def _by_tile(heap: _Heap, name: str, stores: _Stores) -> Iterator[_Heap]:
    """The classes of a packed store's tiles."""
    group = stores.group(heap.entry, heap.resolution)
    if name == LABEL:
        if LABEL not in group.columns:
            return
        codes, names = group.column(LABEL), heap.entry.labels
    else:
        values = [columns.get(name) or "" for columns in stores.columns(group, heap.entry)]
        names = tuple(sorted(set(values) - {""}))
        if not names:
            return
        code_of = np.array([names.index(v) if v else -1 for v in values], dtype=np.int64)
        codes = code_of[sources_of(group, len(values))]
    meant = np.ones(len(group), np.bool_) if heap.members is None else heap.members.mask(len(group))
    for code, label in enumerate(names):
        if tiles := TileSet.where((codes == code) & meant):
            yield _Heap(label, heap.entry, heap.resolution, tiles, len(tiles))


def _walk(heaps: Sequence[_Heap], seed: int, stores: _Stores) -> Iterator[KnownTile]:
    """All tiles of a class: in each round one of every heap, in a keyed order without repeats."""
    alive = list(heaps)
    turn = 0
    while alive:
        for heap in alive:
            key = key_of(seed, "monitor", heap.entry.id, heap.resolution.group, heap.label or "")
            index = permute(key, heap.count, turn)
            if heap.members is not None:
                index = heap.members.nth(index)
            if stores.is_whole(heap, index):
                yield _known(heap, index, stores)
        turn += 1
        alive = [heap for heap in alive if turn < heap.count]


def _known(heap: _Heap, index: int, stores: _Stores) -> KnownTile:
    entry, resolution = heap.entry, heap.resolution
    own = [f"store={entry.uuid}"]
    if entry.slide is not None:
        own.append(f"slide={entry.slide.fingerprint}")
    said: Mapping[str, str] = {}
    if entry.packed:
        group = stores.group(entry, resolution)
        pictures = stores.columns(group, entry)
        if pictures and "source" in group.columns:
            picture = int(sources_of(group, len(pictures))[index])
            own, said = [f"picture={entry.uuid}/{picture}"], pictures[picture]
    for name in _kin_columns(stores.manifest):
        if value := said.get(name) or value_of(entry, name):
            own.append(f"{name}={value}")
    return KnownTile(
        entry.id, resolution.group, index, resolution.tile_size, heap.label, tuple(own)
    )


def _kin_columns(manifest: Manifest) -> list[str]:
    """Patient, group, and the columns of the slides table that the set was split by."""
    split_by = {str(made.get("by")) for made in manifest.splits}
    return sorted({*KIN_COLUMNS} | (split_by - {*FIELDS, LABEL, "None"}))
