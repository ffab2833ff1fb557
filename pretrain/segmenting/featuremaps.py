"""Feature maps: what a network holds of each place of a picture, at several strides.

Found by one dry run, for any network that keeps the plan of a picture: the last map of every size
for convolutions, the grid of tokens for transformers. B is a batch, S the side of a picture in
pixels, C the channels of a map, h its side; maps are float32 (B, C, h, h), finest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.errors import ConfigError

FINEST_STRIDE = 4
"""Finer maps cost much, and tell little of tissue."""
_PROBES = 2
"""Pictures of the dry run: two tell a batch from windows of one picture."""


@dataclass(frozen=True, slots=True)
class _Tap:
    """Where a map comes out of a network."""

    module: str
    """Name of the module whose output it is."""
    layout: str
    """`channels first`, `channels last` or `tokens`."""
    side: int
    """h."""
    channels: int


class FeatureMaps(nn.Module):
    """Gives a network's maps instead of its features. Pictures have one size, S."""

    def __init__(self, model: nn.Module, size: int) -> None:
        """Find the maps by a dry run on the CPU.

        Raises:
            ConfigError: the network gives none that keeps the plan of a picture.
        """
        super().__init__()
        self.model = model
        self._taps = _find_taps(model, size)
        self.sides = tuple(tap.side for tap in self._taps)
        """h of each map, descending."""
        self.channels = tuple(tap.channels for tap in self._taps)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Maps of pictures float32 (B, 3, S, S)."""
        modules = dict(self.model.named_modules())
        found: dict[_Tap, Tensor] = {}

        def keep(tap: _Tap) -> Callable[[Any, Any, Any], None]:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and _tap(tap.module, output, len(pictures)) == tap:
                    found[tap] = output

            return hook

        hooks = [modules[tap.module].register_forward_hook(keep(tap)) for tap in self._taps]
        try:
            self.model(pictures)
        finally:
            for hook in hooks:
                hook.remove()
        return [_channels_first(found[tap], tap).float() for tap in self._taps]


def _find_taps(model: nn.Module, size: int) -> tuple[_Tap, ...]:
    calls: list[_Tap] = []

    def hook_of(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and (tap := _tap(name, output, _PROBES)):
                calls.append(tap)

        return hook

    # Tables of attention are square, too, and no maps.
    meant = [(name, module) for name, module in model.named_modules() if "attn" not in name]
    hooks = [module.register_forward_hook(hook_of(name)) for name, module in meant]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(_PROBES, 3, size, size, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    # Inside of a transformer there are maps, too (its patches); what comes last says what it is.
    if calls and calls[-1].layout == "tokens":
        return (calls[-1],)
    last = {tap.side: tap for tap in calls if tap.layout != "tokens"}
    taps = [last[side] for side in sorted(last, reverse=True)]
    coarse = tuple(tap for tap in taps if tap.side <= math.ceil(size / FINEST_STRIDE))
    if not coarse:
        raise ConfigError(
            f"a {type(model).__name__} keeps no map of a picture: give another encoder for "
            "segmentation"
        )
    return coarse


def _tap(module: str, output: Tensor, batch: int) -> _Tap | None:
    """What an output would be as a map; None if it is none."""
    shape = tuple(output.shape)
    if len(shape) not in (3, 4) or shape[0] != batch:
        return None
    if len(shape) == 4 and shape[2] == shape[3] > 1:
        return _Tap(module, "channels first", shape[2], shape[1])
    if len(shape) == 4 and shape[1] == shape[2] > 1:
        return _Tap(module, "channels last", shape[1], shape[3])
    # Besides the grid there are at most a few tokens (class, registers), which come first.
    if len(shape) == 3 and (side := math.isqrt(shape[1])) > 1:
        return _Tap(module, "tokens", side, shape[2])
    return None


def _channels_first(output: Tensor, tap: _Tap) -> Tensor:
    if tap.layout == "tokens":
        grid = output[:, output.shape[1] - tap.side**2 :]
        return grid.transpose(1, 2).reshape(len(output), tap.channels, tap.side, tap.side)
    return output.permute(0, 3, 1, 2) if tap.layout == "channels last" else output
