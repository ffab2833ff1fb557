"""The quality columns against oracles, and against what a person would say of a tile."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2hsv

from tiler.quality import COLUMNS, ink_masks, measure
from tiler.slides.base import Rgb
from tiler.synthetic import paint


@pytest.fixture(scope="module")
def tile() -> Rgb:
    return paint("he", 900, 900, 4)[300:556, 320:576]


def blurred(tile: Rgb, sigma: float) -> Rgb:
    smooth = ndimage.gaussian_filter(tile.astype(np.float64), (sigma, sigma, 0))
    return np.asarray(np.rint(smooth), dtype=np.uint8)


def uniform(colour: tuple[int, int, int]) -> Rgb:
    return np.full((64, 64, 3), colour, dtype=np.uint8)


def test_columns_are_the_fields_of_quality_in_order_each_a_share(tile: Rgb) -> None:
    measured = dataclasses.asdict(measure(tile))
    assert list(measured) == list(COLUMNS) == ["focus", "brightness", "saturation", "pen"]
    assert all(0 <= value <= 1 for value in measured.values())


def test_brightness_is_the_mean_rec_601_luminance(tile: Rgb) -> None:
    expected = (tile / 255 @ np.array([0.299, 0.587, 0.114])).mean()
    assert measure(tile).brightness == pytest.approx(expected, abs=0.005)
    assert measure(uniform((255, 255, 255))).brightness == pytest.approx(1.0)
    assert measure(uniform((0, 0, 0))).brightness == 0.0


def test_saturation_is_skimage_hsv_saturation(tile: Rgb) -> None:
    assert measure(tile).saturation == pytest.approx(rgb2hsv(tile)[..., 1].mean(), abs=0.005)
    assert measure(uniform((0, 0, 0))).saturation == 0.0
    assert measure(uniform((200, 0, 0))).saturation == pytest.approx(1.0)


@pytest.mark.parametrize("contrast", [1.0, 0.5])
def test_blurring_lowers_focus_step_by_step(tile: Rgb, contrast: float) -> None:
    flatter = np.rint(128 + contrast * (tile.astype(np.float64) - 128)).astype(np.uint8)
    sigmas = (0.0, 0.7, 1.0, 1.5, 2.0, 3.0)
    found = [measure(blurred(flatter, sigma) if sigma else flatter).focus for sigma in sigmas]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.4
    assert found[-1] < 0.1


def test_focus_hardly_depends_on_contrast_and_not_on_brightness(tile: Rgb) -> None:
    halved = (tile // 2).astype(np.uint8)
    lifted = (tile // 2 + 100).astype(np.uint8)
    assert measure(halved).focus == pytest.approx(measure(tile).focus, abs=0.12)
    assert measure(lifted).focus == pytest.approx(measure(halved).focus, abs=1e-9)


def test_focus_takes_the_worse_direction(tile: Rgb) -> None:
    shaken = ndimage.uniform_filter1d(tile.astype(np.float64), 9, axis=1)
    moved = np.asarray(np.rint(shaken), dtype=np.uint8)
    turned = np.ascontiguousarray(moved.transpose(1, 0, 2))
    assert measure(moved).focus < 0.5 * measure(tile).focus
    assert measure(turned).focus == pytest.approx(measure(moved).focus, abs=0.03)


def test_flat_tiles_have_no_focus_however_noisy() -> None:
    rng = np.random.default_rng(0)
    for sigma in (0.0, 1.0, 3.0, 6.0):
        glass = np.clip(np.rint(240 + rng.normal(0, sigma, (256, 256, 3))), 0, 255)
        assert measure(glass.astype(np.uint8)).focus == 0.0


def test_focus_matches_a_plain_implementation_of_the_paper(tile: Rgb) -> None:
    luminance = tile.astype(np.int64) @ np.array([77, 150, 29]) / 256
    shares = []
    for lines in (luminance, luminance.T):
        again = ndimage.uniform_filter1d(lines, 9, axis=1)
        before = np.maximum(np.abs(np.diff(lines, axis=1)) - 2, 0)[:, 4:-4]
        after = np.abs(np.diff(again, axis=1))[:, 4:-4]
        shares.append(np.maximum(before - after, 0).sum() / before.sum())
    assert measure(tile).focus == pytest.approx(min(shares), abs=0.04)


@pytest.mark.parametrize(
    ("colour", "ink"),
    [
        ((30, 80, 190), "blue"),
        ((40, 60, 160), "blue"),
        ((0, 140, 160), "blue"),
        ((20, 140, 70), "green"),
        ((90, 170, 60), "green"),
        ((200, 30, 50), "red"),
        ((35, 35, 40), "black"),
    ],
)
def test_marker_ink_is_told_by_its_colour(colour: tuple[int, int, int], ink: str) -> None:
    masks = ink_masks(uniform(colour))
    inks = ("blue", "green", "red", "black")
    assert [name for name, mask in zip(inks, masks, strict=True) if mask.all()] == [ink]
    assert measure(uniform(colour)).pen == 1.0


@pytest.mark.parametrize(
    "colour",
    [
        pytest.param((243, 241, 242), id="glass"),
        pytest.param((225, 150, 190), id="eosin"),
        pytest.param((95, 65, 140), id="hematoxylin"),
        pytest.param((120, 140, 180), id="counterstain"),
        pytest.param((130, 80, 45), id="dab"),
        pytest.param((60, 35, 20), id="dense dab"),
        pytest.param((190, 85, 75), id="sirius red"),
        pytest.param((185, 80, 150), id="pas"),
        pytest.param((190, 75, 90), id="red cells"),
    ],
)
def test_stains_are_not_ink(colour: tuple[int, int, int]) -> None:
    assert measure(uniform(colour)).pen == 0.0


def test_pen_is_a_share_of_the_pixels(tile: Rgb) -> None:
    marked = tile.copy()
    marked[:64] = (30, 80, 190)
    assert measure(marked).pen == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 1, 3), (9, 300, 3), (17, 23, 3)])
def test_tiny_tiles_are_measured_too(shape: tuple[int, ...]) -> None:
    speckled = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert 0 <= measure(speckled).focus <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((8, 8, 4), dtype=np.uint8),
        np.zeros((8, 8, 3), dtype=np.float32),
        np.zeros((0, 8, 3), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused(wrong: Rgb) -> None:
    with pytest.raises(ValueError, match="uint8"):
        measure(wrong)


def test_measuring_leaves_the_tile_alone(tile: Rgb) -> None:
    before = tile.copy()
    measure(tile)
    assert (tile == before).all()


def test_a_tile_is_measured_within_milliseconds(tile: Rgb) -> None:
    best = min(_seconds(tile) for _ in range(10))
    assert best < 0.02  # 1 ms on an idle core; room for a busy one


def _seconds(tile: Rgb) -> float:
    start = time.process_time()
    measure(tile)
    return time.process_time() - start


def test_real_tiles_in_focus_stand_apart_from_blurred_ones(real_data: Path) -> None:
    for name in ("he_fields/liver_liverquant_tile01_HE.jpg", "ihc_fields/skimage-ihc.png"):
        with Image.open(real_data / name) as picture:
            sharp = np.asarray(picture.convert("RGB"))[:256, :256]
        assert measure(sharp).focus > 0.4
        assert measure(blurred(sharp, 3)).focus < 0.1
        assert measure(sharp).pen < 0.01
