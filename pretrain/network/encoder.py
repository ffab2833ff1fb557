"""The exported encoder: plain weights and, in the same file, what they were made from.

The file is safetensors with the keys of torchvision or timm: no pickle, so loading runs no code.
Its metadata hold one JSON text under `histotile`. The same run gives the same bytes. B is a batch,
S the side of a picture in pixels, F the features.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional

from manifests.files import Json, canonical_json, crc32c_of, write_atomic
from pretrain.errors import CheckpointError, ConfigError
from pretrain.network.model import feature_count, find_backbone, library_of
from pretrain.views.augment import MEAN, STD

if TYPE_CHECKING:
    from PIL.Image import Image

ENCODER_FILE = "encoder.safetensors"
FORMAT = "histotile-encoder"
VERSION = 2


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What one needs to know to use an encoder, and to say where it came from."""

    arch: str
    """Name of the model, as `histopretrain run --arch` takes it."""
    library: str
    """Whose keys the weights have: torchvision or timm."""
    features: int
    """F."""
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
    averaged: bool
    """Whether the weights are an average over steps (EMA)."""
    damaged_tiles: int
    """Tiles of the mix that could not be read."""
    manifest_sha256: str
    histotile: str
    """Version that trained it."""


def describe(
    recipe: Json, mix: Json, *, steps: int, averaged: bool, damaged_tiles: int
) -> EncoderInfo:
    """What an encoder says of itself, from the `config.json` and the `mix.json` of its run.

    Of a file with first weights only the name is kept: folders say who somebody is.

    Raises:
        ConfigError: the recipe is not one of a run.
    """
    try:
        train = recipe["train"]
        shown = {**train, "init": Path(train["init"]).name}
        return EncoderInfo(
            arch=train["arch"],
            library=library_of(train["arch"]),
            features=feature_count(train["arch"], train["image_size"]),
            mean=MEAN,
            std=STD,
            image_size=train["image_size"],
            tile_size=mix["tile_size"],
            mpp=tuple((float(x), float(y)) for x, y in mix["mpp"]),
            mix=mix,
            config={**recipe, "train": shown},
            steps=steps,
            averaged=averaged,
            damaged_tiles=damaged_tiles,
            manifest_sha256=recipe["manifest_sha256"],
            histotile=recipe["histotile"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the settings are not those of a run: {error!r} is amiss") from error


def save_encoder(path: Path, encoder: nn.Module, info: EncoderInfo) -> None:
    """Write an encoder atomically; keys are its library's own, without prefix and classifier.

    Raises:
        OSError: the disk is full, ...; an older file is then untouched.
    """
    weights = {key: value.cpu().contiguous() for key, value in encoder.state_dict().items()}
    said = {"format": FORMAT, "version": VERSION, "crc32c": _checksum(weights), **asdict(info)}
    # One key only: safetensors writes several in an order that changes from call to call.
    metadata = {"histotile": canonical_json(said).decode()}
    write_atomic(path, safetensors.torch.save(weights, metadata=metadata))


def load_encoder(path: str | Path, *, size: int | None = None) -> tuple[nn.Module, Transform]:
    """Load an encoder, in evaluation mode on the CPU, and the transform that goes with it.

    The model maps what the transform gives, float32 (B, 3, S, S), to features (B, F). What is known
    of the encoder is `transform.info`. Tiles should have the µm per pixel of `info.mpp`, and best
    `info.tile_size` pixels.

    Args:
        size: S, to which tiles are brought; by default they keep their pixels, but where the
            encoder takes one size alone (most transformers), `info.image_size`.

    Raises:
        CheckpointError: the file is missing or damaged, or not an encoder of this version; each
            weight must be there and fit.
        ConfigError: the encoder does not take pictures of `size`.
    """
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors ({error})") from error
    said = _said(metadata.get("histotile"), path)
    info = _info(said, path)
    try:
        with torch.random.fork_rng(devices=[]):
            found = find_backbone(info.arch, info.image_size)
        found.model.load_state_dict(weights, strict=True)
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be used here: {error}") from error
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold the weights of a {info.arch}") from error
    if said.get("crc32c") != _checksum(weights):
        raise CheckpointError(f"{path} fails its checksum: its weights are damaged; fetch it again")
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ConfigError(f"size must be a whole number of pixels, at least 1, got {size!r}")
    if not found.any_size:
        if size not in (None, info.image_size):
            raise ConfigError(f"{path} takes pictures of {info.image_size} px alone, not {size}")
        size = info.image_size
    return found.model.eval(), Transform(info, size)


def is_encoder(path: Path) -> bool:
    """Whether a file is an encoder that histotile wrote, of whatever version."""
    return _metadata(path).get("format") == FORMAT


def steps_behind(path: Path) -> int | None:
    """Optimizer steps behind the encoder in a file; None if histotile wrote no such file."""
    said = _metadata(path)
    return said.get("steps") if said.get("format") == FORMAT else None


def _metadata(path: Path) -> dict[str, Json]:
    """What a file says of itself; empty if it is not there, or not one of histotile's."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("histotile", "{}"))
    except (OSError, ValueError, safetensors.SafetensorError):
        return {}
    return said if isinstance(said, dict) else {}


@dataclass(frozen=True, slots=True)
class Transform:
    """Makes of tiles what an encoder takes; the same as in training, but for the random parts."""

    info: EncoderInfo
    """What is known of the encoder."""
    size: int | None = None
    """Pixels of the side that tiles are brought to; None: they keep theirs."""

    def __call__(self, tiles: npt.NDArray[np.uint8] | Tensor | Image) -> Tensor:
        """Normalise tiles: float32 (B, 3, S, S), B = 1 for a single one, on the device of a tensor.

        Args:
            tiles: RGB of 0 to 255: a PIL image, or uint8 (H, W, 3) or (B, H, W, 3) as an array or
                a tensor; tensors may have their channels first as well, (3, H, W), (B, 3, H, W).

        Raises:
            ConfigError: they are something else; floats, for one, do not say what white is.
        """
        return normalised(_channels_first(tiles), self.size, self.info.mean, self.info.std)


def normalised(
    pixels: Tensor, size: int | None, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """What an encoder takes of uint8 (B, 3, H, W): float32 (B, 3, S, S), RGB.

    Args:
        size: S; None: H and W stay.
        mean, std: of RGB in 0 to 1; subtracted, and divided by.
    """
    found = pixels.float()
    if size is not None and found.shape[2:] != (size, size):
        found = functional.interpolate(found, (size, size), mode="bilinear", antialias=True)
    # After the resizing, when there are fewer pixels, and in place.
    shift, scale = (255 * found.new_tensor(values).view(3, 1, 1) for values in (mean, std))
    return found.sub_(shift).div_(scale)


def _channels_first(tiles: npt.NDArray[np.uint8] | Tensor | Image) -> Tensor:
    """Tiles as uint8 (B, 3, H, W)."""
    if isinstance(tiles, Tensor):
        pixels = tiles
    else:
        if not isinstance(tiles, np.ndarray) and not hasattr(tiles, "convert"):
            kind = type(tiles).__name__
            raise ConfigError(f"tiles must be an array, a tensor or a PIL image, not a {kind}")
        array = np.asarray(tiles if isinstance(tiles, np.ndarray) else tiles.convert("RGB"))
        if array.dtype != np.uint8:
            raise ConfigError(f"tiles must be RGB of 0 to 255 in uint8, not {array.dtype}")
        pixels = torch.from_numpy(np.array(array))  # a copy: torch takes no read-only memory
    if pixels.dtype != torch.uint8:
        raise ConfigError(f"tiles must be RGB of 0 to 255 in uint8, not {pixels.dtype}")
    batch = pixels[None] if pixels.ndim == 3 else pixels
    if batch.ndim == 4 and batch.shape[3] == 3:
        return batch.permute(0, 3, 1, 2)
    if batch.ndim == 4 and batch.shape[1] == 3 and isinstance(tiles, Tensor):
        return batch
    shape = tuple(pixels.shape)
    raise ConfigError(f"tiles must have the shape (H, W, 3) or (B, H, W, 3), not {shape}")


def histotile_version() -> str:
    """The installed version of histotile."""
    return importlib.metadata.version("histotile")


def _checksum(weights: Mapping[str, Tensor]) -> int:
    """One crc32c over all weights in the order of their keys; the tensors are contiguous."""
    total = 0
    for _, tensor in sorted(weights.items()):
        if tensor.numel():
            total = crc32c_of(tensor.reshape(-1).view(torch.uint8).numpy(), total)
    return total


def _said(text: str | None, path: Path) -> dict[str, Json]:
    """The metadata as a JSON object of this version."""
    if text is None:
        raise CheckpointError(f"{path} was not written by histotile: its metadata lack `histotile`")
    try:
        data: dict[str, Json] = json.loads(text)
        found = data["format"], data["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the metadata of {path} are not those of an encoder") from error
    if found != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path} is {found[0]} version {found[1]}; this histotile reads {FORMAT} version "
            f"{VERSION}: make it anew with histopretrain export"
        )
    return data


def _info(data: Mapping[str, Json], path: Path) -> EncoderInfo:
    try:
        info = EncoderInfo(**{item.name: data[item.name] for item in fields(EncoderInfo)})
        return dataclasses.replace(
            info,
            mean=tuple(map(float, info.mean)),
            std=tuple(map(float, info.std)),
            mpp=tuple((float(x), float(y)) for x, y in info.mpp),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the metadata of {path} are not those of an encoder") from error
