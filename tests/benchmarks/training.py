"""Training, whole: histotile's step against the same network trained with lightly.

`python -m tests.benchmarks.training MANIFEST --arch resnet18 --image-size 224 --batch-size 256`
runs rounds of both in turn, in one process on one device: images (tiles) per second, medians of
the rounds. lightly reads the same tiles as JPEG files, in worker processes, and augments on the
CPU as its documentation shows. Needs `pip install lightly`; without it histotile runs alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import simplejpeg
import torch
import torchvision
from torch import nn

from manifests import load_manifest
from manifests.store import open_store
from pretrain.config import TrainConfig
from pretrain.device import pick_device
from pretrain.running.bench import bench
from pretrain.views.viewconfig import make_view_config
from tests.benchmarks.measure import machine

WARM_UP_STEPS = 2


def write_jpegs(manifest: Path, folder: Path, most: int) -> int:
    """The first tiles of a manifest as JPEG files; returns how many."""
    loaded, count = load_manifest(manifest), 0
    for entry in loaded.committed():
        for resolution in entry.resolutions:
            group = open_store(loaded, entry)[resolution.group]
            for index in group.usable().tolist():
                if count == most:
                    return count
                data = simplejpeg.encode_jpeg(group.read(index), 90, "RGB", "444")
                (folder / f"{count}.jpg").write_bytes(data)
                count += 1
    return count


class Lightly:
    """SimCLR as lightly's documentation has it."""

    def __init__(self, folder: Path, config: TrainConfig, workers: int) -> None:
        from lightly.data import LightlyDataset
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.transforms import SimCLRTransform

        self._config = config
        self._device = torch.device(pick_device(config.device))
        backbone: Any = torchvision.models.get_model(config.arch, weights=None)
        features = backbone.fc.in_features
        backbone.fc = nn.Identity()
        head = SimCLRProjectionHead(features, features, config.projection_dim)
        self._model = nn.Sequential(backbone, head).to(self._device).train()
        self._loss = NTXentLoss(temperature=config.temperature)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=3e-4)
        dataset = LightlyDataset(
            str(folder), transform=SimCLRTransform(input_size=config.image_size or 224)
        )
        self._loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=config.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self._device.type == "cuda",
        )
        self._batches = self._without_end()
        for _ in range(WARM_UP_STEPS):
            self._step(next(self._batches))

    def _without_end(self) -> Iterator[Any]:
        while True:
            yield from self._loader

    def _step(self, batch: Any) -> None:
        half = self._device.type == "cuda"
        first, second = (view.to(self._device, non_blocking=True) for view in batch[0])
        with torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            loss = self._loss(self._model(first), self._model(second))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        float(loss)

    def images_per_s(self, steps: int) -> float:
        """The speed of so many steps."""
        begun = time.perf_counter()
        for _ in range(steps):
            self._step(next(self._batches))
        return steps * int(self._config.batch_size or 0) / (time.perf_counter() - begun)


def main() -> None:
    """Measure, and print a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    config = TrainConfig(
        arch=options.arch,
        image_size=options.image_size,
        batch_size=options.batch_size,
        threads=options.workers,
        device=options.device,
        split="all",
        views=make_view_config("simclr"),
    )
    found: dict[str, list[float]] = {"histotile": [], "fixed": [], "share": [], "lightly": []}
    with tempfile.TemporaryDirectory() as folder:
        rival = None
        if importlib.util.find_spec("lightly") is not None:
            write_jpegs(options.manifest, Path(folder), 4 * options.batch_size + 1000)
            rival = Lightly(Path(folder), config, options.workers)
        for _ in range(options.rounds):
            result = bench(config, options.manifest, rounds=1, steps=options.steps)
            found["histotile"].append(result.whole[0])
            found["fixed"].append(result.fixed[0])
            found["share"].append(result.share)
            if rival is not None:
                found["lightly"].append(rival.images_per_s(options.steps))
    medians = {name: statistics.median(values) for name, values in found.items() if values}
    print(
        json.dumps({"machine": machine(), **vars(options), **found, "median": medians}, default=str)
    )


if __name__ == "__main__":
    main()
