"""Resampling and blur as sparse sums: each line of the output is a few weighted lines of the input.

A picture is a table of lines, (B, L, D): B pictures, L lines, D numbers along a line; the second
axis is done by transposing. Positions are pixels, whose centres lie at 0.5, 1.5, ...; B is the
batch, S the lines of the output, K the most taps that one of them has. A dense matrix product
would multiply mostly with zeros.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

REACH = 4.0
"""Sigmas after which a Gaussian ends: what is cut off weighs 6e-5."""
_SHARPEST = 1e-3
"""Least sigma in pixels; it changes nothing in float32."""


@dataclass(frozen=True, slots=True)
class Taps:
    """Which lines make a line of the output, and how much each of them weighs."""

    lines: Tensor
    """int32 (B, S, K), lines of the same picture."""
    weights: Tensor
    """float32 (B, S, K), summing to 1 over K; 0 where a line has fewer taps."""


def crop_taps(
    start: Floats, extent: Floats, flip: Flags, size: int, length: int, device: torch.device
) -> Taps:
    """Taps that take `length` lines to `size` lines of a crop, bilinear.

    The triangle is widened where lines are lost, as Pillow and torch's `antialias` have it. Lines
    just outside a crop count at its edge, those outside the picture don't.

    Args:
        start: first edge of the crops (B,), as a share of `length`.
        extent: length of the crops (B,), as a share of `length`.
        flip: whether the output runs backwards (B,).
    """
    step = extent * (length / size)
    reach = np.maximum(step, 1.0)
    most = int(np.floor(2 * reach.max())) + 1
    sign = np.where(flip, -step, step)
    begin = start * length - 0.5 + np.where(flip, (size - 0.5) * step, 0.5 * step)
    out = torch.arange(size, dtype=torch.float32, device=device)
    centre = column(begin, device) + out * column(sign, device)
    first = torch.ceil(centre - column(reach, device))[:, :, None]
    lines = first + torch.arange(most, dtype=torch.float32, device=device)
    weights = (lines - centre[:, :, None]).div_(column(reach, device)[:, :, None])
    weights = weights.abs_().neg_().add_(1).clamp_(min=0)
    weights.mul_(lines >= 0).mul_(lines < length)
    weights /= weights.sum(dim=2, keepdim=True)
    return Taps(lines.clamp_(0, length - 1).int(), weights)


def blur_taps(sigma_px: Floats, size: int, device: torch.device) -> Taps:
    """Taps of a Gaussian over `size` lines that reflects at the ends; a sigma of 0 is none.

    Line -k is line k, and line S - 1 + k is S - 1 - k, as torch's `reflect` padding has it. The
    Gaussian ends after `REACH` sigmas.
    """
    sigma = np.maximum(sigma_px, _SHARPEST)
    reach = min(int(REACH * sigma.max()), size - 1)
    away = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device)
    distance = away / column(sigma, device)
    weights = torch.exp(distance.square() / -2) * (distance.abs() <= REACH)
    weights /= weights.sum(dim=1, keepdim=True)
    out = torch.arange(size, dtype=torch.int32, device=device)
    lines = (out[:, None] + away.int()).abs()
    lines = (size - 1) - (size - 1 - lines).abs()
    shape = (len(sigma), size, 2 * reach + 1)
    return Taps(lines.expand(shape), weights[:, None].expand(shape))


class LineSums:
    """The sums that `Taps` describe, ready for pictures of `length` lines.

    Pictures are done `chunk` at a time, the first chunk first; the last may be smaller.
    """

    def __init__(self, taps: Taps, length: int, chunk: int, *, skip: bool) -> None:
        """Prepare the sums of all pictures.

        Args:
            skip: leave out taps of no weight, which a CPU gains by; a GPU would have to wait until
                it is known how many there are.
        """
        batch, self._size, most = taps.lines.shape
        self._chunk = chunk
        device = taps.lines.device
        place = torch.arange(batch, dtype=torch.int32, device=device).remainder_(chunk)
        self._lines = (taps.lines + (place * length)[:, None, None]).flatten()
        self._weights = taps.weights.flatten()
        if skip:
            some = self._weights.nonzero()[:, 0]
            self._lines, self._weights = self._lines[some], self._weights[some]
            counts = torch.count_nonzero(taps.weights, dim=2).flatten()
            self._starts = functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
            self._borders = self._starts[:: chunk * self._size].tolist()
        else:
            bags = torch.arange(batch * self._size + 1, dtype=torch.int32, device=device)
            self._starts = bags * most
            self._borders = list(range(0, batch * self._size * most, chunk * self._size * most))
        self._borders.append(len(self._lines))

    def apply(self, pictures: Tensor, number: int) -> Tensor:
        """Sum the lines of the pictures of a chunk; returns float32 (..., B, S, D).

        Args:
            pictures: float32 (..., B, L, D), contiguous; all that stands before B is treated alike.
            number: which chunk.
        """
        *several, batch, length, _ = pictures.shape
        first = number * self._chunk * self._size
        part = slice(self._borders[number], self._borders[number + 1])
        lines, weights = self._lines[part], self._weights[part]
        starts = self._starts[first : first + batch * self._size] - self._borders[number]
        copies = math.prod(several)
        if copies > 1:
            copy = torch.arange(copies, dtype=torch.int32, device=lines.device)[:, None]
            starts = (starts + copy * len(lines)).flatten()
            lines = (lines + copy * (batch * length)).flatten()
            weights = weights.repeat(copies)
        table = pictures.view(copies * batch * length, -1)
        summed = functional.embedding_bag(
            lines, table, starts, mode="sum", per_sample_weights=weights
        )
        return summed.view(*several, batch, self._size, -1)


def column(values: Floats, device: torch.device) -> Tensor:
    """Numbers (B,) as float32 (B, 1) on a device."""
    return on_device(values[:, None], device)


def on_device(values: Floats, device: torch.device) -> Tensor:
    """Numbers as float32 on a device."""
    return torch.from_numpy(values.astype(np.float32)).to(device)
