"""How well and how fast duplicates are found: `python -m tests.benchmarks.duplicates`.

Needs HISTOTILE_TEST_DATA. LC25000's column `group` says which of its tiles were made from one
picture; copies are planted among real tiles by re-encoding, rescaling, mirroring, turning and
brightening them. Precision and recall count pairs of tiles: two tiles of one group are a pair.
Prints Markdown tables, and tiles a second of this machine.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from manifests.codec import Rgb, TileCodec, decode_jpeg, encode_jpeg
from manifests.jsonfile import load_manifest
from manifests.likeness.duplicates import TILE_THRESHOLD, DuplicateGroup, Member
from manifests.likeness.fingerprints import GLANCE, LOOK, Codes, spectra
from manifests.likeness.neighbours import find_alike
from manifests.likeness.tilescan import scan_tiles
from manifests.model import Manifest, Resolution, StoreEntry
from manifests.store import TileStore, open_store
from tests.manifests.make import groups_of, make_store

THRESHOLDS = (0.25, 0.28, 0.3, 0.32, 0.35, 0.4, 0.5, 0.6, 0.7)
Truth = Mapping[Member, Hashable]


@dataclass(frozen=True, slots=True)
class Score:
    """Pairs of tiles: how many of those found are true, and how many of the true are found."""

    precision: float
    recall: float
    false_groups: int
    """Groups with members of more than one true group."""


def cut_lc25000(data: Path, folder: Path) -> tuple[Manifest, Truth]:
    """LC25000 as two packed stores, and which picture each tile was made from."""
    table = folder / "pictures.csv"
    with (data / "tiles/labels.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "lc25000_224"]
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "group"])
        writer.writerows([row["file"].split("/", 1)[1], row["group"]] for row in rows)
    out = folder / "lc25000"
    settings = "--packed --assume-mpp 0.5 --tile-size 224 --label-from parent"
    extract(
        [data / "tiles/lc25000_224", *settings.split(), "--organ-from", "regex:^[a-z]+"],
        out,
        slides=table,
    )
    manifest = load_manifest(out)
    truth: dict[Member, Hashable] = {}
    for entry in manifest.stores:
        store = open_store(manifest, entry)
        pictures = store.sources()
        for tile, number in enumerate(store["0.5"].column("source")):
            name, columns = pictures[number]["name"], pictures[number]["columns"]
            truth[Member(entry.id, "0.5", tile)] = (name.split("/")[0], columns["group"])
    return manifest, truth


def extract(arguments: Sequence[object], out: Path, slides: Path | None = None) -> None:
    """Cut tiles with `histotile extract`."""
    histotile = str(Path(sys.executable).with_name("histotile"))
    command = [histotile, "extract", *map(str, arguments)]
    more = ["--slides", str(slides)] if slides else []
    subprocess.run([*command, *more, "--out", str(out), "--quiet"], check=True, capture_output=True)


def cut_unrelated(data: Path, out: Path) -> Manifest:
    """Fields and slides of kidney, liver, breast, skin and others, 224 px at 0.5 µm/px.

    OS-2 is left out: it is one section that two scanners read, and found as such.
    """
    pictures = [
        data / "ihc_fields",
        data / "he_fields",
        data / "svs/CMU-1-Small-Region.svs",
        data / "svs/TCGA-CR-7395-01A-01-TS1.svs",
        data / "ome_tiff/OS-1-detail.ome.tif",
        data / "tiles/brca_m2c/images",
    ]
    extract([*pictures, "--assume-mpp", "0.5", "--mpp", "0.5", "--tile-size", "224"], out)
    return load_manifest(out)


def score(groups: Iterable[DuplicateGroup], truth: Truth) -> Score:
    """Precision and recall over pairs of tiles."""
    found = [[truth[member] for member in group.members] for group in groups]
    right = sum(_pairs(Counter(names).values()) for names in found)
    claimed = _pairs(len(names) for names in found)
    true = _pairs(Counter(truth.values()).values())
    mixed = sum(len(set(names)) > 1 for names in found)
    return Score(right / claimed if claimed else 1.0, right / true, mixed)


def _pairs(counts: Iterable[int]) -> int:
    return sum(count * (count - 1) // 2 for count in counts)


def _resize(scale: float) -> Callable[[Rgb], Rgb]:
    def work(tile: Rgb) -> Rgb:
        side = round(len(tile) * scale)
        return np.asarray(Image.fromarray(tile).resize((side, side), Image.Resampling.LANCZOS))

    return work


def _encode_at(quality: int) -> Callable[[Rgb], Rgb]:
    def work(tile: Rgb) -> Rgb:
        return decode_jpeg(encode_jpeg(tile, quality, "420"), len(tile), len(tile))

    return work


def _turn(degrees: float) -> Callable[[Rgb], Rgb]:
    """Turn, and enlarge so that no corner is empty."""

    def work(tile: Rgb) -> Rgb:
        side, angle = len(tile), np.deg2rad(degrees)
        inner = round(side / (np.cos(angle) + np.sin(angle)) / 2) * 2
        turned = Image.fromarray(tile).rotate(degrees, Image.Resampling.BICUBIC)
        edge = (side - inner) // 2
        box = (edge, edge, edge + inner, edge + inner)
        return np.asarray(turned.crop(box).resize((side, side), Image.Resampling.BICUBIC))

    return work


def _brighten(share: float) -> Callable[[Rgb], Rgb]:
    return lambda tile: (tile * (1 + share)).clip(0, 255).astype(np.uint8)


COPIES: dict[str, Callable[[Rgb], Rgb]] = {
    "JPEG quality 90, 4:2:0": _encode_at(90),
    "JPEG quality 70, 4:2:0": _encode_at(70),
    "JPEG quality 50, 4:2:0": _encode_at(50),
    "rescaled × 0.5": _resize(0.5),
    "rescaled × 0.75": _resize(0.75),
    "rescaled × 1.5": _resize(1.5),
    "mirrored": lambda tile: tile[:, ::-1],
    "turned by 90°": lambda tile: np.rot90(tile),
    "turned by 15°, enlarged × 1.22": _turn(15),
    "turned by 25°, enlarged × 1.33": _turn(25),
    "5 % brighter": _brighten(0.05),
    "5 % darker": _brighten(-0.05),
}


def plant(manifest: Manifest, folder: Path, name: str, copy: Callable[[Rgb], Rgb]) -> StoreEntry:
    """A store of changed copies of all tiles of a manifest, in order, inside its folder."""
    tiles = [np.ascontiguousarray(copy(tile)) for _, tile in real_tiles(manifest)]
    path = folder / f"{name}.zarr"
    make_store(path, np.stack(tiles), codec=TileCodec("jpeg"), shard_tiles=512)
    store = TileStore(path)
    size = tiles[0].shape[0]
    return StoreEntry(
        id=name,
        status="done",
        source=name,
        path=path.name,
        uuid=store.attributes["uuid"],
        spec_hash=store.attributes["spec_hash"],
        packed=True,
        resolutions=(Resolution("0.5", (0.5, 0.5), 0.5, size, len(tiles), 0, (1.0, 1.0)),),
    )


def real_tiles(manifest: Manifest) -> Iterable[tuple[Member, Rgb]]:
    """All tiles of a manifest, in order."""
    for entry in manifest.committed():
        group = open_store(manifest, entry)["0.5"]
        for tile in range(len(group)):
            yield Member(entry.id, "0.5", tile), group.read(tile)


def planted(manifest: Manifest, folder: Path, copy: Callable[[Rgb], Rgb]) -> tuple[float, int]:
    """Share of a manifest's tiles whose changed copies are found, and groups with other tiles.

    Args:
        folder: an empty folder for copies of the stores and one with the changed tiles.
    """
    for original in manifest.committed():
        shutil.copytree(manifest.store_path(original), folder / str(original.path))
    manifest = replace(manifest, root=folder)
    entry = plant(manifest, folder, "planted", copy)
    groups = groups_of(Manifest((*manifest.stores, entry), root=manifest.root), slides=False)
    members = [member for member, _ in real_tiles(manifest)]
    truth: dict[Member, Hashable] = {member: number for number, member in enumerate(members)}
    truth |= {Member(entry.id, "0.5", number): number for number in range(len(members))}
    found = score(groups, truth)
    return found.recall, found.false_groups


def synthetic_codes(codes: Codes, count: int) -> Codes:
    """Codes like real ones: mixtures of six tiles each, turned, so that few are duplicates."""
    rng = np.random.default_rng(0)
    made = np.empty((count, codes.shape[1]), dtype=np.int8)
    kept = spectra(np.ones_like(codes[:1]), GLANCE)[0] != 0
    for start in range(0, count, 5_000):
        some = min(5_000, count - start)
        mixed = np.zeros((some, GLANCE.rings, GLANCE.orders), dtype=np.complex64)
        for _ in range(6):
            turn = rng.uniform(0, 2 * np.pi, (some, 1, 1)) * np.arange(GLANCE.orders)
            weight = rng.uniform(0.6, 1, (some, 1, 1)).astype(np.float32)
            picked = spectra(codes[rng.integers(0, len(codes), some)], GLANCE)
            mixed += weight * picked * np.exp(1j * turn).astype(np.complex64)
        packed = mixed[:, kept] / 2
        made[start : start + some] = np.rint(np.concatenate([packed.real, packed.imag], axis=1))
    return made


def search_speed(codes: Codes, count: int) -> str:
    """A row of a table: what finding candidates among synthetic tiles takes."""
    rng = np.random.default_rng(1)
    made = synthetic_codes(codes, count)
    colours = np.zeros((count, 2), dtype=np.float32)
    squares = rng.normal(0, 0.1, (1024, LOOK.side, LOOK.side)).astype(np.float32)
    stages: dict[str, float] = {}
    last = time.perf_counter()
    looked = 0

    def tell(text: str, _done: int, total: int) -> None:
        nonlocal last, looked
        now = time.perf_counter()
        stages[text] = stages.get(text, 0) + now - last
        last, looked = now, total if text == "looking closer" else looked

    cpu = time.process_time()
    found = find_alike(made, colours, lambda n: squares[n % 1024], TILE_THRESHOLD, tell)
    took = " | ".join(f"{stages.get(text, 0):.0f}" for text in STAGES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = time.process_time() - cpu
    return f"| {count:,} | {took} | {cpu:.0f} | {looked:,} | {found.passed_over:,} | {peak:.0f} |"


STAGES = ("looking for candidates", "looking closer")


def print_lc25000(manifest: Manifest, truth: Truth) -> None:
    """Precision and recall against the groups of LC25000, over all and for each label."""
    labels = sorted({str(name[0]) for name in truth.values() if isinstance(name, tuple)})
    print(f"LC25000, {len(truth):,} tiles\n\n| threshold | precision | recall | false groups |")
    print("|---|---|---|---|")
    for threshold in THRESHOLDS:
        groups = groups_of(manifest, slides=False, threshold=threshold)
        found = score(groups, truth)
        numbers = f"{found.precision:.4f} | {found.recall:.3f} | {found.false_groups}"
        print(f"| {threshold} | {numbers} of {len(groups)} |", flush=True)
    print(f"\nAt {TILE_THRESHOLD}\n\n| label | precision | recall |\n|---|---|---|")
    groups = groups_of(manifest, slides=False)
    for label in labels:
        own = {m: name for m, name in truth.items() if isinstance(name, tuple) and name[0] == label}
        parts = (replace(g, members=tuple(m for m in g.members if m in own)) for g in groups)
        found = score(parts, own)
        print(f"| {label} | {found.precision:.4f} | {found.recall:.3f} |")


def print_copies(manifest: Manifest, folder: Path) -> None:
    """Planted copies, one kind at a time, and what is found where there is none."""
    tiles = sum(entry.tiles for entry in manifest.committed())
    groups = groups_of(manifest, slides=False)
    print(f"\n{tiles:,} unrelated tiles: {len(groups)} groups")
    for group in groups:
        print("  ", f"{group.similarity:.2f}", *(f"{m.entry}:{m.tile}" for m in group.members))
    print("\n| copy | recall | groups with other tiles |\n|---|---|---|")
    for name, copy in COPIES.items():
        with tempfile.TemporaryDirectory(dir=folder) as inside:
            recall, mixed = planted(manifest, Path(inside), copy)
        print(f"| {name} | {recall:.3f} | {mixed} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep what is cut here, and take it from here")
    parser.add_argument("--synthetic", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--only-speed", action="store_true")
    options = parser.parse_args()
    data = Path(os.environ["HISTOTILE_TEST_DATA"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        manifest, truth = cut_lc25000(data, folder)
        if not options.only_speed:
            print_lc25000(manifest, truth)
            print_copies(cut_unrelated(data, folder / "unrelated"), folder)
        began, cpu = time.perf_counter(), time.process_time()
        scan = scan_tiles(manifest, looks=True, tell=lambda *_: None)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(f"\nreading: {len(truth) / wall:,.0f} tiles/s, {len(truth) / cpu:,.0f} a CPU-second")
        began = time.perf_counter()
        groups_of(manifest, slides=False)
        print(f"all of it: {len(truth) / (time.perf_counter() - began):,.0f} tiles/s")
        print("\n| tiles | candidates s | look s | CPU s | looked at | over | MiB |")
        print("|---|---|---|---|---|---|---|")
        codes = scan.distinct()[0].copy()
        for count in options.synthetic:
            print(search_speed(codes, count), flush=True)


if __name__ == "__main__":
    main()
