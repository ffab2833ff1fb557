"""Two different views of a tile, made for a whole batch at once on the device.

B is the batch, H and W the sides of a tile, S the side of a view, C = 3 (RGB). Crop, resampling,
flips, quarter turns and blur are linear and separable: a view is `Y · tile · Xᵀ` with one matrix
per sample and axis, (B, S, H) and (B, S, W), then perhaps transposed. Colour is affine: one 3 × 3
matrix and one offset per sample. All numbers are drawn on the CPU, keyed by (seed, sample number,
view), so that a sample's views depend neither on its batch nor on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pretrain.keyed import key_of, uniforms
from pretrain.viewconfig import ViewConfig

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
"""Normalisation of RGB in 0 to 1, as in Ciga et al. 2022: the encoder sees -1 to 1."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of grey, ITU-R BT.601."""
_YIQ = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
_YIQ_BACK = np.linalg.inv(_YIQ)

_DRAWS = 15
_SHARPEST = 1e-3
"""Least sigma in pixels: below it a Gaussian's neighbours vanish in float32."""

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Views:
    """What is done to each tile of a batch; every array is (B,)."""

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
    brightness: Floats
    """Factor; 1 changes nothing, the same for contrast and saturation."""
    contrast: Floats
    saturation: Floats
    """Factor of the colour; 0 is grey."""
    hue: Floats
    """Rotation of the colour in turns."""
    sigma: Floats
    """Gaussian blur, as a share of the view's side; 0 is none."""


def draw_views(config: ViewConfig, seed: int, numbers: npt.NDArray[np.int64], view: int) -> Views:
    """Draw how the tiles with these sample numbers (B,) look in a view (0 or 1)."""
    u = uniforms(key_of(seed, "views", view), numbers, _DRAWS).T
    area = _between(u[0], *config.crop_area)
    ratio = np.exp(_between(u[1], *np.log(config.crop_ratio)))
    # A crop that would be longer than the tile is cut to it: nearly the area that was drawn.
    width = np.minimum(np.sqrt(area * ratio), 1.0)
    height = np.minimum(np.sqrt(area / ratio), 1.0)
    jitter = u[7] < config.jitter_probability
    grey = u[12] < config.grayscale_probability
    blur = u[13] < config.blur_probability
    return Views(
        left=u[2] * (1 - width),
        top=u[3] * (1 - height),
        width=width,
        height=height,
        flip_x=(u[4] < 0.5) & config.turn,
        flip_y=(u[5] < 0.5) & config.turn,
        transpose=(u[6] < 0.5) & config.turn,
        brightness=np.where(jitter, _around_one(u[8], config.brightness), 1.0),
        contrast=np.where(jitter, _around_one(u[9], config.contrast), 1.0),
        saturation=np.where(
            grey, 0.0, np.where(jitter, _around_one(u[10], config.saturation), 1.0)
        ),
        hue=np.where(jitter, _between(u[11], -config.hue, config.hue), 0.0),
        sigma=np.where(blur, _between(u[14], *config.blur_sigma), 0.0),
    )


def make_views(tiles: Tensor, views: Views, size: int) -> Tensor:
    """Apply drawn views to tiles of 0 to 255 (B, H, W, C), uint8 or (so for both views) float32.

    Returns float32 (B, C, S, S), normalised with `MEAN` and `STD` to -1 to 1.

    Resampling is bilinear with the triangle widened where pixels are lost, as Pillow does it;
    pixels just outside a crop count at its edge. Blur reflects at the view's edge. Blur precedes
    colour here and follows it in SimCLR; they commute but for the final clamp to 0 to 1.
    """
    batch, tile_height, tile_width, _ = tiles.shape
    device = tiles.device
    blur = _blurring(views.sigma * size, size, device)
    rows = blur @ _resampling(views.top, views.height, views.flip_y, size, tile_height, device)
    columns = blur @ _resampling(views.left, views.width, views.flip_x, size, tile_width, device)

    pixels = tiles.reshape(batch, tile_height, tile_width * 3).float()
    pixels = torch.bmm(rows / 255, pixels)  # (B, S, W · C), in 0 to 1
    pixels = pixels.view(batch, size, tile_width, 3).transpose(1, 2)
    pixels = torch.bmm(columns, pixels.reshape(batch, tile_width, size * 3))
    pixels = pixels.view(batch, size, size, 3)  # columns, rows, C
    keep = torch.from_numpy(views.transpose).to(device)[:, None, None, None]
    pixels = torch.where(keep, pixels, pixels.transpose(1, 2))

    pixels = _colour(pixels.reshape(batch, size * size, 3), views)
    normalised = pixels.clamp_(0, 1).sub_(pixels.new_tensor(MEAN)).div_(pixels.new_tensor(STD))
    # Channels stay last in memory, which is also how convolutions like them.
    return normalised.view(batch, size, size, 3).permute(0, 3, 1, 2)


def _between(u: Floats, low: float, high: float) -> Floats:
    return low + u * (high - low)


def _around_one(u: Floats, spread: float) -> Floats:
    return _between(u, 1 - spread, 1 + spread)


def _resampling(
    start: Floats, extent: Floats, flip: Flags, size: int, length: int, device: torch.device
) -> Tensor:
    """Weights (B, S, length) that take a line of `length` pixels to `size` pixels of a crop."""
    first = _on(start * length, device)[:, None, None]
    step = _on(extent * length / size, device)[:, None, None]
    out = torch.arange(size, device=device, dtype=torch.float32)[None, :, None]
    reverse = torch.from_numpy(flip).to(device)[:, None, None]
    out = torch.where(reverse, size - 1 - out, out)
    pixel = torch.arange(length, device=device, dtype=torch.float32)[None, None, :]
    distance = (pixel + 0.5 - first - (out + 0.5) * step) / step.clamp(min=1)
    weights = (1 - distance.abs()).clamp(min=0)
    return weights / weights.sum(dim=2, keepdim=True)


def _blurring(sigma_px: Floats, size: int, device: torch.device) -> Tensor:
    """Weights (B, S, S) of a Gaussian over a line of S pixels that reflects at its ends.

    Pixel -k is pixel k, and pixel S - 1 + k is S - 1 - k, as torch's `reflect` padding has it.
    """
    distance = torch.arange(2 * size - 1, device=device, dtype=torch.float32)
    scale = -0.5 / _on(np.maximum(sigma_px, _SHARPEST) ** 2, device)[:, None]
    gauss = torch.exp(scale * distance**2)  # (B, 2 S - 1)
    out = torch.arange(size, device=device)[:, None]
    pixel = torch.arange(size, device=device)[None, :]
    weights = gauss[:, (out - pixel).abs()]
    weights += gauss[:, out + pixel] * (pixel > 0)
    weights += gauss[:, 2 * (size - 1) - out - pixel] * (pixel < size - 1)
    return weights / weights.sum(dim=2, keepdim=True)


def _colour(pixels: Tensor, views: Views) -> Tensor:
    """Saturation, hue, contrast and brightness of RGB in 0 to 1, (B, P, C), not yet clamped.

    Saturation and hue scale and turn the chroma plane of YIQ, so they leave grey values alone;
    contrast pulls towards the mean grey. But for the clamping in between and the shape of the hue
    circle (torchvision turns HSV) these are the operations of SimCLR.
    """
    angle = 2 * np.pi * views.hue
    chroma = np.zeros((len(angle), 3, 3))
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = views.saturation * np.cos(angle)
    chroma[:, 2, 1] = views.saturation * np.sin(angle)
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    scale = views.brightness * views.contrast
    matrix = _on(scale[:, None, None] * (_YIQ_BACK @ chroma @ _YIQ), pixels.device)
    grey = pixels.mean(dim=1) @ pixels.new_tensor(LUMA)  # (B,)
    offset = _on(views.brightness * (1 - views.contrast), pixels.device) * grey
    return torch.baddbmm(offset[:, None, None], pixels, matrix.transpose(1, 2))


def _on(values: Floats, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)
