"""A manifest as flat tables: a row per slide, or a row per tile.

Tables come in blocks of columns, a block per resolution of a store, so that a hundred million tiles
never lie in memory at once. Selections are honoured: a tile that is not meant has no row. `x` and
`y` are level-0 pixels, resolutions µm per pixel; values are what the manifest and its stores say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.errors import StoreError
from manifests.model import CURATED_FIELDS, Manifest, SlideInfo, StoreEntry
from manifests.store import TileGroup, TileStore, open_store

OWN_PREFIX = "column."
"""What the names of columns begin with that people added to the slides table."""


@dataclass(frozen=True, slots=True)
class Column:
    """What a column is called and holds."""

    name: str
    kind: str
    """`string`, `bool`, `int64`, `float64` and the like, or `list<…>` of one."""
    about: str = ""
    """What it means, a phrase."""


@dataclass(frozen=True, slots=True)
class Coded:
    """Texts that repeat: an index into the distinct ones for each row, -1 where there is none."""

    names: tuple[str, ...]
    codes: npt.NDArray[np.integer[Any]]


Cells = Coded | npt.NDArray[Any] | list[Any] | None
"""The values of a column in a block; None stands for a missing one, or for a whole column of it."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a table."""

    rows: int
    cells: Mapping[str, Cells]
    """By the name of the column, for every column of the table."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be read once, block by block."""

    columns: tuple[Column, ...]
    blocks: Iterable[Block]


def slides_table(manifest: Manifest) -> Table:
    """A row per entry, in the order of the manifest; all in one block.

    Several resolutions are lists. `tiles` counts those that are meant. Columns of one's own are
    called `column.NAME`.
    """
    own = sorted({name for entry in manifest.stores for name in entry.columns})
    columns = [column for column, _ in _SLIDE_COLUMNS]
    cells: dict[str, Cells] = {
        column.name: [value(entry) for entry in manifest.stores] for column, value in _SLIDE_COLUMNS
    }
    for name in own:
        about = f"column {name} of the slides table"
        columns.append(Column(f"{OWN_PREFIX}{name}", "string", about))
        cells[columns[-1].name] = [entry.columns.get(name) for entry in manifest.stores]
    return Table(tuple(columns), [Block(len(manifest.stores), cells)])


def tiles_table(manifest: Manifest) -> Table:
    """A row per tile that is meant, store by store, resolution by resolution, in tile order.

    Tiles with `unread` above 0 are in it: whoever trains must leave them out. Of packed stores,
    `label` and `picture` are the names of the class and of the picture. All stores are opened
    before the first row is read, so that a missing one is found at once.

    Raises:
        ManifestError: a store lies behind a URL or outside of the manifest's folder.
        StoreError: a store is missing, damaged, or not the one of the manifest.
    """
    kinds: dict[str, str] = {}
    for entry, group in _groups(manifest):
        for name in set(group.columns) - _NAMED.keys():
            kinds[name] = _common(kinds.get(name), _kind(entry, group, name))
    kinds.setdefault("unread", "float32")
    columns = [column for column in _TILE_COLUMNS if column.name in kinds or not column.about]
    known = {column.name for column in _TILE_COLUMNS}
    columns += [Column(name, kinds[name]) for name in sorted(kinds.keys() - known)]
    return Table(tuple(columns), _tile_blocks(manifest, columns))


def _resolutions(name: str) -> Callable[[StoreEntry], Any]:
    return lambda entry: [getattr(resolution, name) for resolution in entry.resolutions]


def _axis(axis: int) -> Callable[[StoreEntry], Any]:
    return lambda entry: [float(resolution.mpp[axis]) for resolution in entry.resolutions]


def _slide(name: str) -> Callable[[StoreEntry], Any]:
    # Sizes of 0 stand for a packed store, which has none.
    return lambda entry: (getattr(entry.slide, name) or None) if entry.slide else None


def _slide_mpp(axis: int) -> Callable[[StoreEntry], Any]:
    def value(entry: StoreEntry) -> float | None:
        slide: SlideInfo | None = entry.slide
        return float(slide.mpp[axis]) if slide is not None and slide.mpp is not None else None

    return value


def _field(name: str) -> Callable[[StoreEntry], Any]:
    return lambda entry: getattr(entry, name)


def _split(entry: StoreEntry) -> str | None:
    return entry.split or ";".join(sorted(entry.splits)) or None


def _mpps(entry: StoreEntry) -> list[float]:
    return [float(resolution.mpp_requested) for resolution in entry.resolutions]


_SLIDE_COLUMNS: tuple[tuple[Column, Callable[[StoreEntry], Any]], ...] = (
    (Column("id", "string", "name of the store, unique"), _field("id")),
    (Column("status", "string", "done, empty or failed"), _field("status")),
    (Column("path", "string", "where the store lies: relative, or a URL"), _field("path")),
    (Column("source", "string", "name of the slide's file or folder"), _field("source")),
    *((Column(name, "string", name.replace("_", " ")), _field(name)) for name in CURATED_FIELDS),
    (Column("split", "string", "split; several, joined by ;, of a packed store"), _split),
    (Column("resolutions", "list<string>", "names of the groups of tiles"), _resolutions("group")),
    (Column("mpp", "list<float64>", "µm per pixel asked for, by resolution"), _mpps),
    (Column("mpp_x", "list<float64>", "true µm per pixel in x, by resolution"), _axis(0)),
    (Column("mpp_y", "list<float64>", "true µm per pixel in y, by resolution"), _axis(1)),
    (Column("tile_size", "list<int64>", "pixels, by resolution"), _resolutions("tile_size")),
    (Column("tiles", "int64", "tiles that belong to the set"), _field("tiles")),
    (Column("bytes", "int64", "size of the store on disk"), _field("bytes")),
    (Column("unread", "int64", "tiles that could not be read in whole"), _field("unread")),
    (Column("packed", "bool", "whether it holds ready-made pictures"), _field("packed")),
    (Column("reason", "string", "why the slide failed or is empty"), _field("reason")),
    (Column("uuid", "string", "identity of the store"), _field("uuid")),
    (Column("commit", "string", "sha256 of the commit record"), _field("commit")),
    (Column("fingerprint", "string", "hash of the slide's content"), _slide("fingerprint")),
    (Column("vendor", "string", "who made the scanner or the format"), _slide("vendor")),
    (Column("width", "int64", "pixels of level 0 in x"), _slide("width")),
    (Column("height", "int64", "pixels of level 0 in y"), _slide("height")),
    (Column("slide_mpp_x", "float64", "µm per pixel of level 0 in x"), _slide_mpp(0)),
    (Column("slide_mpp_y", "float64", "µm per pixel of level 0 in y"), _slide_mpp(1)),
    (Column("objective_power", "float64", "nominal magnification"), _slide("objective_power")),
)

_NAMED = {"source": "picture", "label": "label"}
"""Columns of stores that are indices, and the column of the table that has names instead."""

_TILE_COLUMNS = (
    Column("id", "string"),
    Column("resolution", "string"),
    Column("index", "int64"),
    Column("x", "int64"),
    Column("y", "int64"),
    Column("split", "string"),
    Column("label", "string"),
    Column("picture", "string"),
    Column("tissue", "float32", "share of tissue"),
    Column("focus", "float32", "sharpness"),
    Column("brightness", "float32", "mean luminance"),
    Column("saturation", "float32", "mean saturation"),
    Column("pen", "float32", "share of marker ink"),
    Column("native", "bool", "taken over without decoding"),
    Column("unread", "float32", "share that could not be read"),
)
"""Those without a description are in every table."""


def _groups(manifest: Manifest) -> Iterator[tuple[StoreEntry, TileGroup]]:
    """The resolutions that have tiles, with their entries."""
    for entry in manifest.committed():
        wanted = [r.group for r in entry.resolutions if entry.count(r)]
        store = open_store(manifest, entry) if wanted else None
        for name in wanted:
            assert isinstance(store, TileStore)
            yield entry, store[name]


def _kind(entry: StoreEntry, group: TileGroup, name: str) -> str:
    known = next((column.kind for column in _TILE_COLUMNS if column.name == name), None)
    if known is not None:
        return known
    try:
        return str(json.loads(group.store.read_file(f"{group.name}/{name}/zarr.json"))["data_type"])
    except (ValueError, KeyError) as error:
        raise StoreError(f"{entry.id}: the column {name} has no type ({error})") from error


def _common(one: str | None, other: str) -> str:
    """The type that holds values of both."""
    return other if one in (None, other) else np.result_type(np.dtype(one), np.dtype(other)).name


def _tile_blocks(manifest: Manifest, columns: list[Column]) -> Iterator[Block]:
    for entry, group in _groups(manifest):
        members = entry.members(group.name)
        chosen = np.arange(len(group)) if members is None else members.indices()
        one = np.zeros(len(chosen), dtype=np.int8)
        cells: dict[str, Cells] = {
            "id": Coded((entry.id,), one),
            "resolution": Coded((group.name,), one),
            "index": chosen,
            "split": _splits(entry, group, chosen),
            "label": _names(entry, group, "label", entry.labels, chosen),
            "picture": _names(entry, group, "source", _pictures(group), chosen),
        }
        for column in columns:
            if column.name in cells:
                continue
            values = None
            if column.name in group.columns:
                values = group.column(column.name)[chosen].astype(column.kind)
            elif column.name == "unread":
                values = np.zeros(len(chosen), dtype=np.float32)
            cells[column.name] = values
        yield Block(len(chosen), cells)


def _splits(entry: StoreEntry, group: TileGroup, chosen: npt.NDArray[np.int64]) -> Cells:
    if not entry.splits:
        return None if entry.split is None else Coded((entry.split,), np.zeros_like(chosen))
    names = tuple(sorted(entry.splits))
    codes = np.full(len(group), -1)
    for code, name in enumerate(names):
        tiles = entry.splits[name].get(group.name)
        if tiles is not None:
            codes[tiles.indices()] = code
    return Coded(names, codes[chosen])


def _names(
    entry: StoreEntry,
    group: TileGroup,
    column: str,
    names: tuple[str, ...],
    chosen: npt.NDArray[np.int64],
) -> Cells:
    """The names that a column of indices stands for."""
    if column not in group.columns or not names:
        return None
    codes = group.column(column)[chosen]
    if len(codes) and codes.max() >= len(names):
        raise StoreError(
            f"{entry.id}: the column {column} has the index {codes.max()}, but there are "
            f"{len(names)} names"
        )
    return Coded(names, np.maximum(codes, -1))


def _pictures(group: TileGroup) -> tuple[str, ...]:
    try:
        return tuple(str(source["name"]) for source in group.store.sources())
    except (KeyError, TypeError) as error:
        raise StoreError(
            f"{group.store.path}: sources.json lists a picture without a name"
        ) from error
