"""Duplicates in a manifest: slides and tiles that are there twice, and a manifest without them.

Exact duplicates have equal fingerprints (slides) or equal encoded bytes (tiles); near ones look the
same by `manifests.fingerprints`. A duplicate is a group of members, never a list of pairs. Only the
tiles that a manifest means are looked at (`TileGroup.usable`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from manifests.console import Display
    from manifests.model import Manifest

Kind = Literal["slide", "tile"]


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """One slide or one tile of a group of duplicates."""

    entry: str
    """Id of the entry."""
    group: str | None = None
    """Resolution of a tile, by the name of its group; None for a slide."""
    tile: int | None = None
    """Index of the tile within that group; None for a slide."""


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Slides or tiles that are one and the same. A slide or a tile is in one group at most."""

    kind: Kind
    exact: bool
    """Whether all members are equal byte by byte (slides: have one fingerprint)."""
    members: tuple[Member, ...]
    """At least two, sorted."""
    similarity: float
    """Of the weakest link that holds the group together, up to 1; 1 if exact."""


def find_duplicates(
    manifest: Manifest,
    *,
    exact: bool = True,
    near: bool = True,
    slides: bool = True,
    tiles: bool = True,
    threshold: float | None = None,
    display: Display | None = None,
) -> list[DuplicateGroup]:
    """The groups of duplicates of a manifest: slides first, then tiles, each by first member.

    Args:
        threshold: least similarity of near duplicates, 0 to 1.
        display: shows how far it is.

    Raises:
        StoreError: a store is missing or damaged.
        ManifestError: a store lies behind a URL or outside the manifest's folder.
    """
    raise NotImplementedError
