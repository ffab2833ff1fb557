"""The network: a torchvision ResNet without its classifier, and the projection head.

B is the batch, F the encoder's features (512, or 2048 from ResNet-50 on), D the projection. Both
start from random weights, as in Ciga et al. 2022: no photographs, nothing to download.
"""

from __future__ import annotations

from typing import cast

import torch
import torchvision
from torch import Tensor, nn

FEATURES = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048}
"""Features F that the encoder of each architecture gives."""


class SimClr(nn.Module):
    """Encoder and projection head; the head only serves the loss and is not exported."""

    def __init__(self, arch: str, projection_dim: int) -> None:
        super().__init__()
        self.encoder = build_encoder(arch)
        self.head = projection_head(FEATURES[arch], projection_dim)

    def forward(self, views: Tensor) -> Tensor:
        """Embed float views (B, 3, S, S) as (B, D)."""
        return cast(Tensor, self.head(self.encoder(views)))


def build_encoder(arch: str) -> nn.Module:
    """A ResNet of `config.ARCHS` that maps (B, 3, S, S) to features (B, F); no `fc` weights."""
    encoder: nn.Module = torchvision.models.get_model(arch, weights=None)
    encoder.fc = nn.Identity()
    return encoder


def projection_head(features: int, projection_dim: int) -> nn.Sequential:
    """Linear, ReLU, Linear: (B, F) to (B, D).

    The released weights of Ciga et al. hold these two layers and no BatchNorm; SimCLR's own code
    has BatchNorm after each layer, which matters for batches of thousands.
    """
    return nn.Sequential(
        nn.Linear(features, features),
        nn.ReLU(inplace=True),
        nn.Linear(features, projection_dim),
    )


def seeded_model(arch: str, projection_dim: int, seed: int) -> SimClr:
    """A fresh model whose weights depend on `seed` alone; torch's CPU generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SimClr(arch, projection_dim)
