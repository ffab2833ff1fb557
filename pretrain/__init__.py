"""Tile stores in, encoders out: SimCLR pretraining on what `histotile` cut.

Training needs the extra (`pip install 'histotile[pretrain]'`); importing this package does not
import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.config import TrainConfig, ViewConfig

if TYPE_CHECKING:
    from torch import nn

    from pretrain.checkpoint import EncoderInfo

__all__ = ["TrainConfig", "ViewConfig", "load_encoder"]


def load_encoder(path: str | Path) -> tuple[nn.Module, EncoderInfo]:
    """Load an encoder that `histopretrain run` wrote, see `pretrain.checkpoint.load_encoder`."""
    from pretrain.checkpoint import load_encoder as load

    return load(path)
