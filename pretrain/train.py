"""One training run, from a manifest to an encoder file.

B is the batch of tiles, V = 2 its views, D the projection. A run folder holds `config.json` and
`mix.json` (written before the first step), `metrics.jsonl` (one object a step) and
`encoder.safetensors` (written after each epoch and at the end, so an interrupted run keeps its
last whole epoch). On a CPU the same config, tiles and thread count give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from manifests import Manifest, ManifestError, load_manifest
from manifests.files import Json, pretty_json, write_atomic
from pretrain.augment import MEAN, STD, draw_views, make_views
from pretrain.config import ALL_SPLITS, BATCH_SIZE, IMAGE_SIZE_PX, TRAIN_SPLIT, TrainConfig
from pretrain.encoder import ENCODER_FILE, EncoderInfo, histotile_version, save_encoder
from pretrain.errors import ConfigError, TrainingError
from pretrain.loader import Batch, TileLoader, prefetch
from pretrain.loss import nt_xent
from pretrain.mix import Mix, resolve_mix
from pretrain.model import SimClr, seeded_model
from pretrain.sampler import Sampler
from pretrain.schedule import learning_rate, make_optimizer

_MAX_READ_THREADS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, settled before it does anything."""

    config: TrainConfig
    """With the batch and view sizes and the device that are used."""
    mix: Mix
    manifest_sha256: str
    batch_size: int
    image_size: int
    steps_per_epoch: int
    steps: int
    out: Path


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One line of `metrics.jsonl`."""

    step: int
    """From 1."""
    epoch: int
    """From 1."""
    loss: float
    lr: float
    images_per_s: float
    """Tiles, not views, per second of this step."""
    data_wait: float
    """Share of the step's time that it waited for tiles, 0 to 1."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended."""

    encoder: Path
    steps: int
    first_loss: float
    final_loss: float
    damaged: tuple[tuple[str, int], ...]
    """Slide and tile of those that could not be read and were replaced, sorted."""


class Observer(Protocol):
    """Who wants to see a run pass by."""

    def started(self, plan: Plan) -> None:
        """Everything was checked; nothing is trained yet."""

    def stepped(self, metrics: StepMetrics) -> None:
        """A step is done."""


def train(
    config: TrainConfig, manifest: str | Path, out: str | Path, observer: Observer | None = None
) -> TrainResult:
    """Train an encoder on a manifest's tiles; `out` must not exist or be empty.

    Raises:
        ConfigError: a setting does not fit the data or the machine, or `out` is in use.
        ManifestError, StoreError: the tiles cannot be had.
        TrainingError: the loss became infinite or not a number.
    """
    loaded = load_manifest(manifest)
    config = replace(config, split=_split(config, loaded))
    split = None if config.split == ALL_SPLITS else config.split
    plan = _settle(config, resolve_mix(loaded, split), _sha256(Path(manifest)), Path(out))
    sampler = Sampler(plan.mix, plan.config.seed, distinct=plan.batch_size)
    loader = TileLoader(loaded, plan.mix, sampler, plan.batch_size)
    _begin_folder(plan)
    if observer is not None:
        observer.started(plan)
    return _run(plan, loader, observer)


def _split(config: TrainConfig, manifest: Manifest) -> str:
    """The split to train on; never by default one that is there to test with."""
    names = {name for entry in manifest.stores for name in entry.split_names}
    if config.split is None:
        return TRAIN_SPLIT if names else ALL_SPLITS
    if config.split != ALL_SPLITS and config.split not in names:
        known = ", ".join(sorted(names)) or "none"
        raise ConfigError(f"the manifest has no split {config.split!r}; it has {known}")
    return config.split


def _settle(config: TrainConfig, mix: Mix, manifest_sha256: str, out: Path) -> Plan:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is already in use; give --out a folder that is new or empty")
    device = _device(config.device)
    batch_size = config.batch_size or min(BATCH_SIZE[device], mix.tiles)
    if not 2 <= batch_size <= mix.tiles:
        raise ConfigError(
            f"a batch of {batch_size} needs as many tiles, but the manifest has {mix.tiles}; "
            f"a batch has at least 2"
        )
    image_size = config.image_size or max(32, min(IMAGE_SIZE_PX[device], mix.tile_size))
    if image_size > mix.tile_size:
        raise ConfigError(
            f"views of {image_size} px are larger than the tiles, which have {mix.tile_size} px; "
            "give a smaller --image-size"
        )
    steps_per_epoch = mix.tiles // batch_size
    steps = config.epochs * steps_per_epoch
    return Plan(
        config=replace(config, batch_size=batch_size, image_size=image_size, device=device),
        mix=mix,
        manifest_sha256=manifest_sha256,
        batch_size=batch_size,
        image_size=image_size,
        steps_per_epoch=steps_per_epoch,
        steps=steps if config.max_steps is None else min(steps, config.max_steps),
        out=out,
    )


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch sees no CUDA GPU; use cpu or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _sha256(manifest: Path) -> str:
    file = manifest / "manifest.json" if manifest.is_dir() else manifest
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ManifestError(f"{file} cannot be read ({error.strerror})") from error


def _begin_folder(plan: Plan) -> None:
    plan.out.mkdir(parents=True, exist_ok=True)
    write_atomic(plan.out / "config.json", pretty_json(_recipe(plan)))
    write_atomic(plan.out / "mix.json", pretty_json(plan.mix.to_json()))


def _recipe(plan: Plan) -> Json:
    return {
        "train": plan.config.to_json(),
        "steps": plan.steps,
        "manifest_sha256": plan.manifest_sha256,
        "histotile": histotile_version(),
        "torch": torch.__version__,
    }


def _run(plan: Plan, loader: TileLoader, observer: Observer | None) -> TrainResult:
    device = torch.device(plan.config.device)
    model = seeded_model(plan.config.arch, plan.config.projection_dim, plan.config.seed)
    # Convolutions are about twice as fast on a CPU with channels last, and faster on a GPU.
    model = model.to(device).to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model)
    damaged: set[tuple[str, int]] = set()
    first_loss = final_loss = math.nan
    with (plan.out / "metrics.jsonl").open("x") as log, closing(_batches(plan, loader)) as batches:
        finished = time.perf_counter()
        for step, batch in enumerate(batches, start=1):
            arrived = time.perf_counter()
            damaged.update(batch.damaged)
            lr = learning_rate(step - 1, plan.steps, plan.config.base_lr)
            final_loss = _step(plan, model, optimizer, batch, lr, step)
            first_loss = final_loss if step == 1 else first_loss
            begun, finished = finished, time.perf_counter()
            metrics = StepMetrics(
                step=step,
                epoch=(step - 1) // plan.steps_per_epoch + 1,
                loss=final_loss,
                lr=lr,
                images_per_s=plan.batch_size / (finished - begun),
                data_wait=(arrived - begun) / (finished - begun),
            )
            log.write(json.dumps(asdict(metrics)) + "\n")
            log.flush()
            if observer is not None:
                observer.stepped(metrics)
            if step % plan.steps_per_epoch == 0 or step == plan.steps:
                _save(plan, model.encoder, step, len(damaged))
    encoder = plan.out / ENCODER_FILE
    return TrainResult(encoder, plan.steps, first_loss, final_loss, tuple(sorted(damaged)))


def _batches(plan: Plan, loader: TileLoader) -> Generator[Batch, None, None]:
    threads = min(_MAX_READ_THREADS, max(1, (os.cpu_count() or 1) // 2))
    return prefetch(loader.batch, range(plan.steps), threads)


def _step(
    plan: Plan,
    model: SimClr,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    lr: float,
    step: int,
) -> float:
    """One update; returns the loss before it."""
    device = torch.device(plan.config.device)
    views = _both_views(plan, batch, device)
    ids = torch.from_numpy(batch.ids).to(device)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        # One forward pass: with one for each view, BatchNorm would tell the views apart, and the
        # gradient would be another one altogether.
        embeddings = model(views)  # (V · B, D)
    loss = nt_xent(embeddings, plan.config.temperature, ids)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingError(
            f"the loss became {value} at step {step}; try an lr below {plan.config.base_lr}, "
            f"or a temperature above {plan.config.temperature}"
        )
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def _both_views(plan: Plan, batch: Batch, device: torch.device) -> Tensor:
    """The first views of all tiles, then the second ones: float32 (V · B, C, S, S)."""
    tiles = torch.from_numpy(batch.tiles).to(device).float()
    config, size = plan.config, plan.image_size
    drawn = (draw_views(config.views, config.seed, batch.numbers, view) for view in (0, 1))
    return torch.cat([make_views(tiles, views, size) for views in drawn])


def _save(plan: Plan, encoder: nn.Module, step: int, damaged_tiles: int) -> None:
    info = EncoderInfo(
        arch=plan.config.arch,
        mean=MEAN,
        std=STD,
        image_size=plan.image_size,
        tile_size=plan.mix.tile_size,
        mpp=plan.mix.mpps,
        mix=plan.mix.to_json(),
        config=_recipe(plan),
        steps=step,
        damaged_tiles=damaged_tiles,
        manifest_sha256=plan.manifest_sha256,
        histotile=histotile_version(),
    )
    save_encoder(plan.out / ENCODER_FILE, encoder, info)
