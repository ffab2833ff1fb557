"""`histotile manifest verify` as a person meets it: output, exit codes, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from manifests.cli.verify import verify
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Manifest
from tests.manifests.make_manifest import done_entry, failed_entry
from tests.manifests.make_set import make_tiny_store, tiny_set
from tests.manifests.test_verify import forge


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest of two stores of five tiles, a failed slide and a remote store."""
    stores = tiny_set(tmp_path, "a.zarr", "b.zarr").stores
    others = (failed_entry("f"), done_entry("far", path="s3://bucket/far.zarr"))
    save_manifest(Manifest((*stores, *others)), tmp_path / "manifest.json")
    return tmp_path


def run(*arguments: str | Path) -> Result:
    """What the command prints and ends with."""
    return CliRunner().invoke(verify, [str(argument) for argument in arguments])


@pytest.mark.parametrize("options", [[], ["--deep"], ["--sha256"], ["--deep", "--workers", "1"]])
def test_sound_stores_end_with_0_and_say_what_was_verified(
    folder: Path, options: list[str]
) -> None:
    ran = run(folder, "--quiet", *options)
    assert ran.exit_code == 0
    assert ran.stdout == "far: not checked: remote\n2 stores, 10 tiles, 0.0 MB verified\n"
    assert ran.stderr == ""


def test_each_problem_is_a_line_and_the_exit_code_5(folder: Path) -> None:
    (folder / "a.zarr/0.5/x/c.0").unlink()
    (folder / "b.zarr/new\nline\x1b[1m").write_bytes(b"")
    ran = run(folder)
    assert ran.exit_code == 5
    assert ran.stdout.splitlines() == [
        "far: not checked: remote",
        "a: 0.5/x/c.0: is missing",
        r"b: new\nline\x1b[1m: is foreign: the commit record does not list it",
        "2 stores, 10 tiles, 0.0 MB checked: 2 problems in 2 stores",
    ]


def test_json_says_all_of_it_and_ends_alike(folder: Path) -> None:
    (folder / "a.zarr/0.5/x/c.0").unlink()
    ran = run(folder, "--json")
    assert ran.exit_code == 5
    assert json.loads(ran.stdout) == {
        "stores": 2,
        "tiles": 10,
        "bytes": 0,
        "not_checked": [{"entry": "far", "why": "remote"}],
        "problems": [{"entry": "a", "file": "0.5/x/c.0", "what": "is missing"}],
    }


def test_a_missing_manifest_is_one_sentence(tmp_path: Path) -> None:
    ran = run(tmp_path / "none")
    assert ran.exit_code == 5
    assert "cannot be read" in ran.stderr
    assert ran.stdout == ""


@pytest.mark.slow
def test_ctrl_c_ends_at_once_with_130(tmp_path: Path) -> None:
    # A file of 200 GB without content takes minutes to hash.
    make_tiny_store(tmp_path / "a.zarr")
    os.truncate(tmp_path / "a.zarr/0.5/x/c.0", 200 * 10**9)
    forge(
        tmp_path / "a.zarr",
        lambda body: body["files"].update({"0.5/x/c.0": [200 * 10**9, "00" * 32]}),
    )
    manifest = tiny_set(tmp_path / "other", "a.zarr")
    save_manifest(manifest, tmp_path / "manifest.json")
    script = "from manifests.cli.verify import verify; verify()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), "--deep"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert (stdout, stderr) == ("", "Interrupted.\n")


def test_verifying_changes_nothing(folder: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in sorted(folder.rglob("*"))}
    assert run(folder, "--deep").exit_code == 0
    assert {file: file.stat().st_mtime_ns for file in sorted(folder.rglob("*"))} == before
    assert load_manifest(folder).stores
