"""Views against naive references, one picture and one operation at a time."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from pretrain.augment import LUMA, Views, draw_views, make_views  # noqa: E402
from pretrain.viewconfig import ViewConfig  # noqa: E402

UNCHANGED = ViewConfig(
    crop_area=(1.0, 1.0),
    crop_ratio=(1.0, 1.0),
    turn=False,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
)
SIZE = 40


def tiles_of(count: int = 6, height: int = SIZE, width: int = SIZE) -> Any:
    rng = np.random.default_rng(1)
    # Middle greys, so that a moderate change of colour clips nothing.
    return torch.from_numpy(rng.integers(70, 150, (count, height, width, 3), dtype=np.uint8))


def plain(count: int = 6, /, **changes: Any) -> Views:
    """Views that change nothing but what is named."""
    views = draw_views(UNCHANGED, 0, np.arange(count), 0)
    filled = {
        name: np.full(count, value) if np.isscalar(value) else np.asarray(value)
        for name, value in changes.items()
    }
    return dataclasses.replace(views, **filled)


def pictures(tiles: Any) -> Any:
    """Tiles (B, H, W, C) as float64 pictures (B, C, H, W) in 0 to 1."""
    return tiles.permute(0, 3, 1, 2).double() / 255


def seen(tiles: Any, views: Views, size: int = SIZE) -> Any:
    """Views as float64 pictures (B, C, S, S) in 0 to 1."""
    return make_views(tiles, views, size).double() * 0.5 + 0.5


def close(found: Any, expected: Any, atol: float = 2e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def test_nothing_drawn_is_the_tile_itself_normalised_by_one_half() -> None:
    tiles = tiles_of()
    made = make_views(tiles, plain(), SIZE)
    assert made.dtype == torch.float32
    assert made.shape == (6, 3, SIZE, SIZE)
    close(made.double(), (pictures(tiles) - 0.5) / 0.5)


def test_black_and_white_are_minus_one_and_one() -> None:
    tiles = torch.zeros((2, 8, 8, 3), dtype=torch.uint8)
    tiles[1] = 255
    made = make_views(tiles, plain(2, brightness=1.3), 8)
    assert made[0].max() == -1
    assert made[1].min() == 1


def test_float_tiles_give_what_their_integers_give() -> None:
    tiles, views = tiles_of(), draw_views(ViewConfig(), 0, np.arange(6), 0)
    assert torch.equal(make_views(tiles, views, 24), make_views(tiles.float(), views, 24))


@pytest.mark.parametrize("flip_x", [False, True])
@pytest.mark.parametrize("flip_y", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_flips_and_turns_only_move_pixels(flip_x: bool, flip_y: bool, transpose: bool) -> None:
    tiles = tiles_of()
    expected = pictures(tiles)
    if flip_x:
        expected = expected.flip(3)
    if flip_y:
        expected = expected.flip(2)
    if transpose:
        expected = expected.transpose(2, 3)
    close(seen(tiles, plain(flip_x=flip_x, flip_y=flip_y, transpose=transpose)), expected)


@pytest.mark.parametrize("size", [20, 17, 56])
@pytest.mark.parametrize("shape", [(40, 40), (32, 50)])
def test_the_whole_tile_is_resampled_as_torch_does_it_with_antialiasing(
    size: int, shape: tuple[int, int]
) -> None:
    tiles = tiles_of(2, *shape)
    expected = functional.interpolate(
        pictures(tiles), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    close(seen(tiles, plain(2), size), expected)


def crop_by_loops(picture: npt.NDArray[np.float64], box: tuple[float, ...], size: int) -> Any:
    """Resample one grey picture (H, W) in a box (left, top, width, height), in pixels."""
    left, top, width, height = box

    def line(values: npt.NDArray[np.float64], start: float, extent: float) -> list[float]:
        step = extent / size
        result = []
        for out in range(size):
            centre = start + (out + 0.5) * step
            total = weight_sum = 0.0
            for pixel, value in enumerate(values):
                weight = max(0.0, 1 - abs(pixel + 0.5 - centre) / max(step, 1.0))
                total += weight * value
                weight_sum += weight
            result.append(total / weight_sum)
        return result

    rows = np.array([line(row, left, width) for row in picture])
    return np.array([line(column, top, height) for column in rows.T]).T


@pytest.mark.parametrize("size", [8, 24])
def test_crops_agree_with_a_naive_resampling(size: int) -> None:
    tiles = tiles_of(4, 18, 26)
    boxes = np.array(
        [[0, 0, 1, 1], [0.1, 0.2, 0.5, 0.4], [0.7, 0, 0.3, 0.9], [0.33, 0.5, 0.5, 0.5]]
    )
    views = plain(4, left=boxes[:, 0], top=boxes[:, 1], width=boxes[:, 2], height=boxes[:, 3])
    found = seen(tiles, views, size)
    for i, box in enumerate(boxes * [26, 18, 26, 18]):
        for channel in range(3):
            picture = pictures(tiles)[i, channel].numpy()
            expected = crop_by_loops(picture, tuple(box), size)
            np.testing.assert_allclose(found[i, channel].numpy(), expected, atol=2e-6)


def test_a_crop_on_whole_pixels_copies_them() -> None:
    tiles = tiles_of()
    views = plain(left=0.25, top=0.5, width=0.5, height=0.5)
    close(seen(tiles, views, 20), pictures(tiles)[:, :, 20:, 10:30])


@pytest.mark.parametrize("sigma_px", [0.3, 1.0, 2.5])
def test_blur_agrees_with_a_convolution(sigma_px: float) -> None:
    tiles = tiles_of()
    radius = 20
    taps = torch.arange(-radius, radius + 1).double()
    kernel = torch.exp(-0.5 * (taps / sigma_px) ** 2)
    kernel /= kernel.sum()
    padded = functional.pad(pictures(tiles), (radius,) * 4, mode="reflect").flatten(0, 1)[:, None]
    expected = functional.conv2d(padded, (kernel[:, None] * kernel)[None, None])
    found = seen(tiles, plain(sigma=sigma_px / SIZE))
    close(found, expected.view(6, 3, SIZE, SIZE))


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("brightness", "adjust_brightness"),
        ("contrast", "adjust_contrast"),
        ("saturation", "adjust_saturation"),
    ],
)
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_colour_changes_are_those_of_torchvision(name: str, operation: str, factor: float) -> None:
    from torchvision.transforms import functional as reference

    tiles = tiles_of()
    adjusted = getattr(reference, operation)(pictures(tiles).float(), factor)
    # torchvision weighs red by 0.2989, BT.601 says 0.299.
    close(seen(tiles, plain(**{name: factor})), adjusted.double(), atol=2e-4)


def test_no_saturation_is_grey_in_all_channels() -> None:
    found = seen(tiles_of(), plain(saturation=0.0))
    close(found[:, 0], found[:, 1])
    close(found[:, 0], found[:, 2])


@pytest.mark.parametrize("hue", [-0.1, 0.05, 0.5])
def test_hue_turns_colours_and_leaves_brightness(hue: float) -> None:
    tiles = tiles_of()
    found, original = seen(tiles, plain(hue=hue)), pictures(tiles)
    luma = torch.tensor(LUMA).double()
    inside = (found > 0).all(dim=1) & (found < 1).all(dim=1)
    assert inside.double().mean() > 0.99
    difference = torch.einsum("bcij,c->bij", found - original, luma)
    assert difference[inside].abs().max() < 2e-6
    assert (found - original).abs().mean() > 0.005
    close(seen(tiles, plain(hue=hue + 1)), found, atol=1e-5)


def test_hue_and_saturation_leave_grey_tiles_alone() -> None:
    tiles = tiles_of()[..., :1].expand(-1, -1, -1, 3).contiguous()
    close(seen(tiles, plain(hue=0.1, saturation=1.4)), pictures(tiles))


def test_draws_fill_their_ranges_and_stay_in_them() -> None:
    config = ViewConfig()
    views = draw_views(config, 0, np.arange(20_000), 0)
    area = views.width * views.height
    assert area.max() <= 1
    assert 0.19 < area.min() < 0.22
    assert (views.left + views.width).max() <= 1 + 1e-12
    assert (views.top + views.height).max() <= 1 + 1e-12
    assert min(views.left.min(), views.top.min()) >= 0
    ratio = views.width / views.height
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.34
    for factor in (views.brightness, views.contrast):
        assert 0.6 <= factor.min() < 0.61
        assert 1.39 < factor.max() <= 1.4
        assert np.mean(factor == 1) == pytest.approx(0.2, abs=0.02)
    assert np.abs(views.hue).max() <= 0.1
    assert np.mean(views.saturation == 0) == pytest.approx(0.1, abs=0.01)
    assert np.mean(views.sigma > 0) == pytest.approx(0.5, abs=0.02)
    assert views.sigma.max() <= 2 / 224
    for flag in (views.flip_x, views.flip_y, views.transpose):
        assert np.mean(flag) == pytest.approx(0.5, abs=0.02)


def test_each_draw_is_independent_of_the_others() -> None:
    drawn = draw_views(ViewConfig(jitter_probability=1.0), 0, np.arange(20_000), 0)
    names = ("flip_x", "flip_y", "transpose", "brightness", "contrast", "hue")
    table = np.array([getattr(drawn, name) for name in names], dtype=float)
    assert np.abs(np.corrcoef(table) - np.eye(len(names))).max() < 0.04


def test_draws_depend_on_seed_sample_and_view_alone() -> None:
    config = ViewConfig()
    together = draw_views(config, 7, np.arange(50), 1)
    alone = draw_views(config, 7, np.array([31]), 1)
    for item in dataclasses.fields(Views):
        assert getattr(together, item.name)[31] == getattr(alone, item.name)[0]
    assert draw_views(config, 7, np.array([31]), 0).left[0] != alone.left[0]
    assert draw_views(config, 8, np.array([31]), 1).left[0] != alone.left[0]


def test_a_view_does_not_depend_on_the_rest_of_its_batch() -> None:
    tiles = tiles_of()
    together = make_views(tiles, draw_views(ViewConfig(), 7, np.arange(6), 1), 24)
    for i in range(6):
        alone = make_views(tiles[i : i + 1], draw_views(ViewConfig(), 7, np.array([i]), 1), 24)
        close(alone[0], together[i])


def test_views_have_channels_last_in_memory() -> None:
    made = make_views(tiles_of(), plain(), 24)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert math.isfinite(float(made.sum()))
