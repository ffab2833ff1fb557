"""How fast tiles are cut, against a plain OpenSlide loop: `python -m tests.benchmarks.extract`.

Both do the same job as whole processes, in turn, several times: the tiles that histotile keeps of
one slide, 256 px at the asked µm per pixel, as JPEG on disk. Printed are tiles per CPU-second (user
and system time of all processes, as the operating system counts it) and the ratio pair by pair;
quote ratios of one run, since machines drift.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from manifests import TileStore
from tiler.synthetic import paint, write_slide

LOOP = """
import sys
from pathlib import Path
import numpy, openslide, simplejpeg
slide, positions, out, native = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
out.mkdir()
reader = openslide.OpenSlide(slide)
for number, (x, y) in enumerate(numpy.load(positions)):
    region = reader.read_region((int(x), int(y)), 0, (native, native)).convert("RGB")
    pixels = numpy.asarray(region.resize((256, 256), 4))
    data = simplejpeg.encode_jpeg(numpy.ascontiguousarray(pixels), 90, "RGB", "444")
    (out / f"{number}.jpg").write_bytes(data)
"""


def cpu_seconds(command: list[str]) -> float:
    """Run a command; return the CPU-seconds of it and its children."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


def histotile(slide: Path, mpp: float, out: Path, workers: int) -> list[str]:
    options = ["--mpp", f"{mpp:g}", "--out", str(out), "--workers", str(workers), "--quiet"]
    return [sys.executable, "-m", "tiler", "extract", str(slide), *options]


def main() -> None:
    """Make a slide, run both in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--mpp", type=float, default=0.5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        compare(folder, arguments.mpp, arguments.runs, arguments.workers)
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, mpp: float, runs: int, workers: int) -> None:
    """Time both on a painted slide of 0.25 µm/px and print what came of it."""
    slide = folder / "slide.tif"
    # Painted once and repeated: painting a large slide takes longer than cutting it.
    patch = paint("he", 4096, 4096, 1)
    write_slide(slide, np.tile(patch, (3, 4, 1)), 0.25)
    command = histotile(slide, mpp, folder / "tiles", workers)
    cpu_seconds(command)
    group = TileStore(folder / "tiles" / "slide.zarr")[f"{mpp:g}"]
    positions = folder / "positions.npy"
    np.save(positions, np.stack([group.column("x"), group.column("y")], axis=1))
    native = str(round(256 * mpp / 0.25))
    loop = [sys.executable, "-c", LOOP, str(slide), str(positions), str(folder / "loop"), native]
    ours, theirs = [], []
    for _ in range(runs):
        shutil.rmtree(folder / "tiles", ignore_errors=True)
        ours.append(len(group) / cpu_seconds(command))
        shutil.rmtree(folder / "loop", ignore_errors=True)
        theirs.append(len(group) / cpu_seconds(loop))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"{len(group)} tiles of 256 px at {mpp:g} µm/px from 0.25 µm/px, n = {runs}")
    for name, values in (("histotile", ours), ("OpenSlide loop", theirs), ("ratio", ratios)):
        unit = "" if name == "ratio" else " tiles per CPU-second"
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:15} {middle:8.2f} (from {low:.2f} to {high:.2f}){unit}")


if __name__ == "__main__":
    main()
