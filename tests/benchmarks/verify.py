"""`histotile manifest verify --deep` against plain reading: `python -m tests.benchmarks.verify`.

Makes stores of random tiles, then lets `cat FILES >/dev/null` and whole `verify` processes read
them in turn, n times each, and prints how many times as fast as `cat` each level reads. Warm: the
files stay in the page cache. Cold: they are dropped from it before each run (Linux).
Seconds are wall time, GB 10^9 bytes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manifests.codec import TileCodec
from manifests.files import spec_hash
from manifests.jsonfile import save_manifest
from manifests.layout import TilesLayout
from manifests.model import Manifest, Resolution, StoreEntry
from manifests.store import GroupPlan, StoreWriter, TileStore
from tests.benchmarks.measure import machine, run

TILE_BYTES = (10_000, 40_000)
"""Least and most bytes of a tile; 256 px at JPEG quality 90 are some 30 kB of tissue."""
SHARD_TILES = 512
STORE_SHARDS = 40
LEVELS = ("--deep", "--sha256")
CLI = "from manifests.cli.verify import verify; verify()"


def make_store(path: Path, tiles: int, seed: int) -> StoreEntry:
    """A committed store of random payloads, and its entry."""
    rng = np.random.default_rng(seed)
    codec = TileCodec("jpeg")
    group = GroupPlan(
        layout=TilesLayout(tiles, 256, SHARD_TILES, codec),
        attributes={"mpp": [0.5, 0.5], "mpp_requested": 0.5},
        columns={"x": np.arange(tiles), "y": np.arange(tiles)},
    )
    spec = {"seed": seed}
    uuid = f"12345678-1234-5678-1234-{seed:012x}"
    writer = StoreWriter(path)
    writer.plan(
        {"uuid": uuid, "groups": ["0.5"], "spec": spec, "spec_hash": spec_hash(spec)},
        {"0.5": group},
        {},
    )
    for shard in writer.missing_shards("0.5"):
        count = len(group.layout.shard_range(shard))
        sizes = rng.integers(*TILE_BYTES, count).tolist()
        writer.write_shard("0.5", shard, (rng.bytes(size) for size in sizes), {})
    totals = writer.commit()
    return StoreEntry(
        id=path.stem,
        status="done",
        source=f"{path.stem}.svs",
        path=path.name,
        uuid=uuid,
        spec_hash=spec_hash(spec),
        commit=TileStore(path).commit_sha256,
        resolutions=(Resolution("0.5", (0.5, 0.5), 0.5, 256, tiles, 0, (1.0, 1.0)),),
        bytes=totals["bytes"],
    )


def make_set(folder: Path, size_gb: float) -> list[Path]:
    """Stores of about that size together, their manifest, and the list of all their files."""
    tiles = int(size_gb * 1e9 / np.mean(TILE_BYTES))
    most = SHARD_TILES * STORE_SHARDS
    counts = [min(most, tiles - start) for start in range(0, tiles, most)]
    entries = [
        make_store(folder / f"slide-{number}.zarr", count, number)
        for number, count in enumerate(counts)
    ]
    save_manifest(Manifest(tuple(entries)), folder / "manifest.json")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def forget(files: Sequence[Path]) -> None:
    """Drop files from the page cache; what is not yet on disk would stay."""
    os.sync()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def seconds(command: Sequence[str | Path], files: Sequence[Path], *, cold: bool) -> float:
    """Wall time of one process."""
    if cold:
        forget(files)
    return run(command).cost.wall_s


def compare(folder: Path, files: Sequence[Path], repeats: int, *, cold: bool) -> None:
    """Print what reading takes, by turns."""
    size = sum(file.stat().st_size for file in files)
    cat: list[str | Path] = ["sh", "-c", 'exec cat "$@" >/dev/null', "cat", *files]
    commands: dict[str, list[str | Path]] = {
        level: [sys.executable, "-c", CLI, folder, level, "--quiet"] for level in LEVELS
    }
    ratios: dict[str, list[float]] = {level: [] for level in LEVELS}
    speeds: dict[str, list[float]] = {"cat": [], **{level: [] for level in LEVELS}}
    if not cold:
        subprocess.run(cat, check=True)  # fills the page cache
    for _ in range(repeats):
        cat_s = seconds(cat, files, cold=cold)
        speeds["cat"].append(size / cat_s / 1e9)
        for level, command in commands.items():
            took_s = seconds(command, files, cold=cold)
            ratios[level].append(cat_s / took_s)
            speeds[level].append(size / took_s / 1e9)
    print(f"{'cold' if cold else 'warm'}, {size / 1e9:.1f} GB in {len(files)} files, n = {repeats}")
    for name, values in speeds.items():
        line = f"  {name:9} {statistics.median(values):6.2f} GB/s"
        if name in ratios:
            low, middle, high = (f(ratios[name]) for f in (min, statistics.median, max))
            line += f"   {low:.2f} / {middle:.2f} / {high:.2f} of cat (min / median / max)"
        print(line)


def main() -> None:
    """Make the stores, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the stores together")
    parser.add_argument("-n", type=int, default=5, help="runs of each")
    parser.add_argument("--work", type=Path, help="folder to make the stores in")
    arguments = parser.parse_args()
    facts = machine()
    print(f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}")
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        files = make_set(Path(folder), arguments.gb)
        for cold in (False, True):
            compare(Path(folder), files, arguments.n, cold=cold)


if __name__ == "__main__":
    main()
