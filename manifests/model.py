"""The manifest: what each tile store is, where it lies, and how each slide of a run ended.

One entry per store (or per slide that failed); never a row per tile, those are columns of the
store. Values are checked on construction, so a `Manifest` that exists is a valid one. Lengths are
pixels, resolutions µm per pixel, pairs are (x, y). Paths are POSIX and relative to the manifest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from manifests.errors import ManifestError
from manifests.files import Json

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
        positive = (*self.mpp, self.mpp_requested, *self.scale)
        if not all(math.isfinite(v) and v > 0 for v in positive):
            raise ManifestError(f"resolution {self.group}: mpp and scale must be positive numbers")
        if self.tile_size < 1 or self.tiles < 0 or self.level < 0:
            raise ManifestError(f"resolution {self.group}: sizes and counts cannot be negative")


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
    """The store, relative to the manifest; None if failed."""
    uuid: str | None = None
    """Identity of the store: same slide and same spec, same UUID."""
    spec_hash: str | None = None
    """sha256 over every parameter that changes pixels."""
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
    """Size of the store on disk."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Grid positions that each filter dropped (`tissue`, `edge`, `max_tiles`, ...)."""
    warnings: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of the slides table that histotile does not know, kept as they were."""
    extra: Mapping[str, Json] = field(default_factory=dict)
    """Unknown keys that begin with `x-`, kept on a round trip."""

    def __post_init__(self) -> None:
        check_name(self.id, "id")
        if self.status not in STATUSES:
            raise ManifestError(f"{self.id}: status must be one of {STATUSES}, got {self.status!r}")
        if self.status == "failed":
            if self.path is not None or not self.reason:
                raise ManifestError(f"{self.id}: a failed slide has a reason and no path")
        elif self.path is None or self.uuid is None or self.spec_hash is None:
            raise ManifestError(f"{self.id}: a store needs path, uuid and spec_hash")
        if self.path is not None:
            check_relative_path(self.path, f"{self.id}: path")
        for key in self.extra:
            if not key.startswith("x-"):
                raise ManifestError(f"{self.id}: unknown key {key!r}; own keys begin with x-")

    @property
    def tiles(self) -> int:
        """Tiles of all resolutions together."""
        return sum(resolution.tiles for resolution in self.resolutions)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A set of stores. Entries are sorted by id."""

    stores: tuple[StoreEntry, ...] = ()
    root: Path = field(default=Path(), compare=False)
    """Folder that the entries' paths are relative to; not part of the file."""
    extra: Mapping[str, Json] = field(default_factory=dict)
    """Unknown top-level keys that begin with `x-`, kept on a round trip."""

    def __post_init__(self) -> None:
        ids = [entry.id for entry in self.stores]
        if len(set(ids)) != len(ids):
            twice = sorted({name for name in ids if ids.count(name) > 1})
            raise ManifestError(f"the manifest has two entries with the id {', '.join(twice)}")
        object.__setattr__(self, "stores", tuple(sorted(self.stores, key=lambda e: e.id)))

    def store_path(self, entry: StoreEntry) -> Path:
        """Where an entry's store lies; an entry without one, or outside the root, is refused."""
        if entry.path is None:
            raise ManifestError(f"{entry.id} failed and has no store: {entry.reason}")
        path = self.root / entry.path
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise ManifestError(f"{entry.id}: {entry.path} leads out of the manifest's folder")
        return path

    def committed(self) -> tuple[StoreEntry, ...]:
        """The entries that have tiles."""
        return tuple(entry for entry in self.stores if entry.status == "done")


def check_relative_path(path: str, where: str) -> None:
    """Refuse a path that is absolute, leaves its root, or is not plain POSIX."""
    parts = PurePosixPath(path).parts
    bad = not parts or path.startswith(("/", "~")) or ".." in parts
    if bad or any(c in path for c in "\\:\0\n"):
        raise ManifestError(
            f"{where}: {path!r} must be a relative POSIX path inside the manifest's folder"
        )


def check_name(name: str, where: str) -> None:
    """Refuse a name that is not one plain path component."""
    if not name or name in (".", "..") or len(name) > 200 or any(c in name for c in "/\\:\0\n"):
        raise ManifestError(f"{where}: {name!r} is not a plain name")
