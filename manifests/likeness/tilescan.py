"""Reading all tiles that a manifest means, once: a digest of their bytes, and what they look like.

Tiles are numbered from 0 in the order of entries, resolutions and indices. What is kept of a
tile takes some 450 bytes; pixels are decoded as small as they come and dropped at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.codec import Rgb
from manifests.errors import StoreError
from manifests.likeness.fingerprints import (
    GLANCE,
    LOOK,
    Codes,
    Eye,
    Floats,
    code_length,
    colour,
    encode,
    read_small,
    tile_squares,
)
from manifests.likeness.neighbours import Progress, in_threads
from manifests.model import Manifest, StoreEntry
from manifests.store import TileGroup, open_store

Indices = npt.NDArray[np.int64]
TileNumbers = npt.NDArray[np.int32]

LEAST_CONTRAST = 0.02
"""Root mean square of band-passed optical density below which a tile is blank."""
_BLOCK, _BATCH = 1024, 32


@dataclass(frozen=True, slots=True)
class Part:
    """The tiles of one resolution of a store that are meant."""

    entry: StoreEntry
    group: str
    tiles: TileNumbers
    """Their indices, ascending."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What is known of each tile; n is the number of tiles."""

    manifest: Manifest
    parts: tuple[Part, ...]
    starts: Indices
    """Number of each part's first tile, and n at the end."""
    usable: npt.NDArray[np.bool_]
    """Whether a tile was read: (n,)."""
    digests: npt.NDArray[np.uint64]
    """Of the encoded bytes, (n,)."""
    contrast: Floats
    """(n,); NaN where it was not measured."""
    codes: Codes
    """What tiles look like, (n, c), or (0, c) if that was not asked for."""
    colours: Floats
    """Of `fingerprints.colour`, (n, 2), or (0, 2)."""

    def place(self, number: int) -> tuple[str, str, int]:
        """Entry, resolution and index of a tile."""
        at = int(np.searchsorted(self.starts, number, side="right")) - 1
        part = self.parts[at]
        return part.entry.id, part.group, int(part.tiles[number - self.starts[at]])

    def tell_apart(self, numbers: Indices) -> npt.NDArray[np.bool_]:
        """Whether tiles have enough contrast; measures those that were not yet."""
        new = np.unique(numbers[np.isnan(self.contrast[numbers])])
        for group, tiles, rows in self._by_group(new):
            for tile, row in zip(tiles, new[rows], strict=True):
                self.contrast[row] = _glance(group, [group.read_encoded(int(tile))])[1][0]
        enough: npt.NDArray[np.bool_] = self.contrast[numbers] >= LEAST_CONTRAST
        return enough

    def blank(self) -> int:
        """How many tiles have too little contrast, as far as it was measured."""
        return int((self.usable & (self.contrast < LEAST_CONTRAST)).sum())

    def look_at(self, numbers: Indices) -> Floats:
        """Squares of some tiles for the closer look, (n, side, side)."""
        squares = np.empty((len(numbers), LOOK.side, LOOK.side), dtype=np.float32)
        for group, tiles, rows in self._by_group(numbers):
            encoded = [group.read_encoded(int(tile)) for tile in tiles]
            squares[rows] = tile_squares(_small(group, encoded, LOOK), LOOK)
        return squares

    def _by_group(self, numbers: Indices) -> Iterator[tuple[TileGroup, TileNumbers, Indices]]:
        """Open groups, indices of tiles, and where these stand in `numbers`."""
        owners = np.searchsorted(self.starts, numbers, side="right") - 1
        for owner in np.unique(owners):
            part, rows = self.parts[owner], np.flatnonzero(owners == owner)
            group = open_store(self.manifest, part.entry)[part.group]
            yield group, part.tiles[numbers[rows] - self.starts[owner]], rows

    def of_one_store(self, pairs: Indices) -> npt.NDArray[np.bool_]:
        """Whether the two tiles of each pair, (p, 2), lie in one store at two resolutions."""
        owners = np.unique([part.entry.id for part in self.parts], return_inverse=True)[1]
        part = np.searchsorted(self.starts, pairs, side="right") - 1
        owner = owners[part]
        found: npt.NDArray[np.bool_] = (owner[:, 0] == owner[:, 1]) & (part[:, 0] != part[:, 1])
        return found

    def distinct(self) -> tuple[Codes, Floats, Indices]:
        """Codes, colours and numbers of tiles to compare: not blank, one of those that are equal.

        The codes are moved together, not copied, as they take nearly all of the memory: call this
        once.
        """
        candidates = np.flatnonzero(self.usable & (self.contrast >= LEAST_CONTRAST))
        _, first = np.unique(self.digests[candidates], return_index=True)
        numbers = np.sort(candidates[first])
        for start in range(0, len(numbers), _BLOCK):
            moved = numbers[start : start + _BLOCK]
            self.codes[start : start + len(moved)] = self.codes[moved]
        return self.codes[: len(numbers)], self.colours[numbers], numbers


def scan_tiles(
    manifest: Manifest, *, looks: bool, tell: Progress, skip_damaged: bool = False
) -> Scan:
    """Read all tiles that a manifest means.

    Args:
        looks: whether to look at them too, which means decoding.
        skip_damaged: whether tiles whose bytes are damaged are not usable, rather than an error.

    Raises:
        StoreError: a store is missing or damaged.
        ManifestError: a store lies behind a URL or outside the manifest's folder.
    """
    parts = tuple(_parts(manifest))
    starts = np.cumsum([0, *(len(part.tiles) for part in parts)], dtype=np.int64)
    count = int(starts[-1])
    scan = Scan(
        manifest=manifest,
        parts=parts,
        starts=starts,
        usable=np.zeros(count, dtype=np.bool_),
        digests=np.zeros(count, dtype=np.uint64),
        contrast=np.full(count, np.nan, dtype=np.float32),
        codes=np.zeros((count if looks else 0, code_length(GLANCE)), dtype=np.int8),
        colours=np.zeros((count if looks else 0, 2), dtype=np.float32),
    )
    blocks = [
        (number, begin)
        for number, part in enumerate(parts)
        for begin in range(0, len(part.tiles), _BLOCK)
    ]
    done = 0
    for read in in_threads(lambda block: _scan_block(scan, *block, skip_damaged), blocks):
        done += read
        tell("reading tiles", done, count)
    return scan


def _parts(manifest: Manifest) -> Iterator[Part]:
    for entry in manifest.committed():
        for resolution in entry.resolutions:
            members = entry.members(resolution.group)
            tiles = np.arange(resolution.tiles) if members is None else members.indices()
            yield Part(entry, resolution.group, tiles.astype(np.int32))


def _scan_block(scan: Scan, number: int, begin: int, skip_damaged: bool) -> int:
    """Fill in a block of tiles of a part; return how many these are."""
    part = scan.parts[number]
    tiles = part.tiles[begin : begin + _BLOCK]
    # Opened for each block: thirty thousand open stores would take more memory than their tiles.
    group = open_store(scan.manifest, part.entry)[part.group]
    places = np.flatnonzero(np.isin(tiles, group.usable(), assume_unique=True))
    if skip_damaged:
        places = places[[_is_whole(group, int(tile)) for tile in tiles[places]]]
    start = int(scan.starts[number]) + begin
    for first in range(0, len(places), _BATCH):
        batch = places[first : first + _BATCH]
        rows = start + batch
        encoded = [group.read_encoded(int(tile)) for tile in tiles[batch]]
        scan.digests[rows] = [_digest(data) for data in encoded]
        if len(scan.codes):
            scan.codes[rows], scan.contrast[rows], scan.colours[rows] = _glance(group, encoded)
        scan.usable[rows] = True
    return len(tiles)


def _is_whole(group: TileGroup, tile: int) -> bool:
    try:
        group.read_encoded(tile)
    except StoreError:
        return False
    return True


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _glance(group: TileGroup, encoded: list[bytes]) -> tuple[Codes, Floats, Floats]:
    """Codes, contrast and colours of tiles."""
    small = _small(group, encoded, GLANCE)
    codes, contrast = encode(tile_squares(small, GLANCE), GLANCE)
    return codes, contrast, colour(small)


def _small(group: TileGroup, encoded: list[bytes], eye: Eye) -> Rgb:
    size, codec = group.tile_size, group.layout.codec
    return np.stack([read_small(data, codec, size, eye.side) for data in encoded])
