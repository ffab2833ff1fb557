"""What a run shows while it works and when it ends.

On a terminal a progress bar, elsewhere a plain line per slide and now and then one in between; all
of that goes to stderr. The closing table goes to stdout, for `--json` as one JSON object.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from manifests.files import Json
from manifests.model import StoreEntry
from tiler.extract import ShardDone

if TYPE_CHECKING:
    from rich.table import Table

    from tiler.run import RunResult

_LINE_EVERY_S = 30.0


class ProgressReporter:
    """Shows a run's progress on a stream; use as a context manager."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._bar: Progress | None = None
        if self._stream.isatty() and not quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} shards"),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=Console(file=self._stream))
        self._slides = self._ended = self._tiles = self._shards = self._all_shards = 0
        self._begun = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("finding tissue", total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line of talk."""
        if self._quiet:
            return
        if self._bar is not None and self._bar.live.is_started:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def started(self, slides: int, skipped: int) -> None:
        """See `tiler.run.Reporter`."""
        self._slides, self._ended = slides, skipped
        if skipped:
            self.say(f"{skipped} of {slides} stores are finished already and are kept")

    def planned(self, shards: int) -> None:
        """See `tiler.run.Reporter`."""
        self._all_shards += shards
        self._update()

    def shard_done(self, done: ShardDone) -> None:
        """See `tiler.run.Reporter`."""
        self._shards += 1
        self._tiles += done.tiles
        self._update()

    def ended(self, name: str, status: str, reason: str | None) -> None:
        """See `tiler.run.Reporter`."""
        self._ended += 1
        place = f"[{self._ended}/{self._slides}]"
        self.say(f"{place} {name}: {status}" + (f": {reason}" if reason else ""))
        self._update()

    def _update(self) -> None:
        rate = self._tiles / max(1e-3, time.monotonic() - self._begun)
        text = f"{self._ended}/{self._slides} slides, {self._tiles} tiles, {rate:.0f} tiles/s"
        if self._bar is not None:
            total = self._all_shards or None
            self._bar.update(self._task, completed=self._shards, total=total, description=text)
        elif time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.say(text)


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
    dropped = [f"{n} by {reason}" for reason, n in data["dropped"].items() if n]
    table.add_row("dropped", ", ".join(dropped) or "none")
    return table


def _dropped(entries: Sequence[StoreEntry]) -> dict[str, int]:
    total: dict[str, int] = {}
    for entry in entries:
        for reason, count in entry.dropped.items():
            total[reason] = total.get(reason, 0) + count
    return dict(sorted(total.items()))
