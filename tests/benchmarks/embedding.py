"""`embed` against what it is made of: `python -m tests.benchmarks.embedding --arch resnet18`.

By turns, n times each, over the same tiles: `embed` (opens, reads, decodes, embeds, writes), the
loader alone (reads and decodes; the features' stream without an encoder), and the network alone
(the same batches, decoded before). Tiles a second; ratios are taken within a round. `embed` is to
reach 0.9 of the slower of its parts where these have hardware of their own, as with a GPU. On a CPU
they share the cores, and no order of work reaches that where both weigh: there, CPU time is set
against the sum of the parts'. Tiles are those of a manifest, or JPEGs made of the slide in
`HISTOTILE_TEST_DATA`. All is in the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from manifests import load_manifest, save_manifest
from pretrain.device import pick_device
from pretrain.embedding.embed import embed
from pretrain.embedding.encoders import Encoder, open_encoder
from pretrain.embedding.settings import EmbedSettings
from pretrain.embedding.stream import stream_tiles
from pretrain.embedding.wanted import Wanted, row_count, wanted_tiles
from tests.benchmarks.loader import Kind, make_set
from tests.benchmarks.measure import machine
from tests.benchmarks.rounds import Spread, spread

SLIDES = 4
MOST_HELD = 2**30
"""Bytes of decoded tiles that the network alone is given, over and over."""


@dataclass(frozen=True, slots=True)
class Took:
    """What one run took, for each tile."""

    wall_s: float
    cpu_s: float
    """Of this process, all threads together."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all contenders work on."""

    manifest: Path
    encoder: Encoder
    name: str
    settings: EmbedSettings
    parts: tuple[Wanted, ...]
    held: tuple[Tensor, ...]
    """Batches of decoded tiles."""

    @property
    def tiles(self) -> int:
        """Tiles of a run."""
        return row_count(self.parts)

    def whole(self, out: Path) -> None:
        """`embed`, into a new folder."""
        shutil.rmtree(out, ignore_errors=True)
        embed(self.name, self.manifest, out, self.settings)

    def loader(self) -> None:
        """Tiles alone."""
        settings = self.settings
        for _ in stream_tiles(
            load_manifest(self.manifest),
            self.parts,
            batch_size=settings.batch_size,
            threads=settings.threads,
        ):
            pass

    def network(self) -> None:
        """Features alone, as the stream makes them."""
        device = torch.device(pick_device(self.settings.device))
        half = self.settings.precision == "bf16"
        model = self.encoder.model.to(device).to(memory_format=torch.channels_last).eval()
        done, turn = 0, 0
        while done < self.tiles:
            tiles = self.held[turn % len(self.held)].to(device)
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                views = self.encoder.prepare(tiles).contiguous(memory_format=torch.channels_last)
                features = model(views).float()
            done, turn = done + len(tiles), turn + 1
        features.cpu()


def measured(work: Callable[[], None], tiles: int) -> Took:
    """Run it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Took((time.perf_counter() - wall) / tiles, (time.process_time() - cpu) / tiles)


def compare(bench: Bench, rounds: int, out: Path) -> None:
    """Run all by turns and print figures; the first round warms up."""
    contenders: dict[str, Callable[[], None]] = {
        "embed": lambda: bench.whole(out),
        "loader": bench.loader,
        "network": bench.network,
    }
    runs: dict[str, list[Took]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, work in contenders.items():
            took = measured(work, bench.tiles)
            if number:
                runs[name].append(took)
    print(f"{bench.tiles} tiles a run, n = {rounds}; median (least to most)")
    for name, found in runs.items():
        wall = spread([1 / took.wall_s for took in found])
        cpu = spread([1 / took.cpu_s for took in found])
        print(f"  {name:8} {wall:8.0f} tiles/s  {cpu:8.0f} tiles/CPU-s")
    slower = _ratios(runs, lambda e, a, b: max(a.wall_s, b.wall_s) / e.wall_s)
    shared = _ratios(runs, lambda e, a, b: (a.cpu_s + b.cpu_s) / e.cpu_s)
    print(f"  embed / the slower of loader and network: {slower:.2f}")
    print(f"  CPU time of loader and network / that of embed: {shared:.2f}")


def _ratios(runs: dict[str, list[Took]], ratio: Callable[[Took, Took, Took], float]) -> Spread:
    rounds = zip(runs["embed"], runs["loader"], runs["network"], strict=True)
    return spread([ratio(*three) for three in rounds])


def held_batches(
    manifest: Path, parts: Sequence[Wanted], settings: EmbedSettings
) -> tuple[Tensor, ...]:
    """Decoded tiles, as many batches as may be held."""
    held: list[Tensor] = []
    for batch in stream_tiles(load_manifest(manifest), parts, batch_size=settings.batch_size):
        if held and sum(tiles.nbytes for tiles in held) + batch.tiles.nbytes > MOST_HELD:
            break
        held.append(torch.from_numpy(batch.tiles.copy()))
    return tuple(held)


def main() -> None:
    """Make or take the tiles, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--manifest", type=Path, help="by default, tiles are made")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--tiles", type=int, default=1024, help="made")
    parser.add_argument("--size", type=int, default=224, help="pixels of a made tile's side")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG, made")
    parser.add_argument("--image-size", type=int, help="for the network")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch-threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-n", type=int, default=5, help="runs of each")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.torch_threads)
    facts = machine()
    device = pick_device(arguments.device)
    print(f"{facts['processor']}, {facts['cores']} cores, {device}, Python {facts['python']}")
    with tempfile.TemporaryDirectory() as folder:
        manifest = arguments.manifest
        if manifest is None:
            kind = Kind(arguments.size, arguments.quality)
            made = make_set(Path(folder), SLIDES, arguments.tiles // SLIDES, kind)
            manifest = Path(folder) / "manifest.json"
            save_manifest(made, manifest)
        settings = EmbedSettings(
            batch_size=arguments.batch_size,
            threads=arguments.threads,
            precision=arguments.precision,
            image_size=arguments.image_size,
            device=arguments.device,
        )
        name = f"random:{arguments.arch}"
        parts = wanted_tiles(load_manifest(manifest))
        held = held_batches(manifest, parts, settings)
        bench = Bench(
            manifest, open_encoder(name, size=settings.image_size), name, settings, parts, held
        )
        compare(bench, arguments.n, Path(folder) / "features")


if __name__ == "__main__":
    main()
