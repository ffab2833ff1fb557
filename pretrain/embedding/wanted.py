"""Which tiles are wanted: those that a manifest means, store by store and resolution by resolution.

A row is a place in the order of the manifest: all tiles of the first part, then of the second.
Stores are opened only to leave out tiles that could not be read whole from their slide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests import Manifest, ManifestError, StoreEntry
from manifests.model import Resolution
from manifests.store import open_store
from pretrain.errors import ConfigError

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Tiles of one resolution of one store."""

    entry: StoreEntry
    group: str
    """Name of the resolution in the store."""
    size: int
    """Pixels of a tile's side."""
    mpp: tuple[float, float]
    """µm per pixel of the tiles in (x, y)."""
    indices: Integers
    """Numbers of the tiles in the group, ascending, (n,)."""

    def __len__(self) -> int:
        return len(self.indices)


def wanted_tiles(
    manifest: Manifest, *, split: str | None = None, mpp: str | None = None
) -> tuple[Wanted, ...]:
    """All tiles that a manifest means and that were read whole, in its order.

    Args:
        split: only those of this split.
        mpp: only those of this resolution: the name of a group, or µm per pixel.

    Raises:
        ConfigError: there is no tile; with the splits or the resolutions that there are.
        StoreError: a store with unread tiles cannot be opened.
        ManifestError: a store lies behind a URL.
    """
    found = []
    for entry in manifest.committed():
        for resolution in entry.resolutions:
            if mpp is None or is_meant(resolution, mpp):
                part = _part(manifest, entry, resolution, split)
                if len(part):
                    if entry.is_remote:
                        raise ManifestError(f"{entry.id} lies behind a URL: fetch its store first")
                    found.append(part)
    if not found:
        raise _nothing(manifest, split, mpp)
    return tuple(found)


def is_meant(resolution: Resolution, mpp: str) -> bool:
    """Whether a resolution is the one that `--mpp` names."""
    if mpp == resolution.group:
        return True
    try:
        return float(mpp) == resolution.mpp_requested
    except ValueError:
        return False


def row_count(parts: Iterable[Wanted]) -> int:
    """N, the tiles of all parts together."""
    return sum(map(len, parts))


def _part(
    manifest: Manifest, entry: StoreEntry, resolution: Resolution, split: str | None
) -> Wanted:
    members = entry.members(resolution.group, split)
    if members is None:
        indices = np.arange(resolution.tiles, dtype=np.int64)
    else:
        indices = members.indices().astype(np.int64)
    if entry.unread and len(indices):
        unread = open_store(manifest, entry)[resolution.group].unread()
        indices = np.setdiff1d(indices, unread, assume_unique=True)
    return Wanted(entry, resolution.group, resolution.tile_size, resolution.mpp, indices)


def _nothing(manifest: Manifest, split: str | None, mpp: str | None) -> ConfigError:
    entries = manifest.committed()
    if mpp is not None:
        groups = sorted({r.group for entry in entries for r in entry.resolutions})
        if mpp not in groups:
            listed = ", ".join(groups) or "none"
            return ConfigError(f"no tiles have {mpp} µm/px; the manifest's resolutions: {listed}")
    if split is not None:
        names = sorted({name for entry in entries for name in entry.split_names})
        if split not in names:
            listed = ", ".join(names) or "none"
            return ConfigError(f"no tiles are in the split {split!r}; there are: {listed}")
    return ConfigError("the manifest means no tiles: nothing to embed")


__all__ = ["Wanted", "is_meant", "row_count", "wanted_tiles"]
