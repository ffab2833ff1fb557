"""What each split got of a set, and of each stratum, beside what was asked for.

A stratum is one combination of values, such as the organ and the stain. A unit counts in every
stratum that a part of it belongs to, tiles count once. Shares are between 0 and 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifests.console import printable
from manifests.files import Json
from manifests.splits.split import SplitResult, SplitRule, stratum_order
from manifests.splits.units import Part

if TYPE_CHECKING:
    from rich.table import Table

_MOST_NAMED = 10
_UNKNOWN = "(unknown)"


@dataclass(frozen=True, slots=True)
class Share:
    """What one split has of a set or a stratum."""

    split: str
    asked: float
    """Share of the units that it should have."""
    units: int
    stores: int
    """Packed stores count in each split that they have pictures in."""
    tiles: int


@dataclass(frozen=True, slots=True)
class Stratum:
    """What all splits have of one combination of values."""

    values: tuple[str | None, ...]
    """Of the fields that the set was stratified by; none of the whole set."""
    shares: tuple[Share, ...]
    """One per split."""

    @property
    def units(self) -> int:
        """Units in all splits."""
        return sum(share.units for share in self.shares)

    @property
    def tiles(self) -> int:
        """Tiles in all splits."""
        return sum(share.tiles for share in self.shares)


def total_of(result: SplitResult, rule: SplitRule) -> Stratum:
    """What the splits have of the whole set."""
    return _stratum((), _with_splits(result), rule)


def strata_of(result: SplitResult, rule: SplitRule) -> tuple[Stratum, ...]:
    """What the splits have of each stratum, sorted by its values; those not known come last."""
    if not rule.stratify:
        return ()
    members: dict[tuple[str | None, ...], list[tuple[int, str, Part]]] = defaultdict(list)
    for member in _with_splits(result):
        members[member[2].fields].append(member)
    return tuple(_stratum(v, members[v], rule) for v in sorted(members, key=stratum_order))


def share_warnings(total: Stratum, strata: Iterable[Stratum]) -> list[str]:
    """A sentence for each split that has nothing, or far from what it should, of a stratum.

    Far means more than one unit and more than half of what was asked for. Strata that are too small
    for a unit in every split are one sentence together.
    """
    found, small = [], []
    for stratum in (total, *strata):
        where = " of " + _named(stratum) if stratum.values else ""
        if stratum.values and min(share.asked for share in stratum.shares) * stratum.units < 1:
            small += [stratum] if not all(share.units for share in stratum.shares) else []
            continue
        for share in stratum.shares:
            quota = share.asked * stratum.units
            off = abs(share.units - quota)
            if not share.units:
                found.append(f"{share.split} has nothing{where}; {quota:.1f} units were asked for")
            elif off > max(1, quota / 2):
                found.append(
                    f"{share.split} has {share.units:,} units{where}; {quota:.1f} were asked for"
                )
    if small:
        names = "; ".join(_named(stratum) for stratum in small[:_MOST_NAMED])
        more = f" and {len(small) - _MOST_NAMED:,} more" if len(small) > _MOST_NAMED else ""
        found.append(f"too few units for every split, so that one has none: {names}{more}")
    return found


def _named(stratum: Stratum) -> str:
    return ", ".join(value or _UNKNOWN for value in stratum.values)


def _with_splits(result: SplitResult) -> Iterator[tuple[int, str, Part]]:
    for index, (unit, split) in enumerate(zip(result.units, result.splits, strict=True)):
        for part in unit.parts:
            yield index, split, part


def _stratum(
    values: tuple[str | None, ...], members: Iterable[tuple[int, str, Part]], rule: SplitRule
) -> Stratum:
    units: dict[str, set[int]] = defaultdict(set)
    stores: dict[str, set[str]] = defaultdict(set)
    tiles: dict[str, int] = defaultdict(int)
    for unit, split, part in members:
        units[split].add(unit)
        stores[split].add(part.entry.id)
        tiles[split] += part.tiles
    shares = (
        Share(name, ratio, len(units[name]), len(stores[name]), tiles[name])
        for name, ratio in zip(rule.names, rule.ratios, strict=True)
    )
    return Stratum(values, tuple(shares))


def shares_json(total: Stratum, strata: Iterable[Stratum], rule: SplitRule) -> Json:
    """For programs: `splits`, and `strata` with the values of each by the name of the field."""
    return {
        "splits": _shares_json(total),
        "strata": [
            {
                "values": dict(zip(rule.stratify, stratum.values, strict=True)),
                "splits": _shares_json(stratum),
            }
            for stratum in strata
        ],
    }


def _shares_json(stratum: Stratum) -> Json:
    return {
        share.split: {
            "asked": round(share.asked, 6),
            "units": share.units,
            "stores": share.stores,
            "tiles": share.tiles,
        }
        for share in stratum.shares
    }


def shares_table(total: Stratum, strata: Iterable[Stratum], rule: SplitRule) -> Table:
    """For people: a row per split, of the whole set and then of each stratum."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in (*rule.stratify, "split"):
        table.add_column(printable(name), overflow="fold")
    for name in ("asked", printable(rule.by), "got", "stores", "tiles", "got"):
        table.add_column(name, justify="right", no_wrap=True)
    for stratum in (total, *strata):
        values = stratum.values or ("all",) * len(rule.stratify)
        labels = [printable(value or _UNKNOWN) for value in values]
        for share in stratum.shares:
            cells = [*labels, share.split, *_cells(share, stratum)]
            table.add_row(*(Text(cell.replace("\n", " ")) for cell in cells))
            labels = [""] * len(labels)
        table.add_section()
    return table


def _cells(share: Share, stratum: Stratum) -> list[str]:
    return [
        f"{share.asked:.1%}",
        f"{share.units:,}",
        _percent(share.units, stratum.units),
        f"{share.stores:,}",
        f"{share.tiles:,}",
        _percent(share.tiles, stratum.tiles),
    ]


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""
