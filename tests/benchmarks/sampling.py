"""What it takes to draw from a made-up study: `python -m tests.benchmarks.sampling --stores 30000`.

Stores are folders with nothing but the name of a commit record, since the mix is read from the
manifest alone. Times are seconds of wall time, memory is the largest of the process, in MiB.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from manifests import Manifest, load_manifest, save_manifest
from pretrain.config import TrainConfig
from pretrain.mixing.mix import resolve_mix
from pretrain.mixing.sampler import Sampler
from tests.benchmarks.make_manifests import made_up_entry

_SELF = "tests.benchmarks.sampling"
_BATCH_SIZE = 256
_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Sampling:
    """What one process took, from the manifest's file to its first draws."""

    tiles: int
    load_s: float
    mix_s: float
    sampler_s: float
    us_per_draw: float
    """Of the first 1,000 draws."""
    peak_mib: float


def measure_sampling(stores: int) -> Sampling:
    """Make the study up and draw from it in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        entries = tuple(made_up_entry(number) for number in range(stores))
        for entry in entries:
            (root / str(entry.path)).mkdir()
            (root / str(entry.path) / "commit.json").touch()
        save_manifest(Manifest(entries, root), root / "manifest.json")
        command = [sys.executable, "-m", _SELF, "--draw", str(root / "manifest.json")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Sampling(**json.loads(done.stdout))


def _draw(path: Path) -> Sampling:
    times = [time.perf_counter()]
    manifest = load_manifest(path)
    times.append(time.perf_counter())
    mix = resolve_mix(manifest, TrainConfig())
    times.append(time.perf_counter())
    sampler = Sampler(mix, 0, _BATCH_SIZE)
    times.append(time.perf_counter())
    for number in range(_DRAWS):
        sampler.draw(number)
    times.append(time.perf_counter())
    load_s, mix_s, sampler_s, draws_s = (b - a for a, b in itertools.pairwise(times))
    return Sampling(mix.tiles, load_s, mix_s, sampler_s, draws_s / _DRAWS * 1e6, _peak_mib())


def _peak_mib() -> float:
    # The operating system's own record (Linux): `getrusage` would count the parent's, too.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the peak of memory is not known here")


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", type=int, default=30_000)
    parser.add_argument("--draw", type=Path, help="draw from this manifest, in this process")
    given = parser.parse_args()
    found = measure_sampling(given.stores) if given.draw is None else _draw(given.draw)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
