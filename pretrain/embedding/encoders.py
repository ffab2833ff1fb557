"""Encoders by name: those that histotile trained, and those that others did, or nobody.

A name is `FILE` (an encoder that histotile exported), `random:ARCH`, `imagenet:ARCH`,
`timm:ARCH=FILE` or `torchvision:ARCH=FILE`. Each brings the mean and the standard deviation that it
wants its pixels in. B is a batch, S the side of a picture in pixels, F the features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from manifests.checks import short
from manifests.files import Json
from pretrain.config import ARCHS
from pretrain.errors import ConfigError
from pretrain.network.card import resolution_texts
from pretrain.network.encoder import ENCODER_FILE, load_encoder, normalised
from pretrain.network.model import TIMM_PREFIX, find_backbone, library_of, timm_name
from pretrain.network.weights import IMAGENET, RANDOM, initialise
from pretrain.views.augment import MEAN, STD

FORMS = "FILE, random:ARCH, imagenet:ARCH, timm:ARCH=FILE or torchvision:ARCH=FILE"
"""How an encoder may be named."""

_KINDS = (RANDOM, IMAGENET, "timm", "torchvision")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
"""What torchvision's published weights were trained with."""
_MPP_TOLERANCE = 0.1
"""Scanners of one nominal magnification differ by as much."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A network that makes a vector of a tile, and how to feed it."""

    name: str
    """As it was asked for, without folders."""
    model: nn.Module
    """Maps float32 (B, 3, S, S) to (B, F); in evaluation mode, on the CPU."""
    arch: str
    library: str
    """Whose network it is: torchvision or timm."""
    features: int
    """F."""
    mean: tuple[float, ...]
    """Of RGB in 0 to 1; subtracted, ..."""
    std: tuple[float, ...]
    """... then divided by."""
    size: int | None
    """S, to which tiles are brought; None: they keep their pixels."""
    sha256: str
    """Over the names, shapes and values of all weights."""
    mpp: tuple[tuple[float, float], ...]
    """µm per pixel in (x, y) of the tiles that it was trained on; empty where that is not known."""
    origin: str
    """Where the weights came from, in words."""

    def prepare(self, tiles: Tensor) -> Tensor:
        """Tiles uint8 (B, H, W, 3) as the model takes them, float32 (B, 3, S, S)."""
        return normalised(tiles.permute(0, 3, 1, 2), self.size, self.mean, self.std)

    def to_json(self) -> dict[str, Json]:
        """What a result says of the encoder."""
        return {
            "name": self.name,
            "arch": self.arch,
            "library": self.library,
            "features": self.features,
            "sha256": self.sha256,
            "mpp": [list(pair) for pair in self.mpp],
            "image_size": self.size,
            "mean": list(self.mean),
            "std": list(self.std),
            "origin": self.origin,
        }


def open_encoder(text: str, *, size: int | None = None, seed: int = 0) -> Encoder:
    """Open an encoder by its name.

    Args:
        text: as in `FORMS`.
        size: S; by default tiles keep their pixels, but where the encoder takes one size alone.
        seed: of random weights; torch's own generator is left alone.

    Raises:
        ConfigError: there is no such encoder, its weights cannot be had or do not fit, or it does
            not take pictures of that size.
        CheckpointError: a file of ours is damaged, or is none.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind in _KINDS:
        return _foreign(text, kind, rest, size, seed)
    path = Path(text)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is not there"
        raise ConfigError(f"the encoder {short(text)} {found}: give {FORMS}")
    model, transform = load_encoder(path, size=size)
    info = transform.info
    return Encoder(
        name=_file_name(path),
        model=model,
        arch=info.arch,
        library=info.library,
        features=info.features,
        mean=info.mean,
        std=info.std,
        size=transform.size,
        sha256=weights_digest(model),
        mpp=info.mpp,
        origin=f"histotile {info.histotile}, {info.steps} steps",
    )


def check_mpp(
    encoder: Encoder, mpps: Iterable[tuple[float, float]], *, any_mpp: bool = False
) -> None:
    """Refuse tiles of other µm per pixel than an encoder was trained on, by more than a tenth.

    Args:
        mpps: µm per pixel of the tiles in (x, y).
        any_mpp: let them pass.

    Raises:
        ConfigError: it was trained on others.
    """
    if any_mpp or not encoder.mpp:
        return
    for mpp in sorted(set(mpps)):
        if not any(_is_near(mpp, other) for other in encoder.mpp):
            trained = " and ".join(resolution_texts(encoder.mpp))
            raise ConfigError(
                f"{encoder.name} was trained on tiles of {trained} µm/px, and these have "
                f"{resolution_texts([mpp])[0]}: cut them as those were, choose a resolution by "
                "--mpp, or take them as they are by --any-mpp"
            )


def named_apart(encoders: Iterable[Encoder]) -> None:
    """Refuse encoders of one name: a table could not tell them apart.

    Raises:
        ConfigError: two have the same name.
    """
    seen: dict[str, Encoder] = {}
    for encoder in encoders:
        if encoder.name in seen:
            what = "twice" if seen[encoder.name].sha256 == encoder.sha256 else "two of that name"
            raise ConfigError(
                f"the encoder {encoder.name} is there {what}: name each once, and files of "
                "different encoders differently"
            )
        seen[encoder.name] = encoder


def weights_digest(model: nn.Module) -> str:
    """sha256 over the names, kinds, shapes and values of all weights, in the order of the names."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        tensor = value.cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _foreign(text: str, kind: str, rest: str, size: int | None, seed: int) -> Encoder:
    """An encoder of a library, with random, published, or given weights."""
    arch, equals, file = rest.partition("=")
    if not arch or (kind in (RANDOM, IMAGENET)) == bool(equals) or (equals and not file):
        raise ConfigError(f"the encoder {short(text)} is not named as it should be: give {FORMS}")
    if kind == "torchvision" and arch not in ARCHS:
        raise ConfigError(f"of torchvision, histotile knows {', '.join(ARCHS)}, not {short(arch)}")
    if kind == "timm" and library_of(arch) == "torchvision":
        arch = TIMM_PREFIX + arch
    if equals and not Path(file).is_file():
        raise ConfigError(f"the weights {short(file)} of {kind}:{arch} are not there")
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which reseeds every GPU as well.
        torch.default_generator.manual_seed(seed)
        found = find_backbone(arch, size)
    origin = initialise(found.model, file or kind, arch)
    mean, std, usual = _statistics(arch, kind)
    return Encoder(
        name=f"{kind}:{timm_name(arch)}" + (f"={_file_name(Path(file))}" if equals else ""),
        model=found.model.eval(),
        arch=arch,
        library=library_of(arch),
        features=found.features,
        mean=mean,
        std=std,
        size=size if size is not None or found.any_size else usual,
        sha256=weights_digest(found.model),
        mpp=(),
        origin=origin.replace(file, Path(file).name) if equals else origin,
    )


def _statistics(arch: str, kind: str) -> tuple[tuple[float, ...], tuple[float, ...], int | None]:
    """Mean, standard deviation and the usual size of a library's encoder."""
    if library_of(arch) == "torchvision":
        known = (MEAN, STD) if kind == RANDOM else (_IMAGENET_MEAN, _IMAGENET_STD)
        return *known, None
    import timm

    published = timm.get_pretrained_cfg(timm_name(arch), allow_unregistered=True)
    if published is None:
        return MEAN, STD, None
    if kind == RANDOM:
        return MEAN, STD, published.input_size[1]
    mean, std = (tuple(map(float, values)) for values in (published.mean, published.std))
    return mean, std, published.input_size[1]


def _file_name(path: Path) -> str:
    """What people call a file: its name, or that of its run's folder, never more of its path."""
    folder = path.parent.name
    return folder if path.name == ENCODER_FILE and folder not in ("", ".", "..") else path.name


def _is_near(mpp: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(one - two) <= _MPP_TOLERANCE * two for one, two in zip(mpp, other, strict=True))
