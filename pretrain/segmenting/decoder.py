"""A small decoder: from the maps of a frozen network to the class of each pixel.

Every map is brought to a common width by a 1 x 1 convolution and to a quarter of the picture's
side, and all are added up (the idea of Lin et al., Feature Pyramid Networks, CVPR 2017); a 3 x 3
convolution follows, then the classes. B is a batch, S the side of a picture in pixels, C the
classes; maps are float32 (B, channels, h, h), truth uint8 or int64 (B, S, S) with 255 for no class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.segmenting.masks import IGNORED

WIDTH = 64
_STRIDE = 4
_NORM_GROUPS = 8


class Decoder(nn.Module):
    """Maps to logits. It has no statistics of batches: a tile's mask depends on that tile alone."""

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Conv2d(count, WIDTH, 1) for count in channels)
        self.joined = nn.Sequential(
            nn.GroupNorm(_NORM_GROUPS, WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.GroupNorm(_NORM_GROUPS, WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, classes, 1),
        )

    def forward(self, maps: Sequence[Tensor], size: int) -> Tensor:
        """Logits (B, C, S, S) of pictures of `size` pixels."""
        quarter = math.ceil(size / _STRIDE)
        parts = [
            _resized(side(found), quarter) for side, found in zip(self.sides, maps, strict=True)
        ]
        return _resized(cast(Tensor, self.joined(torch.stack(parts).sum(dim=0))), size)


def _resized(maps: Tensor, side: int) -> Tensor:
    if maps.shape[-1] == side:
        return maps
    return functional.interpolate(maps, (side, side), mode="bilinear", align_corners=False)


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus one minus the mean soft Dice of the classes in the batch.

    Pixels of no class count for neither (Dice: Milletari et al., V-Net, 3DV 2016, whose squares in
    the denominator are left out).
    """
    truth = truth.long()
    known = truth != IGNORED
    count = known.sum().clamp(min=1)
    entropy = functional.cross_entropy(logits, truth, ignore_index=IGNORED, reduction="sum")
    said = logits.softmax(dim=1) * known[:, None]
    # Classes before pixels; no one_hot, which makes int64 of the whole.
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    true = (truth[:, None] == classes).float()
    both, either = (x.sum(dim=(0, 2, 3)) for x in (said * true, said + true))
    there = true.sum(dim=(0, 2, 3)) > 0
    dice = (2 * both + 1) / (either + 1)
    missed = torch.where(there, 1 - dice, 0).sum() / there.sum().clamp(min=1)
    return entropy / count + missed
