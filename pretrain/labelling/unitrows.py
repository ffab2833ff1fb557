"""Which unit each tile belongs to: what splits must not tear, and what intervals resample.

A unit is all tiles of a patient or a group, else of one slide or picture; copies of a slide are one
unit, as in `manifests.splits.units`. Rows are those of `Rows`; there are N.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from manifests import Manifest
from manifests.splits.leaks import units_to_check
from manifests.splits.units import Part, check_known, join_units, list_parts
from pretrain.embedding.wanted import Wanted
from pretrain.errors import ConfigError
from pretrain.labelling.rows import Flags, Integers, Rows
from pretrain.labelling.setrows import TRAIN, VAL
from pretrain.mixing.keyed import key_of

KIN_COLUMNS = ("patient", "group")
"""What units are made by where neither the user nor the split says it."""
_SHARE_OF_VAL = 5
"""A fifth of the training units is for validation, where there is no such split."""


@dataclass(frozen=True, slots=True)
class UnitRows:
    """The unit of each row."""

    numbers: Integers
    """Index into `names`, (N,)."""
    names: tuple[str, ...]
    by: tuple[str, ...]
    """What units are made by; `slide` or `picture` where nothing is known that joins them."""
    known: tuple[str, ...]
    """Of these, the fields and columns that the manifest knows; () for slides and pictures."""

    def kept(self, mask: Flags) -> UnitRows:
        """Only the rows at which a mask, (N,), is true, and the units that they have."""
        found, numbers = np.unique(self.numbers[mask], return_inverse=True)
        names = tuple(self.names[number] for number in found.tolist())
        return replace(self, numbers=numbers.astype(np.int64), names=names)


def units_of(rows: Rows, made: Manifest, by: Sequence[str] | None) -> UnitRows:
    """The unit of each row.

    Args:
        made: `limited` to these rows.
        by: fields or columns; by default what the splits were made by, else patient and group, as
            far as something is said of them, else slides and pictures are their own units.

    Raises:
        SplitError: nothing has a value of a name in `by`.
        StoreError: a packed store is missing or damaged.
    """
    known = tuple(by or _known_names(rows, made))
    parts: list[Part] = []
    joined = []
    for name in known:
        parts = list_parts(made, name)
        check_known(made, parts, name)
        joined.append(_numbered(parts))
    if not known:
        # Without a value each part is a unit, but for copies of it.
        parts = [replace(part, value=None) for part in list_parts(made, "id")]
        joined.append(_numbered(parts))
    numbers, names = joined[0] if len(joined) == 1 else _joined(joined)
    kinds = {"slide" if part.picture is None else "picture" for part in parts}
    of_entry: dict[str, dict[int, int]] = defaultdict(dict)
    for part, number in zip(parts, numbers.tolist(), strict=True):
        of_entry[part.entry.id][-1 if part.picture is None else part.picture] = number

    def of_part(part: Wanted) -> Integers | int:
        own = of_entry[part.entry.id]
        if -1 in own:
            return own[-1]
        table = np.full(max(own) + 1, -1, dtype=np.int64)
        table[list(own)] = list(own.values())
        found: Integers = table[rows.sources(part)]
        return found

    return UnitRows(rows.gather(of_part), names, known or tuple(sorted(kinds)), known)


def _known_names(rows: Rows, made: Manifest) -> list[str]:
    """What joins tiles, if nobody says: names that something is known of."""
    for names in (units_to_check(made), KIN_COLUMNS):
        if known := [name for name in names if rows.values(name).known.any()]:
            return known
    return []


def _numbered(parts: Sequence[Part]) -> tuple[Integers, tuple[str, ...]]:
    """The unit of each part, and the names of the units."""
    units = join_units(parts)
    of_part = {
        (part.entry.id, part.picture): number
        for number, unit in enumerate(units)
        for part in unit.parts
    }
    numbers = np.array([of_part[part.entry.id, part.picture] for part in parts], dtype=np.int64)
    return numbers, tuple(unit.name for unit in units)


def _joined(
    found: Sequence[tuple[Integers, tuple[str, ...]]],
) -> tuple[Integers, tuple[str, ...]]:
    """Units that hold together what any of several units holds together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(found[0][0])
    nodes = count
    one, other = [], []
    for numbers, names in found:
        one.append(np.arange(count))
        other.append(nodes + numbers)
        nodes += len(names)
    pairs = np.concatenate(one), np.concatenate(other)
    graph = coo_array((np.ones(len(pairs[0])), pairs), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    _, first, joined = np.unique(component[:count], return_index=True, return_inverse=True)
    numbers, names = found[0]
    return joined.astype(np.int64), tuple(names[n] for n in numbers[first].tolist())


def spare_val(
    sets: npt.NDArray[np.int8], units: UnitRows, classes: Integers, seed: int
) -> npt.NDArray[np.int8]:
    """The sets with about a fifth of the training units of each class moved to validation.

    Which units go is a function of their names and the seed. Every class keeps a training unit.

    Args:
        classes: class of each row, (N,); all 0 for regression.

    Raises:
        ConfigError: no unit can be spared.
    """
    pairs = np.unique(np.stack([classes, units.numbers])[:, sets == TRAIN], axis=1).T.tolist()
    of_class: dict[int, list[int]] = defaultdict(list)
    of_unit: dict[int, list[int]] = defaultdict(list)
    for klass, unit in pairs:
        of_class[klass].append(unit)
        of_unit[unit].append(klass)
    left = Counter(klass for klass, _ in pairs)
    taken: set[int] = set()
    # Rare classes first: what is taken for them counts for the others.
    for klass in sorted(of_class, key=lambda k: (len(of_class[k]), k)):
        members = sorted(of_class[klass], key=lambda unit: key_of(seed, "val", units.names[unit]))
        for unit in members:
            had = len(of_class[klass]) - left[klass]
            if had >= max(1, round(len(members) / _SHARE_OF_VAL)):
                break
            if unit not in taken and all(left[k] > 1 for k in of_unit[unit]):
                taken.add(unit)
                left.subtract(of_unit[unit])
    if not taken:
        raise ConfigError(
            "there is no val split, and no unit can be spared from train for it, as every class "
            "must keep one; make splits with train, val and test"
        )
    moved = (sets == TRAIN) & np.isin(units.numbers, sorted(taken))
    return np.where(moved, np.int8(VAL), sets)
