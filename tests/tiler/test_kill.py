"""Runs that are killed, stopped or doubled: nothing torn, nothing lost, the same bytes."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from manifests import TileStore, load_manifest
from tiler.synthetic import paint, write_slide

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slides that give some 20 shards of 8 tiles together."""
    folder = tmp_path_factory.mktemp("slides")
    for seed in (1, 2):
        write_slide(folder / f"s{seed}.tif", paint("he", 3072, 2304, seed), 0.5)
    return folder


def command(slides: Path, out: Path, *more: str) -> list[str]:
    options = ["--mpp", "0.5", "--mpp", "0.8", "--shard-tiles", "8", "--workers", "2"]
    histotile = [sys.executable, "-m", "tiler"]
    return [*histotile, "extract", str(slides), "--out", str(out), *options, *more]


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def undisturbed(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "tiles"
    subprocess.run(command(slides, out), check=True, capture_output=True)
    found = contents(out)
    assert sum("/tiles/c." in name for name in found) >= 20
    return found


@dataclass
class Run:
    """A run in a process group of its own, as a shell starts it."""

    process: subprocess.Popen[bytes]
    talk: Path

    def end(self) -> str:
        """Wait for it; return what it said on stderr."""
        self.process.wait(timeout=120)
        return self.talk.read_text()


@contextmanager
def started(arguments: list[str], talk: Path) -> Iterator[Run]:
    with talk.open("w") as stderr:
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        )
    try:
        yield Run(process, talk)
    finally:
        process.kill()
        process.wait()


def wait_for_shards(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.zarr/*/tiles/c.*"))) < count:
        assert time.monotonic() < deadline, "the run wrote no shards"
        time.sleep(0.02)


def test_killed_at_ten_moments_and_run_again_gives_the_bytes_of_an_undisturbed_run(
    slides: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    out = tmp_path / "tiles"
    rng = random.Random(0)
    for number in range(10):
        with started(command(slides, out), tmp_path / "talk") as run:
            wait_for_shards(out, 2 * number)
            time.sleep(rng.uniform(0, 0.3))
            run.process.send_signal(signal.SIGKILL)
            run.process.wait()
        for store in out.glob("*.zarr"):
            if (store / "commit.json").exists():
                TileStore(store)
    subprocess.run(command(slides, out), check=True, capture_output=True)
    assert contents(out) == undisturbed


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)],
    ids=["ctrl-c", "sigterm", "sighup"],
)
def test_stopped_in_order_leaves_a_manifest_and_an_output_that_continues(
    slides: Path, tmp_path: Path, undisturbed: dict[str, str], number: signal.Signals, code: int
) -> None:
    out = tmp_path / "tiles"
    with started(command(slides, out), tmp_path / "talk") as run:
        wait_for_shards(out, 3)
        run.process.send_signal(number)
        talk = run.end()
    assert run.process.returncode == code, talk
    assert "run the same command again" in talk
    assert "Traceback" not in talk
    load_manifest(out / "manifest.json")
    subprocess.run(command(slides, out), check=True, capture_output=True)
    assert contents(out) == undisturbed


def test_ctrl_c_reaches_the_workers_too_and_nobody_prints_a_traceback(
    slides: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tiles"
    with started(command(slides, out), tmp_path / "talk") as run:
        wait_for_shards(out, 2)
        os.killpg(run.process.pid, signal.SIGINT)
        talk = run.end()
    assert run.process.returncode == 130
    assert "Traceback" not in talk


def test_a_second_run_on_the_same_output_is_turned_away_with_75(
    slides: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    out = tmp_path / "tiles"
    with started(command(slides, out), tmp_path / "talk") as first:
        wait_for_shards(out, 1)
        second = subprocess.run(
            command(slides, out), check=False, capture_output=True, text=True, timeout=60
        )
        assert second.returncode == 75
        assert "another run is writing" in second.stderr
        first.end()
    assert first.process.returncode == 0
    assert contents(out) == undisturbed


@pytest.mark.parametrize("workers", ["0", "1", "4"])
def test_any_number_of_workers_gives_the_same_bytes(
    slides: Path, tmp_path: Path, undisturbed: dict[str, str], workers: str
) -> None:
    out = tmp_path / "tiles"
    subprocess.run(command(slides, out, "--workers", workers), check=True, capture_output=True)
    assert contents(out) == undisturbed
