"""What a set is made of: slides, patients, tiles and bytes per organ, stain, resolution and so on.

Counts are of what is meant: tiles that a selection left out do not count, nor slides of which
nothing is left; a group of which nothing is left stands there with 0 tiles. Resolutions are the
µm per pixel that were asked for, since the true ones differ from slide to slide; each group says
between which true ones its tiles lie. Sizes are bytes. No store is read, so the patients of packed
stores, which only their `sources.json` knows, are not counted.
"""

from __future__ import annotations

import difflib
import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from manifests.checks import short
from manifests.describe.summary import tiles_cut
from manifests.errors import HistotileError
from manifests.model import CURATED_FIELDS, Manifest, Resolution, StoreEntry
from manifests.tileset import TileSet

Value = str | int | float | None
"""What a field says of a tile; None: not known."""

DEFAULT_FIELDS = ("organ", "stain", "dataset", "mpp", "scanner", "site")


class UnknownField(HistotileError):
    """A summary was asked for by a field that no entry has."""


@dataclass(frozen=True, slots=True)
class Part:
    """Tiles of one resolution of a store, which all have the same value of every field."""

    entry: StoreEntry
    resolution: Resolution
    split: str | None
    members: TileSet | None
    """The tiles that are meant; None: all of the resolution."""
    tiles: int
    """Number of tiles that are meant."""
    cut: int
    """Number of tiles before the selection."""
    bytes: int
    """Share of the store's bytes on disk, by the number of tiles that are meant."""


@dataclass(frozen=True, slots=True)
class Group:
    """What has the same value in each of some fields."""

    key: tuple[Value, ...]
    """The value of each field, in the order of the fields."""
    slides: int
    """Slides with tiles, told apart by their fingerprints."""
    packed: int
    """Packed stores with tiles: folders of ready-made pictures."""
    patients: int
    """Patients that the entries name; those of a packed store's pictures are not among them."""
    tiles: int
    tiles_before_selection: int
    bytes: int
    """Bytes on disk."""
    estimated: bool
    """Whether `bytes` are shares of stores by the number of tiles."""
    mpp: tuple[float, float]
    """The least and the greatest true µm per pixel, of x and y."""
    parts: tuple[Part, ...] = field(repr=False)
    """Sorted by id of the entry."""


def group_by(manifest: Manifest, fields: Sequence[str]) -> tuple[Group, ...]:
    """The groups of equal values of some fields, most tiles first; reads no store.

    A store with two resolutions is in the groups of both if `mpp` is among the fields; one with
    parts in several splits likewise with `split`. Without fields there is one group, or none.

    Raises:
        UnknownField: a field is neither known nor a column of the slides table.
    """
    return group_parts(parts_of(manifest), fields)


def parts_of(manifest: Manifest) -> tuple[Part, ...]:
    """The tiles of all stores, apart where any field may tell them apart, sorted by store."""
    return tuple(part for entry in manifest.committed() for part in _parts(entry))


def group_parts(parts: Sequence[Part], fields: Sequence[str]) -> tuple[Group, ...]:
    """As `group_by`, of parts that were taken apart before."""
    getters = [_getter(parts, name) for name in fields]
    # A key is put together column by column: calling all getters part by part takes thrice as long.
    keys = zip(*(map(get, parts) for get in getters), strict=True) if getters else repeat(())
    found: dict[tuple[Value, ...], list[Part]] = {}
    for key, part in zip(keys, parts, strict=False):
        found.setdefault(key, []).append(part)
    return tuple(sorted((_group(key, members) for key, members in found.items()), key=_order))


def _parts(entry: StoreEntry) -> Iterator[Part]:
    """The parts of a store, with their shares of its bytes: no byte is lost in rounding."""
    cut, before = tiles_cut(entry), 0
    for resolution in entry.resolutions:
        for split, placed, members in _splits(entry, resolution):
            tiles = placed if members is None else len(members)
            size = entry.bytes * (before + tiles) // cut - entry.bytes * before // cut
            before += tiles
            yield Part(entry, resolution, split, members, tiles, placed, size)


def _splits(
    entry: StoreEntry, resolution: Resolution
) -> Iterator[tuple[str | None, int, TileSet | None]]:
    """The splits of a resolution that have tiles: name, number of tiles, those that are meant."""
    name, count = resolution.group, resolution.tiles
    meant = entry.members(name)
    if entry.splits:
        sets: dict[str | None, TileSet] = {
            split: tiles.get(name, TileSet()) for split, tiles in sorted(entry.splits.items())
        }
        sets[None] = functools.reduce(operator.sub, sets.values(), TileSet.every(count))
        for split, tiles in sets.items():
            if tiles:
                yield split, len(tiles), tiles if meant is None else tiles & meant
    elif count:
        yield entry.split, count, meant


def _group(key: tuple[Value, ...], parts: list[Part]) -> Group:
    entries = {part.entry.id: part.entry for part in parts if part.tiles}
    mpp = [float(value) for part in parts for value in part.resolution.mpp]
    tiles = sum([part.tiles for part in parts])
    return Group(
        key=key,
        slides=len({_slide(entry) for entry in entries.values() if not entry.packed}),
        packed=sum([entry.packed for entry in entries.values()]),
        patients=len({entry.patient for entry in entries.values()} - {None}),
        tiles=tiles,
        tiles_before_selection=sum([part.cut for part in parts]),
        bytes=sum([part.bytes for part in parts]),
        estimated=tiles != sum([tiles_cut(entry) for entry in entries.values()]),
        mpp=(min(mpp), max(mpp)),
        parts=tuple(parts),
    )


def _slide(entry: StoreEntry) -> str:
    return entry.id if entry.slide is None else entry.slide.fingerprint


def _order(group: Group) -> tuple[int, tuple[tuple[bool, Value], ...]]:
    return -group.tiles, tuple((value is None, value) for value in group.key)


Getter = Callable[[Part], Value]


def _getter(parts: Sequence[Part], name: str) -> Getter:
    if name in _FIELDS:
        return _FIELDS[name]
    own = {column for part in parts for column in part.entry.columns}
    allowed = (*_FIELDS, *sorted(own - _FIELDS.keys()))
    if name not in allowed:
        close = difflib.get_close_matches(name, allowed, 1)
        meant = f" (do you mean {close[0]}?)" if close else ""
        raise UnknownField(
            f"{short(name)} is no field to group by{meant}; there are {', '.join(allowed)}"
        )
    return lambda part: part.entry.columns.get(name) or None


def _of_entry(name: str) -> Getter:
    return operator.attrgetter(f"entry.{name}")


_FIELDS: Mapping[str, Getter] = {
    **{name: _of_entry(name) for name in CURATED_FIELDS},
    "split": lambda part: part.split,
    "mpp": lambda part: float(part.resolution.mpp_requested),
    "tile_size": lambda part: part.resolution.tile_size,
    "codec": lambda part: part.entry.codec_text,
    "vendor": lambda part: None if part.entry.slide is None else part.entry.slide.vendor,
}
