"""Checkpoints of a run: everything that the next step depends on, in one file that is whole.

`RUN/checkpoints/step-000000120.safetensors` holds the tensors after step 120; its metadata hold one
JSON text under `histotile` with the rest, and a crc32c of each tensor. Written through a temporary
file and a rename, so that a killed run leaves the old ones; the last three are kept. No pickle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from manifests.files import Json, canonical_json, crc32c_of, write_atomic
from pretrain.errors import CheckpointError

FOLDER = "checkpoints"
KEPT = 3
"""Checkpoints that are kept."""
FORMAT = "histotile-checkpoint"
VERSION = 1

_NAME = re.compile(r"step-(\d{9})\.safetensors")


def write_checkpoint(run: Path, step: int, tensors: Mapping[str, Tensor], state: Json) -> Path:
    """Write what the run is after `step`, then delete all but the last `KEPT`.

    Raises:
        OSError: the disk is full, ...; what was there is untouched.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = canonical_json(
        {
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            "crc32c": {name: _checksum(tensor) for name, tensor in whole.items()},
            "state": state,
        }
    ).decode()
    path = folder / f"step-{step:09d}.safetensors"
    write_atomic(path, safetensors.torch.save(whole, metadata={"histotile": text}))
    for old in checkpoints(run)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run folder, the oldest first."""
    folder = run / FOLDER
    found = folder.iterdir() if folder.is_dir() else []
    return sorted(path for path in found if _NAME.fullmatch(path.name))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Json]:
    """The tensors of a checkpoint, on the CPU, and its state.

    Raises:
        CheckpointError: the file is missing, damaged, or of another version.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("histotile", "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        data = json.loads(text)
        sums = data["crc32c"]
        known = (data["format"], data["version"]) == (FORMAT, VERSION)
        state = data["state"]
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({error})") from error
    if not known:
        raise CheckpointError(
            f"{path} is {data['format']} version {data['version']}; this histotile reads "
            f"{FORMAT} version {VERSION}"
        )
    damaged = [name for name, tensor in tensors.items() if _checksum(tensor) != sums.get(name)]
    if damaged or tensors.keys() != sums.keys():
        raise CheckpointError(f"{path} fails its checksums, for one in {[*damaged, 'a name'][0]}")
    return tensors, state


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Tensor], Json] | None:
    """The last checkpoint of a run that is whole; None if the run has none at all.

    Raises:
        CheckpointError: there are some, but each of them is damaged.
    """
    first: CheckpointError | None = None
    for path in reversed(checkpoints(run)):
        try:
            return path, *read_checkpoint(path)
        except CheckpointError as error:
            first = first or error
    if first is not None:
        raise CheckpointError(
            f"{first}, nor can any older one: start anew with another --out"
        ) from first
    return None


def _checksum(tensor: Tensor) -> int:
    flat = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor.new_empty(0)
    return crc32c_of(np.ascontiguousarray(flat.numpy()).view(np.uint8))
