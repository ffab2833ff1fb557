"""Checkpoints: what goes in comes out, and nothing half-written or changed is taken for whole."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from pretrain.errors import CheckpointError  # noqa: E402
from pretrain.locking import locked  # noqa: E402
from pretrain.running.checkpoint import (  # noqa: E402
    KEPT,
    checkpoints,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from pretrain.running.progress import Progress  # noqa: E402
from pretrain.watch.scores import Scores  # noqa: E402

TENSORS = {
    "model.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4).t(),
    "model.half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "model.count": torch.tensor(7),
    "model.empty": torch.empty(0, 3),
    "random.cpu": torch.arange(16, dtype=torch.uint8),
}


def test_tensors_and_state_come_back_to_the_bit(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 120, TENSORS, {"lr": 0.1 + 0.2, "names": ["a", None]})
    tensors, state = read_checkpoint(path)
    assert path.name == "step-000000120.safetensors"
    assert state == {"lr": 0.1 + 0.2, "names": ["a", None]}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize("alignment", [0.5, math.nan])
def test_features_that_are_no_numbers_keep_no_checkpoint_from_being_written(
    tmp_path: Path, alignment: float
) -> None:
    scores = Scores(knn=None, classes=0, tiles=2, alignment=alignment, uniformity=-1.0)
    progress = Progress(3, 1.0, 0.5, {"a/0.5/1"}, scores)
    path = write_checkpoint(tmp_path, 3, {}, {"progress": progress.to_json()})
    found = Progress.from_json(read_checkpoint(path)[1]["progress"])
    known = scores if math.isfinite(alignment) else None
    assert found == Progress(3, 1.0, 0.5, {"a/0.5/1"}, known)


def test_the_last_three_are_kept(tmp_path: Path) -> None:
    for step in (2, 10, 9, 100, 30):
        write_checkpoint(tmp_path, step, TENSORS, {})
    assert KEPT == 3
    assert [path.stem for path in checkpoints(tmp_path)] == [
        f"step-{step:09d}" for step in (10, 30, 100)
    ]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: str) -> None:
    write_checkpoint(tmp_path, 1, TENSORS, {"step": 1})
    path = write_checkpoint(tmp_path, 2, TENSORS, {"step": 2})
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[-5:]
    elif damage == "flipped":
        data[-3] ^= 1
    else:
        data.clear()
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="step-000000002"):
        read_checkpoint(path)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[2] == {"step": 1}


def test_a_run_of_damaged_checkpoints_is_an_error_and_one_without_any_is_none(
    tmp_path: Path,
) -> None:
    assert newest_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, 1, TENSORS, {}).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="nor can any older one"):
        newest_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_old_checkpoint_and_no_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, 1, TENSORS, {"step": 1})

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, 2, TENSORS, {"step": 2})
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[2] == {"step": 1}
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_what_a_killed_writer_left_is_no_checkpoint_and_goes_with_the_next_run(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torn = folder / ".step-000000009.safetensors.0123456789ab.tmp"
    torn.write_bytes(b"torn")
    assert newest_checkpoint(tmp_path) is None
    with locked(tmp_path):
        assert not torn.exists()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "step-000000001.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "missing.safetensors")
