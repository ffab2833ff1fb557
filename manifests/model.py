"""The manifest: what each tile store is, where it lies, and how each slide of a run ended.

One entry per store (or per slide that failed); never a row per tile, those are columns of the
store. Values are checked on construction, so a `Manifest` that exists is a valid one. Lengths are
pixels, resolutions µm per pixel, pairs are (x, y). Paths are POSIX and relative to the manifest.
"""

from __future__ import annotations

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
    check_name,
    check_pair,
    check_positive,
    check_relative_path,
    check_text,
    check_texts,
    short,
)
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
    """Size of the store's files on disk, in bytes."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Grid positions that each filter dropped (`tissue`, `edge`, `max_tiles`, ...)."""
    unread: int = 0
    """Tiles that could not be read in whole: the column `unread` tells which."""
    warnings: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of the slides table that histotile does not know, kept as they were."""
    extra: Mapping[str, Json] = field(default_factory=dict)
    """Unknown keys that begin with `x-`, kept on a round trip."""

    def __post_init__(self) -> None:
        check_name(self.id, "id")
        self._check_outcome()
        self._check_texts()
        self._check_contents()
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
            check_relative_path(self.path, f"{self.id}: path")

    def _check_texts(self) -> None:
        check_text(self.source, f"{self.id}: source")
        for name in ("reason", "uuid", "spec_hash", *CURATED_FIELDS):
            value = getattr(self, name)
            if value is not None:
                check_text(value, f"{self.id}: {name}")
        if self.uuid is not None and not _UUID.fullmatch(self.uuid):
            raise ManifestError(f"{self.id}: {short(self.uuid)} is not a UUID in lower case")
        if self.spec_hash is not None and not _SHA256.fullmatch(self.spec_hash):
            raise ManifestError(f"{self.id}: spec_hash must be 64 hexadecimal digits in lower case")

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
        counts = Counter(entry.id for entry in self.stores)
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            shown = ", ".join(twice[:10]) + (" …" if len(twice) > 10 else "")
            raise ManifestError(f"the manifest has two entries with the id {shown}")
        check_extra(self.extra, "the manifest")
        object.__setattr__(self, "stores", tuple(sorted(self.stores, key=lambda e: e.id)))

    def store_path(self, entry: StoreEntry) -> Path:
        """Where an entry's store lies; an entry without one, or outside the root, is refused."""
        if entry.path is None:
            raise ManifestError(f"{entry.id} failed and has no store: {entry.reason}")
        path = self.root / entry.path
        try:
            inside = path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError) as error:  # RuntimeError: a ring of symbolic links
            raise ManifestError(f"{entry.id}: {entry.path} cannot be followed ({error})") from error
        if not inside:
            raise ManifestError(f"{entry.id}: {entry.path} leads out of the manifest's folder")
        return path

    def committed(self) -> tuple[StoreEntry, ...]:
        """The entries that have tiles."""
        return tuple(entry for entry in self.stores if entry.status == "done")
