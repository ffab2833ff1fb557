"""How weights are updated: the optimizer, the learning rate of each step, and their average.

AdamW, because its steps do not depend on the scale of the gradient: one learning rate serves the
small batches of one machine. The paper's LARS is made for batches of thousands.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pretrain.config import TrainConfig

LINEAR_BATCH = 256
"""Tiles a batch at which the linear rule leaves the rate as it is (Goyal et al. 2017)."""
MOMENTUM = 0.9
TRUST = 0.001
"""LARS: length of a step as a share of the weights' length, before the learning rate."""

_UPDATES = "updates"


def peak_rate(config: TrainConfig, batch_size: int) -> float:
    """The highest learning rate: `config.base_lr` after its rule, for batches of so many tiles."""
    factors = {
        "constant": 1.0,
        "linear": batch_size / LINEAR_BATCH,
        "sqrt": math.sqrt(batch_size),
    }
    return config.base_lr * factors[config.rule]


def learning_rate(step: int, steps: int, peak: float, warmup: float) -> float:
    """The rate of a step, 0 to `steps` - 1: a linear rise to `peak`, then half a cosine to 0.

    Args:
        warmup: share of the steps in which it rises, 0 to 1.
    """
    rising = int(steps * warmup)
    if step < rising:
        return peak * (step + 1) / (rising + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or LARS over a model's weights; the learning rate is set before each step.

    Biases and norms (one dimension or none) do not decay, nor does LARS scale their steps. All
    else LARS scales, also without weight decay. It is timm's: step = lr · v with
    v ← 0.9 v + r (g + λ w) and r = 0.001 |w| / (|g| + λ |w|), after You et al. 2017. SimCLR's code
    has the rate inside the momentum, v ← 0.9 v + lr · r (g + λ w), and r = 0.001 |w| / |g + λ w|:
    the same where the rate stays and λ is 0, and close to it otherwise.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            [
                {"params": weights, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
        )
    from timm.optim.lars import Lars

    return Lars(
        [
            {"params": weights, "weight_decay": config.weight_decay, "always_adapt": True},
            {"params": others, "weight_decay": 0.0, "always_adapt": False},
        ],
        momentum=MOMENTUM,
        trust_coeff=TRUST,
    )


class Ema:
    """An average of a model's weights that forgets by `decay` a step; buffers are copied.

    Early on it forgets faster, by (1 + n) / (10 + n) after n updates, so that the random weights of
    the start do not last.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        """A model of its own with the averaged weights, in evaluation mode."""
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        kept = min(self._decay, (1 + self._updates) / (10 + self._updates))
        # All weights in one go: on a GPU, one at a time costs more to start than to do.
        average = get_ema_multi_avg_fn(kept)  # type: ignore[no-untyped-call]
        average([*self.model.parameters()], [*model.parameters()], self._updates)
        for copied, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)
        self._updates += 1

    def state_dict(self) -> dict[str, Tensor]:
        """All of it as tensors: the model's own keys, and `updates`."""
        return {**self.model.state_dict(), _UPDATES: torch.tensor(self._updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what `state_dict` gave.

        Raises:
            RuntimeError: that was another model.
            KeyError: it lacks `updates`.
        """
        weights = dict(state)
        self._updates = int(weights.pop(_UPDATES))
        self.model.load_state_dict(weights, strict=True)
