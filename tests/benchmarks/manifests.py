"""What commands on manifests of a large study take: wall seconds and peak memory, whole processes.

`python -m tests.benchmarks.manifests`: 100 manifests of 300 stores (some hundred million tiles, no
pixels) are merged; the result is shown, summarised, split and selected from. Prints a line per
command: median (least to most) of n runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from manifests.jsonfile import load_manifest
from tests.benchmarks.make_manifests import write_manifest
from tests.benchmarks.measure import Cost, machine, run

PROGRAM = (sys.executable, "-m", "tiler", "manifest")
WHERE = 'organ == "lung" and stain != "H&E"'


def commands(folder: Path, manifests: int) -> dict[str, list[str | Path]]:
    """The commands to time, each by what it does; `all.json` is made by the first."""
    parts = [folder / f"part-{number}" for number in range(manifests)]
    whole = folder / "all.json"
    split = ["--by", "patient", "--ratios", "0.8,0.1,0.1", "--stratify", "organ,stain"]
    return {
        f"merge {manifests} manifests": ["merge", *parts, "-o", whole],
        "merge it with itself": ["merge", whole, whole, "-o", folder / "again.json"],
        "show": ["show", whole],
        "summary": ["summary", whole],
        "split": ["split", whole, *split, "-o", folder / "split.json"],
        "select by stain and organ": [
            "select",
            whole,
            "--where",
            WHERE,
            "-o",
            folder / "lung.json",
        ],
        "select 1,000 tiles a slide": [
            *("select", whole, "--max-per-slide", "1000", "-o", folder / "capped.json")
        ],
        "show what was drawn": ["show", folder / "capped.json"],
    }


def told(costs: Sequence[Cost]) -> str:
    """One cell each for time and memory."""
    seconds = [cost.wall_s for cost in costs]
    peak = max(cost.peak_mib for cost in costs)
    spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
    return f"{statistics.median(seconds):5.1f} s {spread:16} {peak:5.0f} MiB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the manifests, time the commands, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", type=int, default=30_000)
    parser.add_argument("--manifests", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args(arguments)
    each = asked.stores // asked.manifests
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(asked.manifests):
            write_manifest(folder / f"part-{number}/manifest.json", number * each, each)
        print(json.dumps(machine()))
        for title, command in commands(folder, asked.manifests).items():
            costs = [run([*PROGRAM, *command]).cost for _ in range(asked.rounds)]
            print(f"{title:34} {told(costs)}", flush=True)
        whole = folder / "all.json"
        tiles = sum(entry.tiles for entry in load_manifest(whole).stores)
        print(f"{each * asked.manifests:,} stores, {tiles:,} tiles, {whole.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
