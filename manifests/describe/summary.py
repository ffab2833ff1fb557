"""What a manifest holds, one row per entry, and totals: for people, JSON and CSV.

Resolutions are true µm per pixel, sizes bytes of the stores on disk (MB are 10^6 bytes), counts
tiles of all resolutions of an entry together. No store is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifests.files import Json
from manifests.listing import Column, Listing, csv_text, rich_table
from manifests.model import CURATED_FIELDS, STATUSES, Manifest, Resolution, Status, StoreEntry

if TYPE_CHECKING:
    from rich.table import Table

_LONGEST_NOTE = 100


@dataclass(frozen=True, slots=True)
class Summary:
    """A manifest's entries and what they add up to."""

    entries: tuple[StoreEntry, ...]
    """Sorted by id."""
    counts: Mapping[Status, int]
    """Entries of each status; every status is named."""
    tiles: int
    """Tiles of all entries, where there is a selection the selected ones."""
    bytes: int
    """Bytes on disk of all entries."""


def summarise(manifest: Manifest) -> Summary:
    """Count a manifest's entries, tiles and bytes; reads no store."""
    found = Counter(entry.status for entry in manifest.stores)
    return Summary(
        entries=manifest.stores,
        counts={status: found[status] for status in STATUSES},
        tiles=sum(entry.tiles for entry in manifest.stores),
        bytes=sum(entry.bytes for entry in manifest.stores),
    )


def summary_json(summary: Summary) -> Json:
    """The summary for programs: `stores` (a list of objects) and `totals`."""
    return {
        "stores": [_entry_json(entry) for entry in summary.entries],
        "totals": {
            "stores": len(summary.entries),
            "status": dict(summary.counts),
            "tiles": summary.tiles,
            "bytes": summary.bytes,
        },
    }


def summary_csv(summary: Summary) -> str:
    """The summary for spreadsheets: always the same columns, a line per entry, no totals."""
    header = (
        *("id", "status", *CURATED_FIELDS, "split", "mpp", "tiles", "tiles_before_selection"),
        *("bytes", "reason", "warnings"),
    )
    return csv_text(header, (_csv_row(entry) for entry in summary.entries))


def summary_table(summary: Summary) -> Table:
    """The summary for people, as a table with a line of totals; ids are never cut."""
    return rich_table(summary_listing(summary))


def summary_listing(summary: Summary) -> Listing:
    """The summary for people: patients and splits stand there where an entry has one."""
    counts = ", ".join(f"{count:,} {status}" for status, count in summary.counts.items() if count)
    patients = any(entry.patient for entry in summary.entries)
    splits = any(entry.split or entry.splits for entry in summary.entries)
    columns = (
        Column("id", f"{len(summary.entries):,} in all"),
        Column("status", counts),
        *map(Column, ("organ", "stain", "dataset")),
        *((Column("patient"),) if patients else ()),
        *((Column("split"),) if splits else ()),
        Column("µm/px", number=True),
        Column("tiles", f"{summary.tiles:,}", number=True),
        Column("MB", _megabytes(summary.bytes), number=True),
        Column("reason, warnings"),
    )
    return Listing(columns, [_cells(entry, patients, splits) for entry in summary.entries])


def _cells(entry: StoreEntry, patients: bool, splits: bool) -> tuple[str, ...]:
    cut, meant = tiles_cut(entry), entry.tiles
    return (
        entry.id,
        entry.status,
        entry.organ or "",
        entry.stain or "",
        entry.dataset or "",
        *((entry.patient or "",) if patients else ()),
        *((_split(entry),) if splits else ()),
        ", ".join(_mpp(resolution) for resolution in entry.resolutions),
        f"{meant:,}" if entry.selection is None else f"{meant:,} of {cut:,}",
        _megabytes(entry.bytes),
        _note(entry),
    )


def _csv_row(entry: StoreEntry) -> tuple[Json, ...]:
    return (
        entry.id,
        entry.status,
        *(getattr(entry, name) for name in CURATED_FIELDS),
        _split(entry),
        ", ".join(_mpp(resolution) for resolution in entry.resolutions),
        entry.tiles,
        tiles_cut(entry),
        entry.bytes,
        entry.reason,
        "; ".join(entry.warnings),
    )


def _entry_json(entry: StoreEntry) -> Json:
    return {
        "id": entry.id,
        "status": entry.status,
        **{name: getattr(entry, name) for name in CURATED_FIELDS},
        "split": entry.split,
        "splits": {
            name: {group: len(entry.members(group, name) or ()) for group in sets}
            for name, sets in sorted(entry.splits.items())
        },
        "resolutions": [
            {"group": item.group, "mpp": list(item.mpp), "tiles": item.tiles}
            for item in entry.resolutions
        ],
        "tiles": entry.tiles,
        "tiles_before_selection": tiles_cut(entry),
        "bytes": entry.bytes,
        "reason": entry.reason,
        "warnings": list(entry.warnings),
    }


def tiles_cut(entry: StoreEntry) -> int:
    """Tiles that an entry's store has, selected or not."""
    return sum(resolution.tiles for resolution in entry.resolutions)


def _split(entry: StoreEntry) -> str:
    return entry.split or ", ".join(sorted(entry.splits))


def _mpp(resolution: Resolution) -> str:
    x, y = (f"{value:.4g}" for value in resolution.mpp)
    return x if x == y else f"{x} × {y}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f}"


def _note(entry: StoreEntry) -> str:
    """The reason and the warnings in one cell, shortened."""
    note = "; ".join([*([entry.reason] if entry.reason else []), *entry.warnings])
    return note if len(note) <= _LONGEST_NOTE else note[: _LONGEST_NOTE - 1] + "…"
