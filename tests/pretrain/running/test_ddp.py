"""Two processes that train together are one: the same draws, losses and weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from pretrain.network.encoder import load_encoder  # noqa: E402
from tests.pretrain.make import damage_tile, two_by_two  # noqa: E402

OPTIONS = ["--batch-size", "8", "--image-size", "32", "--max-steps", "3", "--device", "cpu"]
OPTIONS += ["--no-tensorboard", "--monitor-every", "0.5", "--head", "simclr", "--optimizer", "lars"]


def run_on(processes: int, manifest: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += ["-m"]
    command += ["pretrain", "run", str(manifest), "--out", str(out), *OPTIONS]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.slow
def test_two_processes_train_the_encoder_of_one(tmp_path: Path) -> None:
    manifest = two_by_two(tmp_path / "tiles")
    for tile in range(3):
        damage_tile(tmp_path / "tiles" / "lung-1.zarr", "0.5", tile)
    losses, weights, damaged = [], [], []
    for processes in (1, 2):
        out = tmp_path / f"run-{processes}"
        done = run_on(processes, manifest, out)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run folder:") == 1
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
        model, transform = load_encoder(out / "encoder.safetensors")
        weights.append(model.state_dict())
        damaged.append(transform.info.damaged_tiles)
    assert len(losses[0]) == 3
    assert damaged[1] == damaged[0] > 0
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    for name, value in weights[0].items():
        assert torch.allclose(weights[1][name].double(), value.double(), atol=1e-4), name


@pytest.mark.slow
def test_processes_that_cannot_share_a_batch_say_so(tmp_path: Path) -> None:
    manifest = two_by_two(tmp_path / "tiles")
    done = run_on(3, manifest, tmp_path / "run")
    assert done.returncode != 0
    assert "a batch of 8 cannot be shared evenly by 3 processes" in done.stderr
    assert not (tmp_path / "run").exists()
