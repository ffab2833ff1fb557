"""What a run draws from: strata (stain × organ, or any fields), their slides, where tiles lie.

A slide is one entry of the manifest; a packed store counts as one. Its tiles are numbered across
all its resolutions, in the manifest's order. Tiles that could not be read whole from their slide
are not drawn: they have no number and count nowhere. The manifest alone says what there is; a store
is opened only to learn which of its tiles are unread, so that thousands of stores take seconds, and
nothing here grows with the number of tiles but the bits of selections. Resolutions are µm per
pixel in (x, y).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from manifests import Manifest, ManifestError, StoreEntry
from manifests.commit import read_commit
from manifests.files import Json, sha256
from manifests.layout import COMMIT_FILE
from manifests.model import Resolution
from manifests.store import open_store
from manifests.tileset import TileSet
from pretrain.config import ALL_SPLITS, TRAIN_SPLIT, TrainConfig
from pretrain.errors import ConfigError
from pretrain.mixing.shares import (
    UNKNOWN,
    Key,
    balance_fields,
    check_balance,
    key_values,
    name_of,
    weigh,
)

_LOOKING_THREADS = 16
"""Looking for a commit record waits for the disk, on a network for milliseconds."""
_HASH_DIGITS = 16
_PATIENT = "patient"


@dataclass(frozen=True, slots=True)
class Source:
    """The tiles of one resolution of one store."""

    group: str
    """Name of the group inside the store."""
    mpp: tuple[float, float]
    """µm per pixel of the tiles in (x, y), once they have the mix's size."""
    tiles: int
    """Number of tiles that can be drawn."""
    members: TileSet | None = None
    """The tiles of the group that can be drawn; None: all of them."""

    def index(self, tile: int) -> int:
        """The index in the group of a tile that can be drawn, from 0 to `tiles` - 1."""
        return tile if self.members is None else self.members.nth(tile)


@dataclass(frozen=True, slots=True)
class Slide:
    """One entry of the manifest, or those of its resolutions that belong to one stratum."""

    id: str
    sources: tuple[Source, ...]
    patient: str | None = None
    """None: not known; the slide then counts as a patient of its own."""
    pooled: bool = False
    """Whether its tiles are of slides and patients that nobody knows: no cap counts them."""

    @property
    def tiles(self) -> int:
        """Tiles of all resolutions together."""
        return sum([source.tiles for source in self.sources])

    def locate(self, tile: int) -> tuple[str, int]:
        """The group that a tile of the slide lies in, and its index there."""
        for source in self.sources:
            if tile < source.tiles:
                return source.group, source.index(tile)
            tile -= source.tiles
        raise IndexError(f"slide {self.id} has {self.tiles} tiles")


@dataclass(frozen=True, slots=True)
class Stratum:
    """The slides that share the value of each field of the balance."""

    key: Key
    """Each field and its value, `unknown` where the manifest says nothing."""
    slides: tuple[Slide, ...]
    weight: int = 1
    """How often it is drawn beside the others: a whole number, so that shares are exact."""
    probability: float = 1.0
    """Its weight as a share of the mix's."""

    @property
    def name(self) -> str:
        """What people call it: `H&E × colon`."""
        return name_of(self.key)

    @property
    def tiles(self) -> int:
        """Tiles of all slides together."""
        return sum([slide.tiles for slide in self.slides])

    @property
    def patients(self) -> int:
        """Different patients; a slide of none that is known counts as its own."""
        known = {slide.patient for slide in self.slides if slide.patient is not None}
        return len(known) + len({slide.id for slide in self.slides if slide.patient is None})


@dataclass(frozen=True, slots=True)
class Mix:
    """All strata, sorted by their values; none is empty and none is never drawn."""

    strata: tuple[Stratum, ...]
    tile_size: int
    """Pixels of a tile's side, after resizing."""
    split: str | None = None
    """The split that all tiles are of; None if they are of any."""
    licences: tuple[str, ...] = ()
    """The different licences of the stores, sorted; those that are not known are left out."""
    slides: tuple[Slide, ...] = field(init=False, repr=False, compare=False)
    """The slides of all strata, in order; their places are the slide numbers of a `Draw`."""

    def __post_init__(self) -> None:
        slides = tuple(slide for stratum in self.strata for slide in stratum.slides)
        object.__setattr__(self, "slides", slides)

    @property
    def tiles(self) -> int:
        """Tiles of all strata together."""
        return sum([slide.tiles for slide in self.slides])

    @property
    def mpps(self) -> tuple[tuple[float, float], ...]:
        """The different µm per pixel in (x, y), after resizing, ascending."""
        return tuple(sorted({source.mpp for slide in self.slides for source in slide.sources}))

    def to_json(self) -> Json:
        """Strata with their shares and counts, the tiles of each slide, and all licences.

        Slides go by the first 16 digits of the SHA-256 of their id, and so do patients where they
        tell strata apart: whoever has a slide can tell whether it was trained on, and no name is
        given away.
        """
        strata = [
            {
                "name": name_of(key),
                "fields": dict(key),
                "share": stratum.probability,
                "tiles": stratum.tiles,
                "patients": stratum.patients,
                "slides": {name_hash(slide.id): slide.tiles for slide in stratum.slides},
            }
            for stratum, key in ((stratum, _public(stratum.key)) for stratum in self.strata)
        ]
        return {
            "split": self.split,
            "tiles": self.tiles,
            "tile_size": self.tile_size,
            "mpp": [list(mpp) for mpp in self.mpps],
            "licences": list(self.licences),
            "strata": strata,
        }


def name_hash(name: str) -> str:
    """What stands for a slide's id, or for a patient, in files that are given away."""
    return sha256(name.encode())[:_HASH_DIGITS]


def _public(key: Key) -> Key:
    """The key of a stratum as it may be given away."""
    return tuple(
        (name, name_hash(value) if name == _PATIENT and value != UNKNOWN else value)
        for name, value in key
    )


def pick_split(config: TrainConfig, manifest: Manifest) -> str:
    """The split to draw from; never by default one that is there to test with.

    Raises:
        ConfigError: the manifest has no such split.
    """
    names = {name for entry in manifest.stores for name in entry.split_names}
    if config.split is None:
        return TRAIN_SPLIT if names else ALL_SPLITS
    if config.split != ALL_SPLITS and config.split not in names:
        known = ", ".join(sorted(names)) or "none"
        raise ConfigError(f"the manifest has no split {config.split!r}; it has {known}")
    return config.split


def resolve_mix(manifest: Manifest, config: TrainConfig) -> Mix:
    """The mix of a manifest's finished stores, of the tiles that it selects.

    Args:
        config: of it count `balance`, `mix_temperature`, `weight`, `split` (None: all tiles,
            whatever their split) and `resize`.

    Raises:
        ConfigError: a field or a weight does not fit the manifest, or tiles are of different sizes.
        ManifestError: no store has tiles, or one lies elsewhere.
        StoreError: a store is missing or not committed.
    """
    split = None if config.split == ALL_SPLITS else config.split
    entries, fields = manifest.committed(), balance_fields(config.balance)
    check_balance(entries, fields)
    found: dict[Key, list[Slide]] = defaultdict(list)
    empty: set[Key] = set()
    sizes: dict[Key, dict[int, str]] = defaultdict(dict)
    for entry in entries:
        parts: dict[Key, list[Source]] = defaultdict(list)
        for resolution, source in _sources(manifest, entry, split):
            key = key_values(entry, resolution, fields)
            if not source.tiles:
                empty.add(key)
                continue
            sizes[key].setdefault(resolution.tile_size, entry.id)
            parts[key].append(_resized(source, resolution, config.resize))
        for key, sources in parts.items():
            pooled = entry.packed and entry.patient is None
            found[key].append(Slide(entry.id, tuple(sources), entry.patient, pooled))
    if not found:
        raise ManifestError(
            f"the manifest has no tiles to train on{_part(split)}, or "
            "none that could be read whole from its slide: cut some with histotile first"
        )
    strata = _weighed(found, empty - found.keys(), config, _part(split))
    size = _one_size([sizes[stratum.key] for stratum in strata], config.resize)
    ids = {slide.id for stratum in strata for slide in stratum.slides}
    drawn = [entry for entry in entries if entry.id in ids]
    _check_committed(manifest, drawn)
    licences = sorted({entry.license for entry in drawn if entry.license})
    return Mix(strata, size, split, tuple(licences))


def _part(split: str | None) -> str:
    return "" if split is None else f" in {split}"


def _sources(
    manifest: Manifest, entry: StoreEntry, split: str | None
) -> Iterator[tuple[Resolution, Source]]:
    """The resolutions of an entry and what can be drawn of each, perhaps nothing."""
    chosen = {r.group: entry.members(r.group, split) for r in entry.resolutions}
    if entry.unread and any(members is None or members for members in chosen.values()):
        store = open_store(manifest, entry)
        for resolution in entry.resolutions:
            if len(unread := store[resolution.group].unread()):
                members = chosen[resolution.group]
                every = TileSet.every(resolution.tiles) if members is None else members
                chosen[resolution.group] = every - TileSet.of(unread)
    for resolution in entry.resolutions:
        members = chosen[resolution.group]
        tiles = resolution.tiles if members is None else len(members)
        yield resolution, Source(resolution.group, resolution.mpp, tiles, members)


def _resized(source: Source, resolution: Resolution, resize: int | None) -> Source:
    if resize is None or resize == resolution.tile_size:
        return source
    scale = resolution.tile_size / resize
    mpp = (resolution.mpp[0] * scale, resolution.mpp[1] * scale)
    return Source(source.group, mpp, source.tiles, source.members)


def _weighed(
    found: dict[Key, list[Slide]], empty: set[Key], config: TrainConfig, part: str
) -> tuple[Stratum, ...]:
    tiles = {key: sum([slide.tiles for slide in slides]) for key, slides in sorted(found.items())}
    weights = weigh(tiles, empty, config.mix_temperature, config.weight, part)
    total = sum(weights.values())
    return tuple(
        Stratum(key, tuple(found[key]), weight, weight / total)
        for key, weight in weights.items()
        if weight
    )


def _one_size(seen_sizes: list[dict[int, str]], resize: int | None) -> int:
    if resize is not None:
        return resize
    sizes = {size: name for seen in reversed(seen_sizes) for size, name in seen.items()}
    if len(sizes) > 1:
        seen = ", ".join(f"{size} px in {name}" for size, name in sorted(sizes.items()))
        raise ManifestError(
            f"tiles must all have one size, but there are {seen}; bring them to one with "
            f"--resize {min(sizes)}, or select those of one size"
        )
    return next(iter(sizes))


def _check_committed(manifest: Manifest, entries: list[StoreEntry]) -> None:
    """Raise where a store that will be read has no commit record; its content is checked then."""
    with ThreadPoolExecutor(_LOOKING_THREADS, thread_name_prefix="stores") as pool:
        for _ in pool.map(functools.partial(_find_commit, manifest), entries):
            pass


def _find_commit(manifest: Manifest, entry: StoreEntry) -> None:
    path = manifest.store_path(entry)
    if not (path / COMMIT_FILE).is_file():
        read_commit(path)  # says what is wrong
