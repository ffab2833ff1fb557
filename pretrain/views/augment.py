"""Two different views of a tile, made for a whole batch at once on the device.

B is the batch, H and W the sides of a tile, S the side of a view, C = 3 (RGB). A tile is cropped,
flipped, resampled and turned, then its stains change, its colours, and last it is blurred. All
numbers are drawn on the CPU, keyed by (seed, sample number, view), so that a sample's views depend
neither on its batch nor on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pretrain.mixing.keyed import key_of, uniforms
from pretrain.views.colour import change_colour, change_stain, colour_matrices, stain_matrices
from pretrain.views.resample import Flags, Floats, LineSums, blur_taps, crop_taps, on_device
from pretrain.views.viewconfig import ViewConfig

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
"""Normalisation of RGB in 0 to 1, as in Ciga et al. 2022: the encoder sees -1 to 1."""

_CROP_TRIES = 10
"""As many as torchvision's RandomResizedCrop makes."""
_DRAWS = 20
_CHUNK = {"cpu": 4}
"""Tiles that are worked on at a time: on a CPU they should fit its cache."""
_CHUNK_ELSEWHERE = 64
"""Bounds what is held beside the views, some 250 MB at 224 px."""


@dataclass(frozen=True, slots=True)
class Views:
    """What is done to each tile of a batch; every array is (B,), or (B, 3) for the stains."""

    left: Floats
    """Left edge of the crop, as a share of the tile's width."""
    top: Floats
    """Upper edge of the crop, as a share of the tile's height."""
    width: Floats
    height: Floats
    flip_x: Flags
    flip_y: Flags
    transpose: Flags
    """Whether rows and columns change places, after the flips."""
    stain_scale: Floats
    """Factors of haematoxylin, eosin and DAB; 1 changes nothing."""
    stain_shift: Floats
    """Optical density added to each of them."""
    brightness: Floats
    """Factor; 1 changes nothing, the same for contrast and saturation."""
    contrast: Floats
    saturation: Floats
    """Factor of the colour; 0 is grey."""
    hue: Floats
    """Rotation of the colour in turns, from red towards green."""
    sigma: Floats
    """Gaussian blur, as a share of the view's side; 0 is none."""


def draw_views(config: ViewConfig, seed: int, numbers: npt.NDArray[np.int64], view: int) -> Views:
    """Draw how the tiles with these sample numbers (B,) look in a view (0 or 1)."""
    u = uniforms(key_of(seed, "views", view), numbers, _DRAWS).T
    width, height = _draw_crops(config, key_of(seed, "crops", view), numbers)
    flip_y = (u[3] < 0.5) & config.turn
    transpose = (u[4] < 0.5) & config.turn
    # Two of the three together are a turn by quarters; x decides whether it is a mirror image.
    mirror = (u[2] < 0.5) & config.flip
    jitter = u[5] < config.jitter_probability
    grey = u[10] < config.grayscale_probability
    blur = u[11] < config.blur_probability
    stain = (u[13] < config.stain_probability)[:, None]
    saturation = np.where(jitter, _around_one(u[8], config.saturation), 1.0)
    shift = _between(u[17:20].T, -config.stain_shift, config.stain_shift)
    return Views(
        left=u[0] * (1 - width),
        top=u[1] * (1 - height),
        width=width,
        height=height,
        flip_x=mirror ^ flip_y ^ transpose,
        flip_y=flip_y,
        transpose=transpose,
        stain_scale=np.where(stain, _around_one(u[14:17].T, config.stain_strength), 1.0),
        stain_shift=np.where(stain, shift, 0.0),
        brightness=np.where(jitter, _around_one(u[6], config.brightness), 1.0),
        contrast=np.where(jitter, _around_one(u[7], config.contrast), 1.0),
        saturation=np.where(grey, 0.0, saturation),
        hue=np.where(jitter, _between(u[9], -config.hue, config.hue), 0.0),
        sigma=np.where(blur, _between(u[12], *config.blur_sigma), 0.0),
    )


def _draw_crops(
    config: ViewConfig, key: int, numbers: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Width and height (B,) as shares of the tile, as RandomResizedCrop draws them.

    A crop that is longer than the tile is drawn again; after ten tries it is the largest that has
    an allowed shape.
    """
    u = uniforms(key, numbers, 2 * _CROP_TRIES)
    area = _between(u[:, ::2], *config.crop_area)
    low, high = config.crop_ratio
    ratio = np.exp(_between(u[:, 1::2], np.log(low), np.log(high)))
    fits = (area * ratio <= 1) & (area / ratio <= 1)
    row, first = np.arange(len(u)), fits.argmax(axis=1)
    area, ratio, fits = area[row, first], ratio[row, first], fits[row, first]
    shape = min(max(1.0, low), high)
    width = np.where(fits, np.sqrt(area * ratio), min(shape, 1.0))
    height = np.where(fits, np.sqrt(area / ratio), min(1 / shape, 1.0))
    return width, height


def both_views(
    config: ViewConfig, seed: int, tiles: Tensor, numbers: npt.NDArray[np.int64], size: int
) -> Tensor:
    """Two views of each tile (B, H, W, C), of 0 to 255: float32 (2 B, C, S, S), as `make_views`.

    The first views of all tiles come before the second views of all.

    Args:
        tiles: uint8, or float of the same range.
        numbers: sample numbers (B,), which the views depend on.
    """
    return _render(tiles, [draw_views(config, seed, numbers, view) for view in (0, 1)], size)


def make_views(tiles: Tensor, views: Views, size: int) -> Tensor:
    """Apply drawn views to tiles (B, H, W, C) of 0 to 255, uint8 or float.

    Returns float32 (B, C, S, S), normalised with `MEAN` and `STD` to -1 to 1. Channels are last in
    memory, which is how convolutions like them.
    """
    return _render(tiles, [views], size)


def _render(tiles: Tensor, rounds: Sequence[Views], size: int) -> Tensor:
    count, height, width, channels = tiles.shape
    chunk = _CHUNK.get(tiles.device.type, _CHUNK_ELSEWHERE)
    plans = [_plan(views, (height, width), size, chunk, tiles.device) for views in rounds]
    out = torch.empty(
        (len(rounds), count, size, size, channels), dtype=torch.float32, device=tiles.device
    )
    # Half precision would show in the colours, should the caller's network run in it.
    with torch.autocast(tiles.device.type, enabled=False):
        for number, first in enumerate(range(0, count, chunk)):
            part = slice(first, first + chunk)
            pixels = tiles[part].reshape(-1, height, width * channels).float()
            for made, plan in zip(out, plans, strict=True):
                _view(pixels, plan, part, number, made[part])
    return out.view(-1, size, size, channels).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Views of a batch as sums and matrices on the device; flags say which samples need them."""

    rows: LineSums
    columns: LineSums
    stained: Flags
    stain: tuple[Tensor, Tensor]
    coloured: bool
    colour: tuple[Tensor, Tensor]
    blurred: Flags
    blur: LineSums | None
    turned: Flags


def _plan(
    views: Views, shape: tuple[int, int], size: int, chunk: int, device: torch.device
) -> _Plan:
    rows = crop_taps(views.top, views.height, views.flip_y, size, shape[0], device)
    columns = crop_taps(views.left, views.width, views.flip_x, size, shape[1], device)
    skip = device.type == "cpu"
    blurred = views.sigma > 0
    blur = blur_taps(views.sigma * size, size, device) if blurred.any() else None
    stain = stain_matrices(views.stain_scale, views.stain_shift)
    factors = (views.brightness, views.contrast, views.saturation)
    colour = colour_matrices(*factors, views.hue)
    return _Plan(
        rows=LineSums(rows, shape[0], chunk, skip=skip),
        columns=LineSums(columns, shape[1], chunk, skip=skip),
        stained=(views.stain_scale != 1).any(axis=1) | (views.stain_shift != 0).any(axis=1),
        stain=(on_device(stain[0], device), on_device(stain[1], device)),
        coloured=bool(views.hue.any()) or any((factor != 1).any() for factor in factors),
        colour=(on_device(colour[0], device), on_device(colour[1], device)),
        blurred=blurred,
        blur=None if blur is None else LineSums(blur, size, chunk, skip=skip),
        turned=views.transpose,
    )


def _view(pixels: Tensor, plan: _Plan, part: slice, number: int, out: Tensor) -> None:
    """Make one view of a chunk of tiles (B, H, W · C) of 0 to 255: `out` (B, S, S, C)."""
    batch, size = out.shape[:2]
    lines = plan.rows.apply(pixels, number).view(batch, size, -1, 3)
    # From here on planes of colour, whose lines are the columns of the tile.
    lines = plan.columns.apply(lines.permute(3, 0, 2, 1).contiguous(), number)
    planes = lines.view(3, batch, size * size).transpose(0, 1).mul_(1 / 255)
    planes = _change_stains(planes, plan, part)
    if plan.coloured:
        matrix, grey = plan.colour
        planes = change_colour(planes, matrix[part], grey[part])
    mean, std = planes.new_tensor(MEAN)[:, None], planes.new_tensor(STD)[:, None]
    planes = planes.clamp_(0, 1).sub_(mean).div_(std)

    lines = planes.transpose(0, 1).view(3, batch, size, size)
    blur = plan.blur if plan.blurred[part].any() else None
    if blur is not None:
        lines = blur.apply(lines, number)
    pictures = [
        plane.permute(1, 2, 0) if turned else plane.permute(2, 1, 0)
        for plane, turned in zip(lines.unbind(1), plan.turned[part], strict=True)
    ]
    if blur is None:
        torch.stack(pictures, out=out)
    else:
        picture = torch.stack(pictures, out=torch.empty_like(out)).view(batch, size, size * 3)
        out.copy_(blur.apply(picture, number).view_as(out))


def _change_stains(planes: Tensor, plan: _Plan, part: slice) -> Tensor:
    some = np.flatnonzero(plan.stained[part])
    matrix, offset = plan.stain[0][part], plan.stain[1][part]
    if len(some) == len(planes):
        return change_stain(planes, matrix, offset)
    if len(some):
        index = torch.from_numpy(some).to(planes.device)
        planes[index] = change_stain(planes[index], matrix[index], offset[index])
    return planes


def _between(u: Floats, low: float, high: float) -> Floats:
    return low + u * (high - low)


def _around_one(u: Floats, spread: float) -> Floats:
    return _between(u, 1 - spread, 1 + spread)
