"""How many views a second are made: `python -m tests.benchmarks.augment`.

The recipe of SimCLR, two views a tile, from uint8 tiles (B, H, W, 3) in memory to normalised
float32 views: histotile's batched views, torchvision's transforms v2 one picture at a time (on
uint8, its fast way), and kornia's batched ones if it can be imported. They take turns; what is
printed is the median over the rounds, once by the clock and once by processor time, which other
work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from pretrain.views.augment import MEAN, STD, both_views
from pretrain.views.viewconfig import make_view_config

Maker = Callable[[Tensor], object]

SIMCLR = make_view_config("simclr")


@dataclass(slots=True)
class Times:
    """Seconds of each round."""

    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, make: Maker, tiles: Tensor) -> None:
        """Make the views once more."""
        clock, cpu = time.perf_counter(), time.process_time()
        make(tiles)
        self.clock.append(time.perf_counter() - clock)
        self.cpu.append(time.process_time() - cpu)


def histotile_views(preset: str, size: int) -> Maker:
    """Both views of each tile by `pretrain.views.augment`."""
    config = make_view_config(preset)
    return lambda tiles: both_views(config, 0, tiles, np.arange(len(tiles)), size)


def torchvision_views(size: int) -> Maker:
    """Both views by torchvision's transforms v2, picture by picture."""
    low, high = (sigma * size for sigma in SIMCLR.blur_sigma)
    factors = (SIMCLR.brightness, SIMCLR.contrast, SIMCLR.saturation, SIMCLR.hue)
    jitter, blur = v2.ColorJitter(*factors), v2.GaussianBlur(_kernel(size), (low, high))
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, SIMCLR.crop_area, SIMCLR.crop_ratio, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([jitter], SIMCLR.jitter_probability),
            v2.RandomGrayscale(SIMCLR.grayscale_probability),
            v2.RandomApply([blur], SIMCLR.blur_probability),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def make(tiles: Tensor) -> Tensor:
        pictures = tiles.permute(0, 3, 1, 2)
        return torch.stack([transform(picture) for _ in range(2) for picture in pictures])

    return make


def kornia_views(size: int) -> Maker:
    """Both views by kornia, batched, with its own draws for each sample."""
    kornia = importlib.import_module("kornia.augmentation")
    low, high = (sigma * size for sigma in SIMCLR.blur_sigma)
    factors = (SIMCLR.brightness, SIMCLR.contrast, SIMCLR.saturation, SIMCLR.hue)
    kernel = (_kernel(size), _kernel(size))
    transform = torch.nn.Sequential(
        kornia.RandomResizedCrop((size, size), SIMCLR.crop_area, SIMCLR.crop_ratio),
        kornia.RandomHorizontalFlip(),
        kornia.ColorJiggle(*factors, p=SIMCLR.jitter_probability),
        kornia.RandomGrayscale(p=SIMCLR.grayscale_probability),
        kornia.RandomGaussianBlur(kernel, (low, high), p=SIMCLR.blur_probability),
        kornia.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )

    def make(tiles: Tensor) -> Tensor:
        pictures = tiles.permute(0, 3, 1, 2).float() / 255
        return torch.cat([transform(pictures) for _ in range(2)])

    return make


def _kernel(size: int) -> int:
    """SimCLR's width of a blur, a tenth of the view, made odd."""
    return size // 10 // 2 * 2 + 1


def contenders(size: int) -> dict[str, Maker]:
    """Who takes part, by name."""
    makers = {
        "histotile": histotile_views("simclr", size),
        "torchvision v2": torchvision_views(size),
    }
    if importlib.util.find_spec("kornia"):
        makers["kornia"] = kornia_views(size)
    return makers | {"histotile, preset histology": histotile_views("histology", size)}


def compare(tiles: Tensor, size: int, rounds: int) -> dict[str, Times]:
    """Let all take turns; the first round only warms up."""
    makers = contenders(size)
    times = {name: Times() for name in makers}
    for make in makers.values():
        Times().add(make, tiles)
    for _ in range(rounds):
        for name, make in makers.items():
            times[name].add(make, tiles)
    return times


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=32, help="tiles a batch")
    parser.add_argument("--tile-size", type=int, default=256)
    parser.add_argument("--sizes", type=int, nargs="*", default=[96, 112, 224])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    shape = (options.tiles, options.tile_size, options.tile_size, 3)
    noise = np.random.default_rng(0).integers(60, 240, shape, dtype=np.uint8)
    tiles = torch.from_numpy(noise)
    print(f"{options.tiles} tiles of {options.tile_size} px, medians of {options.rounds} rounds\n")
    print("| views of | threads | who | views/s | views a CPU-second | histotile is faster by |")
    print("|---|---|---|---|---|---|")
    for size in options.sizes:
        for threads in options.threads:
            torch.set_num_threads(threads)
            times = compare(tiles, size, options.rounds)
            ours = times["histotile"]
            for name, taken in times.items():
                views = 2 * options.tiles
                clock, cpu = statistics.median(taken.clock), statistics.median(taken.cpu)
                factors = (clock / statistics.median(ours.clock), cpu / statistics.median(ours.cpu))
                print(
                    f"| {size} px | {threads} | {name} | {views / clock:,.0f} | {views / cpu:,.0f} "
                    f"| × {factors[0]:.1f}, {factors[1]:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
