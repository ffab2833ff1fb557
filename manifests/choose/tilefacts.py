"""What a name in an expression stands for: facts of entries, of pictures, and columns of tiles.

Most facts stand in the manifest and cost nothing; a store is opened when the first column, or fact
of a single picture, is asked for. Values are one for all tiles of a resolution or an array (N,);
µm per pixel are those in x.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from manifests.choose.expression import Expression, Kind, Scalar, comparisons_of
from manifests.choose.truth import Texts, Value, kind_problem
from manifests.errors import StoreError
from manifests.files import Json
from manifests.model import CURATED_FIELDS, Manifest, Resolution, StoreEntry
from manifests.store import Column, TileGroup, TileStore, open_store

ENTRY_NAMES: Mapping[str, Kind] = {
    **dict.fromkeys(("id", "source", *CURATED_FIELDS), "text"),
    **dict.fromkeys(("split", "vendor", "reader", "codec", "resolution"), "text"),
    **dict.fromkeys(("objective_power", "mpp", "mpp_requested", "tile_size"), "number"),
    "packed": "boolean",
}
"""Facts that the manifest knows; of packed stores, `source` and `patient` are the pictures'."""

COLUMN_NAMES: Mapping[str, Kind] = {
    **dict.fromkeys(("x", "y", "tissue", "focus", "brightness", "saturation", "pen"), "number"),
    "unread": "number",
    "native": "boolean",
    "label": "text",
}
"""Facts of single tiles that histotile writes into stores."""

_ABSENT: Mapping[str, Scalar] = {"unread": 0.0, "native": False}
"""What a store without the column says by that: it was cut before these were written."""
_MOST_SHOWN = 30


class Names:
    """The names that a manifest gives to expressions, and where they lead."""

    def __init__(self, manifest: Manifest) -> None:
        self._table = frozenset(name for e in manifest.stores for name in e.columns)
        self._fixed: Mapping[str, Kind] = {**ENTRY_NAMES, **COLUMN_NAMES}

    def is_known(self, name: str) -> bool:
        """Whether the manifest alone tells that there is such a name."""
        return name in self._fixed or name in self._table

    def is_fixed(self, name: str) -> bool:
        """Whether the name means the same in every manifest."""
        return name in self._fixed

    def needs_store(self, name: str, entry: StoreEntry) -> bool:
        """Whether an entry's store must be opened to know the values of a name."""
        if name == "label":
            return bool(entry.labels)
        if name in COLUMN_NAMES:
            return True
        if name in ("source", "patient"):
            return entry.packed
        if name in self._fixed:
            return False
        return entry.packed or name not in self._table

    def check(self, expression: Expression) -> None:
        """Refuse comparisons of known names with values of another kind.

        Raises:
            ExpressionError: with the place of the comparison.
        """
        for test in comparisons_of(expression.root):
            if self.is_known(test.name):
                kind = self._fixed.get(test.name, "text")
                problem = kind_problem(test, kind, readable=not self.is_fixed(test.name))
                if problem is not None:
                    raise expression.error(test.start, problem)

    def check_found(
        self, expressions: Iterable[Expression], asked: Iterable[str], found: Iterable[str]
    ) -> None:
        """Refuse names that no store knew.

        Args:
            asked: names that stores were asked for, as the manifest does not know them.
            found: names that stores have.

        Raises:
            ExpressionError: with the place, and the names that there are, the nearest first.
        """
        there = {*self._fixed, *self._table, *found}
        strange = set(asked) - there
        for expression in expressions:
            for test in comparisons_of(expression.root):
                if test.name in strange:
                    raise expression.error(test.start, _unknown(test.name, there))


def _unknown(name: str, there: Iterable[str]) -> str:
    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, name[:100].lower(), other[:100].lower()).ratio()

    nearest = sorted(there, key=lambda other: (-likeness(other), other))
    shown = ", ".join(nearest[:_MOST_SHOWN])
    more = len(nearest) - _MOST_SHOWN
    return f"no store that was looked into knows the name {name[:100]}; there are {shown}" + (
        f" and {more} more" if more > 0 else ""
    )


class Facts:
    """The values of names for the tiles of one entry."""

    def __init__(self, manifest: Manifest, entry: StoreEntry, names: Names) -> None:
        self._manifest, self.entry, self._names = manifest, entry, names
        self._store: TileStore | None = None
        self._pictures: list[dict[str, Json]] | None = None
        self.missing: set[str] = set()
        """Columns that were asked for and that the store lacks."""
        self.asked: set[str] = set()
        """Names that were asked for and that the manifest does not know."""
        self.found: set[str] = set()
        """Names that the store has."""

    def value(self, resolution: Resolution, name: str) -> Value:
        """The values of a name for the tiles of a resolution; None: not known.

        Raises:
            ManifestError: the store is not on this machine.
            StoreError: it is damaged, or not the one of the manifest.
        """
        if name in COLUMN_NAMES:
            return self._column_value(name, resolution)
        fixed = self._names.is_fixed(name)
        if self.entry.packed and (name in ("source", "patient") or not fixed):
            return self._picture_value(name, resolution)
        if fixed:
            return _fact(name, self.entry, resolution)
        if self._names.is_known(name):
            return self.entry.columns.get(name) or None
        return self._column_value(name, resolution)

    def _group(self, resolution: Resolution) -> TileGroup:
        if self._store is None:
            self._store = open_store(self._manifest, self.entry)
        return self._store[resolution.group]

    def _column_value(self, name: str, resolution: Resolution) -> Value:
        if name == "label" and not self.entry.labels:
            return None
        group = self._group(resolution)
        if not self._names.is_known(name):
            self.asked.add(name)
            self.found.update(group.columns)
        if name not in group.columns:
            if name not in _ABSENT:
                self.missing.add(name)
            return _ABSENT.get(name)
        if name == "label":
            words = (*self.entry.labels, None)  # -1, none, is the last of these
            return Texts(words, self._indices(group, name, len(words) - 1, least=-1))
        return self._column(group, name)

    def _picture_value(self, name: str, resolution: Resolution) -> Value:
        """What the slides table said of single pictures, else of the whole folder."""
        group = self._group(resolution)
        if self._pictures is None:
            self._pictures = group.store.sources()
            for picture in self._pictures:
                self.found.update(_columns(picture))
        if name == "source":
            listed = [_text(picture.get("name")) for picture in self._pictures]
        else:
            listed = [_text(_columns(picture).get(name)) for picture in self._pictures]
        whole = self.entry.patient if name == "patient" else self.entry.columns.get(name) or None
        if not any(listed):
            known = self._names.is_known(name)
            return whole if known else self._column_value(name, resolution)
        places = {
            word: place for place, word in enumerate(dict.fromkeys(w or whole for w in listed))
        }
        codes = np.array([places[word or whole] for word in listed], dtype=np.int64)
        return Texts(tuple(places), codes[self._indices(group, "source", len(listed))])

    def _column(self, group: TileGroup, name: str) -> Column:
        found = group.column(name)
        if len(found) != len(group):
            raise StoreError(
                f"{group.store.path}: the column {name} has {len(found)} values, and there are "
                f"{len(group)} tiles"
            )
        return found

    def _indices(
        self, group: TileGroup, name: str, count: int, least: int = 0
    ) -> npt.NDArray[np.int64]:
        """A column of places in a list of `count`, shape (N,)."""
        found = self._column(group, name).astype(np.int64)
        if len(found) and not least <= found.min() <= found.max() < count:
            raise StoreError(f"{group.store.path}: the column {name} points past {count} values")
        return found


def _fact(name: str, entry: StoreEntry, resolution: Resolution) -> Value:
    """A fact that stands in the manifest."""
    if name == "split":
        return _split(entry, resolution)
    if name == "resolution":
        return resolution.group
    if name == "mpp":
        return resolution.mpp[0]
    if name == "codec":
        return None if entry.codec is None else str(entry.codec["name"])
    holder: object = entry
    if name in ("mpp_requested", "tile_size"):
        holder = resolution
    elif name in ("vendor", "reader", "objective_power"):
        holder = entry.slide
    found: Scalar = getattr(holder, name, None)
    return found


def _split(entry: StoreEntry, resolution: Resolution) -> Value:
    if not entry.splits:
        return entry.split
    codes = np.full(resolution.tiles, len(entry.splits), dtype=np.int64)
    for place, sets in enumerate(entry.splits.values()):
        if resolution.group in sets:
            codes[sets[resolution.group].mask(resolution.tiles)] = place
    return Texts((*entry.splits, None), codes)


def _columns(picture: Mapping[str, Json]) -> Mapping[str, Json]:
    found = picture.get("columns")
    return found if isinstance(found, Mapping) else {}


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) and value else None


__all__ = ["COLUMN_NAMES", "ENTRY_NAMES", "Facts", "Names"]
