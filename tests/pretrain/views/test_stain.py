"""Changes of colour and stain against loops over pixels."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from pretrain.views.colour import (  # noqa: E402
    HED,
    LUMA,
    change_colour,
    change_stain,
    colour_matrices,
    stain_matrices,
)

Floats = npt.NDArray[np.float64]

HAEMATOXYLIN, EOSIN, DAB = range(3)


def pixels_of(count: int = 3, pixels: int = 50, low: float = 0.05) -> Any:
    rng = np.random.default_rng(2)
    return torch.from_numpy(rng.uniform(low, 1, (count, 3, pixels)).astype(np.float32))


def stained(pixels: Any, scale: Floats, shift: Floats) -> Any:
    matrix, offset = stain_matrices(scale, shift)
    tensors = [torch.from_numpy(array.astype(np.float32)) for array in (matrix, offset)]
    return change_stain(pixels, *tensors)


def stained_by_loops(rgb: Floats, scale: Floats, shift: Floats) -> list[float]:
    """Change the stains of one pixel: solve for them, change each, and add them up again."""
    density = [-math.log(max(value, 1 / 255)) for value in rgb]
    stains = np.linalg.solve(HED.T, density)
    changed = [0.0, 0.0, 0.0]
    for stain in range(3):
        amount = stains[stain] * scale[stain] + shift[stain]
        for channel in range(3):
            changed[channel] += amount * HED[stain][channel]
    return [min(math.exp(-value), 1.0) for value in changed]


def test_stains_change_as_in_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(3)
    scale, shift = rng.uniform(0.7, 1.3, (3, 3)), rng.uniform(-0.2, 0.2, (3, 3))
    pixels = pixels_of(low=0.0)
    found = stained(pixels, scale, shift)
    for i in range(3):
        for place in range(pixels.shape[2]):
            rgb = pixels[i, :, place].double().numpy()
            expected = stained_by_loops(rgb, scale[i], shift[i])
            np.testing.assert_allclose(found[i, :, place].numpy(), expected, rtol=2e-5)


def test_no_change_of_stain_gives_the_picture_back() -> None:
    pixels = pixels_of()
    found = stained(pixels, np.ones((3, 3)), np.zeros((3, 3)))
    torch.testing.assert_close(found, pixels, rtol=2e-6, atol=0)


@pytest.mark.parametrize("stain", [HAEMATOXYLIN, EOSIN, DAB])
def test_one_stain_is_scaled_without_touching_the_others(stain: int) -> None:
    amounts = np.array([0.8, 0.5, 0.3])
    scale = np.ones((1, 3))
    scale[0, stain] = 1.5
    expected = amounts * scale[0]
    light = torch.from_numpy(np.exp(-amounts @ HED).astype(np.float32)).view(1, 3, 1)
    found = -np.log(stained(light, scale, np.zeros((1, 3)))[0, :, 0].double().numpy())
    np.testing.assert_allclose(found, expected @ HED, rtol=1e-5)


def test_a_white_background_stays_white_when_stains_are_scaled() -> None:
    white = torch.ones(1, 3, 4)
    assert torch.equal(stained(white, np.array([[0.7, 1.3, 1.2]]), np.zeros((1, 3))), white)


def test_nothing_gets_brighter_than_white_or_is_not_a_number() -> None:
    pixels = torch.tensor([0.0, 1.0]).expand(1, 3, 2).contiguous()
    found = stained(pixels, np.array([[1.4, 0.6, 1.4]]), np.full((1, 3), -0.3))
    assert torch.isfinite(found).all()
    assert 0 < found.min() <= found.max() <= 1


def test_stains_do_not_depend_on_how_planes_lie_in_memory() -> None:
    pixels = pixels_of()
    scale, shift = np.full((3, 3), 1.2), np.full((3, 3), 0.05)
    strided = pixels.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    torch.testing.assert_close(stained(strided, scale, shift), stained(pixels, scale, shift))


def coloured(pixels: Any, *changes: float) -> Any:
    arrays = [np.full(len(pixels), change) for change in changes]
    matrix, grey = colour_matrices(*arrays)
    tensors = [torch.from_numpy(array.astype(np.float32)) for array in (matrix, grey)]
    return change_colour(pixels, *tensors)


def coloured_by_loops(picture: Floats, *changes: float) -> Floats:
    """Change the colours of a picture (3, P), in YIQ as the NTSC of 1953 has it."""
    brightness, contrast, saturation, hue = changes
    yiq = np.array([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    mean = np.mean([sum(w * v for w, v in zip(LUMA, rgb, strict=True)) for rgb in picture.T])
    result = np.empty_like(picture)
    for place, rgb in enumerate(picture.T):
        y, i, q = yiq @ rgb
        turned = complex(i, q) * saturation * complex(math.cos(hue), -math.sin(hue))
        changed = np.linalg.solve(yiq, [y, turned.real, turned.imag])
        result[:, place] = brightness * (contrast * changed + (1 - contrast) * mean)
    return result.clip(0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        (1, 1, 1, 0),
        (1.3, 1, 1, 0),
        (1, 0.6, 1, 0),
        (1, 1, 0, 0),
        (1, 1, 1, 0.1),
        (0.7, 1.4, 1.3, -0.2),
    ],
)
def test_colours_change_as_in_a_loop_over_pixels(changes: tuple[float, ...]) -> None:
    pixels = pixels_of()
    found = coloured(pixels, *changes).double().numpy()
    for i, picture in enumerate(pixels.double().numpy()):
        radians = (*changes[:3], 2 * math.pi * changes[3])
        np.testing.assert_allclose(found[i], coloured_by_loops(picture, *radians), atol=2e-6)


def test_hue_turns_pink_the_way_that_hsv_does() -> None:
    pink = torch.tensor([0.8, 0.5, 0.7]).view(1, 3, 1)
    before = colorsys.rgb_to_hsv(0.8, 0.5, 0.7)[0]
    for hue in (-0.05, 0.05):
        after = colorsys.rgb_to_hsv(*coloured(pink, 1, 1, 1, hue)[0, :, 0].tolist())[0]
        assert after - before == pytest.approx(hue, abs=0.02)
