"""The device that a command computes on, from what was asked for and what there is."""

from __future__ import annotations

import torch

from pretrain.errors import ConfigError


def pick_device(name: str) -> str:
    """`cpu` or `cuda`, for `auto` whichever there is.

    Raises:
        ConfigError: `cuda` was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch sees no CUDA GPU; use cpu or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
