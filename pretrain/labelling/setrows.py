"""Which set each tile is in: training, validation or test, numbered as `SPLITS` lists them.

Sets are what a manifest's splits say, its own or those of a split file made from it. Rows are those
of `Rows`; there are N.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from manifests import Manifest, StoreEntry
from manifests.checks import short
from manifests.model import Selection, TileSets
from manifests.tileset import TileSet
from pretrain.embedding.wanted import Wanted
from pretrain.errors import ConfigError
from pretrain.labelling.rows import Flags, Integers, Rows

SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
ALSO_CALLED = {"training": TRAIN, "valid": VAL, "validation": VAL}
"""Other names that people give them; capitals do not count."""

_MOST_NAMED = 3


def number_of(split: str) -> int | None:
    """Which of `SPLITS` is meant by a name; None for others."""
    name = split.casefold()
    return SPLITS.index(name) if name in SPLITS else ALSO_CALLED.get(name)


@dataclass(frozen=True, slots=True)
class SetRows:
    """The set of each row."""

    numbers: npt.NDArray[np.int8]
    """Index into `SPLITS`, (N,); -1 in none of them."""
    other: Flags
    """Whether a row is in a split of another name, (N,)."""


def sets_of(rows: Rows, split: Manifest | None, counting: Flags) -> SetRows:
    """The set of each row, by the manifest itself or by a split file made from it.

    Entries are matched by the uuids of their stores. Tiles that a split file does not mean (by its
    selection) are in no set.

    Args:
        split: the split file; None: the manifest itself.
        counting: the rows that have a label, (N,): stores of others may be missing in the file.

    Raises:
        ConfigError: there are no splits, none is for training or for test, or the split file was
            made from another manifest.
    """
    names = _names_of(rows.manifest if split is None else split, split is None)
    partner = {part.entry.id: part.entry for part in rows.parts}
    if split is not None:
        partner = _partners(rows, split, counting)
    codes = {name: code for code, name in enumerate(names)}

    def of_part(part: Wanted) -> Integers:
        found = np.full(len(part), -1, dtype=np.int64)
        entry = partner.get(part.entry.id)
        if entry is None:
            return found
        for name in entry.split_names:
            members = entry.members(part.group, name)
            if members is None:
                found[:] = codes[name]
            else:
                count = int(part.indices[-1]) + 1
                found[members.mask(count)[part.indices]] = codes[name]
        return found

    found = rows.gather(of_part)
    sets = np.array([*(-1 if (n := number_of(name)) is None else n for name in names), -1])[found]
    _check_sets(sets[counting], names)
    return SetRows(sets.astype(np.int8), (found >= 0) & (sets < 0))


def _names_of(manifest: Manifest, is_own: bool) -> tuple[str, ...]:
    names = sorted({name for entry in manifest.committed() for name in entry.split_names})
    if not names:
        where = "the manifest has no splits" if is_own else "the split file has no splits in it"
        raise ConfigError(
            f"{where}; make them with `histotile manifest split MANIFEST -o FILE` and give that "
            "FILE by --split"
        )
    return tuple(names)


def _check_sets(sets: Integers, names: Sequence[str]) -> None:
    """Refuse labelled tiles of which none is for training, or none for test."""
    missing = [SPLITS[number] for number in (TRAIN, TEST) if not (sets == number).any()]
    if missing:
        raise ConfigError(
            f"no tile with a label is in a split called {' or '.join(missing)}; the splits are "
            f"{', '.join(map(short, names))}, and there must be train (or training) and test, and "
            "may be val (or valid, validation)"
        )


def _partners(rows: Rows, split: Manifest, counting: Flags) -> dict[str, StoreEntry]:
    """The entry of the split file for each entry of the manifest, by id."""
    by_uuid: dict[str | None, list[StoreEntry]] = defaultdict(list)
    for entry in split.committed():
        by_uuid[entry.uuid].append(entry)
    labelled = {part.entry.id for part in rows.kept(counting).parts}
    found: dict[str, StoreEntry] = {}
    missing = []
    for part in rows.parts:
        entry = part.entry
        same = by_uuid.get(entry.uuid, [])
        if same:
            # Of several copies of a store, the one of the same name.
            found[entry.id] = min(same, key=lambda other: other.id != entry.id)
            _check_same_tiles(part, found[entry.id])
        elif entry.id in labelled and entry.id not in missing:
            missing.append(entry.id)
    if missing:
        shown = ", ".join(map(short, missing[:_MOST_NAMED]))
        more = len(missing) - _MOST_NAMED
        raise ConfigError(
            f"the split file is of another manifest: it lacks {len(missing)} of {len(labelled)} "
            f"stores that have labels ({shown}{f' and {more} more' if more > 0 else ''}); make it "
            "with `histotile manifest split` from this one"
        )
    return found


def _check_same_tiles(part: Wanted, other: StoreEntry) -> None:
    entry = part.entry
    counts = {(r.group, r.tiles, r.tile_size) for r in entry.resolutions}
    theirs = {(r.group, r.tiles, r.tile_size) for r in other.resolutions}
    if counts != theirs:
        ours, told = (
            ", ".join(f"{tiles} tiles of {size} px in {group}" for group, tiles, size in sorted(c))
            for c in (counts, theirs)
        )
        raise ConfigError(
            f"the split file is of another manifest: {short(entry.id)} has {ours} here, but {told} "
            "there; make it with `histotile manifest split` from this one"
        )


def limited(rows: Rows, sets: npt.NDArray[np.int8], made: Manifest) -> Manifest:
    """The manifest with these rows and sets and nothing else, for whatever looks into splits.

    Args:
        sets: index into `SPLITS` of each row, (N,).
        made: the manifest that says how the splits were made.
    """
    members: dict[str, tuple[StoreEntry, dict[str, dict[str, TileSet]]]] = {}
    start = 0
    for part in rows.parts:
        own = sets[start : start + len(part)]
        start += len(part)
        _, splits = members.setdefault(part.entry.id, (part.entry, defaultdict(dict)))
        for number in np.unique(own).tolist():
            splits[SPLITS[number]][part.group] = TileSet.of(part.indices[own == number])
    stores = tuple(_limited(entry, splits) for entry, splits in members.values())
    return replace(rows.manifest, stores=stores, splits=made.splits)


def _limited(entry: StoreEntry, splits: dict[str, dict[str, TileSet]]) -> StoreEntry:
    groups = {group for sets in splits.values() for group in sets}
    meant: TileSets = {
        group: _union([sets[group] for sets in splits.values() if group in sets])
        for group in groups
    }
    # A store in one split says so in one word: leaks of whole slides are known by that alone.
    whole = next(iter(splits)) if len(splits) == 1 else None
    return replace(
        entry,
        selection=Selection((), meant),
        split=whole,
        splits={} if whole is not None else dict(splits),
    )


def _union(sets: Sequence[TileSet]) -> TileSet:
    found = sets[0]
    for other in sets[1:]:
        found |= other
    return found
