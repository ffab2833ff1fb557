"""Drawing some of the tiles: so many of a slide, of a patient, or of the whole set.

A tile's lot is a number below 2^64 that hangs on the draw, the seed, the store's UUID, the
resolution and the tile's index alone; the lowest lots win. So a draw does not depend on the order
of entries, a larger one contains the smaller ones, and a slide that comes or goes changes nothing
for others. The lots are those of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.tileset import TileSet

_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
_FACTOR_1 = np.uint64(0xBF58_476D_1CE4_E5B9)
_FACTOR_2 = np.uint64(0x94D0_49BB_1331_11EB)
_BUCKET_BITS = np.uint64(48)
_BUCKETS = 1 << 16

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pool:
    """Tiles of one resolution of a store, to draw from."""

    uuid: str
    group: str
    tiles: TileSet


@dataclass(frozen=True, slots=True)
class Owners:
    """Whose the tiles of a pool are."""

    names: tuple[Hashable, ...]
    codes: npt.NDArray[np.integer[Any]] | None = None
    """Which of the names each of the pool's tiles has, in ascending order of the tiles; None: all
    have the first."""


def lots(draw: str, seed: int, pool: Pool, tiles: Indices) -> npt.NDArray[np.uint64]:
    """The lots of some tiles, uint64, in their order."""
    name = f"{draw}\n{seed}\n{pool.uuid}\n{pool.group}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    key = np.uint64(int.from_bytes(digest, "little"))
    value = (tiles.astype(np.uint64) + np.uint64(1)) * _GOLDEN + key
    value = (value ^ (value >> np.uint64(30))) * _FACTOR_1
    value = (value ^ (value >> np.uint64(27))) * _FACTOR_2
    mixed: npt.NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed


def cap(draw: str, seed: int, most: int, pools: Sequence[Pool]) -> list[TileSet]:
    """At most so many tiles of all pools together: those with the lowest lots."""
    if sum(len(pool.tiles) for pool in pools) <= most:
        return [pool.tiles for pool in pools]
    parts = [pool.tiles.indices() for pool in pools]
    drawn = [lots(draw, seed, pool, part) for pool, part in zip(pools, parts, strict=True)]
    chosen = np.argpartition(np.concatenate(drawn), most - 1)[:most]
    return _kept(parts, chosen)


def cap_each(
    draw: str, seed: int, most: int, pools: Sequence[Pool], owners: Sequence[Owners]
) -> list[TileSet]:
    """At most so many tiles of each owner: those with the lowest lots.

    Memory hangs on the tiles of one owner, and on those of pools that have several.
    """
    shared = {name for owner in owners if owner.codes is not None for name in owner.names}
    places: dict[Hashable, list[int]] = defaultdict(list)
    together = []
    for place, owner in enumerate(owners):
        if owner.codes is not None or owner.names[0] in shared:
            together.append(place)
        else:
            places[owner.names[0]].append(place)
    kept = [pool.tiles for pool in pools]
    for mine in places.values():
        for place, tiles in zip(mine, cap(draw, seed, most, [pools[p] for p in mine]), strict=True):
            kept[place] = tiles
    found = _cap_mixed(draw, seed, most, [(pools[place], owners[place]) for place in together])
    for place, tiles in zip(together, found, strict=True):
        kept[place] = tiles
    return kept


def _cap_mixed(
    draw: str, seed: int, most: int, shares: Sequence[tuple[Pool, Owners]]
) -> list[TileSet]:
    """The same for pools whose tiles belong to several owners, who may have tiles in others."""
    if not shares:
        return []
    numbers: dict[Hashable, int] = {}
    parts, drawn, whose = [], [], []
    for pool, owner in shares:
        own = np.array([numbers.setdefault(name, len(numbers)) for name in owner.names])
        tiles = pool.tiles.indices()
        parts.append(tiles)
        drawn.append(lots(draw, seed, pool, tiles))
        whose.append(np.full(len(tiles), own[0]) if owner.codes is None else own[owner.codes])
    owner_of = np.concatenate(whose)
    order = np.lexsort((np.concatenate(drawn), owner_of))
    counts = np.bincount(owner_of, minlength=len(numbers))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _kept(parts, order[rank < most])


def sample(draw: str, seed: int, most: int, pools: Sequence[Pool]) -> list[TileSet]:
    """What `cap` gives, for pools of a hundred million tiles: the lots are never held at once.

    The highest lot that wins is found by counting lots by their upper bits, then by sorting those
    of the one bucket that it lies in.
    """
    if sum(len(pool.tiles) for pool in pools) <= most:
        return [pool.tiles for pool in pools]
    counts = np.zeros(_BUCKETS, dtype=np.int64)
    for _, drawn in _each(draw, seed, pools):
        counts += np.bincount((drawn >> _BUCKET_BITS).astype(np.int64), minlength=_BUCKETS)
    before = np.cumsum(counts) - counts
    # The last bucket that begins below the number asked for; empty ones after it begin there too.
    bucket = int(np.searchsorted(before, most, side="left")) - 1
    inside = [lot[lot >> _BUCKET_BITS == bucket] for _, lot in _each(draw, seed, pools)]
    highest = np.sort(np.concatenate(inside))[most - before[bucket] - 1]
    # A second tile with that very lot would be one too many: one draw in 10^12, of 10^8 tiles.
    return [TileSet.of(tiles[drawn <= highest]) for tiles, drawn in _each(draw, seed, pools)]


def _each(
    draw: str, seed: int, pools: Iterable[Pool]
) -> Iterator[tuple[Indices, npt.NDArray[np.uint64]]]:
    for pool in pools:
        tiles = pool.tiles.indices()
        yield tiles, lots(draw, seed, pool, tiles)


def _kept(parts: Sequence[Indices], chosen: npt.NDArray[np.integer[Any]]) -> list[TileSet]:
    """The tiles at some places of all parts one after another, by part."""
    ends = np.cumsum([len(part) for part in parts])
    ordered = np.sort(chosen)
    cuts = np.searchsorted(ordered, ends)
    begins = np.concatenate(([0], cuts[:-1]))
    return [
        TileSet.of(part[ordered[begin:cut] - (end - len(part))])
        for part, begin, cut, end in zip(parts, begins, cuts, ends, strict=True)
    ]
