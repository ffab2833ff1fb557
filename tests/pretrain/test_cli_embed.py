"""`histopretrain embed`: results on stdout, talk on stderr, one sentence for each mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pretrain.cli.embed import embed
from tests.pretrain.embedding.placed import two_slides
from tests.pretrain.make import damage_tile

TINY = "random:test_resnet"

BLOCKED = """
import sys
sys.modules[sys.argv[1]] = None
from pretrain.cli.embed import embed
embed(sys.argv[2:])
"""


def call(*arguments: str | Path) -> int:
    """Run the command in this process; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        embed.main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def without(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a Python that lacks a module."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return two_slides(tmp_path / "tiles")


def test_help_needs_no_torch_and_shows_the_defaults() -> None:
    done = without("torch", "--help")
    assert done.returncode == 0
    assert "[default: float16; h5: float32]" in " ".join(done.stdout.split())


def test_what_is_not_installed_is_named(manifest: Path, tmp_path: Path) -> None:
    done = without("torch", TINY, manifest, "-o", tmp_path / "f")
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs torch: pip install" in done.stderr


def test_hdf5_files_need_h5py(
    manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert call(TINY, manifest, "-o", tmp_path / "f", "--format", "h5") == 2
    assert "needs h5py: pip install" in capfd.readouterr().err
    assert not (tmp_path / "f").exists()


def test_results_go_to_stdout_and_all_else_to_stderr(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "f"
    assert call(TINY, manifest, "-o", out, "--device", "cpu") == 0
    captured = capfd.readouterr()
    lines = captured.out.splitlines()
    assert lines[:2] == [f"features: {out}", "14 tiles of 2 stores, 96 features each"]
    assert "tiles/s over" in lines[2]
    assert "14 tiles of 2 stores, float16" in captured.err
    assert "14/14 tiles" in captured.err
    assert call(TINY, manifest.parent, "-o", out, "--device", "cpu") == 0
    captured = capfd.readouterr()
    assert captured.out.splitlines() == lines[:2]
    assert "Nothing to do" in captured.err


def test_json_says_the_same(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    damage_tile(manifest.parent / "a.zarr", "0.5", 3)
    shutil.rmtree(manifest.parent / "b.zarr")
    out = tmp_path / "f"
    options = ("--dtype", "float32", "--batch-size", "5", "--threads", "1", "--seed", "3")
    assert call(TINY, manifest, "-o", out, "--json", "--device", "cpu", *options) == 3
    captured = capfd.readouterr()
    said = json.loads(captured.out)
    assert said["seconds"] > 0
    assert {key: said[key] for key in said if "second" not in key and "per_s" not in key} == {
        "out": str(out),
        "encoder": TINY,
        "features": 96,
        "stores": 1,
        "tiles": 9,
        "embedded": 9,
        "damaged": ["a/0.5/3"],
        "failed": ["b"],
    }
    assert "damaged tiles without features: a/0.5/3" in captured.err
    assert "b cannot be embedded: there is no store" in captured.err
    assert json.loads((out / "features.json").read_text())["dtype"] == "float32"


def mistakes() -> list[Any]:
    return [
        pytest.param(["random:resnet19"], 2, "did you mean", id="arch"),
        pytest.param(["nothing.safetensors"], 2, "is not there: give FILE", id="file"),
        pytest.param([TINY, "--batch-size", "0"], 2, "batch-size must be at least 1", id="batch"),
        pytest.param([TINY, "--image-size", "3"], 2, "image-size must be at least 8", id="size"),
        pytest.param([TINY, "--mpp", "3"], 2, "no tiles have 3 µm/px; the manifest's", id="mpp"),
        pytest.param([TINY, "--split", "x"], 2, "no tiles are in the split 'x'", id="split"),
        pytest.param([TINY, "--format", "npy"], 2, "'npy' is not one of 'zarr', 'h5'", id="format"),
        pytest.param([TINY, "--seed", "-1"], 2, "seed must lie in 0 to", id="seed"),
    ]


@pytest.mark.parametrize(("arguments", "code", "words"), mistakes())
def test_a_mistake_is_answered_with_one_sentence_and_no_folder(
    arguments: list[str],
    code: int,
    words: str,
    manifest: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch")
    encoder, *options = arguments
    out = tmp_path / "f"
    assert call(encoder, manifest, "-o", out, "--device", "cpu", *options) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert words in captured.err.splitlines()[-1]
    assert not out.exists()


def test_a_manifest_that_is_not_there_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    assert call(TINY, tmp_path / "no.json", "-o", tmp_path / "f") == 5
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_no_store_at_all_ends_with_four(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    for name in ("a", "b"):
        shutil.rmtree(manifest.parent / f"{name}.zarr")
    assert call(TINY, manifest, "-o", tmp_path / "f", "--device", "cpu") == 4
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "no store could be embedded: a, b" in captured.err
