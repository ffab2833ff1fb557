"""The overview: block means of the right level, in strips, whole even where a level is damaged."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

import tiler.overview
from tests.tiler.fakes import BACKGROUND, FakeSlide, HugeSlide, noise
from tiler.errors import PixelReadError
from tiler.overview import read_overview
from tiler.slides.base import Rgb


def expected(pixels: Rgb, factor: int, cell: tuple[int, int]) -> Rgb:
    """Means of blocks that may be cut off at the edge, after whole ones that decoders make."""
    least = min(pixels.shape[:2])
    decoding = next(
        f for f in (8, 4, 2, 1) if factor % f == cell[0] % f == cell[1] % f == 0 and f <= least
    )
    height, width = (n // decoding * decoding for n in pixels.shape[:2])
    rest = pixels[:height, :width].astype(float)
    rows = np.add.reduceat(rest, range(0, height, factor), axis=0)
    sums = np.add.reduceat(rows, range(0, width, factor), axis=1)
    high = np.diff([*range(0, height, factor), height])[:, None, None]
    wide = np.diff([*range(0, width, factor), width])[None, :, None]
    means: Rgb = np.floor(sums / (high * wide) + 0.5).astype(np.uint8)
    return means


def is_near(found: Rgb, wanted: Rgb) -> bool:
    """Equal but for the rounding of two steps."""
    return found.shape == wanted.shape and int(abs(found - wanted.astype(int)).max()) <= 1


class TestOverview:
    @pytest.mark.parametrize(
        ("mpp", "target", "level", "factor"),
        [
            (0.5, 8.0, 1, 4),
            (0.5, 4.0, 1, 2),
            (0.5, 2.0, 1, 1),
            (0.5, 1.8, 0, 3),
            (0.5, 1.95, 1, 1),
            (0.5, 0.5, 0, 1),
            (0.499, 8.0, 1, 4),
            (10.0, 8.0, 0, 1),
        ],
    )
    def test_it_is_the_block_mean_of_the_coarsest_level_that_is_fine_enough(
        self, mpp: float, target: float, level: int, factor: int
    ) -> None:
        pixels = (noise(203, 251), noise(51, 63, seed=1))
        slide = FakeSlide(pixels, (16, 12), (mpp, mpp))
        overview = read_overview(slide, (mpp, mpp), target)
        assert is_near(overview.pixels, expected(pixels[level], factor, (16, 12)))
        assert not overview.unread.any()
        assert {number for number, _, _ in slide.reads} == {level}
        assert len(slide.reads) == len(set(slide.reads))

    @pytest.mark.parametrize("size", [(1, 1), (15, 17), (16, 16), (33, 250), (250, 33)])
    @pytest.mark.parametrize("cell", [(16, 16), (8, 5), (300, 300)])
    def test_odd_sizes_keep_their_last_blocks(
        self, size: tuple[int, int], cell: tuple[int, int]
    ) -> None:
        pixels = noise(*size)
        overview = read_overview(FakeSlide([pixels], cell), (0.5, 0.5), 8.0)
        assert is_near(overview.pixels, expected(pixels, 16, cell))

    def test_its_mpp_is_the_mean_of_x_and_y(self) -> None:
        slide = FakeSlide([noise(160, 320)], (16, 16), (0.5, 0.52))
        assert read_overview(slide, (0.5, 0.52)).mpp == pytest.approx((8 + 8.32) / 2)

    def test_a_huge_slide_gets_a_coarser_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tiler.overview, "_OVERVIEW_PIXELS", 100.0)
        slide = FakeSlide([noise(200, 400)], (16, 16))
        overview = read_overview(slide, (0.5, 0.5), 1.0)
        assert overview.pixels.shape[0] * overview.pixels.shape[1] <= 8 * 15, (
            "a little more for the edges"
        )
        assert overview.mpp == 14.0

    def test_a_slide_without_a_pyramid_is_walked_in_strips(self) -> None:
        most = 0
        slide = HugeSlide(2000, 4000, 100, 0.5)
        read_cell, alive = slide.read_cell, [0]

        def watched(level: int, column: int, row: int, reduce: int = 1) -> Rgb:
            nonlocal most
            cell = read_cell(level, column, row, reduce)
            alive[0] += 1
            most = max(most, alive[0])
            weakref.finalize(cell, lambda: alive.__setitem__(0, alive[0] - 1))
            return cell

        slide.read_cell = watched  # type: ignore[method-assign]
        read_overview(slide, (0.5, 0.5))
        assert len(slide.reads) == 20 * 40
        assert most <= 2 * 20, "two rows of cells"


def test_an_overview_of_odd_size_knows_where_its_pixels_lie() -> None:
    """The last column holds what is left over: its share of the slide is smaller than its place."""
    pixels = noise(330, 1001)
    pixels[:, 992:] = 0
    slide = FakeSlide([pixels], cell=(64, 64))
    overview = read_overview(slide, (0.5, 0.5))
    assert overview.pixels.shape[:2] == (21, 63)
    assert overview.l0_per_px == (16.0, 16.0)
    assert overview.pixels[:, 62].max() == 0
    assert overview.pixels[:, 61].min() > 0


class TestDamage:
    def test_what_a_level_lacks_comes_from_the_finer_one(self) -> None:
        class Damaged(FakeSlide):
            """Its coarse level has lost a cell, its finest level is whole."""

            def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
                if (level, column, row) == (1, 1, 1):
                    raise PixelReadError("it is cut off")
                return super().read_cell(level, column, row, reduce)

        fine = np.kron(noise(16, 24), np.ones((16, 16, 1), np.uint8))
        coarse = fine[::4, ::4]
        whole = read_overview(FakeSlide([fine, coarse]), (0.5, 0.5))
        found = read_overview(Damaged([fine, coarse]), (0.5, 0.5))
        assert not found.unread.any()
        assert is_near(found.pixels, whole.pixels)

    def test_what_no_level_has_is_background_and_said(self) -> None:
        pixels = noise(64, 96)
        slide = FakeSlide([pixels], (32, 32), damaged=frozenset({(1, 1)}))
        found = read_overview(slide, (0.5, 0.5))
        assert (
            found.unread.tolist()
            == [[False] * 6] * 2 + [[False, False, True, True, False, False]] * 2
        )
        assert (found.pixels[found.unread] == BACKGROUND).all()
        assert is_near(found.pixels[:2], expected(pixels[:32], 16, (32, 32)))


@pytest.mark.parametrize("width", range(1470, 1540))
def test_a_hole_at_the_edge_is_filled_whatever_the_width(width: int) -> None:
    class Damaged(FakeSlide):
        """The last cell of its coarse level is lost."""

        def read_cell(self, level: int, column: int, row: int, reduce: int = 1) -> Rgb:
            place = self.facts.levels[level]
            if level == 1 and column == -(-place.width // place.cell_width) - 1:
                raise PixelReadError("it is cut off")
            return super().read_cell(level, column, row, reduce)

    slide = Damaged([np.full((64, n, 3), 90, np.uint8) for n in (width, width // 4)], (64, 64))
    found = read_overview(slide, (0.5, 0.5))
    assert not found.unread.any()
    assert (found.pixels == 90).all()
