"""Duplicates in a manifest: slides and tiles that are there twice.

Exact duplicates have equal fingerprints (slides) or equal encoded bytes (tiles); near ones look the
same (`manifests.likeness.fingerprints`). Slides are looked at as the thumbnails and tissue masks of
their stores, tiles as they are. A duplicate is a group of members, never a list of pairs. Only
tiles that the manifest means are looked at (`TileGroup.usable`), and only those with enough
contrast to be told apart: a blank tile is no duplicate of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from manifests.errors import HistotileError
from manifests.likeness.fingerprints import (
    GLANCE,
    LOOK,
    Eye,
    Floats,
    code_length,
    colour,
    encode,
    slide_square,
)
from manifests.likeness.neighbours import Alike, Progress, best_of_each, find_alike
from manifests.likeness.tilescan import LEAST_CONTRAST, Scan, scan_tiles
from manifests.model import Selection
from manifests.store import open_store
from manifests.tileset import TileSet

if TYPE_CHECKING:
    from manifests.console import Display
    from manifests.model import Manifest, StoreEntry

Kind = Literal["slide", "tile"]
Indices = npt.NDArray[np.int64]

TILE_THRESHOLD = 0.35
SLIDE_THRESHOLD = 0.75
"""Similarity from which two tiles, or two slides, count as the same: docs/reference/duplicates.md
says what was measured."""


class BadThreshold(HistotileError):
    """A threshold that no similarity can be compared with."""


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One slide or one tile of a group of duplicates."""

    entry: str
    """Id of the entry."""
    group: str | None = None
    """Resolution of a tile, by the name of its group; None for a slide."""
    tile: int | None = None
    """Index of the tile within that group; None for a slide."""


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Slides or tiles that are one and the same. A slide or a tile is in one group at most."""

    kind: Kind
    exact: bool
    """Whether all members are equal byte by byte (slides: have one fingerprint)."""
    members: tuple[Member, ...]
    """At least two, sorted."""
    similarity: float
    """Of the weakest link that holds the group together, up to 1; 1 if exact."""


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The duplicates of a manifest, and what was looked at to find them."""

    groups: tuple[DuplicateGroup, ...]
    """Slides first, then tiles, each by first member."""
    slides: int
    """Slides that were looked at."""
    tiles: int
    """Tiles that were looked at."""
    blank: int
    """Tiles among them without enough contrast to be told apart, which are in no group."""
    unpictured: int
    """Slides that were not compared by their looks: packed stores, or thumbnails without tissue."""
    passed_over: int
    """Slides and tiles that others were not compared with, as too many are too alike."""


def find_duplicates(
    manifest: Manifest,
    *,
    exact: bool = True,
    near: bool = True,
    slides: bool = True,
    tiles: bool = True,
    threshold: float | None = None,
    skip_damaged: bool = False,
    display: Display | None = None,
) -> Duplicates:
    """The duplicates of a manifest, and what was looked at to find them.

    Tiles of one store at two resolutions are never near duplicates of each other.

    Args:
        threshold: least similarity of near duplicates, above 0 and at most 1; by default
            `TILE_THRESHOLD` and `SLIDE_THRESHOLD`.
        skip_damaged: whether damaged tiles are passed over, rather than an error.
        display: shows how far it is.

    Raises:
        BadThreshold: a threshold that is none.
        StoreError: a store is missing or damaged.
        ManifestError: a store lies behind a URL or outside the manifest's folder.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise BadThreshold(f"a threshold is above 0 and at most 1, not {threshold:g}")

    def tell(text: str, done: int, total: int) -> None:
        if display is not None:
            display.update(text, done, total)

    groups: list[DuplicateGroup] = []
    looked_at = blank = unpictured = passed_over = 0
    entries = manifest.committed()
    if slides:
        links = _equal_slides(entries)
        if near:
            alike, numbers = _alike_slides(manifest, entries, threshold or SLIDE_THRESHOLD, tell)
            links = links.and_also(numbers[alike.pairs], alike.similarity)
            unpictured, passed_over = len(entries) - len(numbers), alike.passed_over
        groups += _groups(links, "slide", lambda number: Member(entries[number].id))
    if tiles:
        scan = scan_tiles(manifest, looks=near, tell=tell, skip_damaged=skip_damaged)
        links = _equal_tiles(scan)
        if near:
            alike, numbers = _alike_tiles(scan, threshold or TILE_THRESHOLD, tell)
            pairs = numbers[alike.pairs]
            other = ~scan.of_one_store(pairs)
            links = links.and_also(pairs[other], alike.similarity[other])
            passed_over += alike.passed_over
        groups += _groups(links, "tile", lambda number: Member(*scan.place(number)))
        looked_at, blank = int(scan.usable.sum()), scan.blank()
    return Duplicates(
        groups=tuple(group for group in groups if (exact if group.exact else near)),
        slides=len(entries) if slides else 0,
        tiles=looked_at,
        blank=blank,
        unpictured=unpictured,
        passed_over=passed_over,
    )


@dataclass(frozen=True, slots=True)
class _Links:
    """Pairs of things that are the same. Things are numbered from 0."""

    content: npt.NDArray[np.integer[Any]]
    """(n,): things of one number are equal."""
    pairs: Indices
    """(p, 2)"""
    similarity: Floats
    """(p,)"""

    def and_also(self, pairs: Indices, similarity: Floats) -> _Links:
        """These links and others; a pair that is there twice keeps its higher similarity."""
        pairs = np.concatenate([self.pairs, np.sort(pairs, axis=1)])
        similarity = np.concatenate([self.similarity, similarity])
        return _Links(self.content, *best_of_each(pairs, similarity))


def _equal_slides(entries: Sequence[StoreEntry]) -> _Links:
    """Links of the entries that have one fingerprint."""
    numbers: dict[str, int] = {}
    content = np.array(
        [
            numbers.setdefault(entry.slide.fingerprint, number) if entry.slide else number
            for number, entry in enumerate(entries)
        ],
        dtype=np.int64,
    )
    return _equal(content, np.arange(len(entries)))


def _equal_tiles(scan: Scan) -> _Links:
    """Links of the tiles that have equal bytes, but for blank ones."""
    links = _equal(scan.digests, np.flatnonzero(scan.usable))
    kept = scan.tell_apart(links.pairs[:, 0])
    return _Links(links.content, links.pairs[kept], links.similarity[kept])


def _alike_tiles(scan: Scan, threshold: float, tell: Progress) -> tuple[Alike, Indices]:
    """Tiles that look the same, and the numbers in the scan of those that were looked at."""
    codes, colours, numbers = scan.distinct()

    def look_at(places: Indices) -> Floats:
        return scan.look_at(numbers[places])

    return find_alike(codes, colours, look_at, threshold, tell), numbers


def _equal(content: npt.NDArray[np.integer[Any]], among: Indices) -> _Links:
    """Links of each thing to the first one of the same content."""
    order = among[np.argsort(content[among], kind="stable")]
    ordered = content[order]
    again = np.zeros(len(order), dtype=bool)
    again[1:] = ordered[1:] == ordered[:-1]
    first = np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))
    pairs = np.stack([order[first[again]], order[again]], axis=1)
    return _Links(content, pairs, np.ones(len(pairs), dtype=np.float32))


def _alike_slides(
    manifest: Manifest, entries: Sequence[StoreEntry], threshold: float, tell: Progress
) -> tuple[Alike, Indices]:
    """Slides that look the same, and the numbers of the entries that could be looked at."""
    codes, colours, numbers = [], [], []
    for number, entry in enumerate(entries):
        square = None if entry.packed else _square(manifest, entry, GLANCE)
        if square is not None:
            code, contrast = encode(square[0][None], GLANCE)
            if contrast[0] >= LEAST_CONTRAST:
                codes.append(code[0])
                colours.append(square[1])
                numbers.append(number)
        tell("looking at slides", number + 1, len(entries))
    shown = np.array(numbers, dtype=np.int64)

    def look_at(places: Indices) -> Floats:
        again = (_square(manifest, entries[number], LOOK) for number in shown[places])
        return np.stack([square[0] for square in again if square is not None])

    alike = find_alike(
        np.array(codes, dtype=np.int8).reshape(-1, code_length(GLANCE)),
        np.array(colours, dtype=np.float32).reshape(-1, 2),
        look_at,
        threshold,
        tell,
    )
    return alike, shown


def _square(manifest: Manifest, entry: StoreEntry, eye: Eye) -> tuple[Floats, Floats] | None:
    """A slide's square and colour; None where it has no tissue."""
    store = open_store(manifest, entry)
    thumbnail = store.picture("thumbnail").astype(np.uint8)
    tissue = store.picture("tissue_mask").astype(np.bool_)
    square = slide_square(thumbnail, tissue, eye)
    return None if square is None else (square, colour(thumbnail[tissue][None]))


def _groups(links: _Links, kind: Kind, member: Callable[[int], Member]) -> list[DuplicateGroup]:
    """What hangs together, by first member."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

    if not len(links.pairs):
        return []
    nodes, flat = np.unique(links.pairs, return_inverse=True)
    one, other = flat.reshape(-1, 2).T
    # A weight of 0 would be no link at all, so that distances run from 1 to 2.
    distance = 2 - links.similarity.astype(np.float64)
    graph = coo_array((distance, (one, other)), shape=(len(nodes), len(nodes))).tocsr()
    count, component = connected_components(graph, directed=False)
    tree = minimum_spanning_tree(graph).tocoo()
    weakest = np.zeros(count)
    np.maximum.at(weakest, component[tree.row], tree.data)
    order = np.argsort(component, kind="stable")
    begins = np.searchsorted(component[order], np.arange(count))
    found = []
    for numbers, furthest in zip(np.split(nodes[order], begins[1:]), weakest, strict=True):
        content = links.content[numbers]
        exact = bool((content == content[0]).all())
        members = tuple(sorted(member(int(number)) for number in numbers))
        similarity = 1.0 if exact else float(2 - furthest)
        found.append(DuplicateGroup(kind, exact, members, round(similarity, 4)))
    return sorted(found, key=lambda group: group.members[0])


@dataclass(frozen=True, slots=True)
class Kept:
    """A manifest without its duplicates, and what was dropped."""

    manifest: Manifest
    """Its root is that of the manifest that it was made from."""
    entries: tuple[str, ...]
    """Ids of the entries that were left out as duplicates of others, sorted."""
    tiles: Mapping[str, int]
    """Tiles that were dropped, by the ids of entries, sorted; not those of `entries`."""


def drop_duplicates(manifest: Manifest, groups: Iterable[DuplicateGroup]) -> Kept:
    """Keep one of each group.

    Of slides the one with the finest tiles stays, of those the one with most tiles; of tiles the
    finest, of those the largest. Among equals the first by id (and resolution, and index) stays.
    Other slides are left out with all their tiles; other tiles by a selection, and an entry of
    which nothing is left with them.
    """
    entries = {entry.id: entry for entry in manifest.stores}
    listed = list(groups)
    gone: set[str] = set()
    for group in (group for group in listed if group.kind == "slide"):
        best = min(group.members, key=lambda member: _slide_rank(entries[member.entry]))
        gone |= {member.entry for member in group.members} - {best.entry}
    dropped: dict[str, dict[str, list[int]]] = {}
    for group in (group for group in listed if group.kind == "tile"):
        members = [member for member in group.members if member.entry not in gone]
        members.sort(key=lambda member: (_tile_rank(entries[member.entry], member), member))
        for member in members[1:]:
            of_entry = dropped.setdefault(member.entry, {})
            of_entry.setdefault(str(member.group), []).append(int(member.tile or 0))
    counts = {name: sum(map(len, dropped[name].values())) for name in sorted(dropped)}
    left = (
        _without(entry, dropped[entry.id]) if entry.id in dropped else entry
        for entry in manifest.stores
        if entry.id not in gone
    )
    stores = tuple(entry for entry in left if entry.id not in dropped or entry.tiles)
    return Kept(replace(manifest, stores=stores), tuple(sorted(gone)), counts)


def _slide_rank(entry: StoreEntry) -> tuple[float, int, str]:
    finest = min((item.mpp[0] * item.mpp[1] for item in entry.resolutions), default=math.inf)
    return finest, -entry.tiles, entry.id


def _tile_rank(entry: StoreEntry, member: Member) -> tuple[float, int]:
    [found] = [item for item in entry.resolutions if item.group == member.group]
    return found.mpp[0] * found.mpp[1], -found.tile_size


def _without(entry: StoreEntry, tiles: Mapping[str, list[int]]) -> StoreEntry:
    """The entry, with a selection that lacks some tiles."""
    left = {}
    for resolution in entry.resolutions:
        members = entry.members(resolution.group)
        members = TileSet.every(resolution.tiles) if members is None else members
        members -= TileSet.of(tiles.get(resolution.group, []))
        if members:
            left[resolution.group] = members
    steps = () if entry.selection is None else entry.selection.steps
    step = {"without_duplicates": sum(map(len, tiles.values()))}
    return replace(entry, selection=Selection((*steps, step), left))
