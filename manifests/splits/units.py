"""Units: what must not be torn apart when a set is split, such as all slides of a patient.

A *part* is what gets a split: a whole store, or one picture of a packed store. A *unit* is all
parts that belong together: they have one value (one patient), or they are the same slide, whatever
it is called. Counts are tiles of all resolutions together, as far as the manifest means them.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.checks import short
from manifests.errors import HistotileError, StoreError
from manifests.model import CURATED_FIELDS, Manifest, StoreEntry
from manifests.store import TileGroup, TileStore, open_store
from manifests.tileset import TileSet

FIELDS = ("id", "source", *CURATED_FIELDS)
"""What every entry can be asked for; `source` is the slide's file, or the picture's name."""
LABEL = "label"
"""The class of a picture, by the column `label` of its store."""

Key = tuple[str, ...]
"""Something that parts have in common or are known by; the first item tells the kind."""


class SplitError(HistotileError):
    """A set cannot be split as it was asked for: a value, a name or a list does not fit it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A whole store, or one picture of a packed one."""

    entry: StoreEntry
    picture: int | None
    """Index into the packed store's list of pictures; None for a whole store."""
    name: str
    """The entry's id, followed by the picture's name."""
    key: Key
    """What its split depends on if it has no value: the slide's fingerprint, or its names."""
    value: str | None
    """What it must stay together by; None if that is not known."""
    fields: tuple[str | None, ...]
    """Values of the fields that were asked for besides."""
    tiles: int
    splits: frozenset[str]
    """Splits that the manifest puts it, or tiles of it, in."""
    contents: tuple[Key, ...]
    """Its slide and its store: parts that share one of these are copies. A picture has them only if
    another entry of the manifest is the same packed store."""

    @property
    def own(self) -> Key:
        """What it stays together by: its value, or itself if that is not known."""
        return ("part", self.name) if self.value is None else ("value", self.value)


@dataclass(frozen=True, slots=True)
class Unit:
    """Parts that must lie in one split."""

    key: Key
    """The smallest value, else the smallest key, of its parts; decides where it goes."""
    values: tuple[str, ...]
    """All values, sorted; more than one where one slide goes by two."""
    parts: tuple[Part, ...]
    splits: frozenset[str]
    """Splits that any of its parts lies in already."""

    @property
    def name(self) -> str:
        """What people call it: its smallest value, or the name of its first part."""
        return self.values[0] if self.values else self.parts[0].name


def list_parts(manifest: Manifest, by: str, fields: Sequence[str] = ()) -> list[Part]:
    """All stores and pictures that have tiles in the set, in the order of the entries.

    Args:
        by: name of the value that parts are kept together by: one of `FIELDS`, `label`, or a column
            of the slides table.
        fields: names of further values.

    Raises:
        StoreError: a packed store is missing or damaged; others are not opened.
        ManifestError: a packed store lies behind a URL or outside the manifest's folder.
    """
    packed = [entry for entry in manifest.committed() if entry.packed]
    twins = Counter(content for entry in packed for content in _contents(entry))
    found: list[Part] = []
    for entry in manifest.committed():
        if entry.selection is not None and not entry.tiles:
            continue
        twice = entry.packed and any(twins[content] > 1 for content in _contents(entry))
        pictures = _pictures(manifest, entry, (by, *fields), twice) if entry.packed else ()
        before = len(found)
        found += pictures
        if len(found) == before:
            found.append(_whole(entry, (by, *fields)))
    return found


def check_known(
    manifest: Manifest, parts: Iterable[Part], by: str, fields: Sequence[str] = ()
) -> None:
    """Refuse names that no part has a value of: they are typing errors, or not known at all.

    Raises:
        SplitError: with the nearest names that there are.
    """
    missing = {by: -1, **{name: place for place, name in enumerate(fields)}}
    for part in parts:
        for name, place in list(missing.items()):
            if (part.value if place < 0 else part.fields[place]) is not None:
                del missing[name]
        if not missing:
            return
    if missing:
        name, columns = next(iter(missing)), _columns(manifest)
        near = suggestion(name, {*FIELDS, LABEL, *columns} - {name})
        listed = ", ".join(map(short, columns)) or "none"
        raise SplitError(
            f"no store and no picture that has tiles says its {short(name)}{near}; name one of "
            f"{', '.join(FIELDS)}, {LABEL}, or a column of the slides table ({listed}), or add it "
            "with `histotile manifest annotate`"
        )


def _columns(manifest: Manifest) -> list[str]:
    """All columns of slides tables that entries or pictures have, sorted."""
    found = {column for entry in manifest.committed() for column in entry.columns}
    for entry in manifest.committed():
        if entry.packed:
            found |= {c for item in _listed(open_store(manifest, entry)) for c in item.columns}
    return sorted(found)


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` with up to three known words that are like it; empty if none is."""
    words = sorted(known)
    near = [other for other in words if other.casefold() == word.casefold()]
    near = near or difflib.get_close_matches(word, words, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def join_units(parts: Sequence[Part], memory: Sequence[Part] = ()) -> list[Unit]:
    """Parts that belong together, as units sorted by key.

    Args:
        memory: parts of an older manifest. What they say of splits counts for the units that they
            belong to; they are no members.
    """
    every = [*parts, *memory]
    roots = _components([(part.own, *part.contents) for part in every])
    members: dict[int, list[int]] = defaultdict(list)
    for index, root in enumerate(roots):
        members[root].append(index)
    units = [
        _unit([every[i] for i in group if i < len(parts)], [every[i] for i in group])
        for group in members.values()
        if group[0] < len(parts)
    ]
    return sorted(units, key=lambda unit: (unit.key, unit.parts[0].name))


def _unit(parts: list[Part], with_memory: Iterable[Part]) -> Unit:
    parts.sort(key=lambda part: part.name)
    values = tuple(sorted({part.value for part in parts if part.value is not None}))
    return Unit(
        key=("value", values[0]) if values else min(part.key for part in parts),
        values=values,
        parts=tuple(parts),
        splits=frozenset().union(*(part.splits for part in with_memory)),
    )


def _components(keys: Sequence[Collection[Key]]) -> list[int]:
    """The connected component of each item; items that share a key are connected (union-find)."""
    parent = list(range(len(keys)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    first: dict[Key, int] = {}
    for item, shared in enumerate(keys):
        for key in shared:
            # The smaller number stays the root: a component is known by its first item.
            one, other = sorted((root(first.setdefault(key, item)), root(item)))
            parent[other] = one
    return [root(item) for item in range(len(keys))]


def _whole(entry: StoreEntry, names: Sequence[str]) -> Part:
    value, *fields = (value_of(entry, name) for name in names)
    contents = _contents(entry)
    return Part(
        entry=entry,
        picture=None,
        name=entry.id,
        key=contents[0] if entry.slide is not None else ("store", entry.id),
        value=value,
        fields=tuple(fields),
        tiles=entry.tiles,
        splits=frozenset(entry.split_names),
        contents=contents,
    )


def _contents(entry: StoreEntry, *picture: str) -> tuple[Key, ...]:
    slide = () if entry.slide is None else (("slide", entry.slide.fingerprint, *picture),)
    return (*slide, ("uuid", entry.uuid or "", *picture))


def value_of(entry: StoreEntry, name: str) -> str | None:
    """What an entry says; an empty cell of the slides table says nothing."""
    if name in FIELDS:
        value: str | None = getattr(entry, name)
        return value
    return entry.columns.get(name) or None


@dataclass(frozen=True, slots=True)
class _Picture:
    name: str
    columns: Mapping[str, str]

    def value(self, entry: StoreEntry, name: str) -> str | None:
        """What its own row of the slides table says, else what is true of the whole store."""
        if name == "source":
            return self.name
        return self.columns.get(name) or value_of(entry, name)


def _pictures(
    manifest: Manifest, entry: StoreEntry, names: Sequence[str], twice: bool
) -> Iterator[Part]:
    """The pictures of a packed store that have tiles in the set; none if it does not list any.

    Args:
        twice: whether the same store has another entry.
    """
    store = open_store(manifest, entry)
    pictures = _listed(store)
    if not pictures:
        return
    meant = _counts(store, entry, len(pictures))
    splits = _splits(store, entry, len(pictures))
    labels = _labels(store, entry, len(pictures)) if LABEL in names else []
    for index in np.flatnonzero(meant).tolist():
        picture = pictures[index]
        own = [picture.value(entry, name) for name in names]
        if labels:
            own = [labels[index] if n == LABEL else v for n, v in zip(names, own, strict=True)]
        yield Part(
            entry=entry,
            picture=index,
            name=f"{entry.id}/{picture.name}",
            # By the folder's name rather than the entry's id, which a merge may prefix.
            key=("picture", entry.source, picture.name),
            value=own[0],
            fields=tuple(own[1:]),
            tiles=int(meant[index]),
            splits=splits[index],
            contents=_contents(entry, str(index)) if twice else (),
        )


def _listed(store: TileStore) -> list[_Picture]:
    found = []
    for item in store.sources():
        try:
            name, columns = item["name"], dict(item.get("columns", {}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{store.path}: a picture has no name, or no object of columns"
            ) from error
        if not all(isinstance(text, str) for text in (name, *columns, *columns.values())):
            raise StoreError(f"{store.path}: the name or a column of a picture is no text")
        found.append(_Picture(name, columns))
    return found


def sources_of(group: TileGroup, pictures: int) -> npt.NDArray[np.integer]:
    """Which picture each tile was cut from, shape (N,), checked to be below `pictures`."""
    source = group.column("source")
    if len(source) and not 0 <= source.min() <= source.max() < pictures:
        raise StoreError(f"{group.store.path}: tiles of {group.name} come from pictures unknown")
    return source


def _counts(store: TileStore, entry: StoreEntry, pictures: int) -> npt.NDArray[np.int64]:
    """How many tiles of each picture are meant."""
    meant = np.zeros(pictures, dtype=np.int64)
    for resolution in entry.resolutions:
        source = sources_of(store[resolution.group], pictures)
        members = entry.members(resolution.group)
        chosen = source if members is None else source[members.indices()]
        meant += np.bincount(chosen, minlength=pictures)
    return meant


def _splits(store: TileStore, entry: StoreEntry, pictures: int) -> list[frozenset[str]]:
    """The splits that tiles of each picture lie in."""
    if entry.split is not None:
        return [frozenset({entry.split})] * pictures
    found: list[frozenset[str]] = [frozenset()] * pictures
    for split, sets in entry.splits.items():
        for group, tiles in sets.items():
            source = sources_of(store[group], pictures)
            for picture in np.unique(source[tiles.indices()]).tolist():
                found[picture] |= {split}
    return found


def _labels(store: TileStore, entry: StoreEntry, pictures: int) -> list[str | None]:
    """The class of each picture; None where it has none."""
    found: list[str | None] = [None] * pictures
    for resolution in entry.resolutions:
        group = store[resolution.group]
        if LABEL not in group.columns:
            continue
        source, first = np.unique(sources_of(group, pictures), return_index=True)
        for picture, label in zip(source.tolist(), group.column(LABEL)[first], strict=True):
            if 0 <= label < len(entry.labels):
                found[picture] = entry.labels[label]
    return found


def tile_sets(
    manifest: Manifest, entry: StoreEntry, split_of: Mapping[int, str]
) -> dict[str, dict[str, TileSet]]:
    """The tiles of each split of a packed store: split → group → tiles.

    Args:
        split_of: split of each picture, by its index; tiles of other pictures are in none.
    """
    store = open_store(manifest, entry)
    pictures = len(store.sources())
    names = sorted(set(split_of.values()))
    numbers = np.full(pictures, -1, dtype=np.int32)
    for picture, split in split_of.items():
        numbers[picture] = names.index(split)
    found: dict[str, dict[str, TileSet]] = {}
    for resolution in entry.resolutions:
        number_of = numbers[sources_of(store[resolution.group], pictures)]
        for number, split in enumerate(names):
            if tiles := TileSet.where(number_of == number):
                found.setdefault(split, {})[resolution.group] = tiles
    return found
