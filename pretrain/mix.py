"""What a run draws from: strata (stain × organ), the slides of each, and where their tiles lie.

A slide is one entry of the manifest; a packed store counts as one. Its tiles are numbered across
all its resolutions, in the manifest's order. Tiles that could not be read whole from their slide
are not drawn: they have no number and count nowhere.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass

from manifests import Manifest, ManifestError, StoreEntry, StoreError, TileStore
from manifests.files import Json

UNKNOWN = "unknown"
"""Stands in for a stain or an organ that the manifest does not name."""


@dataclass(frozen=True, slots=True)
class Source:
    """The tiles of one resolution of one store."""

    group: str
    """Name of the group inside the store."""
    mpp: tuple[float, float]
    """True µm per pixel of the tiles in (x, y)."""
    tiles: int
    """Number of tiles that can be drawn."""
    unread: tuple[int, ...] = ()
    """Indices in the group, ascending, of tiles that must not be drawn."""

    def index(self, tile: int) -> int:
        """The index in the group of a tile that can be drawn, from 0 to `tiles` - 1."""
        # So many of the tiles to pass over come before it; there is no list of those to draw.
        before = bisect_right(range(len(self.unread)), tile, key=lambda i: self.unread[i] - i)
        return tile + before


@dataclass(frozen=True, slots=True)
class Slide:
    """One entry of the manifest."""

    id: str
    sources: tuple[Source, ...]

    @property
    def tiles(self) -> int:
        """Tiles of all resolutions together."""
        return sum(source.tiles for source in self.sources)

    def locate(self, tile: int) -> tuple[str, int]:
        """The group that a tile of the slide lies in, and its index there."""
        for source in self.sources:
            if tile < source.tiles:
                return source.group, source.index(tile)
            tile -= source.tiles
        raise IndexError(f"slide {self.id} has {self.tiles} tiles")


@dataclass(frozen=True, slots=True)
class Stratum:
    """The slides of one stain and organ."""

    stain: str
    organ: str
    slides: tuple[Slide, ...]

    @property
    def tiles(self) -> int:
        """Tiles of all slides together."""
        return sum(slide.tiles for slide in self.slides)


@dataclass(frozen=True, slots=True)
class Mix:
    """All strata, sorted by stain and organ; none is empty."""

    strata: tuple[Stratum, ...]
    tile_size: int
    """Pixels of a tile's side, the same in all stores."""

    @property
    def tiles(self) -> int:
        """Tiles of all strata together."""
        return sum(stratum.tiles for stratum in self.strata)

    @property
    def slides(self) -> tuple[Slide, ...]:
        """The slides of all strata, in order; their places are the slide numbers of a `Draw`."""
        return tuple(slide for stratum in self.strata for slide in stratum.slides)

    @property
    def mpps(self) -> tuple[tuple[float, float], ...]:
        """The different µm per pixel in (x, y), ascending."""
        return tuple(sorted({source.mpp for slide in self.slides for source in slide.sources}))

    def to_json(self) -> Json:
        """Strata with their share of all draws, their slides and counts."""
        share = 1 / len(self.strata)
        strata = [
            {
                "stain": stratum.stain,
                "organ": stratum.organ,
                "share": share,
                "tiles": stratum.tiles,
                "slides": {slide.id: slide.tiles for slide in stratum.slides},
            }
            for stratum in self.strata
        ]
        return {
            "tiles": self.tiles,
            "tile_size": self.tile_size,
            "mpp": [list(mpp) for mpp in self.mpps],
            "strata": strata,
        }


def resolve_mix(manifest: Manifest) -> Mix:
    """The mix of a manifest's finished stores.

    Raises:
        ManifestError: no store has tiles, or tiles are of different sizes.
        StoreError: a store is missing, not committed, or not the one of the manifest.
    """
    found: dict[tuple[str, str], list[Slide]] = defaultdict(list)
    sizes: dict[int, str] = {}
    for entry in manifest.committed():
        if not (sources := _sources(manifest, entry)):
            continue
        stratum = (entry.stain or UNKNOWN, entry.organ or UNKNOWN)
        found[stratum].append(Slide(entry.id, sources))
        for resolution in entry.resolutions:
            if resolution.tiles:
                sizes.setdefault(resolution.tile_size, entry.id)
    if not found:
        raise ManifestError(
            "the manifest has no tiles to train on, or none that could be read whole from its "
            "slide: cut some with histotile first"
        )
    if len(sizes) > 1:
        seen = ", ".join(f"{size} px in {name}" for size, name in sorted(sizes.items()))
        raise ManifestError(f"tiles must all have one size, but there are {seen}")
    strata = (Stratum(stain, organ, tuple(s)) for (stain, organ), s in sorted(found.items()))
    return Mix(tuple(strata), tile_size=next(iter(sizes)))


def _sources(manifest: Manifest, entry: StoreEntry) -> tuple[Source, ...]:
    """The resolutions of an entry that have tiles to draw."""
    if not entry.tiles:
        return ()
    store = open_store(manifest, entry)
    found = []
    for resolution in entry.resolutions:
        unread = tuple(store[resolution.group].unread().tolist())
        if tiles := resolution.tiles - len(unread):
            found.append(Source(resolution.group, resolution.mpp, tiles, unread))
    return tuple(found)


def open_store(manifest: Manifest, entry: StoreEntry) -> TileStore:
    """Open the store of an entry.

    Raises:
        StoreError: it is missing, not committed, or not the one of the manifest.
    """
    store = TileStore(manifest.store_path(entry))
    if store.attributes["uuid"] != entry.uuid:
        raise StoreError(f"{store.path} is not the store that the manifest lists")
    for resolution in entry.resolutions:
        group = store[resolution.group]
        if (len(group), group.tile_size) != (resolution.tiles, resolution.tile_size):
            raise StoreError(
                f"{store.path} has {len(group)} tiles of {group.tile_size} px in {group.name}, "
                f"but the manifest says {resolution.tiles} of {resolution.tile_size} px"
            )
    return store
