"""Writing stores: interrupted, repeated, replanned and failing writers."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from manifests import TileStore
from manifests.codec import TileCodec
from manifests.errors import StoreError
from manifests.files import sha256
from manifests.layout import Column
from manifests.shard import shard_label
from manifests.store import StoreWriter, is_committed
from tests.manifests.make import (
    UUID,
    make_store,
    plan_store,
    shard_bytes,
    tile_pixels,
    write_shard,
)

JPEG, ZSTD = TileCodec("jpeg"), TileCodec("zstd")
CODECS = pytest.mark.parametrize("codec", [JPEG, ZSTD], ids=["jpeg", "zstd"])
OTHER_UUID = UUID.replace("1", "9")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@CODECS
def test_repeated_writes_give_the_same_folder_byte_for_byte(
    tmp_path: Path, codec: TileCodec
) -> None:
    for name in ("a.zarr", "b.zarr"):
        make_store(tmp_path / name, tile_pixels(21), codec=codec)
    assert contents(tmp_path / "a.zarr") == contents(tmp_path / "b.zarr")


@CODECS
def test_an_interrupted_writer_is_continued_by_another_to_the_same_bytes(
    tmp_path: Path, codec: TileCodec
) -> None:
    tiles = tile_pixels(21)
    make_store(tmp_path / "whole.zarr", tiles, codec=codec)
    path = tmp_path / "a.zarr"
    write_shard(plan_store(path, tiles, codec=codec), tiles, 1)

    again = StoreWriter(path)
    assert again.is_planned()
    assert again.missing_shards("0.5") == [0, 2]
    np.testing.assert_array_equal(again.planned_column("0.5", "x"), np.arange(21) * 32)
    for shard in (2, 0):
        write_shard(again, tiles, shard)
    assert again.missing_shards("0.5") == []
    assert again.commit() == TileStore(path).totals
    assert contents(path) == contents(tmp_path / "whole.zarr")


def test_planning_again_under_the_same_identity_keeps_the_shards(tmp_path: Path) -> None:
    tiles = tile_pixels(21)
    path = tmp_path / "a.zarr"
    write_shard(plan_store(path, tiles, codec=ZSTD), tiles, 1)
    assert plan_store(path, tiles, codec=ZSTD).missing_shards("0.5") == [0, 2]


def test_planning_a_committed_store_again_takes_the_commit_back(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(9), codec=ZSTD)
    writer = plan_store(tmp_path / "a.zarr", tile_pixels(9), codec=ZSTD)
    assert not is_committed(tmp_path / "a.zarr")
    assert writer.missing_shards("0.5") == [0, 1]


def test_a_planned_column_that_was_damaged_is_an_error_before_tiles_are_cut_by_it(
    tmp_path: Path,
) -> None:
    writer = plan_store(tmp_path / "a.zarr", tile_pixels(9), codec=ZSTD)
    file = tmp_path / "a.zarr/0.5/x/c.0"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match="the column x fails its checksum"):
        writer.planned_column("0.5", "x")


@pytest.mark.parametrize("committed", [True, False])
def test_planning_under_another_identity_begins_anew(tmp_path: Path, committed: bool) -> None:
    # Shards of the old plan have the very names and sizes of the new one's.
    old, new = tile_pixels(21, seed=1), tile_pixels(12, seed=2)
    path = tmp_path / "a.zarr"
    writer = plan_store(path, old, codec=ZSTD)
    for shard in range(3):
        write_shard(writer, old, shard)
    if committed:
        writer.commit()
    writer = plan_store(path, new, codec=ZSTD, uuid=OTHER_UUID)
    assert not is_committed(path)
    assert writer.missing_shards("0.5") == [0, 1]
    for shard in range(2):
        write_shard(writer, new, shard)
    writer.commit()
    np.testing.assert_array_equal(TileStore(path)["0.5"].read_batch(range(12)), new)

    fresh = plan_store(tmp_path / "b.zarr", new, codec=ZSTD, uuid=OTHER_UUID)
    for shard in range(2):
        write_shard(fresh, new, shard)
    fresh.commit()
    assert contents(path) == contents(tmp_path / "b.zarr")


def test_a_folder_that_is_no_store_is_not_emptied(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("ten years of work")
    with pytest.raises(StoreError, match="holds files that are no store; give another folder"):
        plan_store(tmp_path, tile_pixels(1), codec=ZSTD)
    assert contents(tmp_path) == {"thesis.tex": b"ten years of work"}


def test_an_incomplete_store_is_not_committed(tmp_path: Path) -> None:
    tiles = tile_pixels(21)
    path = tmp_path / "a.zarr"
    writer = plan_store(path, tiles, codec=ZSTD)
    for shard in (0, 2):
        write_shard(writer, tiles, shard)
    with pytest.raises(StoreError, match=r"shard 1 of 0\.5 is missing"):
        writer.commit()
    assert not is_committed(path)


@pytest.mark.parametrize("record", ["", "{", "null", "[]", '{"bytes": 1}', '{"other": 1}'])
def test_a_shard_whose_record_is_damaged_is_written_again(tmp_path: Path, record: str) -> None:
    tiles = tile_pixels(9)
    writer = plan_store(tmp_path / "a.zarr", tiles, codec=ZSTD)
    write_shard(writer, tiles, 0)
    write_shard(writer, tiles, 1)
    [file] = (tmp_path / "a.zarr/.parts").glob("*1.json")
    file.write_text(record)
    assert writer.missing_shards("0.5") == [1]


def test_a_shard_that_is_gone_or_cut_short_is_written_again(tmp_path: Path) -> None:
    tiles = tile_pixels(21)
    writer = plan_store(tmp_path / "a.zarr", tiles, codec=ZSTD)
    for shard in range(3):
        write_shard(writer, tiles, shard)
    (tmp_path / "a.zarr/0.5/tiles/c.0.0.0.0").unlink()
    os.truncate(tmp_path / "a.zarr/0.5/tiles/c.2.0.0.0", 100)
    assert writer.missing_shards("0.5") == [0, 2]


def test_commit_removes_what_killed_writers_left(tmp_path: Path) -> None:
    tiles = tile_pixels(9)
    path = tmp_path / "a.zarr"
    make_store(tmp_path / "whole.zarr", tiles, codec=ZSTD)
    writer = plan_store(path, tiles, codec=ZSTD)
    for shard in range(2):
        write_shard(writer, tiles, shard)
    for name in (".zarr.json.0123456789ab.tmp", "0.5/tiles/.c.0.0.0.0.0123456789ab.tmp"):
        (path / name).write_bytes(b"half a file")
    writer.commit()
    assert contents(path) == contents(tmp_path / "whole.zarr")
    assert not (path / ".parts").exists()


def test_the_bytes_of_a_shard_are_those_of_the_format(tmp_path: Path) -> None:
    writer = plan_store(tmp_path / "a.zarr", tile_pixels(11), codec=ZSTD)
    encoded = [bytes([i]) * (i + 1) for i in range(11)]
    for shard, members in enumerate((encoded[:8], encoded[8:])):  # the last one is not full
        writer.write_shard("0.5", shard, members, {})
        data = (tmp_path / f"a.zarr/0.5/tiles/c.{shard}.0.0.0").read_bytes()
        assert data == shard_bytes(shard_label(UUID, "0.5", shard), members, 8)
    # As of the first version of the format.
    assert sha256(data) == "8a0f3de3543b3109704b007b7fff264bd6e1280ff9e690e106b8c45af6bbde6a"


def test_tiles_are_written_as_they_come_and_columns_are_asked_for_after_the_last(
    tmp_path: Path,
) -> None:
    writer = plan_store(tmp_path / "a.zarr", tile_pixels(64), codec=ZSTD, shard_tiles=64)
    seen: list[int] = []

    def tiles() -> Iterator[bytes]:
        for i in range(64):
            seen.append(i)
            yield bytes([i]) * 1_000_000

    def columns() -> dict[str, Column]:
        return {"seen": np.asarray(seen, dtype=np.int32)}

    tracemalloc.start()
    written = writer.write_shard("0.5", 0, tiles(), columns)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5_000_000
    assert written == (tmp_path / "a.zarr/0.5/tiles/c.0.0.0.0").stat().st_size > 64_000_000
    writer.commit()
    group = TileStore(tmp_path / "a.zarr")["0.5"]
    np.testing.assert_array_equal(group.column("seen"), np.arange(64))
    assert group.read_encoded(63) == b"?" * 1_000_000


class Damage(Exception):
    """What a slide may raise."""


@pytest.mark.parametrize("failing", ["tiles", "columns"])
def test_a_shard_whose_tiles_fail_leaves_nothing_and_says_why(tmp_path: Path, failing: str) -> None:
    path = tmp_path / "a.zarr"
    writer = plan_store(path, tile_pixels(3), codec=ZSTD)
    before = contents(path)
    reason = Damage("the slide changed")

    def tiles() -> Iterator[bytes]:
        yield from (b"a" * 3_000_000, b"b")
        if failing == "tiles":
            raise reason
        yield b"c"

    def columns() -> dict[str, Column]:
        raise reason

    with pytest.raises(Damage) as caught:
        writer.write_shard("0.5", 0, tiles(), columns)
    assert caught.value is reason
    assert contents(path) == before
    assert writer.missing_shards("0.5") == [0]


@pytest.mark.parametrize(
    ("shard", "tiles", "values", "complaint"),
    [
        (0, 9, 9, "more tiles than the 8 that were planned"),
        (0, 7, 7, "7 tiles, but 8 were planned"),
        (1, 4, 3, "more tiles than the 3 that were planned"),
        (0, 8, 7, r"a column of 8 tiles has the shape \(7,\)"),
    ],
)
def test_a_shard_of_another_size_than_planned_is_refused(
    tmp_path: Path, shard: int, tiles: int, values: int, complaint: str
) -> None:
    path = tmp_path / "a.zarr"
    writer = plan_store(path, tile_pixels(11), codec=ZSTD)
    before = contents(path)
    focus = np.zeros(values, dtype=np.float32)
    with pytest.raises(ValueError, match=complaint):
        writer.write_shard("0.5", shard, [b"tile"] * tiles, {"focus": focus})
    assert contents(path) == before


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float32", "float64", ">f4"])
def test_measured_columns_keep_their_types_and_every_bit(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    width = np.dtype(dtype).itemsize
    values: Column = rng.integers(0, 2 if dtype == "bool" else 256, 11 * width, np.uint8)
    values = values.view(dtype)  # floats are NaN and infinite, too
    writer = plan_store(tmp_path / "a.zarr", tile_pixels(11), codec=ZSTD)
    for shard, part in enumerate((slice(0, 8), slice(8, 11))):
        writer.write_shard("0.5", shard, [b"tile"] * len(values[part]), {"odd": values[part]})
    StoreWriter(tmp_path / "a.zarr").commit()
    found = TileStore(tmp_path / "a.zarr")["0.5"].column("odd")
    native = np.dtype(dtype).newbyteorder("=")
    assert found.dtype == native
    assert found.tobytes() == values.astype(native).tobytes()


def test_columns_of_a_type_that_the_format_lacks_are_refused(tmp_path: Path) -> None:
    writer = plan_store(tmp_path / "a.zarr", tile_pixels(1), codec=ZSTD)
    with pytest.raises(ValueError, match="arrays of complex64 are not part of the format"):
        writer.write_shard("0.5", 0, [b"tile"], {"odd": np.zeros(1, dtype=np.complex64)})
    assert writer.missing_shards("0.5") == [0]


@pytest.mark.parametrize("other", [{}, {"focus": np.float64}, {"focus": np.float32, "pen": "?"}])
def test_shards_with_different_columns_are_not_joined(
    tmp_path: Path, other: dict[str, npt.DTypeLike]
) -> None:
    writer = plan_store(tmp_path / "a.zarr", tile_pixels(9), codec=ZSTD)
    writer.write_shard("0.5", 0, [b"tile"] * 8, {"focus": np.zeros(8, dtype=np.float32)})
    writer.write_shard("0.5", 1, [b"tile"], {n: np.zeros(1, dtype) for n, dtype in other.items()})
    with pytest.raises(StoreError, match="different versions of histotile; delete that folder"):
        writer.commit()
    assert not is_committed(tmp_path / "a.zarr")


def test_a_record_with_a_damaged_column_counts_as_missing(tmp_path: Path) -> None:
    writer = plan_store(tmp_path / "a.zarr", tile_pixels(1), codec=ZSTD)
    write_shard(writer, tile_pixels(1), 0)
    file = tmp_path / "a.zarr/.parts/0.5.0.json"
    whole = json.loads(file.read_bytes())
    assert writer.missing_shards("0.5") == []
    for value in ([0.5], {}, {"data_type": "float32", "chunk": "AAAAAAAAAAA="}, "text", None):
        file.write_text(json.dumps({**whole, "columns": {"focus": value}}))
        assert writer.missing_shards("0.5") == [0]
