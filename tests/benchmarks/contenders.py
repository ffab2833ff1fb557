"""Who takes part: histotile, a plain OpenSlide loop, the bare limit; and how tiles are counted.

A contender is a command that cuts the tiles of some slides into a folder, and a way to count what
it made. Sizes of tiles are pixels of the tile, resolutions µm per pixel.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from manifests import TileStore
from tests.benchmarks.slide import MPP


@dataclass(frozen=True, slots=True)
class Job:
    """What all contenders of a scenario are asked for."""

    slides: tuple[Path, ...]
    """Copies of one slide; their names end in other stems."""
    mpp: float
    tile_size: int
    workers: int
    """0: all in one process, where a contender can."""
    quality: int = 90
    subsampling: str = "444"


@dataclass(frozen=True, slots=True)
class Made:
    """What a run of a contender made."""

    tiles: int
    bytes: int
    facts: dict[str, object]
    """What the command printed of itself."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to cut tiles."""

    name: str
    command: Callable[[Path], list[str]]
    """Command line, given a folder that does not exist yet."""
    count: Callable[[Path, str], Made]
    """Count tiles, given that folder and what was printed."""


def histotile(job: Job, *options: str, name: str = "histotile") -> Contender:
    """`histotile extract` as a user runs it; `options` may override any of the job's."""

    def command(out: Path) -> list[str]:
        asked = ["--mpp", f"{job.mpp:g}", "--tile-size", str(job.tile_size)]
        asked += ["--quality", str(job.quality), "--subsampling", job.subsampling]
        asked += ["--workers", str(job.workers), "--out", str(out), "--quiet", "--json"]
        start = [sys.executable, "-m", "tiler", "extract", *map(str, job.slides)]
        return [*start, *asked, *options]

    return Contender(name, command, count_stores)


def count_stores(out: Path, stdout: str) -> Made:
    """Count the tiles of histotile's stores."""
    totals = [TileStore(store).totals for store in sorted(out.glob("*.zarr"))]
    tiles, size = sum(t["tiles"] for t in totals), sum(t["bytes"] for t in totals)
    return Made(tiles, size, json.loads(stdout))


def kept_positions(out: Path, mpp: float) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Level-0 pixels (N, 2) of the tiles of the first store of a folder, in the store's order.

    That order keeps neighbours together, which serves OpenSlide's cache as it serves histotile.
    """
    group = TileStore(min(out.glob("*.zarr")))[f"{mpp:g}"]
    return np.stack([group.column("x"), group.column("y")], axis=1).astype(np.int64)


def openslide_loop(job: Job, positions: Path) -> Contender:
    """The plain loop, handed the positions."""
    region = str(round(job.tile_size * job.mpp / MPP))

    def command(out: Path) -> list[str]:
        start = [sys.executable, "-m", "tests.benchmarks.openslide_loop", str(positions), str(out)]
        asked = [region, str(job.tile_size), str(job.quality), job.subsampling]
        return [*start, *asked, *map(str, job.slides)]

    return Contender("OpenSlide loop", command, count_printed)


def bare_limit(job: Job, positions: Path) -> Contender:
    """Decoding each native tile once and encoding each tile, in memory."""
    factor = str(round(job.mpp / MPP))

    def command(_: Path) -> list[str]:
        start = [sys.executable, "-m", "tests.benchmarks.bare_limit", str(positions), factor]
        asked = [str(job.tile_size), str(job.quality), job.subsampling]
        return [*start, *asked, *map(str, job.slides)]

    return Contender("bare limit", command, count_printed)


def count_printed(_: Path, stdout: str) -> Made:
    """Take the count from the JSON that a loop printed."""
    said = json.loads(stdout)
    return Made(said["tiles"], said["bytes"], said)


def slide_facts(slide: Path) -> dict[str, object]:
    """Size, native tile and compression of level 0."""
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.pages[0].aspage()
        return {
            "width": page.imagewidth,
            "height": page.imagelength,
            "native": page.tilewidth,
            "compression": "jpeg" if page.jpegtables else "jpeg2000",
            "bytes": slide.stat().st_size,
        }


def copies(slide: Path, folder: Path, number: int) -> tuple[Path, ...]:
    """One slide under several names; one alone is taken as it is.

    Hard links: histotile follows symbolic ones, and would cut the slide only once.
    """
    if number == 1:
        return (slide,)
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / f"{slide.stem}-{index}.svs" for index in range(number))
    for file in files:
        file.unlink(missing_ok=True)
        try:
            os.link(slide, file)
        except OSError:  # another file system
            shutil.copyfile(slide, file)
    return files
