"""What a run shows while it works and when it ends.

A line per slide and a progress bar go to stderr; the closing table goes to stdout, with `--json` as
one JSON object.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manifests.console import Display
from manifests.files import Json
from manifests.model import StoreEntry
from tiler.extract import ShardDone

if TYPE_CHECKING:
    from rich.table import Table

    from tiler.run import RunResult


class ProgressReporter:
    """Shows a run's progress (see `tiler.run.Reporter`) on a display."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._slides = self._ended = self._tiles = self._shards = self._all_shards = 0
        self._begun = time.monotonic()

    def started(self, slides: int, skipped: int) -> None:
        """The run knows its slides; so many of them are finished already."""
        self._slides, self._ended = slides, skipped
        if skipped:
            self._display.say(f"{skipped} of {slides} stores are finished already and are kept")

    def planned(self, shards: int) -> None:
        """A slide was planned, and has so many shards to cut."""
        self._all_shards += shards
        self._update()

    def shard_done(self, done: ShardDone) -> None:
        """Some shards were written."""
        self._shards += done.shards
        self._tiles += done.tiles
        self._update()

    def ended(self, name: str, status: str, reason: str | None) -> None:
        """A slide ended as `done`, `empty` or `failed`."""
        self._ended += 1
        place = f"[{self._ended}/{self._slides}]"
        self._display.say(f"{place} {name}: {status}" + (f": {reason}" if reason else ""))
        self._update()

    def _update(self) -> None:
        rate = self._tiles / max(1e-3, time.monotonic() - self._begun)
        text = f"{self._ended}/{self._slides} slides, {self._tiles} tiles, {rate:.0f} tiles/s"
        self._display.update(text, self._shards, self._all_shards or None)


def result_json(result: RunResult, entries: Sequence[StoreEntry]) -> Json:
    """A run's result for scripts."""
    return {
        "slides": {
            status: sum(value == status for value in result.statuses.values())
            for status in ("done", "empty", "failed")
        },
        "skipped": result.skipped,
        "tiles": sum(entry.tiles for entry in entries),
        "bytes": sum(entry.bytes for entry in entries),
        "new_tiles": result.tiles,
        "unread_tiles": sum(entry.unread for entry in entries),
        "native_tiles_kept": result.native,
        "native_tiles_distinct": result.cells,
        "native_tiles_decoded": result.decoded,
        "decodes_per_native_tile": _decode_ratio(result),
        "seconds": round(result.seconds, 3),
        "tiles_per_second": round(result.tiles / max(1e-3, result.seconds), 1),
        "dropped": _dropped(entries),
        "failures": [
            {"id": failure.id, "source": failure.source, "reason": failure.reason}
            for failure in result.failures
        ],
    }


def result_table(result: RunResult, entries: Sequence[StoreEntry]) -> Table:
    """A run's result for people: slides, tiles, MB, tiles/s and what the filters dropped."""
    from rich.table import Table

    data = result_json(result, entries)
    table = Table("", "", show_header=False)
    counts = [f"{n} {status}" for status, n in data["slides"].items() if n]
    kept = f" ({result.skipped} of them kept from before)" if result.skipped else ""
    table.add_row("slides", ", ".join(counts) + kept)
    table.add_row("tiles", f"{data['tiles']} ({result.tiles} new)")
    table.add_row("size", f"{data['bytes'] / 1e6:.1f} MB")
    table.add_row("speed", f"{data['tiles_per_second']:.0f} tiles/s, {result.seconds:.1f} s")
    ratio = data["decodes_per_native_tile"]
    if result.native:
        table.add_row("kept as they are", f"{result.native} of the slides' own tiles")
    if ratio:
        table.add_row("decoded", f"{result.cells} native tiles, each {ratio:.3f} times")
    if data["unread_tiles"]:
        table.add_row("unread", f"{data['unread_tiles']} tiles in part: see the column unread")
    dropped = [f"{n} by {reason}" for reason, n in data["dropped"].items() if n]
    table.add_row("dropped", ", ".join(dropped) or "none")
    return table


def _decode_ratio(result: RunResult) -> float | None:
    """Decodes per distinct native tile; None if no tile was cut."""
    return round(result.decoded / result.cells, 4) if result.cells else None


def _dropped(entries: Sequence[StoreEntry]) -> dict[str, int]:
    total: dict[str, int] = {}
    for entry in entries:
        for reason, count in entry.dropped.items():
            total[reason] = total.get(reason, 0) + count
    return dict(sorted(total.items()))
