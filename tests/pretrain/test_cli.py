"""`histopretrain`: one command from manifest to encoder, and one sentence for each mistake."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from manifests import Manifest, save_manifest
from pretrain import cli
from tests.manifests.make import tile_pixels
from tests.pretrain.make import damage_tile, make_slide, save, two_by_two

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the pretrain extra"
)

BLOCKED = """
import sys
for name in ("torch", "torchvision", "safetensors", "timm", "tensorboard"):
    sys.modules[name] = None
from pretrain.cli import main
main(sys.argv[1:])
"""


TINY = ("--arch", "test_resnet")
"""The smallest encoder that timm has."""


def call(*arguments: str | Path) -> int:
    """Run the command in this process; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a Python that has no torch."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return two_by_two(tmp_path / "My Tiles")


@needs_torch
def test_one_command_trains_an_encoder(
    manifest: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = call(
        *("run", manifest, "--arch", "resnet18", "--epochs", "1", "--batch-size", "8"),
        *("--image-size", "32", "--device", "cpu", "--out", tmp_path / "out"),
    )
    captured = capfd.readouterr()
    assert code == 0
    lines = captured.out.splitlines()
    assert lines[0] == f"run folder: {tmp_path / 'out'}"
    assert lines[1].startswith("loss ")
    assert lines[1].endswith("at step 4")
    assert lines[2].startswith("features: ")
    assert lines[3] == f"encoder: {tmp_path / 'out' / 'encoder.safetensors'}"
    assert (tmp_path / "out" / "encoder.safetensors").is_file()
    assert (
        "32 tiles of 4 slides (H&E × colon, H&E × lung, Ki67 × colon, Ki67 × lung)" in captured.err
    )
    assert "4/4 steps" in captured.err
    assert "\x1b" not in captured.err


@needs_torch
def test_without_options_a_run_gets_a_numbered_folder_named_after_the_data(
    manifest: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("my-tiles", "my-tiles-2"):
        assert call("run", manifest, *TINY, "--max-steps", "1", "--device", "cpu") == 0
        assert capfd.readouterr().out.splitlines()[0] == f"run folder: runs/{name}"
        assert Path("runs", name, "encoder.safetensors").is_file()


@needs_torch
def test_options_reach_the_run(manifest: Path, tmp_path: Path) -> None:
    code = call(
        *("run", manifest.parent, *TINY, "--lr", "0.01", "--temperature", "0.5", "--seed", "7"),
        *("--projection-dim", "12", "--max-steps", "1", "--device", "cpu", "--out", "o"),
    )
    assert code == 0
    used = json.loads((tmp_path / "o" / "config.json").read_text())["train"]
    asked = {"lr": 0.01, "temperature": 0.5, "seed": 7, "projection_dim": 12, "max_steps": 1}
    assert {name: used[name] for name in asked} == asked


@needs_torch
def test_a_damaged_tile_is_told_at_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path, make_slide(tmp_path, "a", {"0.5": tile_pixels(8)}))
    damage_tile(tmp_path / "a.zarr", "0.5", 0)
    assert (
        call("run", path, *TINY, "--epochs", "1", "--device", "cpu", "--out", tmp_path / "o") == 0
    )
    assert "replaced: 1, the first is a/0.5/0" in capfd.readouterr().err


def usage_cases() -> list[Any]:
    return [
        pytest.param(["--arch", "resnet19"], 2, "resnet18", id="arch"),
        pytest.param(["--epochs", "0"], 2, "epochs must be at least 1", id="epochs"),
        pytest.param(["--epochs", "two"], 2, "'two' is not a valid integer", id="text"),
        pytest.param(["--batch-size", "64"], 2, "the mix has 32", id="batch"),
        pytest.param(["--lr", "nan"], 2, "lr must be a positive number", id="lr"),
        pytest.param(["--image-size", "999"], 2, "larger than the tiles", id="views"),
        pytest.param(["--out", "."], 2, "is in use", id="out"),
        pytest.param(["--color"], 2, "No such option", id="option"),
    ]


@needs_torch
@pytest.mark.parametrize(("options", "code", "words"), usage_cases())
def test_a_mistake_is_answered_with_one_sentence_and_no_run_folder(
    manifest: Path,
    options: list[str],
    code: int,
    words: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert call("run", manifest, *options, "--device", "cpu") == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert words in captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("Error: ")
    assert not Path("runs").exists()


@needs_torch
def test_bad_data_end_with_code_5(manifest: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (manifest.parent / "lung-1.zarr" / "commit.json").unlink()
    assert call("run", manifest) == 5
    assert "not committed" in capfd.readouterr().err
    assert call("run", "none.json") == 5
    assert "none.json cannot be read" in capfd.readouterr().err
    save_manifest(Manifest(), "empty.json")
    assert call("run", "empty.json") == 5
    assert "no tiles to train on" in capfd.readouterr().err


@needs_torch
@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (OSError(28, "No space left on device", "run/x"), 75, "run/x: No space left on device"),
    ],
)
def test_interruptions_and_full_disks_have_their_codes(
    manifest: Path,
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pretrain.running.train.train", fail)
    assert call("run", manifest) == code
    assert words in capfd.readouterr().err


def test_without_torch_a_run_says_what_to_install() -> None:
    done = without_torch("run", "manifest.json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "Error: this needs torch: pip install 'histotile[pretrain]'\n"


def test_without_torch_help_and_the_public_door_still_work() -> None:
    done = without_torch("run", "--help")
    assert done.returncode == 0, done.stderr
    assert "--temperature" in done.stdout


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import pretrain, pretrain.cli\n"
        "heavy = {'torch', 'torchvision', 'safetensors', 'rich', 'zarr', 'jsonschema'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_python_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pretrain", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("histotile ")


@needs_torch
def test_a_run_says_what_it_does_and_how_far_it_is(
    manifest: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("run", manifest, *TINY, "--max-steps", "2", "--batch-size", "8") == 0
    captured = capfd.readouterr()
    assert captured.out.startswith("run folder: runs/")
    talk = captured.err.splitlines()
    assert "32 tiles" in talk[0]
    assert "Note: the encoder starts from random weights" in talk
    assert sum(line.startswith("Features after step ") for line in talk) == 2
    steps = [line for line in talk if " steps, " in line and not line.startswith("test_resnet on")]
    assert steps[0].startswith("1/2 steps, epoch 1  loss ")
    assert steps[-1].startswith("2/2 steps, epoch 1  loss ")
