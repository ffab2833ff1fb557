"""Batches read ahead of the training step by threads, and brought to its device.

B is the batch of this rank, S the side of a tile in pixels. Reading and decoding release the
interpreter's lock, so threads are enough: no pixel is copied between processes. All threads work on
the same batch, a few tiles at a time, so that little has to be held ahead. To a GPU, tiles go from
page-locked memory on a stream of their own, while the step before is still computed.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Event, Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manifests.codec import Rgb
from pretrain.loading.loader import Batch

MOST_BATCHES_AHEAD = 4
MOST_BYTES_AHEAD = 2**30
"""Of tiles that are read but not yet asked for; one batch is always read ahead."""
_MOST_TILES_A_TASK = 16
_TASKS_A_THREAD = 4
"""Tasks of a batch for each thread, so that none waits long for the last one."""


@dataclass(frozen=True, slots=True)
class Fed:
    """The tiles of one step, on the device."""

    step: int
    """From 0."""
    tiles: Tensor
    """uint8 (B, S, S, 3), RGB."""
    numbers: npt.NDArray[np.int64]
    """Sample numbers, (B,)."""
    ids: Tensor
    """int64 (B,): equal ids are the same tile."""
    damaged: tuple[int, ...]
    """Ids of tiles that could not be read and were replaced."""
    waited_s: float
    """How long the step waited for them."""


class Filling(Protocol):
    """A batch that is being read. Parts of it may be read by several threads at once."""

    def read(self, place: int) -> None:
        """Read the tile at a place of the batch, from 0 to B - 1."""

    def batch(self) -> Batch:
        """The batch, once every place was read."""


class Loader(Protocol):
    """Where batches come from. Safe for threads."""

    @property
    def batch_shape(self) -> tuple[int, int, int, int]:
        """Shape of the tiles of a step, (B, S, S, 3)."""

    def begin(self, step: int, tiles: Rgb | None = None) -> Filling:
        """The batch of a step, to be read place by place into `tiles`."""


def feed(
    loader: Loader, steps: Iterable[int], threads: int, device: str | torch.device
) -> Generator[Fed, None, None]:
    """The batches of `steps`, in order.

    An error in a thread is raised where its batch would have come. Closing the generator drops what
    was read ahead and ends the threads; each still finishes its tile.

    Raises:
        StoreError: a store is gone, or no tile of a slide can be read.
    """
    way = _way_to(torch.device(device), loader.batch_shape)
    size = int(np.prod(loader.batch_shape))
    ahead = max(1, min(MOST_BATCHES_AHEAD, MOST_BYTES_AHEAD // size))
    todo, reader = iter(steps), _Reader(loader, threads, way)
    coming: deque[_Coming] = deque()
    try:
        coming.extend(reader.start(step) for step in islice(todo, ahead))
        while coming:
            asked = time.perf_counter()
            batch, sent = coming[0].result()
            waited_s = time.perf_counter() - asked
            step = coming.popleft().step
            coming.extend(reader.start(step) for step in islice(todo, 1))
            tiles, ids = sent.arrived()
            yield Fed(step, tiles, batch.numbers, ids, batch.damaged, waited_s)
    finally:
        reader.close()


class Sent(Protocol):
    """Tiles and ids on their way to the device."""

    def arrived(self) -> tuple[Tensor, Tensor]:
        """Tiles and ids, for the stream that is current in this thread."""


class Way(Protocol):
    """How batches come to a device. Safe for threads."""

    def place(self) -> Rgb:
        """Memory for the tiles of a batch, uint8 (B, S, S, 3)."""

    def send(self, batch: Batch) -> Sent:
        """Set the batch on its way; its tiles lie in memory of `place`, which is free again."""


class _Reader:
    """The threads, and the batches they work on."""

    def __init__(self, loader: Loader, threads: int, way: Way) -> None:
        self._loader = loader
        self._way = way
        self._stopped = Event()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tiles")
        count = loader.batch_shape[0]
        length = max(1, min(_MOST_TILES_A_TASK, count // (threads * _TASKS_A_THREAD)))
        self._parts = [range(count)[first : first + length] for first in range(0, count, length)]
        self._drawn: Future[Filling] | None = None

    def start(self, step: int) -> _Coming:
        """Begin to read the batch of a step."""
        drawn = self._pool.submit(self._begin, step)
        coming = _Coming(step, len(self._parts), self._way)
        for part in self._parts:
            self._pool.submit(self._read, drawn, part, coming)
        return coming

    def _begin(self, step: int) -> Filling:
        return self._loader.begin(step, self._way.place())

    def _read(self, drawn: Future[Filling], part: range, coming: _Coming) -> None:
        try:
            filling = drawn.result()
            for place in part:
                if self._stopped.is_set():
                    return
                filling.read(place)
        except Exception as error:  # noqa: BLE001 - it is raised where the batch would have come
            coming.part_failed(part, error)
        else:
            coming.part_is_read(filling)

    def close(self) -> None:
        """End the threads."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Coming:
    """A batch that threads work on."""

    def __init__(self, step: int, parts: int, way: Way) -> None:
        self.step = step
        self._way = way
        self._left = parts
        self._errors: dict[int, Exception] = {}
        self._lock = Lock()
        # One for all parts: whoever waits is woken once a batch, and takes no turns from threads.
        self._sent: Future[tuple[Batch, Sent]] = Future()

    def part_is_read(self, filling: Filling) -> None:
        """Whoever brings the last part sets the batch on its way: nobody waits for another."""
        if self._is_last():
            self._finish(filling)

    def part_failed(self, part: range, error: Exception) -> None:
        """Keep the error until all parts are done."""
        self._errors[part.start] = error
        if self._is_last():
            self._finish(None)

    def result(self) -> tuple[Batch, Sent]:
        """Wait for all parts; raises the error of the first that has one."""
        return self._sent.result()

    def _is_last(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left == 0

    def _finish(self, filling: Filling | None) -> None:
        if self._errors or filling is None:
            self._sent.set_exception(self._errors[min(self._errors)])
            return
        try:
            batch = filling.batch()
            self._sent.set_result((batch, self._way.send(batch)))
        except Exception as error:  # noqa: BLE001 - as that of a part
            self._sent.set_exception(error)


def _way_to(device: torch.device, shape: tuple[int, int, int, int]) -> Way:
    if device.type == "cuda":
        # Threads start on the first GPU, whichever this one is on.
        index = torch.cuda.current_device() if device.index is None else device.index
        return _ToGpu(torch.device("cuda", index), shape)
    return _ToTensors(device, shape)


@dataclass(frozen=True, slots=True)
class _Tensors:
    tiles: Tensor
    ids: Tensor

    def arrived(self) -> tuple[Tensor, Tensor]:
        return self.tiles, self.ids


class _ToTensors:
    """To devices that need no care: on a CPU, tensors share their memory with the arrays.

    Memory is used again once nothing refers to the tensor, nor to a part of it: to take pages from
    the system anew for each batch costs a sixth of what decoding does.
    """

    def __init__(self, device: torch.device, shape: tuple[int, int, int, int]) -> None:
        self._device = device
        self._shape = shape
        self._free: deque[Rgb] = deque()

    def place(self) -> Rgb:
        try:
            memory = self._free.popleft()
        except IndexError:
            memory = np.empty(self._shape, dtype=np.uint8)
        tiles = memory[:]
        # The tensor refers to this view, and views of the tensor refer to the tensor's memory.
        weakref.finalize(tiles, self._free.append, memory).atexit = False
        return tiles

    def send(self, batch: Batch) -> Sent:
        tiles, ids = torch.from_numpy(batch.tiles), torch.from_numpy(batch.ids)
        return _Tensors(tiles.to(self._device), ids.to(self._device))


@dataclass(frozen=True, slots=True)
class _Copying:
    """Tensors that a stream of their own still copies to."""

    tiles: Tensor
    ids: Tensor
    copied: torch.cuda.Event

    def arrived(self) -> tuple[Tensor, Tensor]:
        stream = torch.cuda.current_stream(self.tiles.device)
        stream.wait_event(self.copied)
        for tensor in (self.tiles, self.ids):
            # Or the copying stream would give the memory to a later batch while it is still read.
            tensor.record_stream(stream)
        return self.tiles, self.ids


class _ToGpu:
    """Through page-locked memory, which is used again, as locking it is slow."""

    def __init__(self, device: torch.device, shape: tuple[int, int, int, int]) -> None:
        self._device = device
        self._shape = shape
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._lock = Lock()
        self._owners: dict[int, Tensor] = {}
        self._free: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def place(self) -> Rgb:
        with self._lock:
            pinned, copied = self._free.popleft() if self._free else (None, None)
        if pinned is None:
            with torch.cuda.device(self._device):
                pinned = torch.empty(self._shape, dtype=torch.uint8, pin_memory=True)
        if copied is not None:
            copied.synchronize()
        tiles: Rgb = pinned.numpy()
        with self._lock:
            self._owners[id(tiles)] = pinned
        return tiles

    def send(self, batch: Batch) -> Sent:
        with self._lock:
            pinned = self._owners.pop(id(batch.tiles))
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            tiles = pinned.to(self._device, non_blocking=True)
            ids = torch.from_numpy(batch.ids).to(self._device)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)
        with self._lock:
            self._free.append((pinned, copied))
        return _Copying(tiles, ids, copied)
