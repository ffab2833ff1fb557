"""Saving manifests: whole or not at all, whatever fails, and nobody's changes are lost."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import EXIT_TRY_LATER, FileChanged
from manifests.files import file_digest
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Manifest
from tests.manifests.make_manifest import done_entry, failed_entry

ROOT = Path(__file__).parents[2]


def run_script(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a Python process that knows how to load and save manifests."""
    header = (
        "import sys, time\nfrom pathlib import Path\n"
        "from manifests.errors import FileChanged\nfrom manifests.files import file_digest\n"
        "from manifests.jsonfile import load_manifest, save_manifest\n"
        "from manifests.model import Manifest\n"
        "from tests.manifests.make_manifest import done_entry, failed_entry\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", header + script, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What a process printed; it must end well."""
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    return stdout


def fails_at(call: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but its n-th call finds the disk full."""
    calls = 0

    def function(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **settings)

    return function


class FullAfter(io.RawIOBase):
    """A file on a disk that is full after some bytes."""

    def __init__(self, file: Any, left: int) -> None:
        self._file, self._left = file, left

    def __enter__(self) -> FullAfter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fileno(self) -> int:
        return int(self._file.fileno())

    def write(self, data: Any) -> int:
        self._file.write(data[: self._left])
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_a_disk_that_is_full_at_any_step_leaves_the_old_manifest_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "manifest.json"
    save_manifest(Manifest((done_entry(),)), file)
    before = file.read_bytes()
    real_open = Path.open
    with monkeypatch.context() as patch:
        if step == "open":
            patch.setattr(Path, "open", fails_at(1, Path.open))
        elif step == "write":
            patch.setattr(Path, "open", lambda *a, **k: FullAfter(real_open(*a, **k), 100))
        elif step == "fsync":
            patch.setattr(os, "fsync", fails_at(1, os.fsync))
        else:
            patch.setattr(Path, "replace", fails_at(1, Path.replace))
        with pytest.raises(OSError, match="No space left"):
            save_manifest(Manifest((failed_entry(),)), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_save_that_the_system_cuts_off_leaves_the_old_manifest_and_nothing_else(
    tmp_path: Path,
) -> None:
    # The kernel itself refuses the bytes past 5,000, as a full disk or a quota would.
    file = tmp_path / "manifest.json"
    save_manifest(Manifest((done_entry(),)), file)
    before = file.read_bytes()
    script = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n"
        "    save_manifest(Manifest(tuple(done_entry(f's{i}') for i in range(5))), sys.argv[1])\n"
        "except OSError as error:\n    print(error.strerror)\n"
    )
    assert finish(run_script(script, file)) == "File too large\n"
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers_do_not_interleave_and_a_reader_always_finds_a_whole_manifest(
    tmp_path: Path,
) -> None:
    file = tmp_path / "manifest.json"
    save_manifest(Manifest((failed_entry("a"),)), file)
    script = (
        "name, count = sys.argv[2], int(sys.argv[3])\n"
        "entries = tuple(failed_entry(f'{name}{i}') for i in range(count))\n"
        "for _ in range(200):\n    save_manifest(Manifest(entries), sys.argv[1])\n"
    )
    writers = [run_script(script, file, "a", 1), run_script(script, file, "b", 300)]
    kinds = set()
    while any(writer.poll() is None for writer in writers):
        stores = load_manifest(file).stores
        kinds.add((stores[0].id[0], len(stores)))
    for writer in writers:
        finish(writer)
    assert kinds <= {("a", 1), ("b", 300)}
    assert len(kinds) == 2
    assert list(tmp_path.iterdir()) == [file]


def test_changes_that_two_processes_make_to_one_manifest_are_all_kept(tmp_path: Path) -> None:
    # Each reads, adds an entry and writes back; who came too late does it again.
    file = tmp_path / "manifest.json"
    save_manifest(Manifest(), file)
    script = (
        "file, late = Path(sys.argv[1]), 0\n"
        "file.with_name(f'ready {sys.argv[2]}').touch()\n"
        "while len(list(file.parent.glob('ready *'))) < 2:\n    time.sleep(0.001)\n"
        "for number in range(60):\n"
        "    while True:\n"
        "        digest = file_digest(file)\n"
        "        entries = load_manifest(file).stores\n"
        "        entry = failed_entry(f'{sys.argv[2]}{number}')\n"
        "        try:\n"
        "            save_manifest(Manifest((*entries, entry)), file, replacing=digest)\n"
        "            break\n"
        "        except FileChanged:\n"
        "            late += 1\n"
        "print(late)\n"
    )
    late = [int(finish(p)) for p in [run_script(script, file, name) for name in "ab"]]
    assert len(load_manifest(file).stores) == 120
    assert sum(late) > 0


def test_a_manifest_that_changed_since_it_was_read_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    save_manifest(Manifest((failed_entry("a"),)), file)
    digest = file_digest(file)
    save_manifest(Manifest((failed_entry("b"),)), file)  # someone else
    before = file.read_bytes()
    with pytest.raises(FileChanged, match="was changed by someone else") as caught:
        save_manifest(Manifest((failed_entry("c"),)), file, replacing=digest)
    assert caught.value.exit_code == EXIT_TRY_LATER
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]
    save_manifest(Manifest((failed_entry("c"),)), file, replacing=file_digest(file))
    assert load_manifest(file).stores[0].id == "c"


def test_a_manifest_that_was_not_there_is_made_but_none_that_appeared_or_vanished_is_touched(
    tmp_path: Path,
) -> None:
    file = tmp_path / "manifest.json"
    assert file_digest(file) == ""
    save_manifest(Manifest(), file, replacing="")
    with pytest.raises(FileChanged):
        save_manifest(Manifest((failed_entry(),)), file, replacing="")
    digest = file_digest(file)
    file.unlink()
    with pytest.raises(FileChanged):
        save_manifest(Manifest((failed_entry(),)), file, replacing=digest)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_another_process_is_replacing_is_left_to_it(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    save_manifest(Manifest(), file)
    digest = file_digest(file)
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FileChanged):
            save_manifest(Manifest((failed_entry(),)), file, replacing=digest)
    save_manifest(Manifest((failed_entry(),)), file, replacing=digest)
    assert len(load_manifest(file).stores) == 1


def test_where_there_are_no_locks_the_check_is_made_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "manifest.json"
    save_manifest(Manifest(), file)

    def flock(_file: object, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(FileChanged):
        save_manifest(Manifest((failed_entry(),)), file, replacing="00" * 32)
    save_manifest(Manifest((failed_entry(),)), file, replacing=file_digest(file))
    assert len(load_manifest(file).stores) == 1
