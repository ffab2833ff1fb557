"""The exported encoder: plain torchvision weights and, in the same file, what they were made from.

The file is safetensors: no pickle, so loading runs no code. Its metadata hold one JSON text under
`histotile`. The same run gives the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import safetensors
import safetensors.torch
from torch import nn

from manifests.files import Json, canonical_json, write_atomic
from pretrain.config import ARCHS
from pretrain.errors import CheckpointError
from pretrain.model import build_encoder

ENCODER_FILE = "encoder.safetensors"
FORMAT = "histotile-encoder"
VERSION = 1


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What one needs to know to use an encoder, and to say where it came from."""

    arch: str
    """Name of the torchvision model."""
    mean: tuple[float, ...]
    """Subtract this from RGB in 0 to 1, ..."""
    std: tuple[float, ...]
    """... then divide by this."""
    image_size: int
    """Pixels of a view's side in training."""
    tile_size: int
    """Pixels of a tile's side in the stores."""
    mpp: tuple[tuple[float, float], ...]
    """µm per pixel of the tiles in (x, y), each once."""
    mix: Mapping[str, Json]
    """Strata with their tiles and slides, as in `mix.json` of the run."""
    config: Mapping[str, Json]
    """The recipe, as in `config.json` of the run."""
    steps: int
    """Optimizer steps behind these weights."""
    damaged_tiles: int
    """Tiles of the mix that could not be read."""
    manifest_sha256: str
    histotile: str
    """Version that trained it."""


def save_encoder(path: Path, encoder: nn.Module, info: EncoderInfo) -> None:
    """Write an encoder atomically; keys are torchvision's own, without prefix and without `fc`."""
    weights = {key: value.cpu().contiguous() for key, value in encoder.state_dict().items()}
    text = canonical_json({"format": FORMAT, "version": VERSION, **asdict(info)}).decode()
    # One key only: safetensors writes several in an order that changes from call to call.
    data = safetensors.torch.save(weights, metadata={"histotile": text})
    write_atomic(path, data)


def load_encoder(path: str | Path) -> tuple[nn.Module, EncoderInfo]:
    """Load an encoder, in evaluation mode on the CPU, with what is known of it.

    The model takes float32 (B, 3, S, S), normalised with `info.mean` and `info.std`, and gives
    features (B, 512) or, from ResNet-50 on, (B, 2048). Every weight must be there and fit.

    Raises:
        CheckpointError: the file is missing or damaged, or not an encoder of this version.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error})") from error
    info = _info(metadata.get("histotile"), path)
    model = build_encoder(info.arch)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold the weights of a {info.arch}") from error
    return model.eval(), info


def histotile_version() -> str:
    """The installed version of histotile."""
    return importlib.metadata.version("histotile")


def _info(text: str | None, path: Path) -> EncoderInfo:
    if text is None:
        raise CheckpointError(f"{path} was not written by histotile: its metadata lack `histotile`")
    try:
        data = json.loads(text)
        if (data["format"], data["version"]) != (FORMAT, VERSION):
            raise CheckpointError(
                f"{path} is {data['format']} version {data['version']}; "
                f"this histotile reads {FORMAT} version {VERSION}"
            )
        found = {item.name: data[item.name] for item in fields(EncoderInfo)}
        for name in ("mean", "std"):
            found[name] = tuple(found[name])
        found["mpp"] = tuple(tuple(pair) for pair in found["mpp"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the metadata of {path} are not those of an encoder") from error
    if found["arch"] not in ARCHS:
        raise CheckpointError(f"{path} holds the unknown architecture {found['arch']!r}")
    return EncoderInfo(**found)
