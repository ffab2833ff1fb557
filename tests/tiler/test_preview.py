"""The preview shows thumbnail, outline, tiles and pen where they are, at a readable size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tiler.preview import GRID, LEGEND_SIZE, OUTLINE, VIEW_SIDE, draw_preview, save_preview
from tiler.slides.base import Rgb

BAR = 2 * LEGEND_SIZE


def scene(height: int, width: int) -> tuple[Rgb, npt.NDArray[np.bool_]]:
    """White glass, with pink tissue on the left half."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[:, : width // 2] = True
    pixels[mask] = (230, 160, 200)
    return pixels, mask


def drawn(
    height: int, width: int, l0_rects: list[tuple[float, ...]], l0_per_px: float = 16.0
) -> npt.NDArray[np.int64]:
    pixels, mask = scene(height, width)
    rects = np.array(l0_rects, dtype=np.float64).reshape(-1, 4)
    picture = draw_preview(pixels, mask, rects, (l0_per_px, l0_per_px), slide_id="s", mpp=0.5)
    return np.asarray(picture).astype(np.int64)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (400, 300), (3000, 4000), (2, 1000)])
def test_the_longer_side_is_the_view_side(height: int, width: int) -> None:
    view = drawn(height, width, [])
    assert max(view.shape[0] - BAR, view.shape[1]) == VIEW_SIDE
    assert (view.shape[0] - BAR) / view.shape[1] == pytest.approx(
        height / width, rel=0.01, abs=0.01
    )


def test_the_outline_runs_along_the_edge_of_the_mask() -> None:
    view = drawn(300, 400, [])
    green = (view == OUTLINE).all(axis=2)
    assert green[600, 790:800].any()
    assert not green[600, 801:].any()
    assert not green[600, 4:790].any()


def test_tiles_are_drawn_where_they_lie() -> None:
    # Thumbnail pixels 200..240 in x and 100..140 in y, four times larger in the view.
    view = drawn(300, 400, [(200 * 16, 100 * 16, 40 * 16, 40 * 16)])
    inside, outside = view[480, 880], view[480, 1000]
    assert (outside == 255).all()
    assert inside[2] > inside[0] + 20
    edge = view[480, 959]
    assert np.abs(edge - GRID).max() < 40
    assert (view[480, 961] == 255).all()


def test_tissue_stays_visible_under_tiles() -> None:
    view = drawn(300, 400, [(0, 0, 6400, 4800)])
    red, green, blue = view[600, 400]
    assert green < red
    assert green < blue


def test_tiles_of_a_pixel_or_less_still_tint() -> None:
    rects = [(x, y, 16.0, 16.0) for x in range(0, 16_000, 16) for y in range(0, 1600, 16)]
    view = drawn(3000, 4000, [*rects], l0_per_px=16.0)
    assert view[20, 300, 2] > view[20, 300, 0]


def test_pen_is_shown_in_orange() -> None:
    pixels, mask = scene(300, 400)
    pen = np.zeros_like(mask)
    pen[100:200, 300:350] = True
    rects = np.zeros((0, 4))
    view = draw_preview(pixels, mask, rects, (16, 16), slide_id="s", mpp=0.5, pen=pen)
    red, green, blue = np.asarray(view)[600, 1300].astype(int)
    assert red > green > blue


def test_the_legend_changes_with_what_it_says() -> None:
    pixels, mask = scene(300, 400)

    def legend(slide_id: str, mpp: float, count: int) -> bytes:
        rects = np.full((count, 4), 1.0)
        view = draw_preview(pixels, mask, rects, (16, 16), slide_id=slide_id, mpp=mpp)
        bar = np.asarray(view)[-BAR:]
        assert bar.max() > 200
        return bar.tobytes()

    assert (
        len({legend("a", 0.5, 1), legend("b", 0.5, 1), legend("a", 1, 1), legend("a", 0.5, 2)}) == 4
    )


def test_a_very_long_name_does_not_hide_the_number_of_tiles() -> None:
    pixels, mask = scene(400, 60)

    def legend(name: str, count: int) -> bytes:
        rects = np.full((count, 4), 1.0)
        view = draw_preview(pixels, mask, rects, (16, 16), slide_id=name, mpp=0.5)
        assert view.width == 240
        return np.asarray(view)[-BAR:].tobytes()

    assert legend("x" * 300, 1) != legend("x" * 300, 2)


def test_saved_previews_are_whole_png_files(tmp_path: Path) -> None:
    pixels, mask = scene(60, 80)
    picture = draw_preview(pixels, mask, np.zeros((0, 4)), (16, 16), slide_id="s", mpp=0.5)
    path = tmp_path / "preview.png"
    path.write_bytes(b"old")
    save_preview(picture, path)
    with Image.open(path) as read:
        assert (read.format, read.size) == ("PNG", picture.size)
    assert [entry.name for entry in tmp_path.iterdir()] == ["preview.png"]


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4))
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "file").touch()
    with pytest.raises(OSError, match=r"directory|exists|Directory"):
        save_preview(picture, folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_masks_and_rectangles_must_fit() -> None:
    pixels, mask = scene(30, 40)
    with pytest.raises(ValueError, match="masks"):
        draw_preview(pixels, mask[1:], np.zeros((0, 4)), (1, 1), slide_id="s", mpp=0.5)
    with pytest.raises(ValueError, match="rectangles"):
        draw_preview(pixels, mask, np.zeros((0, 2)), (1, 1), slide_id="s", mpp=0.5)
