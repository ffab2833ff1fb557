"""Verifying stores: every kind of damage is found and named, and sound stores are left in peace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.codec import TileCodec
from manifests.errors import StoreError
from manifests.files import crc32c, pretty_json, sha256
from manifests.jsonfile import load_manifest
from manifests.model import Manifest, Resolution, StoreEntry
from manifests.shard import Shard, shard_label
from manifests.store import TileStore
from manifests.verify import Level, Problem, Verified, verify
from tests.manifests.make import (
    UUID,
    make_store,
    plan_store,
    shard_bytes,
    tile_pixels,
    write_shard,
)
from tests.manifests.make_manifest import done_entry, failed_entry
from tests.manifests.make_set import stored_entry

TILES = 11
SHARD, LAST_SHARD = "0.5/tiles/c.0.0.0.0", "0.5/tiles/c.1.0.0.0"
OTHER_UUID = UUID.replace("1", "9")
LEVELS: tuple[Level, ...] = ("quick", "deep", "sha256")
READING = pytest.mark.parametrize("level", ["deep", "sha256"])


def entry_of(root: Path, path: str, **changes: Any) -> StoreEntry:
    """The entry of a store that `make_store` made, as it is now."""
    store = TileStore(root / path)
    group = store["0.5"]
    fields: dict[str, Any] = {
        "spec_hash": store.attributes["spec_hash"],
        "bytes": store.totals["bytes"],
        "resolutions": (Resolution("0.5", group.mpp, 0.5, group.tile_size, len(group), 0, (1, 1)),),
    }
    return stored_entry(root, path, **{**fields, **changes})


@pytest.fixture
def found(tmp_path: Path) -> Manifest:
    """Two stores of 11 tiles in two shards each, `a` and `b`, which are alike but for identity."""
    make_store(tmp_path / "a.zarr", tile_pixels(TILES), codec=TileCodec("zstd"))
    tiles = tile_pixels(TILES)
    writer = plan_store(tmp_path / "b.zarr", tiles, codec=TileCodec("zstd"), uuid=OTHER_UUID)
    for shard in range(2):
        write_shard(writer, tiles, shard)
    writer.commit()
    entries = (entry_of(tmp_path, "a.zarr"), entry_of(tmp_path, "b.zarr"))
    return Manifest(entries, root=tmp_path)


def named(result: Verified) -> list[tuple[str, str | None]]:
    """Entry and file of each problem."""
    return [(problem.entry, problem.file) for problem in result.problems]


def flip(file: Path, bit: int) -> None:
    """Change one bit of a file."""
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    file.write_bytes(data)


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a commit record, and let its own checksum fit again."""
    file = path / "commit.json"
    body = json.loads(file.read_bytes())
    del body["sha256"]
    change(body)
    body["sha256"] = sha256(pretty_json(body))
    file.write_bytes(pretty_json(body))


def vouch(path: Path, name: str) -> None:
    """Let the commit record say of a file what it is now."""
    data = (path / name).read_bytes()

    def change(body: dict[str, Any]) -> None:
        body["files"][name] = [len(data), sha256(data)]

    forge(path, change)


@pytest.mark.parametrize("level", LEVELS)
def test_sound_stores_have_no_problems(found: Manifest, level: Level) -> None:
    result = verify(found, level)
    assert result.problems == ()
    assert (result.stores, result.tiles) == (2, 2 * TILES)
    assert result.bytes == sum(
        file.stat().st_size
        for file in found.root.rglob("*")
        if file.is_file() and file.name != "commit.json"
    )


@pytest.mark.slow
def test_stores_of_real_slides_and_tiles_have_no_problems(real_data: Path, tmp_path: Path) -> None:
    slide = real_data / "svs" / "CMU-1-Small-Region.svs"
    tiles = real_data / "tiles" / "lc25000_224" / "lung_aca"
    commands: list[list[object]] = [
        [slide, "--mpp", "0.5", "--mpp", "1"],
        [tiles, "--packed", "--mpp", "0.5", "--tile-size", "224"],
    ]
    for command in commands:
        line = [sys.executable, "-m", "tiler", "extract", *command, "--out", tmp_path]
        assert subprocess.run([*map(str, line), "--assume-mpp", "0.5"], check=False).returncode == 0
    manifest = load_manifest(tmp_path)
    assert sorted(len(entry.resolutions) for entry in manifest.committed()) == [1, 2]
    for level in LEVELS:
        assert verify(manifest, level).problems == ()


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_one_flipped_bit_anywhere_is_found_and_its_file_named(tmp_path: Path, count: int) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(TILES), codec=TileCodec("jpeg"))
    manifest = Manifest((entry_of(tmp_path, "a.zarr"),), root=tmp_path)
    files = sorted(file for file in (tmp_path / "a.zarr").rglob("*") if file.is_file())
    sizes = [file.stat().st_size for file in files]
    rng = np.random.default_rng(4)
    # Half of the places are random bytes of the store, half random bytes of random files.
    byte_wise = rng.choice(len(files), count // 2, p=np.array(sizes) / sum(sizes))
    chosen = [*byte_wise, *rng.choice(len(files), count - count // 2)]
    missed = []
    for number in chosen:
        file = files[number]
        bit = int(rng.integers(8 * sizes[number]))
        flip(file, bit)
        result = verify(manifest, "deep")
        name = file.relative_to(tmp_path / "a.zarr").as_posix()
        if not any(name in (p.file or "commit.json") for p in result.problems):
            missed.append((name, bit, result.problems))
        flip(file, bit)
    assert missed == []
    assert verify(manifest, "deep").problems == ()


@READING
def test_the_damaged_tiles_are_named_by_their_numbers_in_the_group(
    found: Manifest, level: Level
) -> None:
    shard = Shard(found.root / "a.zarr" / LAST_SHARD, 8, shard_label(UUID, "0.5", 1))
    offsets = shard._index[:, 0].tolist()
    shard.close()
    flip(found.root / "a.zarr" / LAST_SHARD, 8 * offsets[1])
    assert [str(problem) for problem in verify(found, level).problems] == [
        f"a: {LAST_SHARD}: shard 1 of 0.5: tile 9 fails its crc32c"
    ]
    flip(found.root / "a.zarr" / LAST_SHARD, 8 * offsets[2])
    assert verify(found, level).problems[0].what.endswith("tiles 9-10 fail their crc32c")
    assert verify(found, "quick").problems == ()


@READING
@pytest.mark.parametrize(
    ("place", "what"),
    [(0, "is not the shard that its name says"), (-1, "the index of shard"), (-20, "the index of")],
)
def test_damage_to_label_and_index_of_a_shard_is_told_apart(
    found: Manifest, level: Level, place: int, what: str
) -> None:
    file = found.root / "a.zarr" / SHARD
    flip(file, 8 * (place % file.stat().st_size))
    (problem,) = verify(found, level).problems
    assert (problem.entry, problem.file) == ("a", SHARD)
    assert what in problem.what
    assert str(found.root) not in problem.what


@pytest.mark.parametrize(
    "name", [SHARD, "0.5/focus/c.0", "0.5/focus/zarr.json", "thumbnail/c.0.0.0"]
)
@pytest.mark.parametrize("change", [-1, 1, None])
def test_files_that_are_cut_grown_or_gone_are_found_at_once(
    found: Manifest, name: str, change: int | None
) -> None:
    file = found.root / "b.zarr" / name
    size = file.stat().st_size
    if change is None:
        file.unlink()
    else:
        os.truncate(file, size + change)
    said = "is missing" if change is None else f"has {size + change} bytes, but {size} were"
    for level in LEVELS:
        (problem,) = verify(found, level).problems
        assert (problem.entry, problem.file) == ("b", name)
        assert said in problem.what


def swap(one: Path, other: Path) -> None:
    """Two files, each under the other's name."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


@READING
def test_swapped_shards_of_equal_lengths_are_found(tmp_path: Path, level: Level) -> None:
    tiles = np.repeat(np.arange(16, dtype=np.uint8), 32 * 32 * 3).reshape(16, 32, 32, 3)
    make_store(tmp_path / "a.zarr", tiles, codec=TileCodec("zstd"))
    manifest = Manifest((entry_of(tmp_path, "a.zarr"),), root=tmp_path)
    one, other = tmp_path / "a.zarr" / SHARD, tmp_path / "a.zarr" / LAST_SHARD
    assert one.stat().st_size == other.stat().st_size
    swap(one, other)
    result = verify(manifest, level)
    assert named(result) == [("a", SHARD), ("a", LAST_SHARD)]
    assert all("were files mixed up?" in problem.what for problem in result.problems)


@READING
def test_a_shard_of_another_store_of_the_same_shape_is_found(found: Manifest, level: Level) -> None:
    # The tiles are even the same.
    shutil.copyfile(found.root / "b.zarr" / SHARD, found.root / "a.zarr" / SHARD)
    result = verify(found, level)
    assert named(result) == [("a", SHARD)]
    assert "were files mixed up?" in result.problems[0].what


@READING
def test_swapped_columns_are_found(found: Manifest, level: Level) -> None:
    swap(found.root / "a.zarr/0.5/x/c.0", found.root / "a.zarr/0.5/y/c.0")
    assert named(verify(found, level)) == [("a", "0.5/x/c.0"), ("a", "0.5/y/c.0")]


@pytest.mark.parametrize("name", ["zarr.json", "0.5/zarr.json", "0.5/tiles/zarr.json"])
def test_edited_attributes_are_found_at_once(found: Manifest, name: str) -> None:
    file = found.root / "a.zarr" / name
    file.write_bytes(file.read_bytes().replace(b"0", b"1", 1))
    for level in LEVELS:
        assert named(verify(found, level)) == [("a", name)]


def test_edited_commit_records_are_found(found: Manifest) -> None:
    file = found.root / "a.zarr/commit.json"
    file.write_bytes(file.read_bytes().replace(b'"tiles": 11', b'"tiles": 12'))
    (problem,) = verify(found).problems
    assert problem.what.endswith("commit.json fails its own checksum")


def test_a_record_in_another_form_is_no_commit_record(found: Manifest) -> None:
    file = found.root / "a.zarr/commit.json"
    file.write_bytes(json.dumps(json.loads(file.read_bytes())).encode())
    (problem,) = verify(found).problems
    assert problem.what.endswith("commit.json fails its own checksum")


def test_a_forged_record_with_a_right_checksum_is_caught_by_what_the_manifest_pins(
    found: Manifest,
) -> None:
    file = found.root / "a.zarr/0.5/focus/c.0"
    data = bytearray(file.read_bytes())
    data[:4] = b"\0\0\x80\x3f"
    data[-4:] = crc32c(bytes(data[:-4])).to_bytes(4, "little")
    file.write_bytes(data)
    vouch(found.root / "a.zarr", "0.5/focus/c.0")
    for level in LEVELS:
        (problem,) = verify(found, level).problems
        assert str(problem) == "a: commit.json: is not the one that the manifest pins"
    unpinned = replace(found, stores=tuple(replace(e, commit=None) for e in found.stores))
    assert verify(unpinned, "sha256").problems == ()


def test_a_forged_shard_is_found_by_sha256_and_by_nothing_less(found: Manifest) -> None:
    # Tiles 0 and 1 of equal length change places, all checksums right: no accident does that.
    tiles = tile_pixels(TILES)
    tiles[1] = np.roll(tiles[1], 1, axis=2)
    path = found.root / "c.zarr"
    payloads = [b"first tile", b"other tile"] + [b"tile"] * 6
    writer = plan_store(path, tiles[:8], codec=TileCodec("zstd"))
    writer.write_shard("0.5", 0, payloads, {})
    writer.commit()
    manifest = Manifest((entry_of(found.root, "c.zarr"),), root=found.root)
    forged = shard_bytes(shard_label(UUID, "0.5", 0), [payloads[1], payloads[0], *payloads[2:]], 8)
    assert len(forged) == (path / SHARD).stat().st_size
    (path / SHARD).write_bytes(forged)
    assert verify(manifest, "deep").problems == ()
    assert [str(problem) for problem in verify(manifest, "sha256").problems] == [
        f"c: {SHARD}: was rewritten: its tiles are sound, but not those committed"
    ]


def test_a_store_in_the_place_of_another_is_found(found: Manifest) -> None:
    shutil.rmtree(found.root / "a.zarr")
    shutil.copytree(found.root / "b.zarr", found.root / "a.zarr")
    result = verify(found)
    assert {problem.entry for problem in result.problems} == {"a"}
    assert f"is another store: its uuid is {OTHER_UUID}" in result.problems[0].what


def test_a_stale_copy_is_found(found: Manifest) -> None:
    # Cut again from the same slide by the same settings: same identity, other tiles.
    shutil.rmtree(found.root / "a.zarr")
    make_store(found.root / "a.zarr", tile_pixels(TILES, seed=1), codec=TileCodec("zstd"))
    assert ("a", "commit.json") in named(verify(found))


def test_stores_that_are_missing_or_not_committed_are_named(found: Manifest) -> None:
    shutil.rmtree(found.root / "a.zarr")
    (found.root / "b.zarr/commit.json").unlink()
    one, other = verify(found, "deep").problems
    assert str(one) == f"a: there is no store at {found.root / 'a.zarr'}"
    assert "b.zarr is not committed" in other.what


def test_foreign_files_are_named_and_hidden_ones_are_no_part_of_a_store(found: Manifest) -> None:
    path = found.root / "a.zarr"
    for name in ("notes.txt", "0.5/tiles/c.7.0.0.0", "0.5/new/zarr.json"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"{}")
    (path / ".DS_Store").write_bytes(b"")
    (path / ".parts").mkdir()
    (path / ".parts/0.5.0.json").write_bytes(b"")
    result = verify(found)
    assert named(result) == [
        ("a", "0.5/new/zarr.json"),
        ("a", "0.5/tiles/c.7.0.0.0"),
        ("a", "notes.txt"),
    ]
    assert all("is foreign" in problem.what for problem in result.problems)


def test_all_problems_of_all_stores_are_named_in_order(found: Manifest) -> None:
    (found.root / "b.zarr/0.5/x/c.0").unlink()
    (found.root / "a.zarr/zarr.json").write_bytes(b"{}")
    (found.root / "a.zarr/0.5/y/c.0").unlink()
    flip(found.root / "a.zarr" / LAST_SHARD, 200)
    assert named(verify(found, "deep", workers=3)) == [
        ("a", LAST_SHARD),
        ("a", "0.5/y/c.0"),
        ("a", "zarr.json"),
        ("b", "0.5/x/c.0"),
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"uuid": OTHER_UUID}, f"is another store: its uuid is {UUID}"),
        ({"spec_hash": "00" * 32}, "was cut with other settings than the manifest says"),
        ({"commit": "00" * 32}, "is not the one that the manifest pins"),
        ({"bytes": 1}, "bytes as committed, 1 by the manifest"),
    ],
)
def test_what_the_manifest_says_of_a_store_must_be_so(
    found: Manifest, changes: dict[str, Any], said: str
) -> None:
    a, b = found.stores
    result = verify(replace(found, stores=(replace(a, **changes), b)))
    assert {problem.entry for problem in result.problems} == {"a"}
    assert said in str(result.problems[0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tiles": 12}, "says 11 tiles of 32 px, the manifest 12 of 32 px"),
        ({"tile_size": 64}, "says 11 tiles of 32 px, the manifest 11 of 64 px"),
        ({"mpp": (0.5, 0.25)}, "says [0.5, 0.5] µm/px, the manifest (0.5, 0.25)"),
        ({"group": "1"}, "the store has no resolution 1"),
        ({"group": "1"}, "the manifest has no resolution 0.5"),
    ],
)
def test_what_the_manifest_says_of_a_resolution_must_be_so(
    found: Manifest, changes: dict[str, Any], said: str
) -> None:
    a, b = found.stores
    wrong = replace(a, resolutions=(replace(a.resolutions[0], **changes),))
    result = verify(replace(found, stores=(wrong, b)))
    assert any(said in str(problem) for problem in result.problems), result.problems


def test_what_the_manifest_does_not_know_of_a_store_is_no_problem(found: Manifest) -> None:
    entries = (replace(e, bytes=0, resolutions=(), commit=None) for e in found.stores)
    assert verify(replace(found, stores=tuple(entries)), "deep").problems == ()


def test_remote_stores_are_listed_as_not_checked_and_failed_slides_are_no_problem(
    found: Manifest,
) -> None:
    far = done_entry("far", path="https://host/a.zarr")
    result = verify(Manifest((*found.stores, far, failed_entry("f")), root=found.root))
    assert result.problems == ()
    assert (result.stores, result.remote) == (2, ("far",))


def test_empty_stores_are_checked_too(tmp_path: Path) -> None:
    plan_store(tmp_path / "a.zarr", tile_pixels(0), codec=TileCodec("zstd")).commit()
    entry = entry_of(tmp_path, "a.zarr", status="empty", reason="no tissue")
    manifest = Manifest((entry,), root=tmp_path)
    for level in LEVELS:
        assert verify(manifest, level).problems == ()
    (tmp_path / "a.zarr/0.5/tiles/zarr.json").unlink()
    assert named(verify(manifest)) == [("a", "0.5/tiles/zarr.json")]


def shard_of(payloads: list[bytes], index: list[tuple[int, int]]) -> bytes:
    """A shard with a valid label and index checksums, whatever the index says."""
    raw = np.array(index, dtype="<u8").tobytes()
    body = b"".join(p + crc32c(p).to_bytes(4, "little") for p in payloads)
    return shard_label(UUID, "0.5", 0) + body + raw + crc32c(raw).to_bytes(4, "little")


NO_TILE = 2**64 - 1


@pytest.mark.parametrize(
    "index",
    [
        [(16, 9), (25, 9), (34, 9)],  # sound but for a third tile that is none
        [(16, 9), (26, 8), (NO_TILE, NO_TILE)],
        [(25, 9), (16, 9), (NO_TILE, NO_TILE)],
        [(16, 9), (16, 9), (NO_TILE, NO_TILE)],
        [(16, 18), (34, 0), (NO_TILE, NO_TILE)],
        [(16, 2**64 - 7), (9, 25), (NO_TILE, NO_TILE)],
        [(16, 9), (NO_TILE, NO_TILE), (NO_TILE, NO_TILE)],
    ],
)
def test_an_index_that_leaves_bytes_without_a_checksum_is_refused(
    tmp_path: Path, index: list[tuple[int, int]]
) -> None:
    file = tmp_path / "c.0.0.0.0"
    file.write_bytes(shard_of([b"tile1", b"tile2"], index))
    shard = Shard(file, 3, shard_label(UUID, "0.5", 0))
    with pytest.raises(StoreError, match="leaves bytes without a checksum"):
        shard.damaged_slots(2, lambda _: None)
    shard.close()


def test_walking_a_shard_reads_each_byte_once_also_where_a_tile_is_longer_than_the_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    sizes = [0, 1, 5, 50, 3, 40, 41, 42, 43, 44, 45, 200, 0, 7]
    tiles = [rng.bytes(size) for size in sizes]
    label = shard_label(UUID, "0.5", 0)
    data = shard_bytes(label, tiles, 16)
    file = tmp_path / "c.0.0.0.0"
    starts = np.cumsum([16, *(size + 4 for size in sizes)]).tolist()
    for run in (45, 49, 64, 2**22):
        monkeypatch.setattr("manifests.shard._RUN_BYTES", run)
        for damaged in range(len(sizes)):
            spoilt = bytearray(data)
            spoilt[starts[damaged + 1] - 1] ^= 1
            file.write_bytes(spoilt)
            shard, steps = Shard(file, 16, label), list[int]()
            assert shard.damaged_slots(len(sizes), steps.append) == [damaged]
            assert sum(steps) == starts[-1] - starts[0]
            shard.close()


def test_the_progress_ends_at_all_stores_and_bytes(found: Manifest) -> None:
    seen: list[tuple[int, int]] = []
    result = verify(found, "deep", progress=lambda stores, size: seen.append((stores, size)))
    assert seen == sorted(seen)
    assert seen[-1] == (2, result.bytes)


def test_an_interrupted_verification_leaves_no_thread_behind(found: Manifest) -> None:
    import threading

    def interrupt(stores: int, size: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        verify(found, "deep", progress=interrupt)
    assert threading.active_count() == before


def test_a_problem_is_one_line_of_entry_file_and_what() -> None:
    assert str(Problem("a", "x/c.0", "is missing")) == "a: x/c.0: is missing"
    assert str(Problem("a", None, "there is no store")) == "a: there is no store"
