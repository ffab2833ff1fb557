"""Masks: a tile's part is what the tile itself shows; what does not fit is told in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manifests import Manifest, StoreError, load_manifest
from manifests.store import open_store
from pretrain.embedding.wanted import wanted_tiles
from pretrain.errors import ConfigError
from pretrain.segmenting.maskfiles import MaskError, Pixels
from pretrain.segmenting.masks import IGNORED, Masks, cut, find_masks
from tests.manifests.make import tile_pixels
from tests.pretrain.make import make_slide, save, two_by_two
from tests.pretrain.segmenting.masked import cut as cut_tiles
from tests.pretrain.segmenting.masked import noise, write

CLASSES = 7


def masks_of(manifest: Manifest, folder: Path, mpp: str | None = None, **more: object) -> Masks:
    return find_masks(manifest, wanted_tiles(manifest, mpp=mpp), folder, **more)  # type: ignore[arg-type]


def numbered(height: int, width: int, seed: int) -> tuple[Pixels, Pixels]:
    """A picture (h, w, 3) whose red is the class of each pixel, and its mask."""
    picture = noise(height, width, seed)
    picture[..., 0] %= CLASSES
    return picture, picture[..., 0].copy()


def packed(root: Path, *options: object) -> tuple[Manifest, Path]:
    """A packed store of pictures, some larger than a tile, and the folder of their masks."""
    sizes = {"a.png": (32, 32), "b/large.png": (70, 101), "b/small.png": (32, 64)}
    made = {name: numbered(*size, seed=n) for n, (name, size) in enumerate(sizes.items())}
    pictures = write(root / "pictures", {name: picture for name, (picture, _) in made.items()})
    masks = write(root / "masks", {name: mask for name, (_, mask) in made.items()})
    return cut_tiles(pictures, root / "out", "--packed", "--tile-size", 32, *options), masks


def tiles_of(manifest: Manifest) -> Pixels:
    (entry,), (group,) = (
        manifest.committed(),
        {r.group for e in manifest.stores for r in e.resolutions},
    )
    store = open_store(manifest, entry)[group]
    return store.read_batch(range(len(store)))


def test_masks_of_pictures_show_what_the_tiles_show(tmp_path: Path) -> None:
    manifest, folder = packed(tmp_path)
    masks, tiles = masks_of(manifest, folder), tiles_of(manifest)
    assert (len(tiles), masks.classes) == (1 + 2 * 3 + 2, tuple(map(str, range(CLASSES))))
    assert np.array_equal(masks.read(range(len(tiles))), tiles[..., 0])
    assert np.array_equal(masks.read([4, 2, 2]), tiles[[4, 2, 2], ..., 0])


def test_overlapping_tiles_have_overlapping_masks(tmp_path: Path) -> None:
    manifest, folder = packed(tmp_path, "--stride", 20)
    masks, tiles = masks_of(manifest, folder), tiles_of(manifest)
    assert len(tiles) == 1 + 2 * 4 + 2
    assert np.array_equal(masks.read(range(len(tiles))), tiles[..., 0])


def test_masks_as_large_as_pictures_that_tiles_do_not_fill_are_taken(tmp_path: Path) -> None:
    """The store does not say how large a picture is; its tiles tell it to a step."""
    manifest, folder = packed(tmp_path)
    for height, width, fits in [(70, 101, True), (64, 96, True), (96, 128, True), (60, 101, False)]:
        write(folder, {"b/large.png": numbered(height, width, 1)[1]})
        if fits:
            masks_of(manifest, folder)
            continue
        with pytest.raises(MaskError, match=r"large.png has 101 x 60 px, .* \(about 96 x 64\)"):
            masks_of(manifest, folder)


def test_what_was_padded_is_of_no_class(tmp_path: Path) -> None:
    manifest, folder = packed(tmp_path, "--edge", "pad")
    masks, tiles = masks_of(manifest, folder), tiles_of(manifest)
    found = masks.read(range(len(tiles)))
    padded = (tiles == 255).all(axis=3)
    assert len(tiles) == 1 + 3 * 4 + 2
    assert padded.any()
    assert np.array_equal(found == IGNORED, padded)
    assert np.array_equal(found[~padded], tiles[..., 0][~padded])


def test_a_coarser_tile_takes_the_value_in_the_middle_of_its_pixels(tmp_path: Path) -> None:
    manifest, folder = packed(tmp_path, "--mpp", 1.5, "--tile-size", 16)
    masks = masks_of(manifest, folder)
    mask = np.asarray(Image.open(folder / "b/large.png"))
    middles = mask[1:48:3, 1:96:3]  # of 3 x 3 pixels; only this picture has room for such tiles
    assert np.array_equal(masks.read([0, 1]), [middles[:, :16], middles[:, 16:]])


@pytest.mark.parametrize("scale", [1, 4])
def test_masks_of_slides_may_be_smaller_than_the_slide(tmp_path: Path, scale: int) -> None:
    mask = np.random.default_rng(0).integers(0, CLASSES, (192 // 4, 256 // 4), dtype=np.uint8)
    red = mask.repeat(4, axis=0).repeat(4, axis=1)
    picture = np.stack([red, red * 20, 255 - red], axis=2).astype(np.uint8)
    slides = write(tmp_path / "slides", {"one.png": picture})
    manifest = cut_tiles(slides, tmp_path / "out", "--tile-size", 64, "--mpp", 0.5, "--no-tissue")
    folder = write(tmp_path / "masks", {"one_mask.png": red if scale == 1 else mask})
    found = masks_of(manifest, folder)
    assert np.array_equal(found.read(range(12)), tiles_of(manifest)[..., 0])


@given(
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
    st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)),
    st.tuples(st.floats(0.2, 2), st.floats(0.2, 2)),
    st.integers(1, 12),
)
def test_each_pixel_of_a_cut_is_the_pixel_its_middle_lies_in(
    l0_xy: tuple[int, int],
    l0_per_px: tuple[float, float],
    mask_per_l0: tuple[float, float],
    size: int,
) -> None:
    mask = np.arange(20 * 11, dtype=np.uint8).reshape(20, 11)
    found = cut(mask, l0_xy, l0_per_px, size, mask_per_l0)
    for row in range(size):
        for column in range(size):
            x = int((l0_xy[0] + (column + 0.5) * l0_per_px[0]) * mask_per_l0[0])
            y = int((l0_xy[1] + (row + 0.5) * l0_per_px[1]) * mask_per_l0[1])
            inside = x < mask.shape[1] and y < mask.shape[0]
            assert found[row, column] == (mask[y, x] if inside else 256)


def whole(root: Path, *masks: Pixels, suffix: str = ".png") -> tuple[Manifest, Path]:
    """Pictures of one tile of 32 px each, and the folder of these masks."""
    names = [f"{n}" for n in range(len(masks))]
    pictures = write(root / "pictures", {f"{n}.png": noise(32, 32, int(n)) for n in names})
    folder = write(root / "masks", {n + suffix: m for n, m in zip(names, masks, strict=True)})
    return cut_tiles(pictures, root / "out", "--packed", "--tile-size", 32), folder


def half(left: int, right: int) -> Pixels:
    mask = np.full((32, 32), left, dtype=np.uint8)
    mask[:, 16:] = right
    return mask


def test_black_and_white_are_two_classes(tmp_path: Path) -> None:
    manifest, folder = whole(tmp_path, half(0, 255), half(255, 255))
    masks = masks_of(manifest, folder, names=("ground", "tumour"))
    assert masks.classes == ("ground", "tumour")
    assert np.array_equal(masks.read([0, 1]), [half(0, 1), half(1, 1)])


def test_255_is_no_class_where_there_are_others(tmp_path: Path) -> None:
    manifest, folder = whole(tmp_path, half(0, 255), half(3, 255))
    masks = masks_of(manifest, folder)
    assert masks.classes == ("0", "3")
    assert np.array_equal(masks.read([0, 1]), [half(0, IGNORED), half(1, IGNORED)])


def test_names_that_no_pixel_has_are_left_out(tmp_path: Path) -> None:
    manifest, folder = whole(tmp_path, half(0, 2))
    assert masks_of(manifest, folder, names=("a", "b", "c")).classes == ("a", "c")


def test_jpeg_masks_are_cut_in_the_middle(tmp_path: Path) -> None:
    manifest, folder = whole(tmp_path, half(0, 255), suffix=".jpg")
    assert np.array_equal(masks_of(manifest, folder).read([0])[0], half(0, 1))


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "LA", "I;16"])
def test_palettes_and_grey_in_colours_will_do(tmp_path: Path, mode: str) -> None:
    manifest, folder = whole(tmp_path, half(0, 2))
    grey = Image.fromarray(half(0, 2))
    if mode == "P":
        grey.putpalette([0, 0, 0, 9, 200, 30, 200, 30, 9])
    if mode == "I;16":
        grey = Image.fromarray(half(0, 2).astype(np.uint16))
    (grey if mode in ("P", "I;16") else grey.convert(mode)).save(folder / "0.png")
    assert np.array_equal(masks_of(manifest, folder).read([0])[0], half(0, 1))


def test_a_mask_beside_its_picture_wins_over_the_picture(tmp_path: Path) -> None:
    manifest, _ = whole(tmp_path, half(0, 1))
    folder = write(tmp_path / "pictures", {"0_mask.png": half(0, 1)})
    assert np.array_equal(masks_of(manifest, folder).read([0])[0], half(0, 1))


def test_tiles_without_a_mask_are_left_out_if_asked(tmp_path: Path) -> None:
    manifest, folder = whole(tmp_path, half(0, 1), half(1, 0), half(1, 1))
    (folder / "1.png").unlink()
    masks = masks_of(manifest, folder, missing="drop")
    assert masks.has.tolist() == [True, False, True]
    assert (masks.read([1]) == IGNORED).all()


def without_two(folder: Path) -> None:
    (folder / "1.png").unlink()
    (folder / "2.png").unlink()


def without_any(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def with_colours(folder: Path) -> None:
    Image.fromarray(noise(32, 32, 0)).save(folder / "2.png")


def too_large(folder: Path) -> None:
    write(folder, {"2.png": np.zeros((48, 48), dtype=np.uint8)})


def cut_off(folder: Path) -> None:
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])


def one_bit(folder: Path) -> None:
    Image.fromarray(half(0, 255)).convert("1").save(folder / "2.png")


def deep(folder: Path) -> None:
    Image.fromarray(half(0, 1).astype(np.uint16) * 300).save(folder / "2.png")


def alike(folder: Path) -> None:
    write(folder, {f"{n}.png": half(1, 1) for n in range(3)})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            without_two,
            "2 pictures have no mask in masks, the first is 'pictures/1.png': name masks",
        ),
        (without_any, "3 pictures have no mask in masks"),
        (with_colours, "the mask 2.png has colours: save it with one channel"),
        (too_large, r"2.png has 48 x 48 px, .* the tiles of pictures/2.png \(about 32 x 32\)"),
        (cut_off, "the mask 2.png cannot be read"),
        (one_bit, "the mask 2.png is black and white, but others hold numbers of classes"),
        (deep, "the mask 2.png holds values other than 0 to 255"),
        (alike, "all masks hold the value 1 alone: there is nothing to tell apart"),
    ],
)
def test_masks_that_do_not_fit_are_told_in_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    manifest, folder = whole(tmp_path, half(0, 1), half(1, 2), half(2, 0))
    spoil(folder)
    with pytest.raises(MaskError, match=sentence):
        masks_of(manifest, folder)


def test_values_without_a_name_and_folders_that_are_not_there_are_refused(tmp_path: Path) -> None:
    manifest, folder = whole(tmp_path, half(0, 2))
    with pytest.raises(ConfigError, match="the value 2, but --classes names 2 classes"):
        masks_of(manifest, folder, names=("a", "b"))
    with pytest.raises(ConfigError, match=r"the folder of masks .* is not there"):
        masks_of(manifest, tmp_path / "nowhere")


def test_a_slide_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    slides = write(tmp_path / "slides", {"one.png": noise(192, 256, 0)})
    manifest = cut_tiles(slides, tmp_path / "out", "--tile-size", 64, "--mpp", 0.5, "--no-tissue")
    folder = write(tmp_path / "masks", {"one.png": np.zeros((60, 64), dtype=np.uint8)})
    with pytest.raises(MaskError, match="has 64 x 60 px, but one has 256 x 192: a mask must show"):
        masks_of(manifest, folder)


def test_one_mask_is_never_taken_for_two_pictures_of_one_name(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write(tmp_path / name, {"a.png": noise(32, 32, len(name))})
    folder = write(tmp_path / "masks", {"a.png": half(0, 1)})
    options = ("--packed", "--tile-size", 32)
    manifest = cut_tiles(tmp_path / "first", tmp_path / "out", tmp_path / "second", *options)
    with pytest.raises(
        MaskError, match=r"a.png could be the mask of both .* and .*: name masks by"
    ):
        masks_of(manifest, folder)
    for place, entry in enumerate(manifest.stores):
        write(folder, {f"{entry.id}/a.png": half(place, 1 - place)})
    assert np.array_equal(masks_of(manifest, folder).read([0, 1]), [half(0, 1), half(1, 0)])


def test_tiles_of_two_sizes_and_stores_without_places_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "masks", {})
    folder.mkdir()
    sizes = (make_slide(tmp_path, f"s{s}", {"0.5": tile_pixels(2, s)}) for s in (16, 32))
    other = load_manifest(save(tmp_path, *sizes))
    with pytest.raises(ConfigError, match="tiles have 16 and 32 px: choose those of one size"):
        masks_of(other, folder)
    with pytest.raises(StoreError, match="does not say where its tiles lie"):
        masks_of(load_manifest(two_by_two(tmp_path / "more")), folder)
