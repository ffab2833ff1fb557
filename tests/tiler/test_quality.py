"""The quality columns against oracles, and against what a person would say of a tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2hsv

from tiler.quality import COLUMNS, Scratch, ink_masks, measure_all
from tiler.slides.base import Rgb
from tiler.synthetic import paint

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Quality:
    """The columns of one tile by name."""

    focus: float
    brightness: float
    saturation: float
    pen: float


def measure(tile: Rgb) -> Quality:
    return Quality(*measure_all([tile])[0].tolist())


def measure_whole(tile: Rgb) -> Quality:
    """The oracle: the same columns of all pixels of a tile, in plain steps."""
    r, g, b = (tile[..., channel].astype(np.int64) for channel in range(3))
    luminance = (77 * r + 150 * g + 29 * b) / 256
    highest, lowest = tile.max(axis=2), tile.min(axis=2)
    saturation = (highest - lowest) / np.maximum(highest, 1)
    return Quality(
        focus=0.0 if is_flat(luminance) else min(sharpness(luminance), sharpness(luminance.T)),
        brightness=float((0.299 * r + 0.587 * g + 0.114 * b).mean() / 255),
        saturation=float(saturation.mean()),
        pen=float(np.any(plain_inks(tile), axis=0).mean()),
    )


def sharpness(lines: npt.NDArray[np.float64]) -> float:
    """As the paper has it, but for the noise step; differences along rows."""
    again = ndimage.uniform_filter1d(lines, 9, axis=1)
    before = np.maximum(np.abs(np.diff(lines, axis=1)) - 2, 0)[:, 4:-4]
    after = np.abs(np.diff(again, axis=1))[:, 4:-4]
    return float(np.maximum(before - after, 0).sum() / max(before.sum(), 1))


def is_flat(luminance: npt.NDArray[np.float64]) -> bool:
    rows, columns = (length // 8 for length in luminance.shape)
    blocks = luminance[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8)
    return bool(blocks.mean(axis=(1, 3)).std() < 1.5)


def plain_inks(tile: Rgb) -> tuple[Bools, Bools, Bools, Bools]:
    r, g, b = (tile[..., channel].astype(np.int64) for channel in range(3))
    highest, chroma = tile.max(axis=-1).astype(np.int64), np.ptp(tile, axis=-1).astype(np.int64)
    blue = (b >= g) & (g >= r - 6) & (2 * chroma >= b) & (chroma >= 70)
    green = (g > b) & (g > r) & (5 * chroma >= 2 * highest) & (chroma >= 50)
    red = (r >= 110) & (100 * np.maximum(g, b) <= 38 * r)
    black = (highest <= 70) & (chroma <= 20)
    return blue, green, red, black


@pytest.fixture(scope="module")
def tile() -> Rgb:
    return paint("he", 900, 900, 4)[300:556, 320:576]


def blurred(tile: Rgb, sigma: float) -> Rgb:
    smooth = ndimage.gaussian_filter(tile.astype(np.float64), (sigma, sigma, 0))
    return np.asarray(np.rint(smooth), dtype=np.uint8)


def uniform(colour: tuple[int, int, int]) -> Rgb:
    return np.full((64, 64, 3), colour, dtype=np.uint8)


def test_columns_come_in_order_each_a_share(tile: Rgb) -> None:
    measured = measure_all([tile, blurred(tile, 1)])
    assert measured.dtype == np.float32
    assert measured.shape == (2, len(COLUMNS))
    assert list(COLUMNS) == ["focus", "brightness", "saturation", "pen"] == list(Quality.__slots__)
    assert ((measured >= 0) & (measured <= 1)).all()


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


def test_focus_is_near_a_plain_implementation_of_the_paper(tile: Rgb) -> None:
    for sigma in (0, 1, 2, 3):
        found = measure(blurred(tile, sigma)).focus
        assert found == pytest.approx(measure_whole(blurred(tile, sigma)).focus, abs=0.04)


def test_focus_is_the_paper_s_where_all_rows_are_sampled(tile: Rgb) -> None:
    low = tile[:40]
    grey = np.floor(low @ np.array([77, 150, 29]) / 256)
    # All of x in the rows with four above and five below; all of y but the last nine columns.
    along_x, along_y = sharpness(grey[4:-5]), sharpness(grey[:, :-9].T)
    assert measure(low).focus == pytest.approx(min(along_x, along_y), abs=1e-6)


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


def test_ink_is_told_as_plainly_computed_for_every_colour() -> None:
    others = np.stack(np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2), axis=-1)
    for red in range(256):
        pixels = np.dstack([np.full((256, 256), red, dtype=np.uint8), others])
        assert np.array_equal(ink_masks(pixels), plain_inks(pixels))


@pytest.mark.parametrize("size", [100, 224, 256, 265, 500, 512, 1024, 2048])
def test_samples_fall_on_every_phase_of_jpeg_blocks(size: int) -> None:
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 256, (size // 8 + 2,) * 2), np.ones((8, 8))).astype(np.uint8)
    shifted = [np.dstack([blocks[i : size + i, i : size + i]] * 3) for i in range(8)]
    focus = [measure(tile).focus for tile in shifted]
    assert max(focus) - min(focus) < 0.01
    for axis in (0, 1):
        striped = np.zeros((size, size, 3), dtype=np.uint8)
        np.moveaxis(striped, axis, 0)[3::8] = 255
        assert measure(striped).brightness == pytest.approx(1 / 8, abs=0.03)


@pytest.mark.parametrize("size", [10, 16, 64, 95])
def test_colours_of_small_tiles_are_those_of_all_their_pixels(tile: Rgb, size: int) -> None:
    small, whole = measure(tile[:size, :size]), measure_whole(tile[:size, :size])
    assert small.brightness == pytest.approx(whole.brightness, abs=1e-6)
    assert small.saturation == pytest.approx(whole.saturation, abs=5e-5)
    assert small.pen == pytest.approx(whole.pen, abs=1e-6)


SHAPES = [
    (1, 1),
    (1, 300),
    (9, 300),
    (300, 9),
    (10, 10),
    (17, 23),
    (224, 224),
    (500, 300),
    (2048, 64),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_of_all_sizes_are_measured(shape: tuple[int, int]) -> None:
    speckled = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    measured = measure_all([speckled])
    assert ((measured >= 0) & (measured <= 1)).all()
    assert measured[0, 1] == pytest.approx(0.5, abs=0.05 if speckled.size > 1000 else 0.5)


@settings(max_examples=25, deadline=None)
@given(
    order=st.lists(st.integers(0, 3), max_size=40),
    size=st.sampled_from([8, 40, 100, 224, 256]),
    kept=st.booleans(),
)
def test_a_tile_measures_the_same_in_every_company(order: list[int], size: int, kept: bool) -> None:
    big = _COMPANY[:, :size, :size]
    alone = np.concatenate([measure_all([tile.copy()]) for tile in big])
    scratch = Scratch() if kept else None
    measure_all(list(_COMPANY[:2, :50, :60]), scratch)
    found = measure_all([big[i] for i in order], scratch)
    assert found.tobytes() == alone[np.asarray(order, dtype=np.intp)].tobytes()


_COMPANY = np.stack(
    [
        paint("he", 256, 256, 1),
        paint("he", 256, 256, 2),
        np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8),
        np.full((256, 256, 3), 240, dtype=np.uint8),
    ]
)


def test_no_tiles_give_no_rows() -> None:
    assert measure_all([]).shape == (0, len(COLUMNS))


def test_tiles_of_different_shapes_are_refused(tile: Rgb) -> None:
    with pytest.raises(ValueError, match="one shape"):
        measure_all([tile, tile[1:]])


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


def real_tiles(folder: Path) -> Iterator[Rgb]:
    """224 px tiles of many stains, organs and scanners."""
    patterns = ("he_fields/*.jpg", "ihc_fields/*.*", "tiles/brca_m2c/images/*.png")
    for pattern in (*patterns, "tiles/lc25000_224/*/*55.jpeg"):
        found = sorted(folder.glob(pattern))
        assert found, f"{folder} has no {pattern}"
        for path in found[:30]:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            for top in range(0, min(pixels.shape[0], 450) - 223, 224):
                yield np.ascontiguousarray(pixels[top : top + 224, :224])


def test_samples_of_real_tiles_stand_for_the_whole(real_data: Path) -> None:
    sharp = list(real_tiles(real_data))
    tiles = [*sharp, *(blurred(tile, sigma) for sigma in (1, 2, 3) for tile in sharp[::4])]
    found = measure_all(tiles).astype(np.float64)
    whole = np.array([astuple(measure_whole(tile)) for tile in tiles])
    coloured = whole[:, 2] > 0.05  # glass with a speck on it is sharp or flat, as one samples
    assert coloured.sum() > 100
    for name, a, b in zip(COLUMNS, found[coloured].T, whole[coloured].T, strict=True):
        assert np.abs(a - b).mean() < (0.012 if name == "focus" else 0.002), name
        assert np.abs(a - b).max() < (0.08 if name == "focus" else 0.02), name
        assert np.corrcoef(a, b)[0, 1] > 0.99, name


def test_real_tiles_in_focus_stand_apart_from_blurred_ones(real_data: Path) -> None:
    tiles = list(real_tiles(real_data))
    levels = [measure_all([blurred(t, sigma) if sigma else t for t in tiles]) for sigma in range(4)]
    focus = np.stack(levels)[:, :, 0]
    coloured = levels[0][:, 2] > 0.05
    assert (np.diff(focus[:, coloured], axis=0) <= 0).all()
    assert np.mean(focus[0, coloured] > 0.38) > 0.95
    assert np.mean(focus[3, coloured] < 0.1) > 0.95
