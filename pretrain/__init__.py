"""Tile stores in, encoders out: SimCLR pretraining on what `histotile` cut.

Training needs the extra (`pip install 'histotile[pretrain]'`); importing this package does not
import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config import TrainConfig
from pretrain.viewconfig import ViewConfig

if TYPE_CHECKING:
    from torch import nn

    from pretrain.encoder import EncoderInfo

__all__ = ["TrainConfig", "ViewConfig", "load_encoder"]


def load_encoder(path: str | Path) -> tuple[nn.Module, EncoderInfo]:
    """Load an encoder that `histopretrain run` wrote, see `pretrain.encoder.load_encoder`."""
    from pretrain.encoder import load_encoder as load

    return load(path)
