"""What a manifest holds, at a glance: one row per entry, and totals.

Resolutions are true µm per pixel, sizes bytes (MB are 10^6 bytes), counts tiles of all resolutions
of an entry together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manifests.console import printable
from manifests.files import Json
from manifests.model import STATUSES, Manifest, Resolution, Status, StoreEntry

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
    """Tiles of all entries."""
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


def summary_table(summary: Summary) -> Table:
    """The summary for people, as a table with a line of totals; ids are never cut."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    counts = ", ".join(f"{count:,} {status}" for status, count in summary.counts.items() if count)
    table = Table(box=box.SIMPLE, show_footer=True, pad_edge=False)
    table.add_column("id", f"{len(summary.entries):,} in all", overflow="fold")
    table.add_column("status", counts, overflow="fold")
    for name in ("organ", "stain", "dataset"):
        table.add_column(name, overflow="fold")
    table.add_column("µm/px", justify="right", no_wrap=True)
    table.add_column("tiles", f"{summary.tiles:,}", justify="right", no_wrap=True)
    table.add_column("MB", _megabytes(summary.bytes), justify="right", no_wrap=True)
    table.add_column("reason, warnings", overflow="fold")
    for entry in summary.entries:
        table.add_row(*(Text(printable(cell).replace("\n", " ")) for cell in _cells(entry)))
    return table


def _cells(entry: StoreEntry) -> tuple[str, ...]:
    return (
        entry.id,
        entry.status,
        entry.organ or "",
        entry.stain or "",
        entry.dataset or "",
        ", ".join(_mpp(resolution) for resolution in entry.resolutions),
        f"{entry.tiles:,}",
        _megabytes(entry.bytes),
        _note(entry),
    )


def _entry_json(entry: StoreEntry) -> Json:
    return {
        "id": entry.id,
        "status": entry.status,
        "organ": entry.organ,
        "stain": entry.stain,
        "dataset": entry.dataset,
        "resolutions": [
            {"group": item.group, "mpp": list(item.mpp), "tiles": item.tiles}
            for item in entry.resolutions
        ],
        "tiles": entry.tiles,
        "bytes": entry.bytes,
        "reason": entry.reason,
        "warnings": list(entry.warnings),
    }


def _mpp(resolution: Resolution) -> str:
    x, y = (f"{value:.4g}" for value in resolution.mpp)
    return x if x == y else f"{x} × {y}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f}"


def _note(entry: StoreEntry) -> str:
    """The reason and the warnings in one cell, shortened."""
    note = "; ".join([*([entry.reason] if entry.reason else []), *entry.warnings])
    return note if len(note) <= _LONGEST_NOTE else note[: _LONGEST_NOTE - 1] + "…"
