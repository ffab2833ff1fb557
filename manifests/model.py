"""The manifest: what each tile store is, where it lies, and how each slide of a run ended.

One entry per store (or per slide that failed); never a row per tile, those are columns of the
store. Values are checked on construction, so a `Manifest` that exists is a valid one. Lengths are
pixels, resolutions µm per pixel, pairs are (x, y). Paths are POSIX and relative to the manifest.
"""

from __future__ import annotations

import functools
import operator
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from manifests.checks import (
    check_count,
    check_extra,
    check_json,
    check_keys,
    check_location,
    check_name,
    check_pair,
    check_positive,
    check_relative_path,
    check_text,
    check_texts,
    is_url,
    on_one_line,
    short,
)
from manifests.errors import ManifestError
from manifests.files import Json, stays_inside
from manifests.tileset import TileSet

Status = Literal["done", "empty", "failed"]
STATUSES: tuple[Status, ...] = ("done", "empty", "failed")

CURATED_FIELDS = (
    "organ",
    "stain",
    "dataset",
    "license",
    "patient",
    "site",
    "scanner",
    "sample_type",
)
"""What people say about a slide, as opposed to what the slide says itself."""

CODEC_NAMES = ("jpeg", "zstd")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Resolution:
    """The tiles of one resolution of a store."""

    group: str
    """Name of the group inside the store, for example `0.5`."""
    mpp: tuple[float, float]
    """True µm per pixel of the tiles in (x, y)."""
    mpp_requested: float
    """µm per pixel that was asked for."""
    tile_size: int
    """Pixels of a tile's side."""
    tiles: int
    """Number of tiles."""
    level: int
    """Level of the slide that the tiles were read from."""
    scale: tuple[float, float]
    """Pixels of that level per pixel of a tile, in (x, y); 1 where nothing was resampled."""

    def __post_init__(self) -> None:
        check_name(self.group, "resolutions.group")
        check_pair(self.mpp, "resolutions.mpp")
        check_positive(self.mpp_requested, "resolutions.mpp_requested")
        check_count(self.tile_size, "resolutions.tile_size", least=1, most=65535)
        check_count(self.tiles, "resolutions.tiles")
        check_count(self.level, "resolutions.level")
        check_pair(self.scale, "resolutions.scale")


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """What the slide says of itself; only allow-listed facts, nothing that identifies a person."""

    reader: str
    vendor: str
    compression: str
    fingerprint: str
    """Hash of the content, prefixed by its kind."""
    width: int = 0
    """Pixels of level 0 in x; 0 for a packed store."""
    height: int = 0
    """Pixels of level 0 in y; 0 for a packed store."""
    mpp: tuple[float, float] | None = None
    """µm per level-0 pixel in (x, y) that was used."""
    mpp_source: str = "none"
    """Where that mpp was found."""
    objective_power: float | None = None
    """Nominal magnification."""

    def __post_init__(self) -> None:
        for name in ("reader", "vendor", "compression", "fingerprint", "mpp_source"):
            check_text(getattr(self, name), f"slide.{name}")
        check_count(self.width, "slide.width")
        check_count(self.height, "slide.height")
        if self.mpp is not None:
            check_pair(self.mpp, "slide.mpp")
        if self.objective_power is not None:
            check_positive(self.objective_power, "slide.objective_power", most=1e6)


TileSets = Mapping[str, TileSet]
"""Tiles of a store: a set for each resolution, by the name of its group. A group that is not named
has none."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tiles of a store belong to the manifest's set, and how they were chosen."""

    steps: tuple[Mapping[str, Json], ...]
    """What was asked for, in order: `{"where": "focus > 0.1"}`, `{"sample": 1000, "seed": 0}`."""
    tiles: TileSets

    def __post_init__(self) -> None:
        for step in self.steps:
            check_keys(step, "selection.steps")
            check_json(step, "selection.steps")


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """One store, or one slide that gave none."""

    id: str
    """Name of the store without `.zarr`; unique in the manifest."""
    status: Status
    """`done`; `empty` (no tile passed); `failed` (see `reason`)."""
    source: str
    """Name of the slide's file or folder, without any path."""
    reason: str | None = None
    """Why the slide failed or is empty, as one sentence."""
    path: str | None = None
    """The store, relative to the manifest, or its URL; None if failed."""
    uuid: str | None = None
    """Identity of the store: same slide and same spec, same UUID."""
    spec_hash: str | None = None
    """sha256 over every parameter that changes pixels."""
    commit: str | None = None
    """`sha256` of the store's commit record, which names the hash of every file: pins the bytes."""
    organ: str | None = None
    stain: str | None = None
    dataset: str | None = None
    license: str | None = None
    patient: str | None = None
    site: str | None = None
    scanner: str | None = None
    sample_type: str | None = None
    packed: bool = False
    """Whether the store holds ready-made pictures of one folder."""
    labels: tuple[str, ...] = ()
    """Class names; the column `label` holds indices into them."""
    slide: SlideInfo | None = None
    resolutions: tuple[Resolution, ...] = ()
    codec: Mapping[str, Json] | None = None
    bytes: int = 0
    """Size of the store's files on disk, in bytes."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Grid positions that each filter dropped (`tissue`, `edge`, `max_tiles`, ...)."""
    unread: int = 0
    """Tiles that could not be read in whole: the column `unread` tells which."""
    warnings: tuple[str, ...] = ()
    selection: Selection | None = None
    """The tiles that are meant; None: all of them."""
    split: str | None = None
    """The split that the whole store belongs to (`train`, `val`, `test`, ...)."""
    splits: Mapping[str, TileSets] = field(default_factory=dict)
    """Where a packed store has parts in several splits: the tiles of each."""
    inputs: tuple[str, ...] = ()
    """Keys of `Manifest.inputs`: the manifests that the entry was merged from."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of the slides table that histotile does not know, kept as they were."""
    extra: Mapping[str, Json] = field(default_factory=dict)
    """Unknown keys that begin with `x-`, kept on a round trip."""

    def __post_init__(self) -> None:
        check_name(self.id, "id")
        self._check_outcome()
        self._check_texts()
        self._check_contents()
        self._check_tile_sets()
        check_extra(self.extra, self.id)

    def _check_outcome(self) -> None:
        """A failed slide has a reason and no store; any other has a store that can be named."""
        if self.status not in STATUSES:
            raise ManifestError(f"{self.id}: {short(self.status)} is no status; use {STATUSES}")
        if self.status == "failed":
            if self.path is not None or not self.reason:
                raise ManifestError(f"{self.id}: a failed slide has a reason and no path")
        elif self.path is None or self.uuid is None or self.spec_hash is None:
            raise ManifestError(f"{self.id}: a store needs path, uuid and spec_hash")
        if self.path is not None:
            check_location(self.path, f"{self.id}: path")

    def _check_texts(self) -> None:
        check_text(self.source, f"{self.id}: source")
        for name in ("reason", "uuid", "spec_hash", "commit", *CURATED_FIELDS):
            value = getattr(self, name)
            if value is not None:
                check_text(value, f"{self.id}: {name}")
        if self.uuid is not None and not _UUID.fullmatch(self.uuid):
            raise ManifestError(f"{self.id}: {short(self.uuid)} is not a UUID in lower case")
        if self.spec_hash is not None and not _SHA256.fullmatch(self.spec_hash):
            raise ManifestError(f"{self.id}: spec_hash must be 64 hexadecimal digits in lower case")
        if self.commit is not None and not _SHA256.fullmatch(self.commit):
            raise ManifestError(f"{self.id}: commit must be 64 hexadecimal digits in lower case")

    def _check_contents(self) -> None:
        if not isinstance(self.packed, bool):
            raise ManifestError(f"{self.id}: packed must be true or false")
        check_texts(self.labels, f"{self.id}: labels")
        check_texts(self.warnings, f"{self.id}: warnings")
        check_count(self.bytes, f"{self.id}: bytes")
        check_count(self.unread, f"{self.id}: unread")
        check_keys(self.dropped, f"{self.id}: dropped")
        for value in self.dropped.values():
            check_count(value, f"{self.id}: dropped")
        check_keys(self.columns, f"{self.id}: columns")
        if not all(isinstance(value, str) for value in self.columns.values()):
            raise ManifestError(f"{self.id}: columns must be strings")
        check_json(self.columns, f"{self.id}: columns")
        if self.codec is not None:
            check_json(self.codec, f"{self.id}: codec")
            if not isinstance(self.codec, Mapping) or self.codec.get("name") not in CODEC_NAMES:
                raise ManifestError(f"{self.id}: codec must have a name, one of {CODEC_NAMES}")

    def _check_tile_sets(self) -> None:
        check_texts(self.inputs, f"{self.id}: inputs")
        if self.split is not None:
            check_name(self.split, f"{self.id}: split")
            if self.splits:
                raise ManifestError(f"{self.id}: a store has either split or splits")
        if self.selection is not None:
            self._check_tiles(self.selection.tiles, "selection.tiles")
        check_keys(self.splits, f"{self.id}: splits")
        for name, tiles in self.splits.items():
            check_name(name, f"{self.id}: splits")
            self._check_tiles(tiles, f"splits.{name}")
        for group in {group for tiles in self.splits.values() for group in tiles}:
            sets = [tiles[group] for tiles in self.splits.values() if group in tiles]
            if sum(map(len, sets)) != len(functools.reduce(operator.or_, sets)):
                raise ManifestError(f"{self.id}: splits: a tile of {group} lies in two splits")

    def _check_tiles(self, tiles: TileSets, where: str) -> None:
        counts = {resolution.group: resolution.tiles for resolution in self.resolutions}
        for group, members in tiles.items():
            if group not in counts:
                raise ManifestError(f"{self.id}: {where}: there is no resolution {short(group)}")
            if members.end > counts[group]:
                raise ManifestError(
                    f"{self.id}: {where}: tile {members.end - 1} of {group}, which has "
                    f"{counts[group]} tiles"
                )

    @property
    def is_remote(self) -> bool:
        """Whether the store lies behind a URL."""
        return self.path is not None and is_url(self.path)

    @property
    def codec_text(self) -> str | None:
        """The codec and its settings in words, `jpeg 90 444`; None if it is not known."""
        if self.codec is None:
            return None
        settings = (str(value) for key, value in sorted(self.codec.items()) if key != "name")
        return " ".join([str(self.codec["name"]), *settings])

    @property
    def split_names(self) -> tuple[str, ...]:
        """The splits that the entry has tiles in, sorted."""
        return (self.split,) if self.split is not None else tuple(sorted(self.splits))

    @property
    def tiles(self) -> int:
        """Tiles that are meant (selected, if there is a selection), of all resolutions together."""
        if self.selection is not None:
            return sum(map(len, self.selection.tiles.values()))
        return sum(resolution.tiles for resolution in self.resolutions)

    def count(self, resolution: Resolution, split: str | None = None) -> int:
        """Tiles of a resolution that are meant; with `split`, those of it alone."""
        members = self.members(resolution.group, split)
        return resolution.tiles if members is None else len(members)

    def members(self, group: str, split: str | None = None) -> TileSet | None:
        """The tiles of a resolution that are meant; None stands for all of them.

        Args:
            split: only those of this split. A store that says nothing of splits is in none.
        """
        chosen = None if self.selection is None else self.selection.tiles.get(group, TileSet())
        if split is None or split == self.split:
            return chosen
        part = self.splits.get(split, {}).get(group, TileSet())
        return part if chosen is None else part & chosen


@dataclass(frozen=True, slots=True, order=True)
class ManifestInput:
    """A manifest that was merged into another."""

    name: str
    """Its file and the folder it lay in: `cohort/manifest.json`."""
    stores: int
    """Entries that it had."""

    def __post_init__(self) -> None:
        check_relative_path(self.name, "inputs.name")
        check_count(self.stores, "inputs.stores")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A set of stores. Entries are sorted by id."""

    stores: tuple[StoreEntry, ...] = ()
    root: Path = field(default=Path(), compare=False)
    """Folder that the entries' paths are relative to; not part of the file."""
    inputs: Mapping[str, ManifestInput] = field(default_factory=dict)
    """The manifests that this one was merged from, by the first 16 digits of their digest."""
    splits: tuple[Mapping[str, Json], ...] = ()
    """How the entries' splits were made: `by`, `ratios`, `seed`, ..."""
    extra: Mapping[str, Json] = field(default_factory=dict)
    """Unknown top-level keys that begin with `x-`, kept on a round trip."""

    def __post_init__(self) -> None:
        counts = Counter(entry.id for entry in self.stores)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            shown = ", ".join(twice[:10]) + (" …" if len(twice) > 10 else "")
            raise ManifestError(f"the manifest has two entries with the id {shown}")
        check_keys(self.inputs, "inputs")
        for key in {key for entry in self.stores for key in entry.inputs} - self.inputs.keys():
            raise ManifestError(f"an entry names the input {short(key)}, which inputs lacks")
        for made in self.splits:
            check_keys(made, "splits")
            check_json(made, "splits")
        check_extra(self.extra, "the manifest")
        object.__setattr__(self, "stores", tuple(sorted(self.stores, key=lambda e: e.id)))

    def store_path(self, entry: StoreEntry) -> Path:
        """Where an entry's store lies; an entry without one, or outside the root, is refused."""
        if entry.path is None:
            raise _no_store(entry, f" failed and has no store: {entry.reason}")
        if entry.is_remote:
            where = f" lies at {entry.path}: copy it to this machine, then say where to with "
            raise _no_store(entry, where + "`histotile manifest relink`")
        path = self.root / entry.path
        try:
            inside = stays_inside(self.root, entry.path)
        except OSError as error:
            what = f": {short(entry.path)} cannot be followed ({error.strerror})"
            raise _no_store(entry, what) from error
        if not inside:
            raise _no_store(entry, f": {short(entry.path)} leads out of the manifest's folder")
        return path

    def committed(self) -> tuple[StoreEntry, ...]:
        """The entries that have tiles."""
        return tuple(entry for entry in self.stores if entry.status == "done")


def _no_store(entry: StoreEntry, what: str) -> ManifestError:
    """Why an entry's store cannot be opened; ids and reasons of strangers may hold anything."""
    return ManifestError(on_one_line(f"{entry.id}{what}"))
