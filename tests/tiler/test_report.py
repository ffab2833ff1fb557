"""Reports: results add up, lines say how far a run is, and quiet is quiet."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from manifests.console import Display
from manifests.model import Resolution, StoreEntry
from tiler.extract import ShardDone
from tiler.outcomes import Failure
from tiler.report import ProgressReporter, result_json, result_table
from tiler.run import RunResult


def entry(name: str, tiles: tuple[int, ...], size: int, **dropped: int) -> StoreEntry:
    resolutions = tuple(
        Resolution(f"{n}", (0.5, 0.5), 0.5, 256, count, 0, (1.0, 1.0))
        for n, count in enumerate(tiles)
    )
    return StoreEntry(
        name,
        "done" if sum(tiles) else "empty",
        f"{name}.svs",
        path=f"{name}.zarr",
        uuid="6f1d1a52-3c0e-5d0a-9f0b-6a1c7a6b2e11",
        spec_hash="0" * 64,
        resolutions=resolutions,
        bytes=size,
        dropped=dropped,
    )


FAILED = StoreEntry("d", "failed", "d.svs", reason="it is broken")
ENTRIES = [
    entry("a", (100, 20), 5_000_000, edge=7, tissue=300, max_tiles=0),
    entry("b", (10,), 1_000_000, edge=1, tissue=50, max_tiles=4),
    entry("c", (0,), 1_000, edge=0, tissue=60),
    FAILED,
]
RESULT = RunResult(
    statuses={"a": "done", "b": "done", "c": "empty", "d": "failed"},
    failures=[Failure("d", "d.svs", "it is broken", "Traceback …")],
    skipped=1,
    tiles=120,
    bytes=4_900_000,
    decoded=130,
    seconds=2.0,
)


def test_a_result_adds_up() -> None:
    data = result_json(RESULT, ENTRIES)
    assert data["slides"] == {"done": 2, "empty": 1, "failed": 1}
    assert sum(data["slides"].values()) == len(RESULT.statuses)
    assert data["tiles"] == sum(item.tiles for item in ENTRIES) == 130
    assert data["bytes"] == 6_001_000
    assert data["dropped"] == {"edge": 8, "max_tiles": 4, "tissue": 410}
    assert (data["skipped"], data["new_tiles"], data["tiles_per_second"]) == (1, 120, 60.0)
    assert data["failures"] == [{"id": "d", "source": "d.svs", "reason": "it is broken"}]
    assert json.loads(json.dumps(data)) == data


def test_a_run_without_work_has_a_result_too() -> None:
    data = result_json(RunResult(), [])
    assert data["slides"] == {"done": 0, "empty": 0, "failed": 0}
    assert (data["tiles"], data["bytes"], data["tiles_per_second"], data["dropped"]) == (
        0,
        0,
        0,
        {},
    )


def test_people_see_the_same_figures() -> None:
    stream = io.StringIO()
    Console(file=stream, width=200).print(result_table(RESULT, ENTRIES))
    shown = stream.getvalue()
    for part in (
        "2 done, 1 empty, 1 failed (1 of them kept from before)",
        "130 (120 new)",
        "6.0 MB",
        "60 tiles/s, 2.0 s",
        "8 by edge, 4 by max_tiles, 410 by tissue",
    ):
        assert part in shown


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def told(stream: io.StringIO, every_s: float = 60, *, quiet: bool = False) -> list[str]:
    """Report a run of three slides, one of which was there before; return the lines."""
    with Display("shards", stream=stream, every_s=every_s, quiet=quiet) as display:
        reporter = ProgressReporter(display)
        reporter.started(3, 1)
        reporter.planned(2)
        for _ in range(2):
            reporter.shard_done(ShardDone(1, 512, 10_000, 600))
        reporter.ended("a[bold]", "done", None)
        reporter.ended("b", "failed", "it is broken")
    return stream.getvalue().splitlines()


LINES = [
    "1 of 3 stores are finished already and are kept",
    "[2/3] a[bold]: done",
    "[3/3] b: failed: it is broken",
]


def test_a_pipe_gets_a_line_per_slide() -> None:
    assert told(io.StringIO()) == LINES


def test_a_pipe_hears_now_and_then_how_far_it_is() -> None:
    progress = [line for line in told(io.StringIO(), every_s=0) if line not in LINES]
    assert [line.split(" tiles,")[0] for line in progress] == [
        "0/2 shards, 1/3 slides, 0",
        "1/2 shards, 1/3 slides, 512",
        "2/2 shards, 1/3 slides, 1024",
        "2/2 shards, 2/3 slides, 1024",
        "2/2 shards, 3/3 slides, 1024",
    ]


def test_a_terminal_gets_a_bar_and_the_lines() -> None:
    stream = Terminal()
    told(stream)
    shown = stream.getvalue()
    for line in LINES:
        assert line in shown
    assert "2/2" in shown
    assert "3/3 slides, 1024 tiles" in shown


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["pipe", "terminal"])
def test_quiet_is_quiet(stream: io.StringIO) -> None:
    assert told(stream, every_s=0, quiet=True) == []
