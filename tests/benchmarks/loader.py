"""Tiles a second into training batches: `python -m tests.benchmarks.loader`.

Makes a set of JPEG stores (by default 256 px, quality 90, of tissue of the slide in
`HISTOTILE_TEST_DATA`), then reads tiles in random order by turns, n times each, on 1 and on 2
threads: through `feed` (draws, checksums, batches; once it has all the memory that it uses), at the
bare limit (open descriptors, known places, pread, decode; no sampler, no checksum, no batch), and
through zarr-python (`z[i]`).
All is in the page cache. Ratios are taken within a round; figures per CPU-second are those that
other processes disturb least.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import zarr

from manifests import Manifest, Resolution, StoreEntry
from manifests.codec import TileCodec, decode_jpeg, encode_jpeg
from manifests.files import crc32c, spec_hash
from manifests.layout import TilesLayout
from manifests.store import GroupPlan, StoreWriter, open_store
from pretrain.config import TrainConfig
from pretrain.loading.feed import MOST_BATCHES_AHEAD, feed
from pretrain.loading.loader import TileLoader
from pretrain.mixing.mix import Mix, resolve_mix
from pretrain.mixing.sampler import Sampler
from tests.benchmarks.measure import machine
from tests.benchmarks.rounds import Spread, spread
from tests.benchmarks.slide import STAINED, source_pixels

SHARD_TILES = 512
BATCH = 250
ZARR_PART = 20
"""zarr-python reads so many times fewer tiles."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What tiles are like."""

    size: int
    """Pixels of a side."""
    quality: int
    """Of JPEG, 4:4:4."""


def tissue_tiles(count: int, kind: Kind) -> list[bytes]:
    """So many different JPEG tiles, each mostly tissue, turned and mirrored."""
    rng = np.random.default_rng(0)
    source = source_pixels()
    found: list[bytes] = []
    while len(found) < count:
        y, x = (int(rng.integers(edge - kind.size)) for edge in source.shape[:2])
        tile = source[y : y + kind.size, x : x + kind.size]
        if (tile.max(axis=2).astype(np.int16) - tile.min(axis=2) > STAINED).mean() > 0.6:
            turned = np.rot90(tile, int(rng.integers(4)))[:, :: rng.choice([-1, 1])]
            found.append(encode_jpeg(np.ascontiguousarray(turned), kind.quality, "444"))
    return found


def make_store(root: Path, number: int, tiles: Sequence[bytes], kind: Kind) -> StoreEntry:
    """A committed store of these tiles, and its entry; each has another organ."""
    codec = TileCodec("jpeg", kind.quality)
    layout = TilesLayout(len(tiles), kind.size, SHARD_TILES, codec)
    spec = {"codec": codec.to_json()}
    uuid = f"12345678-1234-5678-1234-{number:012x}"
    writer = StoreWriter(root / f"slide-{number}.zarr")
    facts = {"uuid": uuid, "groups": ["0.5"], "spec": spec, "spec_hash": spec_hash(spec)}
    plan = GroupPlan(layout, {"mpp": [0.5, 0.5], "mpp_requested": 0.5}, {})
    writer.plan(facts, {"0.5": plan}, {})
    for shard in writer.missing_shards("0.5"):
        writer.write_shard("0.5", shard, [tiles[i] for i in layout.shard_range(shard)], {})
    writer.commit()
    return StoreEntry(
        id=f"slide-{number}",
        status="done",
        source=f"slide-{number}.svs",
        path=f"slide-{number}.zarr",
        uuid=uuid,
        spec_hash=spec_hash(spec),
        stain="H&E",
        organ=f"organ-{number % 5}",
        resolutions=(Resolution("0.5", (0.5, 0.5), 0.5, kind.size, len(tiles), 0, (1.0, 1.0)),),
    )


def make_set(root: Path, slides: int, tiles: int, kind: Kind) -> Manifest:
    """Slides that hold the same tiles, each in its own order: no two reads share a page."""
    encoded = tissue_tiles(tiles, kind)
    rng = np.random.default_rng(1)
    entries = [
        make_store(root, number, [encoded[i] for i in rng.permutation(tiles)], kind)
        for number in range(slides)
    ]
    return Manifest(tuple(entries), root)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile lies: an open file, and its bytes there without their checksum."""

    descriptor: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Set:
    """What all contenders read from."""

    manifest: Manifest
    mix: Mix
    places: list[list[Place]]
    """By slide and tile."""

    def shuffled(self, count: int, seed: int) -> list[tuple[int, int]]:
        """So many different (slide, tile), in random order."""
        each = [len(tiles) for tiles in self.places]
        every = [(slide, tile) for slide, tiles in enumerate(each) for tile in range(tiles)]
        chosen = np.random.default_rng(seed).permutation(len(every))[:count]
        return [every[i] for i in chosen]


def open_set(manifest: Manifest) -> Set:
    """Find all tiles, by hand."""
    places: list[list[Place]] = []
    for entry in manifest.stores:
        found: list[Place] = []
        (held,) = entry.resolutions
        layout = TilesLayout(held.tiles, held.tile_size, SHARD_TILES, TileCodec("jpeg"))
        for shard in range(layout.shards):
            file = manifest.store_path(entry) / "0.5" / layout.shard_file(shard)
            descriptor = os.open(file, os.O_RDONLY)
            raw = os.pread(descriptor, 16 * SHARD_TILES, file.stat().st_size - 16 * SHARD_TILES - 4)
            index = np.frombuffer(raw, dtype="<u8").reshape(-1, 2).tolist()
            count = len(layout.shard_range(shard))
            found += [Place(descriptor, offset, size - 4) for offset, size in index[:count]]
        places.append(found)
    return Set(manifest, resolve_mix(manifest, TrainConfig()), places)


def _on_threads(
    work: Callable[[Sequence[tuple[int, int]]], None], tiles: list[tuple[int, int]], threads: int
) -> None:
    parts = [tiles[number::threads] for number in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


Begin = Callable[[], None]
"""Called when a contender is ready, and what it does from then on is to be timed."""


def read_bare(data: Set, count: int, threads: int, seed: int, begin: Begin) -> None:
    """pread and decode, nothing else."""
    tiles = data.shuffled(count, seed)

    def work(part: Sequence[tuple[int, int]]) -> None:
        places = data.places
        for slide, tile in part:
            place = places[slide][tile]
            encoded = os.pread(place.descriptor, place.length, place.offset)
            simplejpeg.decode_jpeg(encoded, colorspace="RGB")

    begin()
    _on_threads(work, tiles, threads)


def read_zarr(data: Set, count: int, threads: int, seed: int, begin: Begin) -> None:
    """One tile at a time through zarr-python."""
    tiles = data.shuffled(count, seed)
    roots = [data.manifest.store_path(entry) for entry in data.manifest.stores]
    arrays = [zarr.open_array(root / "0.5" / "tiles", mode="r") for root in roots]

    def work(part: Sequence[tuple[int, int]]) -> None:
        for slide, tile in part:
            np.asarray(arrays[slide][tile])

    begin()
    _on_threads(work, tiles, threads)


def read_feed(data: Set, count: int, threads: int, seed: int, begin: Begin) -> None:
    """As training reads."""
    loader = TileLoader(data.manifest, data.mix, Sampler(data.mix, seed, BATCH), BATCH)
    first = MOST_BATCHES_AHEAD + 2
    with closing(feed(loader, range(first + count // BATCH), threads, "cpu")) as batches:
        for fed in batches:
            if fed.step == first - 1:
                begin()


CONTENDERS: dict[str, Callable[[Set, int, int, int, Begin], None]] = {
    "feed": read_feed,
    "bare": read_bare,
    "zarr": read_zarr,
}


@dataclass(frozen=True, slots=True)
class Speed:
    """Of one run."""

    per_s: float
    per_cpu_s: float


def measured(name: str, data: Set, count: int, threads: int, seed: int) -> Speed:
    """Let a contender read so many tiles."""
    count = count // ZARR_PART if name == "zarr" else count
    begun: list[float] = []

    def begin() -> None:
        begun[:] = time.perf_counter(), time.process_time()

    CONTENDERS[name](data, count, threads, seed, begin)
    wall_s, cpu_s = time.perf_counter() - begun[0], time.process_time() - begun[1]
    return Speed(count / wall_s, count / cpu_s)


def compare(data: Set, count: int, threads: int, rounds: int) -> None:
    """Print speeds, and how `feed` stands to the others."""
    runs: dict[str, list[Speed]] = {name: [] for name in CONTENDERS}
    for seed in range(rounds + 1):
        for name in CONTENDERS:
            speed = measured(name, data, count, threads, seed)
            if seed:  # the first round warms up
                runs[name].append(speed)
    print(f"threads: {threads}, n = {rounds}; median (least to most)")
    for name, speeds in runs.items():
        wall, cpu = spread([s.per_s for s in speeds]), spread([s.per_cpu_s for s in speeds])
        print(f"  {name:5} {wall:7.0f} tiles/s  {cpu:7.0f} tiles/CPU-s")
    for name in ("bare", "zarr"):
        wall, cpu = (_ratio(runs["feed"], runs[name], k) for k in ("per_s", "per_cpu_s"))
        print(f"  feed / {name}: {wall:.2f} by wall time, {cpu:.2f} by CPU time")


def _ratio(above: Sequence[Speed], below: Sequence[Speed], figure: str) -> Spread:
    pairs = zip(above, below, strict=True)
    return spread([getattr(a, figure) / getattr(b, figure) for a, b in pairs])


def parts(data: Set, count: int) -> Iterator[tuple[str, float]]:
    """What the steps of one tile take on one thread, one after another: name and µs per tile."""
    sampler = Sampler(data.mix, 0, BATCH)
    began = time.thread_time()
    draws = [draw for step in range(count // BATCH) for draw in sampler.batch(step)]
    yield "draw", _us(began, len(draws))
    entries = {entry.id: entry for entry in data.manifest.stores}
    slides = data.mix.slides
    groups = [open_store(data.manifest, entries[slide.id])["0.5"] for slide in slides]
    wanted = [(groups[draw.slide], slides[draw.slide].locate(draw.tile)[1]) for draw in draws]
    for _ in range(2):  # the first time opens the shards
        began = time.thread_time()
        for group, index in wanted:
            group.read_encoded(index)
        read_us = _us(began, len(draws))
    yield "find, pread, check", read_us
    encoded = [group.read_encoded(index) for group, index in wanted]
    began = time.thread_time()
    for jpeg in encoded:
        crc32c(jpeg)
    yield "  of which crc32c", _us(began, len(draws))
    size = data.mix.tile_size
    batch = np.zeros((BATCH, size, size, 3), np.uint8)
    began = time.thread_time()
    for jpeg, out in zip(encoded, itertools.cycle(batch), strict=False):
        decode_jpeg(jpeg, size, size, out)
    yield "decode into the batch", _us(began, len(draws))


def _us(began: float, count: int) -> float:
    return (time.thread_time() - began) / count * 1e6


def main() -> None:
    """Make the stores, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slides", type=int, default=20)
    parser.add_argument("--tiles", type=int, default=1000, help="of each slide")
    parser.add_argument("--size", type=int, default=256, help="pixels of a tile's side")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG")
    parser.add_argument("--read", type=int, default=10_000, help="tiles a run")
    parser.add_argument("-n", type=int, default=5, help="runs of each")
    parser.add_argument("--work", type=Path, help="folder to make the stores in")
    arguments = parser.parse_args()
    facts = machine()
    print(f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}")
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        kind = Kind(arguments.size, arguments.quality)
        manifest = make_set(Path(folder), arguments.slides, arguments.tiles, kind)
        data = open_set(manifest)
        for threads in (1, 2):
            compare(data, arguments.read, threads, arguments.n)
        print("CPU time of the parts of a tile, one thread")
        for name, took_us in parts(data, min(arguments.read, 2000)):
            print(f"  {name:24} {took_us:7.1f} µs")


if __name__ == "__main__":
    main()
