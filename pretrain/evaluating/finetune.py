"""Full fine-tuning: an encoder and a new last layer trained on the labels, all weights together.

One recipe for every encoder: AdamW with a cosine, tiles mirrored and turned by quarters, ten epochs
and at least 200 steps; the validation tiles choose the epoch. On a CPU, the same seed gives the
same weights. Tiles are uint8 (B, S, S, 3).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manifests import Manifest
from manifests.codec import Rgb
from manifests.console import Display
from pretrain.embedding.encoders import Encoder
from pretrain.embedding.wanted import Wanted
from pretrain.errors import TrainingError
from pretrain.evaluating.protocol import TEST, TRAIN, VAL, Floats, Integers, Truth
from pretrain.loading.feed import feed
from pretrain.loading.loader import Batch, OpenStores, resized
from pretrain.results.settings import REGRESSION

EPOCHS, LEAST_STEPS = 10, 200
"""More epochs where ten are fewer steps: the statistics of BatchNorm must come to rest."""
BATCH = 32
ENCODER_LR, HEAD_LR, WEIGHT_DECAY = 3e-4, 1e-3, 1e-4


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a fine-tuned encoder says."""

    epoch: int
    """From 1; the one that the validation tiles chose, of equals the last."""
    said: Floats
    """Probabilities of each class (n, C), or values (n,), for the n test tiles."""


@dataclass(frozen=True, slots=True)
class TileRows:
    """Where tiles are read from; a row is a tile of `parts`, one after another."""

    manifest: Manifest
    parts: Sequence[Wanted]
    threads: int

    def read(self, batches: Sequence[Integers], device: str | torch.device) -> Iterator[Tensor]:
        """The tiles of each batch of rows, in order; a batch has `BATCH` rows at most.

        Tiles of different sizes are brought to the largest.

        Raises:
            StoreError: a tile cannot be read.
        """
        loader = _RowLoader(self, batches)
        with closing(feed(loader, range(len(batches)), self.threads, device)) as fed:
            for rows, batch in zip(batches, fed, strict=True):
                yield batch.tiles[: len(rows)]


def finetune(
    tiles: TileRows,
    rows: Integers,
    encoder: Encoder,
    truth: Truth,
    *,
    device: str | torch.device,
    tell: Display,
) -> Tuned:
    """Train a copy of an encoder on the training tiles; the encoder itself stays as it is.

    Args:
        rows: of the tiles that `truth` speaks of, (N,).

    Raises:
        TrainingError: the loss is no longer a number.
        StoreError: a tile cannot be read.
    """
    work = _Work(tiles, rows, encoder, truth, torch.device(device), tell)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which reseeds every GPU as well.
        torch.default_generator.manual_seed(truth.seed)
        net = _Net(copy.deepcopy(encoder.model), encoder.features, max(truth.classes, 1))
        return _train(work, net.to(work.device))


@dataclass(frozen=True, slots=True)
class _Work:
    tiles: TileRows
    rows: Integers
    encoder: Encoder
    truth: Truth
    device: torch.device
    tell: Display

    def members(self, split: int) -> Integers:
        """Places among the N tiles of a split."""
        return np.flatnonzero(self.truth.of(split))

    def read(self, places: Integers) -> Iterator[tuple[Integers, Tensor]]:
        """Places and tiles, batch by batch; batches are as even as they can be."""
        batches = np.array_split(places, math.ceil(len(places) / BATCH))
        rows = [self.rows[batch] for batch in batches]
        yield from zip(batches, self.tiles.read(rows, self.device), strict=True)

    def scale(self) -> tuple[float, float]:
        """Mean and spread of the training values; values are learnt as multiples of it."""
        values = self.truth.targets[self.members(TRAIN)]
        return float(values.mean()), float(values.std()) or 1.0


class _Net(nn.Module):
    def __init__(self, encoder: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features, outputs)

    def forward(self, views: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(views))
        return out


def _train(work: _Work, net: _Net) -> Tuned:
    groups = [
        {"params": list(net.encoder.parameters()), "lr": ENCODER_LR},
        {"params": list(net.head.parameters()), "lr": HEAD_LR},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
    per_epoch = math.ceil(len(work.members(TRAIN)) / BATCH)
    epochs = max(EPOCHS, math.ceil(LEAST_STEPS / per_epoch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
    best, chosen, state = -math.inf, 0, {}
    for epoch in range(1, epochs + 1):
        _epoch(work, net, optimizer, schedule, epoch)
        score = work.truth.val_score(_said(work, net, VAL))
        # Of equals the last: its steps were the smallest.
        if score >= best:
            best, chosen = score, epoch
            state = {key: value.detach().clone() for key, value in net.state_dict().items()}
        work.tell.update(f"{work.encoder.name}: fine-tuning", epoch, epochs)
    net.load_state_dict(state)
    return Tuned(chosen, _said(work, net, TEST))


def _epoch(
    work: _Work,
    net: _Net,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    epoch: int,
) -> None:
    net.train()
    random = np.random.default_rng((work.truth.seed, epoch))
    for places, tiles in work.read(random.permutation(work.members(TRAIN))):
        views = work.encoder.prepare(turned(tiles, random))
        loss = _loss(work, net(views), places)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"fine-tuning {work.encoder.name} failed: the loss is no number in epoch {epoch}"
            )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


def turned(tiles: Tensor, random: np.random.Generator) -> Tensor:
    """Tiles (B, S, S, 3), each in one of its eight positions: mirrored, turned by quarters."""
    for axes in ((1, 2), (1,), (2,)):
        drawn = torch.from_numpy(random.random(len(tiles)) < 0.5).to(tiles.device)
        other = tiles.transpose(1, 2) if axes == (1, 2) else tiles.flip(axes)
        tiles = torch.where(drawn[:, None, None, None], other, tiles)
    return tiles


def _loss(work: _Work, out: Tensor, places: Integers) -> Tensor:
    wanted = work.truth.targets[places]
    if work.truth.task == REGRESSION:
        mean, spread = work.scale()
        values = torch.from_numpy((wanted - mean) / spread).to(out)
        return functional.mse_loss(out[:, 0], values)
    return functional.cross_entropy(out, torch.from_numpy(wanted).to(out.device))


@torch.inference_mode()
def _said(work: _Work, net: _Net, split: int) -> Floats:
    """What the net says of the tiles of a split, in their order."""
    net.eval()
    parts = []
    for _, tiles in work.read(work.members(split)):
        out = net(work.encoder.prepare(tiles)).double()
        parts.append(out[:, 0] if work.truth.task == REGRESSION else out.softmax(dim=1))
    said: Floats = torch.cat(parts).cpu().numpy()
    if work.truth.task == REGRESSION:
        mean, spread = work.scale()
        said = said * spread + mean
    return said


class _RowLoader:
    """Reads batches of rows; see `pretrain.loading.feed.Loader`."""

    def __init__(self, tiles: TileRows, batches: Sequence[Integers]) -> None:
        self._stores = OpenStores(tiles.manifest)
        self._parts = tiles.parts
        self._ends = np.cumsum([len(part) for part in tiles.parts])
        self._batches = batches
        size = max(part.size for part in tiles.parts)
        self.batch_shape = (BATCH, size, size, 3)

    def begin(self, step: int, tiles: Rgb | None = None) -> _RowFilling:
        """The batch of a step."""
        memory = np.empty(self.batch_shape, dtype=np.uint8) if tiles is None else tiles
        return _RowFilling(self, self._batches[step], memory)

    def read(self, row: int, out: Rgb) -> None:
        """Read the tile of a row."""
        place = int(np.searchsorted(self._ends, row, "right"))
        part = self._parts[place]
        index = int(part.indices[row - (self._ends[place] - len(part))])
        group = self._stores.group(part.entry.id, part.group)
        if part.size == out.shape[0]:
            group.read(index, out)
        else:
            out[:] = resized(group.read(index), out.shape[0])


class _RowFilling:
    """A batch that is being read; it may have fewer rows than there is memory for."""

    def __init__(self, loader: _RowLoader, rows: Integers, tiles: Rgb) -> None:
        self._loader = loader
        self._rows = rows
        self._tiles = tiles

    def read(self, place: int) -> None:
        """Read a tile of the batch."""
        if place < len(self._rows):
            self._loader.read(int(self._rows[place]), self._tiles[place])

    def batch(self) -> Batch:
        """The batch, once every place was read."""
        numbers = np.arange(len(self._tiles), dtype=np.int64)
        return Batch(self._tiles, numbers, numbers)
