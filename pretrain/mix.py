"""What a run draws from: strata (stain × organ), the slides of each, and where their tiles lie.

A slide is one entry of the manifest; a packed store counts as one. Its tiles are numbered across
all its resolutions, in the manifest's order. Tiles that could not be read whole from their slide
are not drawn: they have no number and count nowhere.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from manifests import Manifest, ManifestError, StoreEntry
from manifests.files import Json
from manifests.store import open_store
from manifests.tileset import TileSet

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
    members: TileSet | None = None
    """The tiles of the group that can be drawn; None: all of them."""

    def index(self, tile: int) -> int:
        """The index in the group of a tile that can be drawn, from 0 to `tiles` - 1."""
        return tile if self.members is None else self.members.nth(tile)


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
    split: str | None = None
    """The split that all tiles are of; None if they are of any."""

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
            "split": self.split,
            "tiles": self.tiles,
            "tile_size": self.tile_size,
            "mpp": [list(mpp) for mpp in self.mpps],
            "strata": strata,
        }


def resolve_mix(manifest: Manifest, split: str | None = None) -> Mix:
    """The mix of a manifest's finished stores, of the tiles that it selects.

    Args:
        split: take only the tiles of this split.

    Raises:
        ManifestError: no store has tiles, or tiles are of different sizes.
        StoreError: a store is missing, not committed, or not the one of the manifest.
    """
    found: dict[tuple[str, str], list[Slide]] = defaultdict(list)
    sizes: dict[int, str] = {}
    for entry in manifest.committed():
        if not (sources := _sources(manifest, entry, split)):
            continue
        stratum = (entry.stain or UNKNOWN, entry.organ or UNKNOWN)
        found[stratum].append(Slide(entry.id, sources))
        drawn = {source.group for source in sources}
        for resolution in entry.resolutions:
            if resolution.group in drawn:
                sizes.setdefault(resolution.tile_size, entry.id)
    if not found:
        raise ManifestError(
            f"the manifest has no tiles to train on{'' if split is None else f' in {split}'}, or "
            "none that could be read whole from its slide: cut some with histotile first"
        )
    if len(sizes) > 1:
        seen = ", ".join(f"{size} px in {name}" for size, name in sorted(sizes.items()))
        raise ManifestError(f"tiles must all have one size, but there are {seen}")
    strata = (Stratum(stain, organ, tuple(s)) for (stain, organ), s in sorted(found.items()))
    return Mix(tuple(strata), tile_size=next(iter(sizes)), split=split)


def _sources(manifest: Manifest, entry: StoreEntry, split: str | None) -> tuple[Source, ...]:
    """The resolutions of an entry that have tiles to draw."""
    chosen = {r.group: entry.members(r.group, split) for r in entry.resolutions}
    if all(members is not None and not members for members in chosen.values()):
        return ()
    store = open_store(manifest, entry, split)
    found = []
    for resolution in entry.resolutions:
        members = chosen[resolution.group]
        if len(unread := store[resolution.group].unread()):
            every = TileSet.every(resolution.tiles) if members is None else members
            members = every - TileSet.of(unread)
        if tiles := resolution.tiles if members is None else len(members):
            found.append(Source(resolution.group, resolution.mpp, tiles, members))
    return tuple(found)
