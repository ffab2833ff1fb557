"""What is said of each tile: any field of a manifest, a column of its slides table, or the label.

A row is a place in the order of the parts: all tiles of the first, then of the second; there are N.
Packed stores are opened to know what is said of each picture, others never; no pixel is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from manifests import Manifest, StoreEntry
from manifests.files import Json
from manifests.splits.units import FIELDS, LABEL, sources_of, value_of
from manifests.store import TileGroup, TileStore, open_store
from pretrain.embedding.wanted import Wanted, row_count

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Values:
    """What one field says of N rows."""

    codes: Integers
    """Index into `names`, (N,); -1 where nothing is said."""
    names: tuple[str, ...]
    """All different values, sorted."""

    @property
    def known(self) -> Flags:
        """Where something is said, (N,)."""
        return self.codes >= 0


class Rows:
    """The tiles of some parts. Stores that were opened, and what was read of them, are kept."""

    def __init__(self, manifest: Manifest, parts: Sequence[Wanted]) -> None:
        self.manifest = manifest
        self.parts = tuple(parts)
        self._stores: dict[str, TileStore] = {}
        self._pictures: dict[str, list[dict[str, Json]]] = {}

    def __len__(self) -> int:
        return row_count(self.parts)

    def kept(self, mask: Flags) -> Rows:
        """Only the rows at which a mask, (N,), is true."""
        of_parts = np.split(mask, np.cumsum([len(part) for part in self.parts])[:-1])
        narrowed = (
            replace(part, indices=part.indices[own])
            for part, own in zip(self.parts, of_parts, strict=True)
        )
        found = Rows(self.manifest, [part for part in narrowed if len(part)])
        found._stores, found._pictures = self._stores, self._pictures
        return found

    def name_of(self, row: int) -> str:
        """A row for people: `tile 17 of lung 0.5 (normal/3.png)`."""
        for part in self.parts:
            if row < len(part):
                break
            row -= len(part)
        tile = int(part.indices[row])
        pictures = self.pictures(part.entry)
        if not pictures:
            return f"tile {tile} of {part.entry.id} {part.group}"
        name = pictures[int(self.sources(part)[row])]["name"]
        return f"tile {tile} of {part.entry.id} {part.group} ({name})"

    def gather(self, of_part: Callable[[Wanted], Integers | int]) -> Integers:
        """What a function says of each part, a number or one per tile, as int64 (N,)."""
        found = np.empty(len(self), dtype=np.int64)
        start = 0
        for part in self.parts:
            found[start : start + len(part)] = of_part(part)
            start += len(part)
        return found

    def values(self, name: str) -> Values:
        """What a field says of every row.

        A picture's own row of the slides table counts before what is true of its store, and the
        column `label` of a packed store before both.

        Args:
            name: `label`, a field of the manifest, or a column of the slides table.

        Raises:
            StoreError: a packed store is missing or damaged; others are not opened.
        """
        numbers: dict[str, int] = {}

        def numbered(texts: Iterable[str | None]) -> Integers:
            found = (numbers.setdefault(t, len(numbers)) if t else -1 for t in texts)
            return np.fromiter(found, dtype=np.int64)

        codes = self.gather(lambda part: self._of_part(part, name, numbered))
        return _sorted(codes, list(numbers))

    def _of_part(
        self,
        part: Wanted,
        name: str,
        numbered: Callable[[Iterable[str | None]], Integers],
    ) -> Integers:
        entry = part.entry
        own = value_of(entry, name)
        codes: Integers
        by_label = name == LABEL and bool(entry.labels)
        # To open a store for a label that it says to have none of would be in vain.
        pictures = self.pictures(entry) if name != LABEL or by_label else []
        if pictures:
            said = (picture_value(picture, name) or own for picture in pictures)
            codes = numbered(said)[self.sources(part)]
        else:
            codes = np.broadcast_to(numbered([own]), len(part))
        if by_label and LABEL in (group := self.group(part)).columns:
            label = group.column(LABEL)[part.indices].astype(np.int64)
            good = (label >= 0) & (label < len(entry.labels))
            classes = numbered(entry.labels)
            codes = np.where(good, classes[np.where(good, label, 0)], codes)
        return codes

    def group(self, part: Wanted) -> TileGroup:
        """The tiles of a part's resolution."""
        return self._store(part.entry)[part.group]

    def sources(self, part: Wanted) -> npt.NDArray[np.integer]:
        """Which picture each tile of a part of a packed store was cut from."""
        return sources_of(self.group(part), len(self.pictures(part.entry)))[part.indices]

    def pictures(self, entry: StoreEntry) -> list[dict[str, Json]]:
        """`name` and `columns` of each picture of a packed store; [] if it lists none."""
        if not entry.packed:
            return []
        if entry.id not in self._pictures:
            self._pictures[entry.id] = self._store(entry).sources()
        return self._pictures[entry.id]

    def known_names(self) -> list[str]:
        """Every name that says something of some row, sorted."""
        found: set[str] = set()
        for entry in {part.entry.id: part.entry for part in self.parts}.values():
            found |= {name for name in (*FIELDS, *entry.columns) if value_of(entry, name)}
            found |= {LABEL} if entry.labels else set()
            for picture in self.pictures(entry):
                found |= picture.get("columns", {}).keys()
        return sorted(found)

    def _store(self, entry: StoreEntry) -> TileStore:
        if entry.id not in self._stores:
            self._stores[entry.id] = open_store(self.manifest, entry)
        return self._stores[entry.id]


def picture_value(picture: dict[str, Json], name: str) -> str | None:
    """What is said of a picture alone; an empty cell of the slides table says nothing."""
    if name == "source":
        return str(picture["name"])
    return picture.get("columns", {}).get(name) or None


def _sorted(codes: Integers, names: list[str]) -> Values:
    """Codes of sorted names, without those that no row has."""
    present = np.zeros(len(names) + 1, dtype=np.bool_)
    present[codes] = True
    used = sorted(name for name, there in zip(names, present, strict=False) if there)
    place = {name: number for number, name in enumerate(used)}
    return Values(np.array([*(place.get(n, -1) for n in names), -1])[codes], tuple(used))


__all__ = ["Rows", "Values"]
