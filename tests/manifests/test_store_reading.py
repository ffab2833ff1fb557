"""Reading committed stores: the oracle is plain zarr-python, in this process and in a fresh one."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from manifests import TileStore
from manifests.codec import TileCodec
from manifests.errors import StoreError
from manifests.layout import TilesLayout
from manifests.store import is_committed
from tests.manifests.make import (
    UUID,
    make_store,
    make_store_with_unread,
    plan_store,
    tile_pixels,
    write_shard,
)

JPEG, ZSTD = TileCodec("jpeg"), TileCodec("zstd")
CODECS = pytest.mark.parametrize("codec", [JPEG, ZSTD], ids=["jpeg", "zstd"])


def zarr_array(path: Path, name: str) -> Any:
    return zarr.open(str(path), mode="r")[name]  # type: ignore[index]


@CODECS
@pytest.mark.parametrize("count", [1, 8, 21])  # part of a shard, one whole shard, a partial last
def test_tiles_and_columns_equal_what_zarr_reads(
    tmp_path: Path, codec: TileCodec, count: int
) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, tile_pixels(count), codec=codec)
    group = TileStore(path)["0.5"]

    assert len(group) == count
    np.testing.assert_array_equal(
        group.read_batch(np.arange(count)), zarr_array(path, "0.5/tiles")[:]
    )
    assert group.columns == ("focus", "native", "tissue", "x", "y")
    for name in group.columns:
        column, seen = group.column(name), zarr_array(path, f"0.5/{name}")[:]
        assert column.dtype == seen.dtype
        np.testing.assert_array_equal(column, seen)


def test_lossless_tiles_equal_the_pixels_that_went_in(tmp_path: Path) -> None:
    tiles = tile_pixels(21)
    make_store(tmp_path / "a.zarr", tiles, codec=ZSTD)
    np.testing.assert_array_equal(
        TileStore(tmp_path / "a.zarr")["0.5"].read_batch(range(21)), tiles
    )


@CODECS
def test_pictures_equal_what_zarr_reads(tmp_path: Path, codec: TileCodec) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, tile_pixels(3), codec=codec)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:9, 7:20] = True
    store = TileStore(path)
    for name in ("tissue_mask", "thumbnail"):
        assert store.picture(name).dtype == zarr_array(path, name).dtype
        np.testing.assert_array_equal(store.picture(name), zarr_array(path, name)[:])
    np.testing.assert_array_equal(store.picture("tissue_mask"), mask)
    thumbnail = store.picture("thumbnail")
    assert thumbnail.shape == (20, 30, 3)
    assert np.abs(thumbnail.astype(int) - 200).max() <= 2


def test_attributes_equal_what_zarr_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, tile_pixels(3), codec=JPEG)
    store = TileStore(path)
    assert store.attributes == dict(zarr.open(str(path), mode="r").attrs)
    assert store["0.5"].attributes == dict(zarr_array(path, "0.5").attrs)
    assert store["0.5"].mpp == (0.5, 0.5)


@CODECS
def test_a_fresh_process_that_knows_only_zarr_reads_the_same_tiles(
    tmp_path: Path, codec: TileCodec
) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, tile_pixels(9), codec=codec)
    script = (
        "import sys, zarr\n"
        "root = zarr.open(sys.argv[1], mode='r')\n"
        "out = [root['0.5/tiles'][i].tobytes() for i in (0, 7, 8)]\n"
        "names = '0.5/x', '0.5/focus', '0.5/native', 'thumbnail', 'tissue_mask'\n"
        "out += [root[name][:].tobytes() for name in names]\n"
        "sys.stdout.buffer.write(b''.join(out))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(path)],
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr.decode()
    group = TileStore(path)["0.5"]
    expected = [group.read(i).tobytes() for i in (0, 7, 8)]
    expected += [group.column(n).tobytes() for n in ("x", "focus", "native")]
    expected += [zarr_array(path, n)[:].tobytes() for n in ("thumbnail", "tissue_mask")]
    assert done.stdout == b"".join(expected)


@CODECS
def test_an_all_black_tile_is_a_tile(tmp_path: Path, codec: TileCodec) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, np.zeros((3, 32, 32, 3), dtype=np.uint8), codec=codec)
    assert TileStore(path)["0.5"].read(2).max() == 0
    assert len(TileStore(path)["0.5"].read_encoded(2)) > 0


@CODECS
def test_an_empty_store_opens_and_equals_zarrs_view(tmp_path: Path, codec: TileCodec) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, tile_pixels(0), codec=codec)
    store = TileStore(path)
    group = store["0.5"]
    assert (len(group), store.totals["tiles"]) == (0, 0)
    assert group.read_batch([]).shape == zarr_array(path, "0.5/tiles")[:].shape == (0, 32, 32, 3)
    for name in ("x", "y", "tissue"):
        seen = zarr_array(path, f"0.5/{name}")[:]
        assert group.column(name).shape == seen.shape == (0,)
        assert group.column(name).dtype == seen.dtype
    with pytest.raises(IndexError):
        group.read(0)


def test_tiles_outside_the_store_are_an_index_error(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(5), codec=JPEG)
    group = TileStore(tmp_path / "a.zarr")["0.5"]
    for index in (-1, 5, 7, 8, 10**9):  # 7 is a slot of the shard, but not a tile
        with pytest.raises(IndexError, match="a group of 5 tiles"):
            group.read(index)


def test_names_that_are_not_there_are_refused_with_those_that_are(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(2), codec=JPEG)
    store = TileStore(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=r"no resolution '1'; it has 0\.5"):
        store["1"]
    with pytest.raises(StoreError, match="no column 'pen'; it has focus, native, tissue, x, y"):
        store["0.5"].column("pen")
    with pytest.raises(StoreError, match="no file secret"):
        store.read_file("secret")
    assert store.sources() == []


@pytest.mark.parametrize(
    ("values", "unread"),
    [
        ([0.0] * 20, []),
        ([0.0] * 9 + [0.5, 1e-6] + [0.0] * 8 + [1.0], [9, 10, 19]),
        ([np.nan, 0.0, -0.0], [0]),  # what nobody knows to be whole is not
        ([1.0] * 9, list(range(9))),
        ([], []),
    ],
)
def test_tiles_that_could_not_be_read_whole_are_told(
    tmp_path: Path, values: list[float], unread: list[int]
) -> None:
    make_store_with_unread(tmp_path / "a.zarr", values)
    group = TileStore(tmp_path / "a.zarr")["0.5"]
    assert group.unread().dtype == group.usable().dtype == np.int64
    assert group.unread().tolist() == unread
    assert group.usable().tolist() == sorted(set(range(len(values))) - set(unread))
    assert len(group) == len(values)  # they are there all the same


def test_all_tiles_of_a_store_that_does_not_say_are_usable(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(9), codec=ZSTD)
    group = TileStore(tmp_path / "a.zarr")["0.5"]
    assert "unread" not in group.columns
    assert group.usable().tolist() == list(range(9))
    assert group.unread().tolist() == []


def test_a_store_travels_through_pickle_and_forgets_open_files(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(9), codec=ZSTD)
    store = TileStore(tmp_path / "a.zarr")
    before = store["0.5"].read(8)
    data = pickle.dumps(store)
    assert len(data) < 500
    again = pickle.loads(data)
    np.testing.assert_array_equal(again["0.5"].read(8), before)


def test_four_threads_read_what_one_reads(tmp_path: Path) -> None:
    tiles = tile_pixels(64)
    make_store(tmp_path / "a.zarr", tiles, codec=ZSTD, shard_tiles=4)
    group = TileStore(tmp_path / "a.zarr")["0.5"]
    order = np.random.default_rng(0).integers(0, 64, 1000)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(group.read, order.tolist()))
    np.testing.assert_array_equal(np.stack(found), tiles[order])


@CODECS
def test_a_tile_is_decoded_into_the_place_that_is_given(tmp_path: Path, codec: TileCodec) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(9), codec=codec)
    group = TileStore(tmp_path / "a.zarr")["0.5"]
    places = np.full((3, 32, 32, 3), 7, dtype=np.uint8)
    assert np.shares_memory(group.read(8, places[1]), places)
    np.testing.assert_array_equal(places[1], group.read(8))
    assert (places[::2] == 7).all()


@pytest.mark.parametrize(
    "place",
    [
        np.zeros((31, 32, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8)[::2, ::2],
    ],
    ids=["smaller", "larger", "float", "with gaps"],
)
def test_a_place_that_does_not_fit_a_tile_is_refused(
    tmp_path: Path, place: npt.NDArray[np.uint8]
) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(9), codec=JPEG)
    with pytest.raises(TypeError, match="out must be contiguous uint8"):
        TileStore(tmp_path / "a.zarr")["0.5"].read(0, place)


def test_a_shard_of_another_length_is_refused_each_time(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(9), codec=ZSTD)
    file = tmp_path / "a.zarr" / "0.5" / TilesLayout.shard_file(0)
    data = file.read_bytes()
    group = TileStore(tmp_path / "a.zarr")["0.5"]
    file.write_bytes(data[:16] + b"more" + data[16:])
    for _ in range(2):
        with pytest.raises(StoreError, match=f"has {len(data) + 4} bytes, but {len(data)} were"):
            group.read(0)


def test_more_shards_than_the_cache_holds_are_all_read_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manifests.store._MAX_OPEN_SHARDS", 2)
    tiles = tile_pixels(24)
    make_store(tmp_path / "a.zarr", tiles, codec=ZSTD, shard_tiles=2)
    group = TileStore(tmp_path / "a.zarr")["0.5"]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        np.testing.assert_array_equal(group.read_batch(range(24)), tiles)
    # At most two stay open; whatever was open before may have been dropped for them.
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_of_the_files_that_may_be_open_most_are_left_to_others(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(64), codec=ZSTD, shard_tiles=1)
    script = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))\n"
        "from manifests import TileStore\n"
        "group = TileStore(sys.argv[1])['0.5']\n"
        "group.read(0)\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "group.read_batch(range(64))\n"
        "print(len(os.listdir('/proc/self/fd')) - before)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.zarr")]
    ran = subprocess.run(command, capture_output=True, check=True, timeout=30)
    assert int(ran.stdout) == 80 // 4 - 1


def test_a_forked_child_reads_even_if_a_thread_of_the_parent_held_the_lock(
    tmp_path: Path,
) -> None:
    # In a process of its own: warnings about forking with threads would end this one.
    make_store(tmp_path / "a.zarr", tile_pixels(9), codec=ZSTD)
    script = (
        "import os, sys, threading\n"
        "from manifests import TileStore, store\n"
        "group = TileStore(sys.argv[1])['0.5']\n"
        "expected = group.read(0).tobytes()\n"
        "held, done = threading.Event(), threading.Event()\n"
        "def hold():\n"
        "    with store._cache.lock:\n"
        "        held.set(); done.wait()\n"
        "thread = threading.Thread(target=hold); thread.start(); held.wait()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    same = group.read(0).tobytes() == expected and group.read(8).shape == (32, 32, 3)\n"
        "    os._exit(0 if same else 1)\n"
        "status = os.waitpid(child, 0)[1]\n"
        "done.set(); thread.join()\n"
        "sys.exit(os.waitstatus_to_exitcode(status))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.zarr")],
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert ran.returncode == 0, ran.stderr.decode()


def test_a_store_written_anew_in_the_same_process_is_not_served_from_the_cache(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.zarr"
    first, second = tile_pixels(9, seed=1), tile_pixels(9, seed=2)
    make_store(path, first, codec=ZSTD)
    np.testing.assert_array_equal(TileStore(path)["0.5"].read_batch(range(9)), first)
    shutil.rmtree(path)
    make_store(path, second, codec=ZSTD)
    np.testing.assert_array_equal(TileStore(path)["0.5"].read_batch(range(9)), second)


def test_a_store_without_a_commit_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    tiles = tile_pixels(9)
    writer = plan_store(path, tiles, codec=JPEG)
    write_shard(writer, tiles, 0)
    with pytest.raises(StoreError, match="not committed: its run was interrupted; run it again"):
        TileStore(path)
    assert not is_committed(path)
    with pytest.raises(StoreError, match="there is no store at"):
        TileStore(tmp_path / "b.zarr")


@pytest.mark.parametrize("name", ["missing.zarr", "n" * 300, "d/" * 3000, "a\0b"])
def test_a_path_that_cannot_be_a_store_is_a_store_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError):
        TileStore(tmp_path / name)


def test_a_newer_store_format_is_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, tile_pixels(1), codec=JPEG)
    commit = path / "commit.json"
    commit.write_text(commit.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreError, match="has store format 2; this version of histotile reads 1"):
        TileStore(path)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"format": "other"}', "[" * 100_000, "\xff"])
def test_a_commit_record_that_is_none_is_a_store_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, tile_pixels(1), codec=JPEG)
    (path / "commit.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match=r"commit\.json"):
        TileStore(path)
    assert not is_committed(path)


def test_the_commit_record_names_every_file_and_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, tile_pixels(9), codec=JPEG)
    store = TileStore(path)
    on_disk = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert set(store.files()) == on_disk - {"commit.json"}
    for name in store.files():
        assert store.committed_file(name)[0] == (path / name).stat().st_size
    assert store.totals == {
        "tiles": 9,
        "bytes": sum((path / name).stat().st_size for name in store.files()),
    }
    assert store.attributes["uuid"] == UUID
