"""Damaged stores: every read either gives what was written or raises `StoreError`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from manifests import TileStore, store
from manifests.codec import TileCodec, encode_jpeg
from manifests.errors import StoreError
from manifests.files import pretty_json, sha256
from manifests.shard import Shard, shard_label
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
TILES = 11
FIRST_SHARD, LAST_SHARD = "0.5/tiles/c.0.0.0.0", "0.5/tiles/c.1.0.0.0"

Reads = dict[str, bytes | None]
"""What each read of a store gave: bytes, or None where it raised `StoreError`."""


def read_everything(path: Path) -> Reads:
    """Read all that a store offers, as a process that opens it for the first time."""
    store._cache.shards.clear()
    try:
        opened = TileStore(path)
        group = opened["0.5"]
    except StoreError:
        return {"open": None}
    found: Reads = {"open": b""}
    for index in range(len(group)):
        try:
            found[f"tile {index}"] = group.read(index).tobytes()
        except StoreError:
            found[f"tile {index}"] = None
    for column in group.columns:
        try:
            found[column] = group.column(column).tobytes()
        except StoreError:
            found[column] = None
    for picture in ("thumbnail", "tissue_mask"):
        try:
            found[picture] = opened.picture(picture).tobytes()
        except StoreError:
            found[picture] = None
    for name in opened.files():
        if "/tiles/c." not in name:
            try:
                found[name] = opened.read_file(name)
            except StoreError:
                found[name] = None
    return found


def refused(reads: Reads, expected: Reads) -> set[str]:
    """The reads that raised; none may have given anything but what was written."""
    wrong = {name for name, data in reads.items() if data is not None and data != expected[name]}
    assert not wrong, f"read back without an error, but changed: {sorted(wrong)}"
    return {name for name, data in reads.items() if data is None}


@contextmanager
def changed(file: Path, data: bytes) -> Iterator[None]:
    """The file with other bytes, for a while."""
    before = file.read_bytes()
    file.write_bytes(data)
    try:
        yield
    finally:
        file.write_bytes(before)


def flip(data: bytes, bit: int) -> bytes:
    """The data with one bit changed."""
    found = bytearray(data)
    found[bit // 8] ^= 1 << (bit % 8)
    return bytes(found)


@pytest.fixture
def damaged(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A committed store of 11 tiles in two shards; tests damage it."""
    path = tmp_path / "a.zarr"
    codec = getattr(request, "param", ZSTD)
    make_store(path, tile_pixels(TILES), codec=codec)
    return path


@pytest.mark.parametrize("damaged", [JPEG, ZSTD], ids=["jpeg", "zstd"], indirect=True)
def test_one_flipped_bit_anywhere_in_any_file_is_an_error_and_never_a_wrong_pixel(
    damaged: Path,
) -> None:
    expected = read_everything(damaged)
    assert not refused(expected, expected)
    rng = np.random.default_rng(20)
    for file in sorted(p for p in damaged.rglob("*") if p.is_file()):
        data = file.read_bytes()
        for bit in rng.integers(0, len(data) * 8, 12).tolist():
            with changed(file, flip(data, bit)):
                assert refused(read_everything(damaged), expected), f"{file.name}, bit {bit}"


def test_every_part_of_a_shard_is_protected(damaged: Path) -> None:
    # Label, payloads, inner checksums, index, its checksum: each is hit often, not by chance.
    expected = read_everything(damaged)
    file = damaged / FIRST_SHARD
    data = file.read_bytes()
    index_start = len(data) - 8 * 16 - 4
    rng = np.random.default_rng(21)
    for start, stop in ((0, 16), (16, index_start), (index_start, len(data) - 4), (-4, 0)):
        span = range(len(data))[start : stop or None]
        for byte in rng.choice(span, 15):
            bit = int(byte) * 8 + int(rng.integers(8))
            with changed(file, flip(data, bit)):
                assert refused(read_everything(damaged), expected), f"bit {bit}"


def test_a_damaged_payload_spoils_its_own_tile_only(damaged: Path) -> None:
    expected = read_everything(damaged)
    file = damaged / FIRST_SHARD
    with changed(file, flip(file.read_bytes(), 16 * 8)):  # the first bit of tile 0
        assert refused(read_everything(damaged), expected) == {"tile 0"}


@pytest.mark.parametrize("name", [FIRST_SHARD, LAST_SHARD, "0.5/x/c.0", "zarr.json", "commit.json"])
def test_a_file_cut_short_at_any_length_is_an_error(damaged: Path, name: str) -> None:
    expected = read_everything(damaged)
    file = damaged / name
    data = file.read_bytes()
    # A final newline is all that a JSON text can lose; then it still says the same.
    longest = len(data) - 2 if name == "commit.json" else len(data) - 1
    for length in np.unique(np.linspace(0, longest, 25).astype(int)).tolist():
        with changed(file, data[:length]):
            assert refused(read_everything(damaged), expected), f"{length} of {len(data)} bytes"
    if name != "commit.json":
        with changed(file, data + b"\0"):
            assert refused(read_everything(damaged), expected)


@pytest.mark.parametrize("name", [FIRST_SHARD, "0.5/x/c.0", "0.5/tiles/zarr.json", "zarr.json"])
def test_a_deleted_file_is_an_error(damaged: Path, name: str) -> None:
    expected = read_everything(damaged)
    (damaged / name).unlink()
    assert refused(read_everything(damaged), expected)


def swap(one: Path, other: Path) -> None:
    """Two files, each under the other's name."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_two_swapped_shards_of_equal_lengths_are_errors(tmp_path: Path) -> None:
    # Constant tiles: lengths, index and whole-file crc32c of both shards are the same.
    path = tmp_path / "a.zarr"
    tiles = np.repeat(np.arange(16, dtype=np.uint8), 32 * 32 * 3).reshape(16, 32, 32, 3)
    make_store(path, tiles, codec=ZSTD)
    one, other = path / FIRST_SHARD, path / LAST_SHARD
    assert one.stat().st_size == other.stat().st_size
    assert one.read_bytes()[-132:] == other.read_bytes()[-132:]
    expected = read_everything(path)
    swap(one, other)
    assert refused(read_everything(path), expected) == {f"tile {i}" for i in range(16)}


def test_two_swapped_columns_are_errors(damaged: Path) -> None:
    expected = read_everything(damaged)
    swap(damaged / "0.5/x/c.0", damaged / "0.5/y/c.0")
    assert {"x", "y"} <= refused(read_everything(damaged), expected)


def test_a_shard_of_another_store_is_an_error(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a.zarr", tmp_path / "b.zarr"
    make_store(ours, tile_pixels(TILES), codec=ZSTD)
    tiles = tile_pixels(TILES)
    writer = plan_store(theirs, tiles, codec=ZSTD, uuid=UUID.replace("1", "9"))
    for shard in range(2):
        write_shard(writer, tiles, shard)
    writer.commit()
    expected = read_everything(ours)
    shutil.copyfile(theirs / FIRST_SHARD, ours / FIRST_SHARD)  # the same tiles, even
    assert refused(read_everything(ours), expected) == {f"tile {i}" for i in range(8)}
    with pytest.raises(StoreError, match="is not the shard that its name says"):
        TileStore(ours)["0.5"].read(0)


def test_a_commit_record_of_another_store_is_an_error(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "a.zarr", tmp_path / "b.zarr"
    make_store(ours, tile_pixels(TILES), codec=ZSTD)
    make_store(theirs, tile_pixels(TILES, seed=1), codec=ZSTD)
    expected = read_everything(ours)
    shutil.copyfile(theirs / "commit.json", ours / "commit.json")
    assert refused(read_everything(ours), expected)


def commit_again(path: Path, name: str) -> None:
    """Let the commit record vouch for a file as it is now."""
    file = path / "commit.json"
    body = json.loads(file.read_bytes())
    del body["sha256"]
    data = (path / name).read_bytes()
    body["files"][name] = [len(data), sha256(data)]
    body["sha256"] = sha256(pretty_json(body))
    file.write_bytes(pretty_json(body))


def test_a_slot_that_was_never_written_is_an_error_even_if_committed(damaged: Path) -> None:
    shard = Shard(damaged / FIRST_SHARD, 8, shard_label(UUID, "0.5", 0))
    kept = [shard.read(slot) for slot in range(7)]
    shard.close()
    (damaged / FIRST_SHARD).write_bytes(shard_bytes(shard_label(UUID, "0.5", 0), kept, 8))
    commit_again(damaged, FIRST_SHARD)
    store._cache.shards.clear()
    group = TileStore(damaged)["0.5"]
    assert group.read(6).shape == (32, 32, 3)
    with pytest.raises(StoreError, match=r"slot 7 .*was never written"):
        group.read(7)


@pytest.mark.parametrize("height", [8, 31, 33, 4096])
def test_a_jpeg_of_another_size_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int
) -> None:
    path = tmp_path / "a.zarr"
    writer = plan_store(path, tile_pixels(1), codec=JPEG)
    foreign = encode_jpeg(np.zeros((height, 32, 3), dtype=np.uint8), 90, "444")
    writer.write_shard("0.5", 0, [foreign], {})
    writer.commit()

    def decode(*_args: object, **_settings: object) -> None:
        raise AssertionError("pixels of a foreign JPEG were decoded")

    monkeypatch.setattr("simplejpeg.decode_jpeg", decode)
    with pytest.raises(StoreError, match=f"a JPEG tile is 32 x {height} px, not 32 x 32"):
        TileStore(path)["0.5"].read(0)


@CODECS
@pytest.mark.parametrize("payload", [b"", b"\0", b"\xff\xd8\xff\xd9", b"no picture" * 9])
def test_a_payload_that_is_no_picture_is_a_store_error(
    tmp_path: Path, codec: TileCodec, payload: bytes
) -> None:
    writer = plan_store(tmp_path / "a.zarr", tile_pixels(1), codec=codec)
    writer.write_shard("0.5", 0, [payload], {})
    writer.commit()
    with pytest.raises(StoreError):
        TileStore(tmp_path / "a.zarr")["0.5"].read(0)


def test_an_index_that_points_outside_the_file_is_an_error(tmp_path: Path) -> None:
    # A valid checksum over a nonsensical index: a writer with a defect, not a flipped bit.
    from manifests.files import crc32c

    label = shard_label(UUID, "0.5", 0)
    for offset, length in ((16, 10**6), (10**18, 8), (16, 3), (2**63, 2**63)):
        index = np.array([[offset, length]], dtype="<u8").tobytes()
        data = label + b"payload" + index + crc32c(index).to_bytes(4, "little")
        file = tmp_path / "c.0.0.0.0"
        file.write_bytes(data)
        with pytest.raises(StoreError, match="points outside the file"):
            Shard(file, 1, label).read(0)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"codecs": []},
        {"codecs": [{"name": "bytes"}]},
        {"codecs": [{"name": "sharding_indexed", "configuration": {}}], "shape": [1, 8, 8, 3]},
    ],
)
def test_tiles_metadata_of_another_writer_are_a_store_error(
    damaged: Path, metadata: object
) -> None:
    (damaged / "0.5/tiles/zarr.json").write_bytes(pretty_json(metadata))
    commit_again(damaged, "0.5/tiles/zarr.json")
    with pytest.raises(StoreError):
        TileStore(damaged)["0.5"]
