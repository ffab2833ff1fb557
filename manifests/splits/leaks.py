"""Leaks: what lies in two splits of a set at once, so that a test would not be one.

Looked for are units (a patient), slides by their fingerprint, tiles that are equal byte by byte,
and slides and tiles that look the same, such as an encoded-anew copy. What is in no split, or not
meant by the manifest, cannot leak.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from manifests.checks import short
from manifests.errors import EXIT_CONFLICT, HistotileError
from manifests.files import Json
from manifests.likeness.duplicates import DuplicateGroup, Member, find_duplicates
from manifests.model import Manifest, StoreEntry
from manifests.splits.units import Key, Part, SplitError, check_known, list_parts

if TYPE_CHECKING:
    from manifests.console import Display

LeakKind = Literal["unit", "slide", "near slide", "tile", "near tile"]
LEAK_KINDS: tuple[LeakKind, ...] = ("unit", "slide", "near slide", "tile", "near tile")
"""From what is certain and large to what is likely and small."""

_DEFAULT_BY = "patient"
_MOST_NAMED = 3


class LeaksFound(HistotileError):
    """Something lies in two splits."""

    exit_code = EXIT_CONFLICT


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that lies in two splits or more."""

    kind: LeakKind
    name: str
    """What it is, for people: `patient 'P-7'`, `one slide`, `tiles that look the same`."""
    members: Mapping[str, tuple[Member, ...]]
    """Split → where in it, sorted; a member without a tile is a store, or pictures of it."""
    similarity: float
    """Of near ones, the weakest link's; else 1."""

    @property
    def sentence(self) -> str:
        """What leaks, and where it lies."""
        where = [f"{split} ({_places(found)})" for split, found in self.members.items()]
        near = f", similarity {self.similarity:.3f}" if self.kind.startswith("near") else ""
        return f"{self.name} in {' and '.join(where)}{near}"

    def to_json(self) -> Json:
        """For programs: `kind`, `name`, `similarity` and the members of each `splits`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "similarity": round(self.similarity, 6),
            "splits": {
                split: [
                    {key: value for key, value in asdict(member).items() if value is not None}
                    for member in found
                ]
                for split, found in self.members.items()
            },
        }


def units_to_check(manifest: Manifest) -> tuple[str, ...]:
    """What the splits of a manifest were made by, as it says itself; `patient` if it does not."""
    found = [made.get("by") for made in manifest.splits]
    return tuple(dict.fromkeys(by for by in found if isinstance(by, str))) or (_DEFAULT_BY,)


def find_leaks(
    manifest: Manifest,
    by: Sequence[str],
    *,
    near: bool = True,
    skip_damaged: bool = False,
    display: Display | None = None,
) -> list[Leak]:
    """Everything that lies in two splits, in the order of `LEAK_KINDS`.

    Args:
        by: what must lie in one split, such as `patient`; a name may be any that splits are made
            by.
        near: look for slides and tiles that look the same, besides equal ones.
        skip_damaged: whether damaged tiles are passed over, rather than an error.
        display: shows how far it is.

    Raises:
        SplitError: no store is in a split, or nothing has a value of a name in `by`.
        StoreError: a store is missing or damaged.
        ManifestError: a store lies behind a URL or outside the manifest's folder.
    """
    inside = tuple(e for e in manifest.committed() if e.split is not None or e.splits)
    if not inside:
        raise SplitError(
            "no store of the manifest is in a split, so nothing can leak; make splits with "
            "`histotile manifest split MANIFEST -o FILE`"
        )
    looked_at = replace(manifest, stores=inside)
    found: list[Leak] = []
    for name in by:
        parts = list_parts(looked_at, name)
        check_known(looked_at, parts, name)
        found += _torn_units(parts, name)
    found += _torn_slides(list_parts(looked_at, "id"))
    copies = find_duplicates(looked_at, near=near, skip_damaged=skip_damaged, display=display)
    found += _torn_groups({entry.id: entry for entry in inside}, copies.groups)
    return sorted(found, key=lambda leak: LEAK_KINDS.index(leak.kind))


def _torn_units(parts: Iterable[Part], by: str) -> Iterator[Leak]:
    for key, members in _by_key((part.own, part) for part in parts):
        name = f"the {by} {short(key[1])}" if key[0] == "value" else short(key[1])
        yield from _leak("unit", name, _stores(members))


def _torn_slides(parts: Iterable[Part]) -> Iterator[Leak]:
    """Slides, and whole stores, of which copies lie in two splits."""
    told = set()
    for _, members in _by_key((key, part) for part in parts for key in part.contents):
        names = tuple(part.name for part in members)
        # Copies share a fingerprint and often a UUID, and are told of once.
        if len(names) > 1 and names not in told:
            told.add(names)
            yield from _leak("slide", "one slide", _stores(members))


def _torn_groups(
    entries: Mapping[str, StoreEntry], groups: Iterable[DuplicateGroup]
) -> Iterator[Leak]:
    for group in groups:
        if group.exact and group.kind == "slide":
            continue  # `_torn_slides` tells of these, also where pictures of a store are torn
        kind: LeakKind = group.kind
        name = "equal tiles"
        if not group.exact:
            kind = "near slide" if group.kind == "slide" else "near tile"
            name = f"{group.kind}s that look the same"
        placed = ((_split_of(entries[m.entry], m), m) for m in group.members)
        where = ((split, member) for split, member in placed if split is not None)
        yield from _leak(kind, name, where, group.similarity)


def _split_of(entry: StoreEntry, member: Member) -> str | None:
    """The split that a slide or a tile lies in; None if it is in none, or a slide in several."""
    if entry.split is not None or member.group is None or member.tile is None:
        return entry.split
    for split, sets in entry.splits.items():
        if member.group in sets and member.tile in sets[member.group]:
            return split
    return None


def _by_key(pairs: Iterable[tuple[Key, Part]]) -> Iterator[tuple[Key, list[Part]]]:
    """Parts that share a key, sorted by it, where they lie in two splits or more."""
    found: dict[Key, list[Part]] = defaultdict(list)
    for key, part in pairs:
        found[key].append(part)
    for key in sorted(found):
        if len(frozenset().union(*(part.splits for part in found[key]))) > 1:
            yield key, found[key]


def _stores(parts: Iterable[Part]) -> Iterator[tuple[str, Member]]:
    for part in parts:
        for split in part.splits:
            yield split, Member(part.entry.id)


def _leak(
    kind: LeakKind, name: str, placed: Iterable[tuple[str, Member]], similarity: float = 1.0
) -> Iterator[Leak]:
    members: dict[str, set[Member]] = defaultdict(set)
    for split, member in placed:
        members[split].add(member)
    if len(members) > 1:
        ordered = {split: tuple(sorted(members[split], key=_order)) for split in sorted(members)}
        yield Leak(kind, name, ordered, similarity)


def _order(member: Member) -> tuple[str, str, int]:
    return member.entry, member.group or "", -1 if member.tile is None else member.tile


def _places(members: Sequence[Member]) -> str:
    shown = [
        m.entry if m.tile is None else f"tile {m.tile} of {m.entry} {m.group}"
        for m in members[:_MOST_NAMED]
    ]
    more = len(members) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
