"""How weights are updated: the optimizer, and the learning rate of each step.

AdamW, because its steps do not depend on the scale of the gradient: one learning rate serves the
small batches of one machine. The paper's LARS is made for batches of thousands.
"""

from __future__ import annotations

import math

import torch
from torch import nn

WARMUP_SHARE = 0.1
"""Steps of rising learning rate, as a share of all: SimCLR warms up 10 of 100 epochs."""
WEIGHT_DECAY = 1e-4


def learning_rate(step: int, steps: int, peak: float) -> float:
    """The rate of a step, 0 to `steps` - 1: a linear rise to `peak`, then half a cosine to 0."""
    warmup = int(steps * WARMUP_SHARE)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW whose learning rate is set before each step; biases and BatchNorm do not decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups)
