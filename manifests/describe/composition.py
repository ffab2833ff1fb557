"""What a whole set is made of, as a table, JSON and CSV: its groups, and what they add up to.

Sizes are bytes (MB 10^6, GB 10^9), resolutions µm per pixel. JSON and CSV name what is not known as
null and as an empty cell, and always have the same keys.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from manifests.describe.groups import DEFAULT_FIELDS, Group, Value, group_parts, parts_of
from manifests.describe.summary import summarise
from manifests.files import Json
from manifests.listing import Column, Listing, csv_text, one_line, print_listing
from manifests.model import CURATED_FIELDS, Manifest, Status

_COUNTS = ("slides", "packed_stores", "patients", "tiles", "tiles_before_selection", "bytes")
_MOST_NOTED = 12


@dataclass(frozen=True, slots=True)
class Composition:
    """The groups of a set by some fields, and what holds for all of it."""

    fields: tuple[str, ...]
    groups: tuple[Group, ...]
    """Most tiles first."""
    totals: Group
    """All of it as one group: a slide that is in several groups counts once."""
    stores: int
    """Entries of the manifest."""
    status: Mapping[Status, int]
    """Entries of each status."""
    unknown: Mapping[str, int]
    """Stores with tiles of which a field is not known; a packed store may know the patient of each
    picture, so `patient` leaves those out."""
    kinds: Mapping[str, tuple[Group, ...]]
    """The groups by each of `license`, `mpp`, `tile_size` and `codec` alone."""


def compose(manifest: Manifest, fields: Sequence[str] = DEFAULT_FIELDS) -> Composition:
    """What a set is made of, by some fields; reads no store.

    Raises:
        UnknownField: as `group_by`.
    """
    summary = summarise(manifest)
    nothing = Group((), 0, 0, 0, 0, 0, 0, estimated=False, mpp=(0, 0), parts=())
    parts = parts_of(manifest)
    meant = {part.entry.id: part.entry for part in parts if part.tiles}.values()
    return Composition(
        fields=tuple(fields),
        groups=group_parts(parts, fields),
        totals=next(iter(group_parts(parts, ())), nothing),
        stores=len(summary.entries),
        status=summary.counts,
        unknown={
            name: sum(
                getattr(entry, name) is None and not (name == "patient" and entry.packed)
                for entry in meant
            )
            for name in CURATED_FIELDS
        },
        kinds={name: group_parts(parts, [name]) for name in _KINDS},
    )


_KINDS = {"license": "licenses", "mpp": "resolutions", "tile_size": "tile_sizes", "codec": "codecs"}


def composition_json(found: Composition) -> Json:
    """The composition for programs: `by`, `groups`, `totals`, `unknown` and the kinds."""
    return {
        "by": list(found.fields),
        "groups": [
            {"fields": _named(found.fields, group), **_counts(group)} for group in found.groups
        ],
        "totals": {"stores": found.stores, "status": dict(found.status), **_counts(found.totals)},
        "unknown": dict(found.unknown),
        **{
            plural: [{**_named([name], group), **_counts(group)} for group in found.kinds[name]]
            for name, plural in _KINDS.items()
        },
    }


def _named(fields: Sequence[str], group: Group) -> dict[str, Value]:
    return dict(zip(fields, group.key, strict=True))


def _counts(group: Group) -> dict[str, Json]:
    return {
        **dict(zip(_COUNTS, _numbers(group), strict=True)),
        "bytes_estimated": group.estimated,
        "mpp_true": list(group.mpp) if group.parts else None,
    }


def _numbers(group: Group) -> tuple[int, ...]:
    before = group.tiles_before_selection
    return (group.slides, group.packed, group.patients, group.tiles, before, group.bytes)


def composition_csv(found: Composition) -> str:
    """The groups for spreadsheets: a line per group, the fields first."""
    header = (*found.fields, *_COUNTS, "bytes_estimated", "mpp_least", "mpp_most")
    rows = (
        (*group.key, *_numbers(group), str(group.estimated).lower(), *group.mpp)
        for group in found.groups
    )
    return csv_text(header, rows)


def composition_listing(found: Composition) -> Listing:
    """The groups for people; a field that is never known and a count that is 0 are left out."""
    places = [
        i for i, _ in enumerate(found.fields) if any(g.key[i] is not None for g in found.groups)
    ]
    counts = [(name, cell) for name, cell, shown in _count_columns(found.totals) if shown]
    in_all = f"{len(found.groups):,} in all"
    numbers = ("mpp", "tile_size")
    columns = (
        *(
            Column(field_title(name), "" if i > places[0] else in_all, name in numbers)
            for i, name in enumerate(found.fields)
            if i in places
        ),
        *(Column(name, cell(found.totals), number=True) for name, cell in counts),
    )
    rows = [
        (*(value_text(group.key[i]) for i in places), *(cell(group) for _, cell in counts))
        for group in found.groups
    ]
    return Listing(columns, rows)


def _count_columns(totals: Group) -> Iterator[tuple[str, Callable[[Group], str], bool]]:
    """Name, cell and whether to show it, of each count."""
    unit, size = ("GB", 1e9) if totals.bytes >= 1e9 else ("MB", 1e6)
    yield "slides", lambda group: _count(group.slides), True
    yield "packed", lambda group: _count(group.packed), totals.packed > 0
    yield "patients", lambda group: _count(group.patients), totals.patients > 0
    yield "tiles", lambda group: f"{group.tiles:,}", True
    selected = totals.tiles != totals.tiles_before_selection
    yield "of", lambda group: f"{group.tiles_before_selection:,}", selected
    yield unit, lambda group: _about(group) + f"{group.bytes / size:,.1f}", True


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _about(group: Group) -> str:
    return "≈ " if group.estimated else ""


def field_title(name: str) -> str:
    """A field as a heading."""
    return {"mpp": "µm/px", "tile_size": "px"}.get(name, name.replace("_", " "))


def value_text(value: Value) -> str:
    """A field's value on one line; empty if it is not known."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value))


def notes(found: Composition) -> tuple[tuple[str, str], ...]:
    """What else is to be said of the whole set: a heading and a sentence each."""
    status = ", ".join(f"{count:,} {name}" for name, count in found.status.items() if count)
    unknown = ", ".join(f"{field_title(k)} {n:,}" for k, n in found.unknown.items() if n)
    estimated = any(group.estimated for group in (found.totals, *found.groups))
    twice = sum(group.slides for group in found.groups) > found.totals.slides
    said = (
        ("entries", f"{found.stores:,}" + (f": {status}" if status else "")),
        ("µm/px", _listed(found.kinds["mpp"])),
        ("tile size", _listed(found.kinds["tile_size"], " px")),
        ("codec", _listed(found.kinds["codec"])),
        ("licence", _listed(found.kinds["license"])),
        ("not known", unknown and f"{unknown} (stores with tiles)"),
        ("packed", _PACKED if found.totals.packed else ""),
        ("slides", _TWICE if twice else ""),
        ("≈", _ESTIMATED if estimated else ""),
    )
    return tuple((name, text) for name, text in said if text)


_PACKED = "folders of ready-made pictures; their slides and patients are not counted"
_TWICE = "one that is in several groups counts in each, and once in the total"
_ESTIMATED = "a share of a store's bytes, by its number of tiles"


def print_composition(found: Composition) -> None:
    """Print the groups as a table on stdout, and below it what else is to be said."""
    print_listing(composition_listing(found))
    said = notes(found)
    width = max((len(name) for name, _ in said), default=0)
    sys.stdout.writelines(f" {name:<{width}}   {text}\n" for name, text in said)


def _listed(groups: Sequence[Group], unit: str = "") -> str:
    """The tiles of each value of a field in words; empty if no value is known."""
    if all(group.key == (None,) for group in groups):
        return ""
    shown = [
        f"{'not known' if group.key == (None,) else value_text(group.key[0]) + unit}: "
        f"{group.tiles:,} tiles"
        for group in groups[:_MOST_NOTED]
    ]
    more = len(groups) - len(shown)
    return "; ".join(shown) + (f"; {more:,} more" if more else "")
