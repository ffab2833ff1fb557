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

from pretrain.views.augment import Views, both_views, draw_views, make_views  # noqa: E402
from pretrain.views.colour import LUMA  # noqa: E402
from pretrain.views.viewconfig import ViewConfig, make_view_config  # noqa: E402

UNCHANGED = make_view_config("none")
SIZE = 40


def tiles_of(count: int = 6, height: int = SIZE, width: int = SIZE) -> Any:
    rng = np.random.default_rng(1)
    # Middle greys, so that a moderate change of colour clips nothing.
    return torch.from_numpy(rng.integers(70, 150, (count, height, width, 3), dtype=np.uint8))


def plain(count: int = 6, /, **changes: Any) -> Views:
    """Views that change nothing but what is named."""
    views = draw_views(UNCHANGED, 0, np.arange(count), 0)
    filled = {
        name: np.broadcast_to(value, getattr(views, name).shape).copy()
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
    # The Gaussian ends at four sigmas: a fiftieth of a grey level.
    close(found, expected.view(6, 3, SIZE, SIZE), atol=1e-4)


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
    config = ViewConfig(hue=0.1)
    views = draw_views(config, 0, np.arange(20_000), 0)
    for factor, spread in ((views.brightness, 0.2), (views.contrast, 0.4)):
        assert 1 - spread <= factor.min() < 1 - 0.98 * spread
        assert 1 + 0.98 * spread < factor.max() <= 1 + spread
        assert np.mean(factor == 1) == pytest.approx(0.2, abs=0.02)
    assert 0.098 < np.abs(views.hue).max() <= 0.1
    assert np.mean(views.saturation == 0) == pytest.approx(0.1, abs=0.01)
    assert np.mean(views.sigma > 0) == pytest.approx(0.35, abs=0.02)
    assert views.sigma.max() <= 2 / 224
    for flag in (views.flip_x, views.flip_y, views.transpose):
        assert np.mean(flag) == pytest.approx(0.5, abs=0.02)
    for drawn, middle, reach in ((views.stain_scale, 1, 0.2), (views.stain_shift, 0, 0.05)):
        away = np.abs(drawn - middle)
        assert drawn.shape == (20_000, 3)
        assert (0.98 * reach < away.max(axis=0)).all()
        assert away.max() <= reach
        np.testing.assert_allclose(np.mean(away.any(axis=1)), 0.8, atol=0.02)


@pytest.mark.parametrize("preset", ["histology", "simclr"])
def test_crops_are_spread_as_those_of_torchvision(preset: str) -> None:
    from torchvision.transforms.v2 import RandomResizedCrop

    config, count, side = make_view_config(preset), 4000, 10_000
    reference = RandomResizedCrop(8, config.crop_area, config.crop_ratio)
    picture = torch.empty(3, 1, 1).expand(3, side, side)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        boxes = [reference.make_params([picture]) for _ in range(count)]
    views = draw_views(config, 0, np.arange(count), 0)
    for name in ("left", "top", "width", "height"):
        theirs = np.sort([box[name] / side for box in boxes])
        ours = np.sort(getattr(views, name))
        # Two-sample Kolmogorov-Smirnov: 1.95 is passed once in a thousand by chance.
        both = np.concatenate([ours, theirs])
        cdfs = [np.searchsorted(values, both, side="right") / count for values in (ours, theirs)]
        assert np.abs(cdfs[0] - cdfs[1]).max() < 1.95 * math.sqrt(2 / count), name


def test_crops_lie_inside_the_tile_whatever_the_settings() -> None:
    for area, ratio in (
        ((0.9, 1.0), (0.5, 2.0)),
        ((1.0, 1.0), (1.5, 2.0)),
        ((1.0, 1.0), (0.2, 0.5)),
    ):
        views = draw_views(ViewConfig(crop_area=area, crop_ratio=ratio), 0, np.arange(500), 0)
        assert max(views.width.max(), views.height.max()) <= 1
        assert (views.left + views.width).max() <= 1 + 1e-12
        assert (views.top + views.height).max() <= 1 + 1e-12
        shape = views.width / views.height
        assert ratio[0] - 1e-9 <= shape.min() <= shape.max() <= ratio[1] + 1e-9


@pytest.mark.parametrize(
    ("flip", "turn", "expected"),
    [
        (False, False, {(0, 0, 0)}),
        (True, False, {(0, 0, 0), (1, 0, 0)}),
        (False, True, {(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)}),
        (True, True, {(x, y, t) for x in (0, 1) for y in (0, 1) for t in (0, 1)}),
    ],
)
def test_mirror_images_and_quarter_turns_are_equally_likely(
    flip: bool, turn: bool, expected: set[tuple[int, ...]]
) -> None:
    config = make_view_config("none", flip=flip, turn=turn)
    views = draw_views(config, 0, np.arange(8000), 0)
    kinds = np.stack([views.flip_x, views.flip_y, views.transpose], axis=1).astype(int)
    found, counts = np.unique(kinds, axis=0, return_counts=True)
    assert {tuple(kind) for kind in found.tolist()} == expected
    assert counts.min() > 0.85 * len(kinds) / len(expected)


def test_turning_alone_gives_the_four_turns_and_no_mirror_image() -> None:
    tiles = tiles_of(1).expand(64, -1, -1, -1)
    views = draw_views(make_view_config("none", flip=False, turn=True), 0, np.arange(64), 0)
    turns = [torch.rot90(pictures(tiles)[0], k, (1, 2)) for k in range(4)]
    seen_turns = set()
    for picture in seen(tiles, views):
        which = [k for k in range(4) if torch.allclose(picture, turns[k], rtol=0, atol=2e-6)]
        assert len(which) == 1
        seen_turns.update(which)
    assert seen_turns == {0, 1, 2, 3}


def test_each_draw_is_independent_of_the_others() -> None:
    config = ViewConfig(jitter_probability=1.0, stain_probability=1.0, hue=0.1)
    drawn = draw_views(config, 0, np.arange(20_000), 0)
    names = ("flip_x", "flip_y", "transpose", "brightness", "contrast", "saturation", "hue")
    rows = [getattr(drawn, name) for name in (*names, "width", "height", "left", "top", "sigma")]
    table = np.array([*rows, *drawn.stain_scale.T, *drawn.stain_shift.T], dtype=float)
    found = np.abs(np.corrcoef(table) - np.eye(len(table)))
    # Where a crop is and how large it is do depend on each other, as do its width and height.
    found[7:11, 7:11] = 0
    assert found.max() < 0.04


def test_draws_depend_on_seed_sample_and_view_alone() -> None:
    config = ViewConfig()
    together = draw_views(config, 7, np.arange(50), 1)
    alone = draw_views(config, 7, np.array([31]), 1)
    for item in dataclasses.fields(Views):
        np.testing.assert_array_equal(
            getattr(together, item.name)[31], getattr(alone, item.name)[0]
        )
    assert draw_views(config, 7, np.array([31]), 0).left[0] != alone.left[0]
    assert draw_views(config, 8, np.array([31]), 1).left[0] != alone.left[0]


@pytest.mark.parametrize("preset", ["histology", "simclr", "none"])
def test_a_view_does_not_depend_on_the_rest_of_its_batch(preset: str) -> None:
    # More tiles than are worked on at a time, and not a multiple.
    config, count = make_view_config(preset), 21
    tiles = tiles_of(count)
    together = make_views(tiles, draw_views(config, 7, np.arange(count), 1), 24)
    for i in range(count):
        alone = make_views(tiles[i : i + 1], draw_views(config, 7, np.array([i]), 1), 24)
        close(alone[0], together[i])


def test_both_views_are_the_first_views_and_then_the_second() -> None:
    config, tiles, numbers = ViewConfig(), tiles_of(11), np.arange(40, 51)
    both = both_views(config, 3, tiles, numbers, 24)
    assert both.shape == (22, 3, 24, 24)
    assert both.is_contiguous(memory_format=torch.channels_last)
    for view in (0, 1):
        drawn = draw_views(config, 3, numbers, view)
        assert torch.equal(both[11 * view : 11 * (view + 1)], make_views(tiles, drawn, 24))


def test_views_are_the_same_under_autocast() -> None:
    tiles, numbers = tiles_of(5), np.arange(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = both_views(ViewConfig(), 0, tiles, numbers, 24)
    assert torch.equal(found, both_views(ViewConfig(), 0, tiles, numbers, 24))


def test_both_views_of_the_preset_none_are_the_resized_tile() -> None:
    from PIL import Image

    tiles = tiles_of(3)
    both = both_views(make_view_config("none"), 0, tiles, np.arange(3), 17)
    for i, made in enumerate(both):
        picture = Image.fromarray(tiles[i % 3].numpy()).resize((17, 17), Image.Resampling.BILINEAR)
        levels = (made.permute(1, 2, 0).numpy() * 0.5 + 0.5) * 255
        # Pillow rounds to whole grey levels after each axis.
        assert np.abs(levels - np.asarray(picture)).max() <= 1.01


def test_a_batch_of_one_tile_and_float16_tiles_are_taken() -> None:
    tiles = tiles_of(1)
    made = both_views(ViewConfig(), 0, tiles.half(), np.array([5]), 24)
    close(made, both_views(ViewConfig(), 0, tiles, np.array([5]), 24))


def test_simclr_colours_are_near_those_of_torchvision() -> None:
    """One matrix in YIQ against HSV with clamping in between, on the pinks of stained tissue."""
    from torchvision.transforms.v2 import functional as reference

    rng = np.random.default_rng(0)
    pinks = np.array([0.78, 0.55, 0.72]) + rng.normal(0, 0.08, (4, 32, 32, 3))
    tiles = torch.from_numpy((pinks.clip(0, 1) * 255).astype(np.uint8))
    found = seen(tiles, plain(4, brightness=0.9, contrast=1.2, saturation=1.2, hue=0.05), 32)
    expected = pictures(tiles)
    expected = reference.adjust_hue(expected, 0.05)
    expected = reference.adjust_saturation(expected, 1.2)
    expected = reference.adjust_contrast(expected, 1.2)
    expected = reference.adjust_brightness(expected, 0.9)
    assert (found - expected).abs().mean() * 255 < 6
    # Leaving the colours alone is much further away.
    assert (pictures(tiles) - expected).abs().mean() * 255 > 12


def test_views_have_channels_last_in_memory() -> None:
    made = make_views(tiles_of(), plain(), 24)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert math.isfinite(float(made.sum()))
