"""Tissue is found where a pathologist would see it, and nowhere else.

The synthetic slides are 400 x 300 px at 8 µm/px, on glass like a scanner's. The ranges for real
slides were read off overlays of the mask, looked at one by one.
"""

from __future__ import annotations

import io
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw
from scipy import ndimage

from tiler.slides.base import Rgb
from tiler.tissue import TissueMask, find_tissue, tissue_share

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

HEIGHT, WIDTH = 300, 400
GLASS = (243, 241, 242)
HE = ((0.08, 0.90, 0.25), (0.65, 0.70, 0.30))
STAINS = {
    "H&E": (HE, 1.0),
    "pale H&E": (HE, 0.2),
    "dense DAB": (((0.8, 1.2, 1.5), (0.65, 0.7, 0.3)), 1.5),
    "pale IHC": (((0.08, 0.1, 0.14), (0.4, 0.3, 0.16)), 0.6),
    "PAS": (((0.15, 0.9, 0.35), (0.6, 0.7, 0.25)), 0.9),
    "Sirius red": (((0.1, 1.6, 1.4), (0.1, 0.3, 0.6)), 1.3),
    "blue trichrome": (((1.1, 0.6, 0.3), (0.3, 0.9, 0.5)), 1.4),
    "green trichrome": (((1.2, 0.5, 0.7), (0.5, 0.9, 0.5)), 1.4),
}
"""Two dyes each (OD per channel) and a strength."""
INKS = {
    "blue": (40, 60, 160),
    "green": (20, 140, 70),
    "red": (200, 30, 50),
    "black": (35, 35, 40),
}


def glass(colour: tuple[int, int, int] = GLASS, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Floats:
    return np.full((*shape, 3), colour, dtype=np.float64)


def photographed(picture: Floats, noise: float = 1.5) -> Rgb:
    grain = np.random.default_rng(5).normal(0, noise, picture.shape)
    return np.asarray(np.clip(np.rint(picture + grain), 0, 255), dtype=np.uint8)


def jpeg(picture: Rgb, quality: int) -> Rgb:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def outline(shape: tuple[int, int], radius: float = 0.3) -> Bools:
    """An irregular blob of about a quarter of the picture."""
    wobble = ndimage.gaussian_filter(np.random.default_rng(2).normal(size=shape), 20)
    y, x = np.mgrid[: shape[0], : shape[1]]
    reach = np.hypot(y / shape[0] - 0.5, x / shape[1] - 0.5)
    return np.asarray(reach + 0.03 * wobble / wobble.std() < radius)


def stained(lit: Floats, where: Bools, stain: str = "H&E") -> Floats:
    """Take light away as two dyes in a fine texture would."""
    (first, second), strength = STAINS[stain]
    rng = np.random.default_rng(3)
    texture = ndimage.gaussian_filter(rng.normal(size=(2, *where.shape)), (0, 0.8, 0.8))
    texture /= texture.std()
    od = np.clip(0.35 + 0.08 * texture[0], 0, None)[..., None] * np.array(first)
    od += np.clip(0.35 + 0.4 * texture[1], 0, 2)[..., None] * np.array(second)
    soft = ndimage.gaussian_filter(where.astype(float), 0.7)[..., None]
    return np.asarray(lit * np.exp(-strength * od * soft))


def adipose(lit: Floats, where: Bools, cell_px: int = 10, strength: float = 0.25) -> Floats:
    """Thin pink membranes around bright cells of about `cell_px`."""
    rng = np.random.default_rng(3)
    seeds = np.ones(where.shape, dtype=np.bool_)
    count = where.size // cell_px**2
    seeds[rng.integers(0, where.shape[0], count), rng.integers(0, where.shape[1], count)] = False
    nearest = ndimage.distance_transform_edt(seeds, return_distances=False, return_indices=True)
    cell = nearest[0] * where.shape[1] + nearest[1]
    wall = (cell != np.roll(cell, 1, 0)) | (cell != np.roll(cell, 1, 1))
    membrane = ndimage.gaussian_filter((wall & where).astype(float), 0.6)[..., None]
    return np.asarray(lit * np.exp(-strength * membrane * np.array([0.1, 1.0, 0.4])))


def stroke(picture: Floats, ink: str, points: list[tuple[int, int]], width: int) -> Floats:
    stencil = Image.new("L", (picture.shape[1], picture.shape[0]))
    ImageDraw.Draw(stencil).line(points, fill=230, width=width, joint="curve")
    share = ndimage.gaussian_filter(np.asarray(stencil) / 255, 1.0)[..., None]
    return np.asarray(picture * (1 - share) + share * np.array(INKS[ink]))


def overlap(found: TissueMask, truth: Bools) -> float:
    return float((found.tissue & truth).sum() / (found.tissue | truth).sum())


def lamp(low: float, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Floats:
    """A lamp that falls off from the centre to `low` in the corners."""
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return np.asarray(1 - (1 - low) * (x**2 + y**2) / 2)[..., None]


# --- nothing there -------------------------------------------------------------------------------

BLANKS: dict[str, Callable[[], Rgb]] = {
    "white": lambda: photographed(glass((255, 255, 255)), 0),
    "glass": lambda: photographed(glass()),
    "noise": lambda: photographed(glass(), 5),
    "strong noise": lambda: photographed(glass(), 8),
    "jpeg blocks": lambda: jpeg(photographed(glass(), 4), 25),
    "gradient": lambda: photographed(glass() * np.linspace(0.75, 1, WIDTH)[:, None]),
    "vignette": lambda: photographed(glass() * lamp(0.65)),
    "yellow lamp": lambda: jpeg(photographed(glass((235, 225, 205)) * lamp(0.85)), 80),
    "grey": lambda: photographed(glass((180, 180, 182))),
    "dark grey": lambda: photographed(glass((130, 131, 130))),
    "never scanned": lambda: photographed(glass((0, 0, 0)), 0),
    "half never scanned": lambda: np.where(
        np.arange(WIDTH)[:, None] < 150, np.uint8(0), photographed(glass())
    ),
}


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("mpp", [2.0, 8.0, 30.0])
def test_a_blank_slide_has_no_tissue(blank: str, mpp: float) -> None:
    found = find_tissue(BLANKS[blank](), mpp)
    assert not found.tissue.any()
    assert not found.pen.any()


@pytest.mark.parametrize("radius_um", [16, 64])
def test_dust_is_no_tissue(radius_um: int) -> None:
    rng = np.random.default_rng(1)
    picture = Image.fromarray(photographed(glass(), 0))
    draw = ImageDraw.Draw(picture)
    for x, y in zip(rng.uniform(0, WIDTH, 20), rng.uniform(0, HEIGHT, 20), strict=True):
        r, shade = radius_um / 8, int(rng.integers(60, 150))
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(shade, shade - 1, shade - 3))
    assert not find_tissue(photographed(np.asarray(picture, dtype=float)), 8.0).tissue.any()


def test_a_hair_and_a_coverslip_edge_are_no_tissue() -> None:
    picture = Image.fromarray(photographed(glass(), 0))
    draw = ImageDraw.Draw(picture)
    draw.line([(20, 20), (60, 90), (80, 200), (150, 260)], fill=(95, 94, 92), width=3)
    draw.line([(200, 0), (203, 299)], fill=(120, 121, 120), width=6)
    assert not find_tissue(photographed(np.asarray(picture, dtype=float)), 8.0).tissue.any()


# --- tissue on glass -----------------------------------------------------------------------------


@pytest.mark.parametrize("stain", STAINS)
def test_every_stain_is_found(stain: str) -> None:
    truth = outline((HEIGHT, WIDTH))
    found = find_tissue(photographed(stained(glass(), truth, stain)), 8.0)
    assert overlap(found, truth) > 0.88
    assert found.pen.sum() == 0


@pytest.mark.parametrize("stain", STAINS)
def test_every_stain_survives_jpeg(stain: str) -> None:
    truth = outline((HEIGHT, WIDTH))
    found = find_tissue(jpeg(photographed(stained(glass(), truth, stain)), 60), 8.0)
    assert overlap(found, truth) > 0.85


@pytest.mark.parametrize(
    "light",
    [
        pytest.param(glass((190, 190, 188)), id="grey"),
        pytest.param(glass((236, 226, 204)), id="yellow"),
        pytest.param(glass((225, 228, 240)), id="blue"),
        pytest.param(glass() * lamp(0.85), id="vignette"),
        pytest.param(glass() * np.linspace(0.75, 1, WIDTH)[:, None], id="gradient"),
    ],
)
@pytest.mark.parametrize("stain", ["H&E", "pale IHC"])
def test_the_lamp_does_not_matter(light: Floats, stain: str) -> None:
    truth = outline((HEIGHT, WIDTH))
    assert overlap(find_tissue(photographed(stained(light, truth, stain)), 8.0), truth) > 0.85


def test_strong_vignetting_does_not_matter_to_a_strong_stain() -> None:
    truth = outline((HEIGHT, WIDTH))
    found = find_tissue(photographed(stained(glass() * lamp(0.65), truth)), 8.0)
    assert overlap(found, truth) > 0.85


@pytest.mark.parametrize("mpp", [2.0, 5.0, 8.0, 16.0, 30.0, 60.0])
def test_any_resolution_of_the_thumbnail_will_do(mpp: float) -> None:
    truth = outline((HEIGHT, WIDTH))
    found = find_tissue(photographed(stained(glass(), truth)), mpp)
    assert found.tissue.shape == found.pen.shape == truth.shape
    assert overlap(found, truth) > 0.8


def test_white_patches_the_scanner_left_out_do_not_hide_the_glass() -> None:
    truth = outline((HEIGHT, WIDTH))
    picture = photographed(stained(glass((238, 232, 236)), truth, "pale IHC"))
    picture[:45], picture[:, 340:], picture[250:, :60] = 255, 255, 255
    assert overlap(find_tissue(picture, 8.0), truth) > 0.85


def test_the_readers_fill_colour_is_never_tissue() -> None:
    truth = outline((HEIGHT, WIDTH))
    picture = photographed(stained(glass(), truth))
    picture[:, :40] = (200, 120, 160)
    assert overlap(find_tissue(picture, 8.0, background=(200, 120, 160)), truth) > 0.9
    assert find_tissue(picture, 8.0).tissue[:, :40].mean() > 0.5


def test_a_black_frame_is_neither_tissue_nor_ink() -> None:
    truth = outline((HEIGHT, WIDTH))
    picture = photographed(stained(glass(), truth))
    picture[:40], picture[:, :30] = 0, 0
    found = find_tissue(jpeg(picture, 80), 8.0)
    assert overlap(found, truth) > 0.9
    assert not found.pen.any()


def test_fat_belongs_to_tissue_holes_and_all() -> None:
    truth = outline((HEIGHT, WIDTH), 0.35)
    found = find_tissue(photographed(adipose(glass(), truth)), 8.0)
    assert overlap(found, truth) > 0.88
    core = ndimage.binary_erosion(truth, iterations=12)
    assert found.tissue[core].mean() > 0.98


def test_faint_fat_is_found_in_a_very_coarse_picture() -> None:
    fine = outline((HEIGHT * 4, WIDTH * 4), 0.35)
    lit = adipose(glass(shape=fine.shape), fine, 20, 0.375)
    coarse = lit.reshape(HEIGHT, 4, WIDTH, 4, 3).mean(axis=(1, 3))
    truth = fine[2::4, 2::4]
    assert overlap(find_tissue(photographed(coarse, 0.5), 32.0), truth) > 0.93


def test_a_gap_of_a_fat_cell_is_bridged_a_wider_one_is_not() -> None:
    walls = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    walls[50:250, 100:108] = walls[50:250, 118:126] = walls[50:250, 156:164] = True
    found = find_tissue(photographed(stained(glass(), walls)), 8.0)
    assert found.tissue[80:220, 108:118].all()
    assert not found.tissue[80:220, 130:152].any()


def test_glass_beyond_the_tissue_may_be_darker() -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    band = np.abs(x - 200 + 10 * np.sin(y / 30)) < 15
    light = glass() * np.linspace(0.85, 1, WIDTH)[:, None]
    found = find_tissue(photographed(stained(light, band)), 8.0)
    assert overlap(found, band) > 0.75
    assert found.glass_share > 0.7


def test_a_vessel_wider_than_a_tile_stays_a_hole() -> None:
    truth = outline((HEIGHT, WIDTH), 0.4)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    vessel = np.hypot(y - 150, x - 200) < 40
    capillary = np.hypot(y - 150, x - 120) < 8
    found = find_tissue(photographed(stained(glass(), truth & ~vessel & ~capillary)), 8.0)
    assert not found.tissue[np.hypot(y - 150, x - 200) < 30].any()
    assert found.tissue[capillary].all()


def test_a_thin_membrane_does_not_vanish() -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    membrane = (np.abs(y - 150 - 20 * np.sin(x / 40)) < 2) & (x > 50) & (x < 350)
    found = find_tissue(photographed(stained(glass(), membrane)), 8.0)
    assert found.tissue[membrane].mean() > 0.9


def test_greyscale_tissue_is_found() -> None:
    truth = outline((HEIGHT, WIDTH))
    grey = photographed(stained(glass(), truth))[..., 1:2].repeat(3, axis=2)
    assert overlap(find_tissue(grey, 8.0), truth) > 0.9


# --- fields without any glass --------------------------------------------------------------------


@pytest.mark.parametrize("stain", ["H&E", "dense DAB", "PAS", "Sirius red", "blue trichrome"])
@pytest.mark.parametrize(("size", "mpp"), [((256, 256), 0.5), ((64, 64), 8.0), ((300, 400), 2.0)])
def test_a_field_full_of_tissue_is_all_tissue(
    stain: str, size: tuple[int, int], mpp: float
) -> None:
    field = photographed(stained(glass(shape=size), np.ones(size, dtype=np.bool_), stain))
    found = find_tissue(field, mpp)
    assert found.share > 0.98
    assert found.glass_share == 0.0


def test_one_pixel_is_no_obstacle() -> None:
    assert find_tissue(np.full((1, 1, 3), (200, 120, 160), dtype=np.uint8), 8.0).tissue.all()
    assert find_tissue(np.zeros((1, 700, 3), dtype=np.uint8), 8.0).share == 0.0


# --- pen -----------------------------------------------------------------------------------------

FRAME = [(40, 30), (350, 40), (360, 265), (50, 260), (40, 30)]


@pytest.mark.parametrize("ink", INKS)
def test_pen_around_the_tissue_is_cut_out(ink: str) -> None:
    truth = outline((HEIGHT, WIDTH), 0.2)
    drawn = photographed(stroke(stained(glass(), truth), ink, FRAME, 40))
    clean = photographed(stroke(glass(), ink, FRAME, 40))
    found = find_tissue(drawn, 8.0)
    assert overlap(found, truth) > 0.88
    assert not (found.tissue & found.pen).any()
    inked = np.abs(clean.astype(int) - GLASS).max(axis=2) > 60
    assert found.pen[inked].mean() > 0.95
    assert not find_tissue(clean, 8.0).tissue.any()


@pytest.mark.parametrize("ink", INKS)
def test_pen_across_the_tissue_is_cut_out_of_it(ink: str) -> None:
    truth = outline((HEIGHT, WIDTH))
    drawn = photographed(stroke(stained(glass(), truth), ink, [(0, 140), (400, 160)], 40))
    found = find_tissue(drawn, 8.0)
    band = np.zeros_like(truth)
    band[145:155, 100:300] = True
    assert found.pen[band].mean() > 0.95
    assert not found.tissue[band].any()
    away = truth.copy()
    away[115:185] = False
    assert found.tissue[away].mean() > 0.95


def test_ink_with_texture_over_much_of_the_picture_is_a_stain() -> None:
    """Blue-stained marrow: the colour of blue ink throughout, but no pen paints cells."""
    rng = np.random.default_rng(0)
    cells = ndimage.gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 1.5)
    od = np.clip(0.8 + 0.3 * cells / cells.std(), 0.3, None)[..., None] * np.array([1.6, 0.7, 0.2])
    found = find_tissue(photographed(glass() * np.exp(-od)), 16.0)
    assert found.pen.mean() < 0.05
    assert found.share > 0.9


def test_ragged_ink_colour_is_a_stain() -> None:
    """Fibres as red as red ink, and one solid patch of them."""
    truth = outline((HEIGHT, WIDTH))
    fibres = truth & (np.random.default_rng(1).random(truth.shape) < 0.5)
    fibres = ndimage.binary_opening(fibres, np.ones((2, 2)))
    fibres[140:170, 190:220] = True
    picture = stained(glass(), truth, "Sirius red")
    picture[fibres] = INKS["red"]
    picture[ndimage.binary_dilation(fibres) & ~fibres] = INKS["red"]
    found = find_tissue(photographed(picture), 8.0)
    assert not found.pen.any()
    assert overlap(found, truth) > 0.88


# --- the promise ---------------------------------------------------------------------------------


def test_the_same_picture_gives_the_same_mask_and_stays_untouched() -> None:
    picture = photographed(stained(glass(), outline((HEIGHT, WIDTH))))
    before = picture.copy()
    one, two = find_tissue(picture, 8.0), find_tissue(picture, 8.0)
    assert (one.tissue == two.tissue).all()
    assert (picture == before).all()


def test_the_mask_explains_itself() -> None:
    found = find_tissue(photographed(stained(glass(), outline((HEIGHT, WIDTH)))), 8.0)
    assert np.abs(np.array(found.glass) - GLASS).max() < 2
    assert 0.5 < found.glass_share < 0.8
    assert 0.039 < found.threshold < 0.071
    assert found.share == pytest.approx(found.tissue.mean())


@pytest.mark.parametrize(
    ("picture", "mpp"),
    [
        (np.zeros((5, 5), dtype=np.uint8), 8.0),
        (np.zeros((5, 5, 4), dtype=np.uint8), 8.0),
        (np.zeros((5, 5, 3), dtype=np.float32), 8.0),
        (np.zeros((0, 5, 3), dtype=np.uint8), 8.0),
        (np.zeros((5, 5, 3), dtype=np.uint8), 0.0),
        (np.zeros((5, 5, 3), dtype=np.uint8), float("nan")),
    ],
)
def test_other_input_is_refused(picture: Rgb, mpp: float) -> None:
    with pytest.raises(ValueError, match=r"picture|mpp"):
        find_tissue(picture, mpp)


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        TissueMask(np.ones((2, 2), bool), np.ones((2, 3), bool), GLASS, 0.5, 0.05)


def test_a_large_thumbnail_takes_about_half_a_second() -> None:
    small = photographed(stained(glass(shape=(1000, 1000)), outline((1000, 1000))))
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    start = time.process_time()
    find_tissue(large, 8.0)
    assert time.process_time() - start < 3.0  # half a second on an idle core


def test_a_large_thumbnail_takes_little_memory() -> None:
    small = photographed(stained(glass(shape=(400, 400)), outline((400, 400))))
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    tracemalloc.start()
    try:
        found = find_tissue(large, 8.0)
        tissue_share(found.tissue, np.array([[0.0, 0.0, 1.0, 1.0]]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 75 * large.size / 3  # bytes for each pixel


# --- shares of rectangles ------------------------------------------------------------------------


def naive_share(mask: Bools, x: float, y: float, w: float, h: float) -> float:
    covered = 0.0
    for row, column in zip(*np.nonzero(mask), strict=True):
        across = min(x + w, column + 1) - max(x, column)
        down = min(y + h, row + 1) - max(y, row)
        covered += max(0.0, across) * max(0.0, down)
    return covered / (w * h)


corner = st.floats(-6, 14)
side = st.floats(0.01, 15)


@given(
    hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)),
    st.lists(st.tuples(corner, corner, side, side), min_size=1, max_size=6),
)
def test_shares_are_exact_fractions_of_area(
    mask: Bools, rects: list[tuple[float, float, float, float]]
) -> None:
    shares = tissue_share(mask, np.array(rects))
    expected = [naive_share(mask, *rect) for rect in rects]
    np.testing.assert_allclose(shares, expected, rtol=1e-9, atol=1e-7)
    assert ((shares >= 0) & (shares <= 1)).all()


def test_what_lies_outside_the_mask_is_no_tissue() -> None:
    full = np.ones((10, 20), dtype=np.bool_)
    rects = np.array(
        [[0, 0, 20, 10], [-5, 0, 10, 10], [15, 5, 10, 10], [30, 30, 5, 5], [-9, 0, 4, 4]]
    )
    np.testing.assert_allclose(
        tissue_share(full, rects.astype(np.float64)), [1, 0.5, 0.25, 0, 0], atol=1e-12
    )


def test_no_rectangles_no_shares() -> None:
    assert tissue_share(np.ones((3, 3), dtype=np.bool_), np.zeros((0, 4))).shape == (0,)


@pytest.mark.parametrize(
    "rects",
    [
        np.zeros((2, 3)),
        np.array([[0, 0, 0, 1.0]]),
        np.array([[0, 0, 1, -1.0]]),
        np.full((1, 4), np.nan),
    ],
)
def test_rectangles_without_area_are_refused(rects: Floats) -> None:
    with pytest.raises(ValueError, match="rectangle"):
        tissue_share(np.ones((3, 3), dtype=np.bool_), rects)


# --- real slides ---------------------------------------------------------------------------------


def real_picture(path: Path, mpp: float, at: float) -> Rgb:
    if path.suffix == ".tif":
        picture = Image.fromarray(tifffile.imread(path))
    else:
        picture = Image.open(path).convert("RGB")
    size = tuple(round(length * mpp / at) for length in picture.size)
    return np.asarray(picture.resize((size[0], size[1]), Image.Resampling.BOX))


def real_slide(path: Path, mpp: float, at: float) -> Rgb:
    with openslide.OpenSlide(path) as slide:
        width, height = (round(length * mpp / at) for length in slide.dimensions)
        return np.asarray(slide.get_thumbnail((width, height)).convert("RGB"))


@pytest.mark.parametrize(
    ("name", "mpp", "at", "low", "high"),
    [
        ("svs/CMU-1-Small-Region.svs", 0.499, 8.0, 0.38, 0.48),
        ("svs/CMU-1-Small-Region.svs", 0.499, 2.0, 0.38, 0.48),
        ("svs/TCGA-CR-7395-01A-01-TS1.svs", 0.25, 8.0, 0.66, 0.74),
        ("dicom/camelyon-multi_frame_jpeg.dcm", 28.969, 28.969, 0.26, 0.36),
        ("dicom/camelyon-multi_frame_jpeg2000.dcm", 28.969, 28.969, 0.36, 0.46),
        ("dicom/wsi2dcm-jpeg.dcm", 16.783, 16.783, 0.74, 0.86),
    ],
)
def test_real_slides(
    real_data: Path, name: str, mpp: float, at: float, low: float, high: float
) -> None:
    found = find_tissue(real_slide(real_data / name, mpp, at), at)
    assert low < found.share < high
    assert found.glass_share > 0.003


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("birl_Rat-Kidney_HE", 0.62, 0.70),
        ("birl_Rat-Kidney_PanCytokeratin", 0.61, 0.69),
        ("birl_lung-lesion_HE", 0.94, 1.0),
        ("birl_lung-lesion_proSPC", 0.93, 1.0),
        ("cima_lung-lesion3_CD31-3", 0.88, 0.96),
        ("cima_lung-lesion3_Cc10-5", 0.86, 0.96),
        ("cima_lung-lesion3_He", 0.90, 0.97),
        ("cima_lung-lesion3_Ki67-7", 0.88, 0.97),
        ("cima_lung-lesion3_proSPC-4", 0.85, 0.95),
    ],
)
def test_real_whole_sections(real_data: Path, name: str, low: float, high: float) -> None:
    path = real_data / "whole_section_jpeg" / f"{name}.jpg"
    found = find_tissue(real_picture(path, 5.0, 5.0), 5.0)
    assert low < found.share <= high
    assert not found.pen.any()


@pytest.mark.parametrize("at", [2.0, 8.0])
@pytest.mark.parametrize(
    ("name", "mpp", "low", "high"),
    [
        ("he_fields/liver_liverquant_tile01_HE.jpg", 0.5, 0.99, 1.0),
        ("he_fields/liver_liverquant_tile02_HE.jpg", 0.5, 0.76, 0.87),
        ("he_fields/liver_liverquant_tile03_HE.jpg", 0.5, 0.90, 0.97),
        ("he_fields/liver_liverquant_tile04_HE.jpg", 0.5, 0.84, 0.92),
        ("he_fields/stardist_histo.jpg", 0.5, 0.99, 1.0),
        ("ihc_fields/liver_liverquant_tile02_PSR.jpg", 1.0, 0.99, 1.0),
        ("ihc_fields/skimage-ihc.png", 0.5, 0.95, 1.0),
        ("ome_tiff/OS-1-detail.ome.tif", 0.2271, 0.99, 1.0),
        ("ome_tiff/OS-2-ndpi.ome.tif", 0.2271, 0.90, 1.0),
        ("ome_tiff/OS-2-vsi.ome.tif", 0.3461, 0.90, 1.0),
    ],
)
def test_real_fields(
    real_data: Path, name: str, mpp: float, low: float, high: float, at: float
) -> None:
    assert low < find_tissue(real_picture(real_data / name, mpp, at), at).share <= high


@pytest.mark.parametrize("at", [2.0, 8.0])
def test_real_kidney_fields_of_every_stain_are_all_tissue(real_data: Path, at: float) -> None:
    paths = sorted((real_data / "ihc_fields").glob("kidney_*.png"))
    assert len(paths) == 11
    for path in paths:
        found = find_tissue(real_picture(path, 0.5, at), at)
        assert found.share > 0.98, path.name
        assert found.pen.mean() < 0.01, path.name
