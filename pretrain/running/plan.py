"""What a run will do, settled before it does anything: device, split, sizes and steps.

A batch is B tiles over all ranks together; an epoch is as many whole batches as the mix has tiles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from manifests import Manifest, load_manifest
from manifests.files import Json, canonical_json, sha256
from pretrain.config import BATCH_SIZE, IMAGE_SIZE_PX, TrainConfig
from pretrain.device import pick_device
from pretrain.digest import manifest_digest
from pretrain.errors import ConfigError
from pretrain.loading.loader import TileLoader
from pretrain.mixing.mix import Mix, pick_split, resolve_mix
from pretrain.mixing.sampler import make_sampler
from pretrain.network.encoder import histotile_version

_MOST_READING_THREADS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do."""

    config: TrainConfig
    """With all that was left to the device and the data filled in."""
    manifest: Manifest
    mix: Mix
    manifest_sha256: str
    batch_size: int
    """Tiles a step, over all ranks."""
    image_size: int
    """Pixels of a view's side."""
    steps_per_epoch: int
    steps: int
    threads: int
    """That read tiles, in each process."""
    out: Path

    def recipe(self) -> Json:
        """What `config.json` says: the settings, and the versions that made something of them."""
        return {
            "train": self.config.to_json(),
            "steps": self.steps,
            "manifest_sha256": self.manifest_sha256,
            "histotile": histotile_version(),
            "torch": torch.__version__,
        }

    def open_loader(self, rank: int = 0, world: int = 1) -> TileLoader:
        """What reads the tiles of one process.

        Raises:
            ConfigError: batches of this size cannot keep to the limits per slide and patient.
        """
        sampler = make_sampler(self.mix, self.config, self.batch_size)
        part = rank, world
        return TileLoader(self.manifest, self.mix, sampler, self.batch_size, part=part)

    def digest(self) -> str:
        """sha256 of all that decides what the run does, 64 hexadecimal digits."""
        return sha256(canonical_json(self.recipe()))

    def epoch_of(self, step: int) -> int:
        """The epoch, from 1, that a step, from 1, is in."""
        return (step - 1) // self.steps_per_epoch + 1


def make_plan(config: TrainConfig, manifest: str | Path, out: str | Path, world: int = 1) -> Plan:
    """Settle what is left open, and check that the data are there. Writes nothing.

    Args:
        world: processes that share a batch.

    Raises:
        ConfigError: a setting does not fit the data or the machine.
        ManifestError, StoreError: the tiles cannot be had.
    """
    loaded = load_manifest(manifest)
    device = pick_device(config.device)
    precision = config.precision
    if precision == "auto":
        # Older GPUs only emulate it, which is slower than float32.
        native = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if native else "fp32"
    config = replace(
        config,
        split=pick_split(config, loaded),
        device=device,
        precision=precision,
        lr_rule=config.rule,
    )
    config = replace(config, lr=config.base_lr)
    mix = resolve_mix(loaded, config)
    batch_size = _batch_size(config, mix, world)
    image_size = _image_size(config, mix)
    steps_per_epoch = mix.tiles // batch_size
    steps = config.epochs * steps_per_epoch
    return Plan(
        config=replace(config, batch_size=batch_size, image_size=image_size),
        manifest=loaded,
        mix=mix,
        manifest_sha256=manifest_digest(manifest),
        batch_size=batch_size,
        image_size=image_size,
        steps_per_epoch=steps_per_epoch,
        steps=steps if config.max_steps is None else min(steps, config.max_steps),
        threads=config.threads or _threads(),
        out=Path(out),
    )


def _threads() -> int:
    """Half of the CPUs that each process on this machine may have; the network needs some, too."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_READING_THREADS, max(1, mine // (2 * processes)))


def _batch_size(config: TrainConfig, mix: Mix, world: int) -> int:
    if mix.tiles < 2:
        raise ConfigError("the mix has 1 tile, which has no negatives: give 2 tiles or more")
    size = config.batch_size
    if size is None:
        most = min(BATCH_SIZE[config.device], mix.tiles)
        size = most - most % (world * config.accumulate)
    if not 2 <= size <= mix.tiles:
        raise ConfigError(
            f"a batch of {size} needs as many tiles, but the mix has {mix.tiles}; "
            "give a smaller --batch-size, at least 2, or more tiles"
        )
    if size % world:
        raise ConfigError(
            f"a batch of {size} cannot be shared evenly by {world} processes; "
            f"give a --batch-size that {world} divides"
        )
    if size // world // config.accumulate < 2:
        raise ConfigError(
            f"a batch of {size} in {config.accumulate} parts on each of {world} processes leaves "
            "parts of fewer than 2 tiles; give a larger --batch-size or a smaller --accumulate"
        )
    return size


def _image_size(config: TrainConfig, mix: Mix) -> int:
    most = min(IMAGE_SIZE_PX[config.device], mix.tile_size)
    size = config.image_size or max(32, most)
    if size > mix.tile_size:
        raise ConfigError(
            f"views of {size} px are larger than the tiles, which have {mix.tile_size} px; "
            "give a smaller --image-size"
        )
    return size
