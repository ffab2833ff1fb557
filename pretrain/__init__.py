"""Tile stores in, encoders out: SimCLR pretraining on what `histotile` cut.

Training needs the extra (`pip install 'histotile[pretrain]'`); importing this package does not
import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config import TrainConfig
from pretrain.views.viewconfig import ViewConfig

if TYPE_CHECKING:
    from torch import nn

    from pretrain.network.encoder import Transform

__all__ = ["TrainConfig", "ViewConfig", "load_encoder"]


def load_encoder(path: str | Path, *, size: int | None = None) -> tuple[nn.Module, Transform]:
    """Load an encoder and its transform: `features = model(transform(tile))`.

    See `pretrain.network.encoder.load_encoder`.
    """
    from pretrain.network.encoder import load_encoder as load

    return load(path, size=size)
