"""Changes of colour and of stain, one affine map a sample.

Pictures are float32 (B, 3, P), planes of P pixels, RGB in 0 to 1. Colour is changed as light, stain
as optical density, the negative natural logarithm of light, in which stains add up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]

LUMA = (0.299, 0.587, 0.114)
"""Weights of grey, ITU-R BT.601."""
_YIQ = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
_YIQ_BACK = np.linalg.inv(_YIQ)

HED = np.array([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)])
"""Optical density in R, G, B of haematoxylin, eosin and DAB, one a row.

Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23 (2001) 291-299.
"""
_HED_BACK = np.linalg.inv(HED)
_DARKEST = 1 / 255
"""Least light that has an optical density."""


def colour_matrices(
    brightness: Floats, contrast: Floats, saturation: Floats, hue: Floats
) -> tuple[Floats, Floats]:
    """Matrices (B, 3, 3) of changes of colour, and how much of the mean grey (B,) is added.

    Saturation and hue come first, then contrast and brightness. Saturation and hue scale and turn
    the chroma plane of YIQ, so they leave grey values alone; contrast pulls towards the mean grey.

    Args:
        brightness: factors (B,); 1 changes nothing, the same for contrast and saturation.
        hue: rotation of the colour (B,), in turns from red towards green.
    """
    angle = 2 * np.pi * hue
    chroma = np.zeros((len(angle), 3, 3))
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * np.cos(angle)
    # From red to green to blue, as the circle of HSV runs.
    chroma[:, 1, 2] = saturation * np.sin(angle)
    chroma[:, 2, 1] = -chroma[:, 1, 2]
    matrix = (brightness * contrast)[:, None, None] * (_YIQ_BACK @ chroma @ _YIQ)
    return matrix, brightness * (1 - contrast)


def change_colour(pixels: Tensor, matrix: Tensor, grey: Tensor) -> Tensor:
    """Change colours by `colour_matrices`, here on the device; returns (B, 3, P) in 0 to 1."""
    offset = grey * (pixels.mean(dim=2) @ pixels.new_tensor(LUMA))
    changed = torch.empty_like(pixels)
    torch.baddbmm(offset[:, None, None], matrix, pixels, out=changed)
    return changed.clamp_(0, 1)


def stain_matrices(scale: Floats, shift: Floats) -> tuple[Floats, Floats]:
    """Matrices (B, 3, 3) and offsets (B, 3) of changes of stain, for log2 of light.

    Light is unmixed into haematoxylin, eosin and DAB, each is scaled and shifted, and all are mixed
    again, as in Tellez et al., IEEE Trans. Med. Imaging 37 (2018) 2126-2136.

    Args:
        scale: factors (B, 3) of haematoxylin, eosin and DAB; 1 changes nothing.
        shift: density that is then added to each (B, 3), in units of the rows of `HED`.
    """
    # A row of densities times _HED_BACK gives stains; here densities are columns.
    return HED.T @ (scale[:, :, None] * _HED_BACK.T), shift @ HED / -np.log(2)


def change_stain(pixels: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Change stains by `stain_matrices`, here on the device; returns (B, 3, P), at most 1.

    What is darker than one grey level counts as one.
    """
    # Base 2, as torch's exp2 takes a third of exp's time.
    light = pixels.clamp(min=_DARKEST).log2_()
    changed = torch.empty_like(light)
    torch.baddbmm(offset[:, :, None], matrix, light, out=changed)
    return changed.exp2_().clamp_(max=1)
