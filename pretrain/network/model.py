"""The network: an encoder without its classifier, and the projection head that the loss sees.

B is the batch, S the side of a view in pixels, F the encoder's features, D the embedding. Encoders
are torchvision's ResNets and whatever timm has; the head only serves the loss and is not exported.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn

from pretrain.config import ARCHS, TrainConfig
from pretrain.errors import ConfigError
from pretrain.network.weights import initialise

TIMM_PREFIX = "timm/"
"""Before a name that torchvision has, too, where timm's model of that name is meant."""

_MOST_MATCHES = 3
_CNN_SIZE_PX = 32
_USUAL_SIZE_PX = 224
_REFUSALS = (RuntimeError, ValueError, AssertionError, TypeError, IndexError)
"""What timm and its models raise where they do not take what they are given."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """An encoder, and what one must know to feed it."""

    model: nn.Module
    """Maps (B, 3, S, S) to (B, F)."""
    features: int
    """F, found by running the model."""
    any_size: bool
    """Whether S may be another than the one that it was built for."""


class SimClr(nn.Module):
    """Encoder and projection head."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.origin = "random weights"
        """Where the encoder's first weights came from, and what was left out of them."""

    def forward(self, views: Tensor) -> Tensor:
        """Embed float views (B, 3, S, S) as (B, D)."""
        return cast(Tensor, self.head(self.encoder(views)))


def build_model(config: TrainConfig) -> SimClr:
    """A model on the CPU whose weights depend on `config` alone; no generator of torch is touched.

    Encoder and head start from random weights of `config.seed`; `config.init` may then replace the
    encoder's.

    Raises:
        ConfigError: there is no such encoder, it cannot take views of this size, or its first
            weights cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which reseeds every GPU as well.
        torch.default_generator.manual_seed(config.seed)
        found = find_backbone(config.arch, config.image_size)
        model = SimClr(
            found.model, projection_head(config.head, found.features, config.projection_dim)
        )
    model.origin = initialise(found.model, config.init, config.arch)
    return model


def build_encoder(arch: str, image_size: int | None = None) -> nn.Module:
    """An encoder that maps (B, 3, S, S) to (B, F), with random weights; see `find_backbone`.

    Torch's own generators are left alone.
    """
    with torch.random.fork_rng(devices=[]):
        return find_backbone(arch, image_size).model


def find_backbone(arch: str, image_size: int | None = None) -> Backbone:
    """An encoder by name: one of `config.ARCHS` from torchvision, any other from timm.

    `timm/NAME` is timm's where both have the name. Keys are the library's own, without classifier.
    The weights are drawn from torch's generator.

    Args:
        image_size: S; needed by encoders that are built for one size (transformers mostly), which
            else have their published one.

    Raises:
        ConfigError: neither library has it, it does not take views of this size, or it does not
            give one vector per view.
    """
    if library_of(arch) == "torchvision":
        model: nn.Module = torchvision.models.get_model(arch, weights=None)
        model.fc = nn.Identity()
        return Backbone(model, _count_features(model, arch, _CNN_SIZE_PX), any_size=True)
    model, any_size, usual = _from_timm(arch, image_size)
    try:
        return Backbone(model, _count_features(model, arch, image_size or usual), any_size)
    except _REFUSALS as error:
        raise _unfit(arch, image_size, usual, error) from error


def feature_count(arch: str, image_size: int | None = None) -> int:
    """F, the features that an encoder gives; errors as `find_backbone`."""
    with torch.random.fork_rng(devices=[]):
        return find_backbone(arch, image_size).features


def library_of(arch: str) -> str:
    """Where an encoder comes from: `torchvision` or `timm`."""
    return "torchvision" if arch in ARCHS else "timm"


def timm_name(arch: str) -> str:
    """An encoder's name for `timm.create_model`."""
    return arch.removeprefix(TIMM_PREFIX)


def _from_timm(arch: str, image_size: int | None) -> tuple[nn.Module, bool, int]:
    """A model of timm, whether it takes views of any size, and the size that it was made for."""
    import timm

    name = timm_name(arch)
    if not timm.is_model(name):
        known = dict.fromkeys([*ARCHS, *timm.list_models()])
        near = difflib.get_close_matches(name, known, _MOST_MATCHES)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(f"neither torchvision nor timm has an encoder called {arch!r}{hint}")
    try:
        published = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except _REFUSALS as error:
        raise ConfigError(f"timm cannot build {arch}: {_reason(error)}") from error
    usual = _USUAL_SIZE_PX if published is None else published.input_size[1]
    any_size = published is None or not published.fixed_input_size
    own: dict[str, Any] = {} if any_size or image_size is None else {"img_size": image_size}
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **own)
    except _REFUSALS as error:
        raise _unfit(arch, image_size, usual, error) from error
    return model, any_size, usual


def _unfit(arch: str, image_size: int | None, usual: int, error: Exception) -> ConfigError:
    """What to say of an encoder that does not take views of a size, and why."""
    if image_size is None:
        return ConfigError(f"timm cannot build {arch}: {_reason(error)}")
    hint = "another --arch" if image_size == usual else f"--image-size {usual}, or another --arch"
    return ConfigError(
        f"{arch} does not take views of {image_size} px ({_reason(error)}): give {hint}"
    )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__


def _count_features(model: nn.Module, arch: str, image_size: int) -> int:
    """F, of one grey view in evaluation mode: no statistics change, and nothing is drawn."""
    try:
        with torch.no_grad():
            features = model.eval()(torch.zeros(1, 3, image_size, image_size))
    finally:
        model.train()
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ConfigError(f"{arch} does not give one vector for each view; give another --arch")
    return features.shape[1]


def projection_head(kind: str, features: int, projection_dim: int) -> nn.Sequential:
    """Layers that map features (B, F) to embeddings (B, D); hidden layers are F wide.

    `paper` has two layers with biases and no BatchNorm, as the released weights of Ciga et al. 2022
    show. `simclr` (Chen et al., ICML 2020) and `simclr2` (Chen et al., NeurIPS 2020; three layers)
    follow the code of those papers: BatchNorm after every layer, no bias before it, and in the
    last one, which has no ReLU, no shift after it either.
    """
    if kind == "paper":
        return nn.Sequential(
            nn.Linear(features, features),
            nn.ReLU(inplace=True),
            nn.Linear(features, projection_dim),
        )
    layers: list[nn.Module] = []
    for _ in range({"simclr": 1, "simclr2": 2}[kind]):
        layers += [
            nn.Linear(features, features, bias=False),
            nn.BatchNorm1d(features),
            nn.ReLU(inplace=True),
        ]
    last = nn.BatchNorm1d(projection_dim)
    last.bias.requires_grad_(False)  # stays 0
    return nn.Sequential(*layers, nn.Linear(features, projection_dim, bias=False), last)
