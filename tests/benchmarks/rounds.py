"""Contenders run in turn, round after round, and what is made of the figures: medians and ratios.

Machines drift, so figures of different rounds are never set against each other: a ratio is taken
within each round, and its median over the rounds is what may be quoted.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.benchmarks.contenders import Contender, Made
from tests.benchmarks.measure import CommandFailed, Cost, run


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a contender."""

    cost: Cost
    made: Made

    @property
    def per_cpu_s(self) -> float:
        """Tiles per CPU-second."""
        return self.made.tiles / self.cost.cpu_s

    @property
    def per_s(self) -> float:
        """Tiles per second of wall time."""
        return self.made.tiles / self.cost.wall_s

    @property
    def tile_kb(self) -> float:
        """1000 bytes per tile."""
        return self.made.bytes / self.made.tiles / 1000


@dataclass(slots=True)
class Record:
    """All runs of a contender, or why there are none."""

    name: str
    runs: list[Run] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of some figures."""

    median: float
    least: float
    most: float

    def __format__(self, spec: str) -> str:
        """The median, and the ends in brackets."""
        return f"{self.median:{spec}} ({self.least:{spec}} to {self.most:{spec}})"


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def run_once(contender: Contender, out: Path) -> Run:
    """Run a contender into a fresh folder.

    Raises:
        CommandFailed: it failed, or made no tiles.
    """
    shutil.rmtree(out, ignore_errors=True)
    done = run(contender.command(out))
    made = contender.count(out, done.stdout)
    if not made.tiles:
        raise CommandFailed("it made no tiles")
    return Run(done.cost, made)


def run_rounds(contenders: Sequence[Contender], rounds: int, out: Path) -> list[Record]:
    """Run all contenders once to warm up, then in turn; one that fails drops out."""
    records = [Record(contender.name) for contender in contenders]
    for number in range(rounds + 1):
        for contender, record in zip(contenders, records, strict=True):
            if record.error:
                continue
            print(f"round {number} of {rounds}: {contender.name}", file=sys.stderr)
            try:
                ran = run_once(contender, out)
            except CommandFailed as problem:
                record.error, record.runs = str(problem), []
                continue
            finally:
                shutil.rmtree(out, ignore_errors=True)
            if number:
                record.runs.append(ran)
    return records


def ratio(above: Record, below: Record, figure: Callable[[Run], float]) -> Spread | None:
    """Ratio of two contenders, round by round; none where one of them failed."""
    if not (above.runs and below.runs):
        return None
    pairs = zip(above.runs, below.runs, strict=True)
    return spread([figure(a) / figure(b) for a, b in pairs])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns as wide as they need."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def figures(records: Sequence[Record]) -> str:
    """A table of what each contender reached, medians (least to most); then who failed, and why."""
    header = ["contender", "tiles", "tiles per CPU-s", "tiles per s", "peak MiB", "kB per tile"]
    rows = []
    for record in records:
        if not record.runs:
            continue
        shown = [f"{spread([r.per_cpu_s for r in record.runs]):.1f}"]
        shown += [f"{spread([r.per_s for r in record.runs]):.1f}"]
        shown += [f"{spread([r.cost.peak_mib for r in record.runs]):.0f}"]
        tile_kb = f"{statistics.median([r.tile_kb for r in record.runs]):.1f}"
        rows.append([record.name, str(record.runs[0].made.tiles), *shown, tile_kb])
    failed = [f"{record.name}: {record.error}" for record in records if record.error]
    return "\n\n".join([table(header, rows), *failed])


def ratios(ours: Sequence[Record], theirs: Sequence[Record]) -> str:
    """A table of each of `ours` against those after it and each of `theirs`, within rounds."""
    rows = []
    for number, first in enumerate(ours):
        for second in (*ours[number + 1 :], *theirs):
            by_cpu = ratio(first, second, lambda r: r.per_cpu_s)
            by_wall = ratio(first, second, lambda r: r.per_s)
            if by_cpu and by_wall:
                rows.append([f"{first.name} ÷ {second.name}", f"{by_cpu:.2f}", f"{by_wall:.2f}"])
    return table(["ratio", "by CPU time", "by wall time"], rows) if rows else ""


def records_json(records: Sequence[Record]) -> dict[str, object]:
    """All runs, for a file."""
    return {
        record.name: {"error": record.error, "runs": [asdict(ran) for ran in record.runs]}
        for record in records
    }
