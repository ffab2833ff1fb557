"""Atomic writing and canonical JSON."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.files import (
    atomic_file,
    canonical_json,
    crc32c,
    pretty_json,
    remove_temporaries,
    spec_hash,
    write_atomic,
)

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_descriptor: int) -> None:
        raise FULL

    monkeypatch.setattr(os, "fsync", fsync)


def fail_write(monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(bytes(data)[:3])  # some of it reaches the disk
            raise FULL

    def opened(path: Path, mode: str, buffering: int) -> io.BufferedWriter:
        return io.BufferedWriter(FullDisk(path, mode), buffering)

    monkeypatch.setattr(Path, "open", opened)


def fail_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(_path: Path, _target: Path) -> None:
        raise FULL

    monkeypatch.setattr(Path, "replace", replace)


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("fail", [fail_fsync, fail_write, fail_rename, interrupt])
@pytest.mark.parametrize("old", [b"the old file", None])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Any, old: bytes | None
) -> None:
    file = tmp_path / "manifest.json"
    if old is not None:
        file.write_bytes(old)
    with monkeypatch.context() as patched:
        fail(patched)
        with pytest.raises((OSError, KeyboardInterrupt)):
            write_atomic(file, b"the new file")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([old] if old is not None else [])


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="big") as caught, atomic_file(tmp_path / "big"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "big")


def test_the_data_reach_the_disk_before_the_name_does_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def logged_fsync(descriptor: int) -> None:
        order.append(f"fsync {'folder' if Path(f'/proc/self/fd/{descriptor}').is_dir() else ''}")
        fsync(descriptor)

    def logged_replace(path: Path, target: Path) -> Path:
        order.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    write_atomic(tmp_path / "a", b"data")
    assert order == ["fsync ", "rename", "fsync folder"]


def test_a_file_that_is_written_piece_by_piece_is_not_there_before_the_end(tmp_path: Path) -> None:
    file = tmp_path / "a"
    with atomic_file(file) as written:
        for piece in (b"one ", b"two ", b"x" * 3_000_000):
            written.write(piece)
            assert not file.exists()
    assert file.read_bytes() == b"one two " + b"x" * 3_000_000


def test_a_file_whose_pieces_fail_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    reason = ValueError("the slide is damaged")

    def write() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"x" * 3_000_000)
            raise reason

    with pytest.raises(ValueError, match="the slide is damaged") as caught:
        write()
    assert caught.value is reason
    assert not list(tmp_path.iterdir())


def test_a_file_that_a_power_cut_may_take_is_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch)
    write_atomic(tmp_path / "a", b"data", sync=False)
    assert (tmp_path / "a").read_bytes() == b"data"


def test_only_leftovers_of_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    kept = [tmp_path / name for name in ("a.tmp", ".hidden", "deep/.tmpx", "deep/b.json")]
    gone = [tmp_path / name for name in (".a.0123.tmp", "deep/.b.json.4567.tmp")]
    for file in kept + gone:
        file.write_bytes(b"")
    assert remove_temporaries(tmp_path) == 2
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(kept)
    assert remove_temporaries(tmp_path) == 0


def test_crc32c_is_the_castagnoli_polynomial() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the CRC catalogue


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Lone surrogates are no Unicode text and cannot be UTF-8.
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(value=JSON)
def test_json_texts_say_the_value_and_say_it_one_way(value: Any) -> None:
    for write in (canonical_json, pretty_json):
        data = write(value)
        assert json.loads(data) == value
        assert write(json.loads(data)) == data


def test_the_order_of_keys_does_not_change_a_spec_hash() -> None:
    assert spec_hash({"a": 1, "b": [2]}) == spec_hash({"b": [2], "a": 1})
    assert spec_hash({"a": 1, "b": [2]}) != spec_hash({"a": 1, "b": [3]})
    assert len(spec_hash({})) == 64


def test_numbers_that_json_lacks_are_not_written() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            pretty_json({"mpp": value})
