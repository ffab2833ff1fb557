"""Writing stores: interrupted, repeated, replanned and failing writers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from manifests import TileStore
from manifests.codec import TileCodec
from manifests.errors import StoreError
from manifests.shard import build_shard
from manifests.store import StoreWriter, is_committed
from tests.manifests.make import UUID, make_store, plan_store, tile_pixels, write_shard

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


def test_a_shard_takes_no_more_tiles_than_it_has_slots() -> None:
    with pytest.raises(ValueError, match="3 tiles do not fit into a shard of 2 slots"):
        build_shard(b"", [b"a", b"b", b"c"], 2)
