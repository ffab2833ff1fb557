"""Lists that say which split some units belong to, such as the official test cases of a set.

A list is a text file in UTF-8, one name a line; empty lines and lines that begin with `#` say
nothing. A name is a unit's value (a patient), else the id of an entry, else `id/picture`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from manifests.checks import short
from manifests.model import Manifest
from manifests.splits.units import SplitError, Unit, suggestion, value_of

_MOST_SHOWN = 20
_MOST_SUGGESTIONS = 5
"""A suggestion looks at every name there is."""


@dataclass(frozen=True, slots=True)
class UnitList:
    """What must lie in one split."""

    split: str
    file: str
    """Name of the list, for messages."""
    names: tuple[str, ...]


def read_list(option: str, splits: Sequence[str]) -> UnitList:
    """Read the list that `FILE` or `SPLIT=FILE` names; without a split, the last one is meant.

    Raises:
        SplitError: the split is unknown, or the file is missing or not UTF-8.
    """
    head, equals, tail = option.partition("=")
    named = bool(equals) and head in splits
    file = Path(tail if named else option)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or not UTF-8
        reason = error.strerror if isinstance(error, OSError) else error
        hint = "" if named or not equals else f"; splits are {', '.join(splits)}"
        raise SplitError(f"the list {short(str(file))} cannot be read ({reason}){hint}") from error
    lines = [line.strip() for line in text.splitlines()]
    names = tuple(line for line in lines if line and not line.startswith("#"))
    return UnitList(head if named else splits[-1], file.name, names)


def match_lists(
    units: Sequence[Unit], manifest: Manifest, by: str, lists: Sequence[UnitList]
) -> tuple[dict[int, str], int]:
    """Find the units that lists name.

    Returns:
        The split of each unit that is listed, by its index; and how many names are those of slides
        without tiles, which are in no split.

    Raises:
        SplitError: a name fits nothing, or a unit is in the lists of two splits.
    """
    if not lists:
        return {}, 0
    known = _known(units)
    without_tiles = {
        name
        for entry in manifest.stores
        if entry.status != "done"
        for name in (entry.id, value_of(entry, by))
        if name is not None
    }
    found: dict[int, str] = {}
    named: dict[int, str] = {}
    unused = 0
    for item in lists:
        _check_all_known(item, known, without_tiles)
        for name in item.names:
            unused += name not in known
            for unit in known.get(name, ()):
                if found.setdefault(unit, item.split) != item.split:
                    raise SplitError(
                        f"{item.file} puts {short(name)} in {item.split}, but the list of "
                        f"{found[unit]} names {short(named[unit])}, which is the same {by}"
                    )
                named.setdefault(unit, name)
    return found, unused


def _known(units: Sequence[Unit]) -> Mapping[str, tuple[int, ...]]:
    """Units by all names that they go by; a value counts before an id, an id before a picture."""
    values = {value: (index,) for index, unit in enumerate(units) for value in unit.values}
    pictures = {part.name: (index,) for index, unit in enumerate(units) for part in unit.parts}
    ids: dict[str, dict[int, None]] = defaultdict(dict)
    for index, unit in enumerate(units):
        for part in unit.parts:
            ids[part.entry.id][index] = None
    return {**pictures, **{name: tuple(found) for name, found in ids.items()}, **values}


def _check_all_known(
    item: UnitList, known: Mapping[str, tuple[int, ...]], without_tiles: set[str]
) -> None:
    strange = [name for name in item.names if name not in known and name not in without_tiles]
    if not strange:
        return
    shown = [
        short(name) + (suggestion(name, known) if place < _MOST_SUGGESTIONS else "")
        for place, name in enumerate(strange[:_MOST_SHOWN])
    ]
    more = f" and {len(strange) - _MOST_SHOWN} more" if len(strange) > _MOST_SHOWN else ""
    raise SplitError(
        f"{item.file}: {len(strange)} of {len(item.names)} names fit nothing in the manifest: "
        f"{', '.join(shown)}{more}"
    )
