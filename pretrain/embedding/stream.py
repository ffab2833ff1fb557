"""From tiles to features: read and decoded ahead by threads, embedded batch by batch, in order.

A row is a place in the order of the parts (see `pretrain.embedding.wanted`). Batches begin anew
with every part, and what a row holds depends on its part alone: neither on threads nor on the rest.
Tiles are uint8 (n, S, S, 3), features float32 (n, F).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manifests import Manifest, StoreError
from manifests.codec import Rgb
from manifests.store import is_committed
from pretrain.embedding.encoders import Encoder
from pretrain.embedding.wanted import Integers, Wanted, row_count
from pretrain.loading.feed import feed
from pretrain.loading.loader import Batch, OpenStores, is_short_of_files, store_removed

Rows = npt.NDArray[np.float32]

BATCH = 64
THREADS = 2


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """The features of some rows."""

    first: int
    """The first row."""
    features: Rows
    """float32 (n, F); NaN where a tile is damaged."""
    damaged: tuple[int, ...]
    """Rows whose tiles could not be read."""


@dataclass(frozen=True, slots=True)
class TileBatch:
    """The tiles of some rows."""

    first: int
    """The first row."""
    tiles: Rgb
    """uint8 (n, S, S, 3); 0 where a tile is damaged. The next batch may write over it."""
    damaged: tuple[int, ...]
    """Rows whose tiles could not be read."""


def stream_features(
    manifest: Manifest,
    parts: Sequence[Wanted],
    encoder: Encoder,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = BATCH,
    threads: int = THREADS,
    bf16: bool = False,
) -> Generator[FeatureBatch, None, None]:
    """Features of all tiles of `parts`, in order.

    Args:
        batch_size: most tiles at a time.
        threads: that read and decode tiles.
        bf16: compute in bfloat16 where torch's autocast does; features are float32 all the same.

    Raises:
        StoreError: a store is gone. A damaged tile raises nothing: its features are NaN.
    """
    device = torch.device(device)
    model = encoder.model.to(device).to(memory_format=torch.channels_last).eval()
    # A GPU works on a batch while the features of the one before are fetched.
    coming: deque[tuple[int, Tensor, tuple[int, ...]]] = deque()
    for first, tiles, damaged in _batches(manifest, parts, device, batch_size, threads):
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            views = encoder.prepare(tiles).contiguous(memory_format=torch.channels_last)
            found = model(views).float()
        coming.append((first, found, damaged))
        if len(coming) > 1:
            yield _fetched(*coming.popleft())
    while coming:
        yield _fetched(*coming.popleft())


def stream_tiles(
    manifest: Manifest,
    parts: Sequence[Wanted],
    *,
    batch_size: int = BATCH,
    threads: int = THREADS,
) -> Generator[TileBatch, None, None]:
    """All tiles of `parts`, in order.

    Raises:
        StoreError: a store is gone. A damaged tile raises nothing: its pixels are 0.
    """
    cpu = torch.device("cpu")
    for first, tiles, damaged in _batches(manifest, parts, cpu, batch_size, threads):
        yield TileBatch(first, tiles.numpy(), damaged)


def all_features(
    manifest: Manifest,
    parts: Sequence[Wanted],
    encoder: Encoder,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = BATCH,
    threads: int = THREADS,
    bf16: bool = False,
) -> tuple[Rows, tuple[int, ...]]:
    """The features of N tiles, float32 (N, F), and the rows whose tiles are damaged (NaN).

    See `stream_features`.
    """
    features = np.empty((row_count(parts), encoder.features), dtype=np.float32)
    damaged: list[int] = []
    for batch in stream_features(
        manifest,
        parts,
        encoder,
        device=device,
        batch_size=batch_size,
        threads=threads,
        bf16=bf16,
    ):
        features[batch.first : batch.first + len(batch.features)] = batch.features
        damaged += batch.damaged
    return features, tuple(damaged)


def _fetched(first: int, features: Tensor, damaged: tuple[int, ...]) -> FeatureBatch:
    rows = features.cpu().numpy()
    rows[[row - first for row in damaged]] = np.nan
    return FeatureBatch(first, rows, damaged)


@dataclass(frozen=True, slots=True)
class _Step:
    """A batch to be read."""

    part: Wanted
    first: int
    """Its first row."""
    indices: Integers
    """Numbers of its tiles in the group, (n,)."""


def _steps(parts: Iterable[Wanted], batch_size: int) -> Iterator[_Step]:
    row = 0
    for part in parts:
        for start in range(0, len(part), batch_size):
            indices = part.indices[start : start + batch_size]
            yield _Step(part, row, indices)
            row += len(indices)


def _batches(
    manifest: Manifest,
    parts: Sequence[Wanted],
    device: torch.device,
    batch_size: int,
    threads: int,
) -> Iterator[tuple[int, Tensor, tuple[int, ...]]]:
    """First row, tiles (n, S, S, 3) on the device and damaged rows, batch by batch."""
    stores = OpenStores(manifest)
    # Memory for a batch is used again, so batches that follow one another have one size of tiles.
    for size, alike in groupby(_steps(parts, batch_size), key=lambda step: step.part.size):
        steps = list(alike)
        loader = _StepLoader(stores, steps, batch_size, size)
        with closing(feed(loader, range(len(steps)), threads, device)) as fed:
            for step, batch in zip(steps, fed, strict=True):
                yield step.first, batch.tiles[: len(step.indices)], batch.damaged


class _StepLoader:
    """Reads the batches of steps; see `pretrain.loading.feed.Loader`."""

    def __init__(
        self, stores: OpenStores, steps: Sequence[_Step], batch_size: int, size: int
    ) -> None:
        self._stores = stores
        self._steps = steps
        self.batch_shape = (batch_size, size, size, 3)

    def begin(self, step: int, tiles: Rgb | None = None) -> _StepFilling:
        memory = np.empty(self.batch_shape, dtype=np.uint8) if tiles is None else tiles
        return _StepFilling(self._stores, self._steps[step], memory)


class _StepFilling:
    """A batch that is being read; the last of a part may be smaller than its memory."""

    def __init__(self, stores: OpenStores, step: _Step, tiles: Rgb) -> None:
        self._stores = stores
        self._step = step
        self._tiles = tiles
        self._damaged: list[int] = []

    def read(self, place: int) -> None:
        step = self._step
        if place >= len(step.indices):
            return
        group = self._stores.group(step.part.entry.id, step.part.group)
        try:
            group.read(int(step.indices[place]), self._tiles[place])
        except StoreError as error:
            if is_short_of_files(error):
                raise StoreError(f"{error}: raise the limit, ulimit -n") from error
            if not is_committed(group.store.path):
                raise store_removed(group.store.path, error) from error
            self._tiles[place] = 0
            self._damaged.append(step.first + place)

    def batch(self) -> Batch:
        numbers = np.arange(len(self._tiles), dtype=np.int64) + self._step.first
        return Batch(self._tiles, numbers, numbers, tuple(sorted(self._damaged)))
