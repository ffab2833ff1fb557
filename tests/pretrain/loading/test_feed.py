"""What is fed is what the loader reads, in order; errors, limits and endings are the reader's."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from manifests import Manifest, StoreError, load_manifest  # noqa: E402
from manifests.codec import Rgb  # noqa: E402
from pretrain.config import TrainConfig  # noqa: E402
from pretrain.loading import feed as feeding  # noqa: E402
from pretrain.loading.feed import Fed, feed  # noqa: E402
from pretrain.loading.loader import Batch, Filling, TileLoader  # noqa: E402
from pretrain.mixing.mix import resolve_mix  # noqa: E402
from pretrain.mixing.sampler import Draw, Sampler  # noqa: E402
from tests.pretrain.make import damage_tile, make_slide, numbered_tiles, save  # noqa: E402

BATCH = 10


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Two slides of 40 tiles; pixels are the tile's number in the mix."""
    a = make_slide(tmp_path, "a", {"0.5": numbered_tiles(40)})
    b = make_slide(tmp_path, "b", {"0.5": numbered_tiles(40, 40)}, organ="lung")
    return load_manifest(save(tmp_path, a, b))


def loader_of(manifest: Manifest, batch_size: int = BATCH) -> TileLoader:
    mix = resolve_mix(manifest, TrainConfig())
    return TileLoader(manifest, mix, Sampler(mix, 0, batch_size), batch_size)


class MadeUp(TileLoader):
    """Batches of one-pixel tiles without a store; every pixel is the step."""

    def __init__(self, tiles: int = 4, gone: Sequence[int] = (), slow_s: float = 0.0) -> None:
        self.tiles = tiles
        self.gone = gone
        self.slow_s = slow_s
        self.begun: list[int] = []

    @property
    def batch_shape(self) -> tuple[int, int, int, int]:
        return self.tiles, 1, 1, 3

    def begin(self, step: int, tiles: Rgb | None = None) -> Filling:
        self.begun.append(step)
        assert tiles is not None
        draws = [Draw(self.tiles * step + i, 0, 0, step) for i in range(self.tiles)]
        return Filling(self, draws, tiles)

    def read(self, draw: Draw, out: Rgb) -> tuple[int, list[int]]:
        threading.Event().wait(self.slow_s * (draw.number % 3))
        if draw.number in self.gone:
            raise StoreError(f"number {draw.number} is gone")
        out[:] = draw.tile
        return draw.number, []


def batches_of(
    loader: TileLoader, steps: Iterable[int], threads: int = 2
) -> closing[Generator[Fed, None, None]]:
    return closing(feed(loader, steps, threads, "cpu"))


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tiles")]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 10, 48])
def test_what_is_fed_is_what_the_loader_reads(
    manifest: Manifest, threads: int, batch_size: int
) -> None:
    loader = loader_of(manifest, batch_size)
    with batches_of(loader, range(2, 9), threads) as batches:
        for step, fed in enumerate(batches, start=2):
            wanted = loader.batch(step)
            assert fed.step == step
            assert fed.tiles.dtype == torch.uint8
            np.testing.assert_array_equal(fed.tiles.numpy(), wanted.tiles)
            np.testing.assert_array_equal(fed.numbers, wanted.numbers)
            np.testing.assert_array_equal(fed.ids.numpy(), wanted.ids)
            assert fed.damaged == ()
            assert fed.waited_s >= 0
    assert step == 8


def test_damage_is_told_in_the_order_of_the_batch(manifest: Manifest) -> None:
    for tile in range(3, 12):
        damage_tile(manifest.root / "a.zarr", "0.5", tile)
    loader = loader_of(manifest, 40)
    with batches_of(loader, range(4), threads=3) as batches:
        told = [fed.damaged for fed in batches]
    assert told == [loader.batch(step).damaged for step in range(4)]
    assert sum(map(len, told)) >= 9


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_however_long_each_tile_takes(threads: int) -> None:
    with batches_of(MadeUp(tiles=5, slow_s=0.001), range(20), threads) as batches:
        for step, fed in enumerate(batches):
            assert fed.numbers.tolist() == list(range(5 * step, 5 * step + 5))
            assert (fed.tiles == step).all()


def test_reading_ahead_is_bounded_in_batches() -> None:
    loader = MadeUp()
    with batches_of(loader, range(100)) as batches:
        next(batches)
    # Those ahead, and the one that was begun when the first was handed out.
    assert len(loader.begun) <= feeding.MOST_BATCHES_AHEAD + 1


def test_reading_ahead_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = MadeUp()
    monkeypatch.setattr(feeding, "MOST_BYTES_AHEAD", 2 * 4 * 3)
    with batches_of(loader, range(100)) as batches:
        next(batches)
    assert len(loader.begun) <= 3
    monkeypatch.setattr(feeding, "MOST_BYTES_AHEAD", 1)  # yet one is read while one is used
    loader = MadeUp()
    with batches_of(loader, range(3)) as batches:
        assert [fed.step for fed in batches] == [0, 1, 2]


def test_no_steps_are_no_batches_and_no_threads() -> None:
    with batches_of(MadeUp(), []) as batches:
        assert list(batches) == []
    assert not reading_threads()


def test_an_error_comes_where_its_batch_would_have_come() -> None:
    with batches_of(MadeUp(tiles=8, gone=[21, 19, 45]), range(9), threads=3) as batches:
        assert [next(batches).step for _ in range(2)] == [0, 1]
        with pytest.raises(StoreError, match="number 19 is gone"):
            next(batches)
    assert not reading_threads()


def test_an_error_in_drawing_comes_where_its_batch_would_have_come() -> None:
    class Undrawn(MadeUp):
        def begin(self, step: int, tiles: Rgb | None = None) -> Filling:
            if step == 1:
                raise StoreError("cannot be drawn")
            return super().begin(step, tiles)

    with batches_of(Undrawn(), range(5)) as batches:
        next(batches)
        with pytest.raises(StoreError, match="cannot be drawn"):
            next(batches)
    assert not reading_threads()


def test_closing_ends_the_threads_after_the_tile_that_each_is_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped, gate = threading.Event(), threading.Event()
    monkeypatch.setattr(feeding, "Event", lambda: stopped)
    begun: list[int] = []

    class Slow(MadeUp):
        def read(self, draw: Draw, out: Rgb) -> tuple[int, list[int]]:
            if draw.tile > 0:  # the first batch is read at once, of others each tile waits
                begun.append(draw.number)
                assert gate.wait(60)
            return super().read(draw, out)

    batches = feed(Slow(tiles=100), range(100), 2, "cpu")
    next(batches)
    closer = threading.Thread(target=batches.close)
    closer.start()
    assert stopped.wait(60)
    gate.set()
    closer.join()
    assert len(begun) <= 2
    assert not reading_threads()


def test_a_batch_keeps_its_tiles_as_long_as_someone_holds_a_part_of_them() -> None:
    with batches_of(MadeUp(tiles=6), range(30)) as batches:
        kept = [(fed.step, fed.tiles[2:4].permute(0, 3, 1, 2)) for fed in batches]
    assert [step for step, part in kept if not (part == step).all()] == []


def test_memory_is_used_again_once_a_batch_is_done_with() -> None:
    places = set()
    with batches_of(MadeUp(tiles=6), range(60)) as batches:
        for fed in batches:
            places.add(fed.tiles.data_ptr())
            del fed
    assert len(places) <= feeding.MOST_BATCHES_AHEAD + 3


def test_nothing_of_a_run_is_held_when_it_is_over() -> None:
    loader = MadeUp()
    with batches_of(loader, range(9)) as batches:
        for _ in batches:
            pass
    held = weakref.ref(loader)
    del loader, batches
    assert held() is None


def test_an_interrupt_ends_the_process_while_tiles_are_read(tmp_path: Path) -> None:
    a = make_slide(tmp_path, "a", {"0.5": numbered_tiles(40)})
    path = save(tmp_path, a)
    script = (
        "import sys\n"
        "from contextlib import closing\n"
        "from manifests import load_manifest\n"
        "from pretrain.config import TrainConfig\n"
        "from pretrain.loading.feed import feed\n"
        "from pretrain.loading.loader import TileLoader\n"
        "from pretrain.mixing.mix import resolve_mix\n"
        "from pretrain.mixing.sampler import Sampler\n"
        "manifest = load_manifest(sys.argv[1])\n"
        "mix = resolve_mix(manifest, TrainConfig())\n"
        "loader = TileLoader(manifest, mix, Sampler(mix, 0, 32), 32)\n"
        "with closing(feed(loader, range(10**9), 2, 'cpu')) as batches:\n"
        "    for fed in batches:\n"
        "        if fed.step == 3:\n"
        "            print('reading', flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, complaint.decode()
    assert complaint.decode().rstrip().endswith("KeyboardInterrupt")


class FakeEvent:
    """Notes what is asked of it."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def record(self, stream: Any) -> None:
        self.log.append(("record", stream))

    def synchronize(self) -> None:
        self.log.append("synchronize")


def test_pinned_memory_waits_for_its_copy_before_it_is_filled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The way to a GPU with a stand-in for CUDA: what is copied, recorded and waited for."""
    log: list[Any] = []
    cuda = torch.cuda
    real_empty = torch.empty
    monkeypatch.setattr(cuda, "Stream", lambda device: "side")
    monkeypatch.setattr(cuda, "Event", lambda: FakeEvent(log))
    monkeypatch.setattr(cuda, "device", lambda device: closing(FakeContext()))
    monkeypatch.setattr(cuda, "stream", lambda stream: closing(FakeContext()))
    monkeypatch.setattr(
        torch, "empty", lambda shape, dtype, pin_memory: real_empty(shape, dtype=dtype)
    )
    way = feeding._ToGpu(torch.device("cpu"), (2, 1, 1, 3))
    first = way.place()
    numbers = np.arange(2)
    way.send(Batch(first, numbers, numbers))
    assert log == [("record", "side")]
    again = way.place()
    assert log == [("record", "side"), "synchronize"]
    assert np.shares_memory(first, again)
    assert not np.shares_memory(again, way.place())


def test_a_step_waits_for_the_copy_and_then_holds_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log: list[Any] = []

    class FakeTensor:
        device = "gpu"

        def record_stream(self, stream: Any) -> None:
            log.append((self, stream))

    class FakeStream:
        def wait_event(self, event: Any) -> None:
            log.append(("wait", event))

    stream, tiles, ids = FakeStream(), FakeTensor(), FakeTensor()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    copying: Any = feeding._Copying
    assert copying(tiles, ids, "copied").arrived() == (tiles, ids)
    assert log == [("wait", "copied"), (tiles, stream), (ids, stream)]


class FakeContext:
    """Does nothing."""

    def close(self) -> None:
        """Nothing to close."""
