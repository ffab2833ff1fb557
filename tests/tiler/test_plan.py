"""Plans: whose mpp counts, which level is read, which tiles are kept, and that nothing is lost."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.tiler.fakes import facts_of
from tiler.errors import UnknownResolution
from tiler.options import Edge, TileSpec
from tiler.plan import ReadPlan, TileMask, TilePlan, plan_read, plan_tiles, slide_mpp
from tiler.slides.base import Level

RELAXED = settings(deadline=None)


def pyramid(width: int, height: int, *downsamples: int) -> tuple[Level, ...]:
    """Levels as scanners write them: sizes cut off, downsamples the ratio of what is left."""
    sizes = [(width // d, height // d) for d in downsamples]
    return tuple(Level(w, h, width / w, height / h, 256, 256) for w, h in sizes)


LEVELS = pyramid(64_000, 48_000, 1, 4, 16)


class TestWhoseMpp:
    TRUE = facts_of(LEVELS, (0.25, 0.251))
    NONE = facts_of(LEVELS, None)
    LYING = facts_of(LEVELS, None, mpp_problem="an mpp of 352.8 x 352.8 µm/px is a screen's")

    def test_the_table_wins_over_the_file(self) -> None:
        found = slide_mpp(self.TRUE, 0.254, 0.5)
        assert (found.mpp, found.source, found.warning) == ((0.254, 0.254), "slides table", None)

    @pytest.mark.parametrize("table_mpp", [0.5, 0.2556, 0.2446])
    def test_a_table_that_contradicts_the_file_is_said(self, table_mpp: float) -> None:
        warning = slide_mpp(self.TRUE, table_mpp, None).warning
        assert warning == f"the slides table says {table_mpp:g} µm/px, the file 0.25"

    def test_the_file_wins_over_the_assumption(self) -> None:
        found = slide_mpp(self.TRUE, None, 0.5)
        assert (found.mpp, found.source, found.warning) == ((0.25, 0.251), "openslide", None)

    def test_the_assumption_serves_where_the_file_has_none(self) -> None:
        found = slide_mpp(self.NONE, None, 0.5)
        assert (found.mpp, found.source, found.warning) == ((0.5, 0.5), "--assume-mpp", None)

    def test_the_assumption_serves_where_the_file_lies_and_the_lie_is_said(self) -> None:
        found = slide_mpp(self.LYING, None, 0.5)
        assert (found.mpp, found.source) == ((0.5, 0.5), "--assume-mpp")
        assert found.warning == self.LYING.mpp_problem

    def test_a_slide_of_unknown_mpp_is_refused_with_what_to_do(self) -> None:
        with pytest.raises(UnknownResolution, match=r"carries no µm per pixel; .*--assume-mpp"):
            slide_mpp(self.NONE, None, None)
        with pytest.raises(UnknownResolution, match=r"352\.8 µm/px is a screen's; .*--slides"):
            slide_mpp(self.LYING, None, None)

    @pytest.mark.parametrize("nonsense", [0.0, -0.25, math.nan, math.inf, 72.0, 0.001])
    def test_a_value_that_no_microscope_gives_is_refused_whoever_says_it(
        self, nonsense: float
    ) -> None:
        with pytest.raises(UnknownResolution, match="the slides table gives an mpp of"):
            slide_mpp(self.TRUE, nonsense, 0.5)
        with pytest.raises(UnknownResolution, match="--assume-mpp gives an mpp of"):
            slide_mpp(self.NONE, None, nonsense)


class TestLevel:
    @pytest.mark.parametrize(
        ("requested", "level", "scale", "true_mpp"),
        [
            (0.25, 0, 1, 0.25),
            (0.248, 0, 1, 0.25),
            (0.2525, 0, 1, 0.25),
            (0.26, 0, 1.04, 0.26),
            (0.5, 0, 2, 0.5),
            (0.75, 0, 3, 0.75),
            (0.98, 0, 3.92, 0.98),
            (0.995, 1, 1, 1.0),
            (1.0, 1, 1, 1.0),
            (1.01, 1, 1, 1.0),
            (1.02, 1, 1.02, 1.02),
            (3.9, 1, 3.9, 3.9),
            (3.97, 2, 1, 4.0),
            (4.04, 2, 1, 4.0),
            (5.0, 2, 1.25, 5.0),
            (100.0, 2, 25, 100.0),
        ],
    )
    def test_the_coarsest_level_that_is_not_coarser_is_read(
        self, requested: float, level: int, scale: float, true_mpp: float
    ) -> None:
        read = plan_read(LEVELS, (0.25, 0.25), requested, TileSpec((requested,)))
        assert read.level == level
        assert read.scale == pytest.approx((scale, scale))
        assert read.mpp == pytest.approx((true_mpp, true_mpp))
        assert read.as_is == (scale == 1)
        assert read.scale_error == pytest.approx(abs(true_mpp / requested - 1), abs=1e-12)

    @pytest.mark.parametrize(("requested", "as_is"), [(0.25, True), (0.2501, False), (1.0, True)])
    def test_without_tolerance_only_the_very_mpp_is_taken_as_it_is(
        self, requested: float, as_is: bool
    ) -> None:
        spec = TileSpec((requested,), mpp_tolerance=0)
        assert plan_read(LEVELS, (0.25, 0.25), requested, spec).as_is == as_is

    def test_each_axis_is_scaled_by_its_own_mpp(self) -> None:
        read = plan_read(LEVELS, (0.25, 0.26), 0.5, TileSpec((0.5,)))
        assert read.scale == pytest.approx((2, 0.5 / 0.26))
        assert read.mpp == (0.5, 0.5)

    def test_one_axis_out_of_tolerance_is_resampled(self) -> None:
        read = plan_read(LEVELS, (0.25, 0.252), 0.253, TileSpec((0.253,)))
        assert not read.as_is
        assert read.scale == pytest.approx((0.253 / 0.25, 0.253 / 0.252))

    def test_one_axis_that_is_coarser_than_asked_for_is_upsampling(self) -> None:
        spec = TileSpec((0.255,))
        with pytest.raises(UnknownResolution, match=r"finest level has 0\.26 µm/px"):
            plan_read(LEVELS, (0.25, 0.26), 0.255, spec)

    def test_upsampling_is_refused_with_what_to_do(self) -> None:
        message = (
            "the finest level has 0.25 µm/px, coarser than the requested 0.2 by more than 1 %; "
            "ask for a larger --mpp or --mpp-tolerance, or accept blur with --allow-upsample"
        )
        with pytest.raises(UnknownResolution) as caught:
            plan_read(LEVELS, (0.25, 0.25), 0.2, TileSpec((0.2,)))
        assert str(caught.value) == message

    def test_upsampling_that_is_allowed_enlarges_the_finest_level(self) -> None:
        read = plan_read(LEVELS, (0.25, 0.25), 0.1, TileSpec((0.1,), allow_upsample=True))
        assert (read.level, read.mpp) == (0, (0.1, 0.1))
        assert read.scale == pytest.approx((0.4, 0.4))

    @RELAXED
    @given(
        finest=st.floats(0.1, 2),
        aspect=st.floats(0.96, 1.04),
        factors=st.lists(st.integers(2, 8), max_size=4),
        requested=st.floats(0.02, 100),
        tolerance=st.sampled_from((0.0, 0.01, 0.2)),
        size=st.integers(1, 2000),
    )
    def test_a_tile_of_s_px_at_m_covers_s_times_m(
        self,
        finest: float,
        aspect: float,
        factors: list[int],
        requested: float,
        tolerance: float,
        size: int,
    ) -> None:
        downsamples = [math.prod(factors[:n]) for n in range(len(factors) + 1)]
        levels = pyramid(50_021, 40_009, *downsamples)
        mpp = (finest, finest * aspect)
        spec = TileSpec((requested,), mpp_tolerance=tolerance, allow_upsample=True)
        read = plan_read(levels, mpp, requested, spec)
        covered_um = [size * per_px * um for per_px, um in zip(read.l0_per_px, mpp, strict=True)]
        assert covered_um == pytest.approx([size * value for value in read.mpp])
        assert read.scale_error <= (tolerance if read.rest == (1, 1) else 1e-9)
        finer = [
            lv
            for lv in levels
            if max(mpp[0] * lv.downsample_x, mpp[1] * lv.downsample_y) <= requested
        ]
        if finer and read.rest != (1, 1):
            assert levels[read.level] == finer[-1]

    @RELAXED
    @given(requested=st.floats(0.3, 60))
    def test_the_way_through_a_store_changes_nothing(self, requested: float) -> None:
        read = plan_read(LEVELS, (0.25, 0.2512), requested, TileSpec((requested,)))
        assert ReadPlan.from_json(read.to_json()) == read


Mask = npt.NDArray[np.bool_]


def planned(
    levels: tuple[Level, ...],
    spec: TileSpec,
    mask: Mask | None = None,
    *,
    bounds: tuple[int, int, int, int] | None = None,
    key: str = "slide-a",
) -> TilePlan:
    facts = facts_of(levels, (0.25, 0.25), bounds)
    read = plan_read(levels, (0.25, 0.25), spec.mpps[0], spec)
    if mask is None:
        return plan_tiles(facts, read, spec, None, key)
    per_px = (levels[0].width / mask.shape[1], levels[0].height / mask.shape[0])
    return plan_tiles(facts, read, spec, TileMask(mask, per_px), key)


def corners(plan: TilePlan) -> set[tuple[int, int]]:
    found = {(x, y) for x, y in plan.l0_xy.tolist()}
    assert len(found) == len(plan.l0_xy)
    return found


SMALL = pyramid(1000, 600, 1)


class TestTiles:
    @pytest.mark.parametrize(
        ("min_tissue", "kept"),
        [(0.0, 9), (0.01, 9), (0.5, 5), (0.51, 4), (0.9, 1), (0.91, 0), (1.0, 0)],
    )
    def test_a_tile_with_exactly_the_least_tissue_is_kept(
        self, min_tissue: float, kept: int
    ) -> None:
        # Ten tiles of 100 px, with 0, 10, ... 90 of their 100 rows of mask.
        mask = np.zeros((100, 1000), dtype=np.bool_)
        for index in range(10):
            mask[: 10 * index, 100 * index : 100 * index + 100] = True
        spec = TileSpec((0.25,), 100, min_tissue=min_tissue)
        plan = planned(pyramid(1000, 100, 1), spec, mask)
        shares = np.arange(10) / 10
        at_least = shares[(shares >= min_tissue) & (shares > 0)]
        assert len(plan.l0_xy) == len(at_least) == kept
        assert np.sort(plan.tissue) == pytest.approx(at_least)

    def test_a_tile_without_any_tissue_is_no_tile_even_at_zero(self) -> None:
        mask = np.zeros((6, 10), dtype=np.bool_)
        mask[0, 0] = True
        plan = planned(SMALL, TileSpec((0.25,), 100, min_tissue=0), mask)
        assert corners(plan) == {(0, 0)}
        assert plan.dropped == {"edge": 0, "tissue": 59, "max_tiles": 0}

    def test_without_a_mask_every_position_is_kept(self) -> None:
        plan = planned(SMALL, TileSpec((0.25,), 100, min_tissue=1))
        assert len(plan.l0_xy) == 60
        assert set(plan.tissue.tolist()) == {1.0}

    @RELAXED
    @given(
        tile=st.integers(40, 300),
        stride=st.integers(40, 300),
        edge=st.sampled_from(("drop", "pad")),
        min_tissue=st.floats(0, 1),
        max_tiles=st.none() | st.integers(1, 40),
        requested=st.floats(0.25, 1.5),
        seed=st.integers(0, 100),
    )
    def test_kept_and_dropped_add_up_to_the_whole_grid(
        self,
        tile: int,
        stride: int,
        edge: Edge,
        min_tissue: float,
        max_tiles: int | None,
        requested: float,
        seed: int,
    ) -> None:
        mask = np.random.default_rng(seed).random((30, 50)) < 0.5
        spec = TileSpec((requested,), tile, stride, edge, min_tissue, max_tiles=max_tiles)
        plan = planned(SMALL, spec, mask)
        # The grid that covers the slide: as many steps as it takes, at least one tile.
        columns, rows = (
            1 + max(0, math.ceil((side / plan.read.l0_per_px[0] - tile) / stride - 1e-6))
            for side in (1000, 600)
        )
        assert len(plan.l0_xy) + sum(plan.dropped.values()) == columns * rows
        assert min(plan.dropped.values()) >= 0
        assert edge == "drop" or plan.dropped["edge"] == 0
        assert max_tiles is None or len(plan.l0_xy) <= max_tiles
        assert (plan.tissue >= min_tissue - 1e-6).all()

    def test_the_share_of_tissue_is_that_of_the_mask_below_the_tile(self) -> None:
        mask = np.random.default_rng(1).random((600, 1000)) < 0.5
        plan = planned(SMALL, TileSpec((0.37,), 90, 51, min_tissue=0), mask)
        size = 90 * plan.read.l0_per_px[0]
        assert len(plan.l0_xy) > 50
        for (x, y), share in zip(plan.l0_xy.tolist(), plan.tissue.tolist(), strict=True):
            inner = mask[y : y + math.floor(size), x : x + math.floor(size)].sum()
            outer = mask[y : y + math.ceil(size), x : x + math.ceil(size)].sum()
            assert inner / size**2 - 1e-6 <= share <= outer / size**2 + 1e-6

    def test_tissue_beyond_the_slide_is_none(self) -> None:
        spec = TileSpec((0.25,), 400, edge="pad", min_tissue=0)
        plan = planned(SMALL, spec, np.ones((6, 10), dtype=np.bool_))
        shares = dict(zip(map(tuple, plan.l0_xy.tolist()), plan.tissue.tolist(), strict=True))
        assert shares == {
            (0, 0): 1, (400, 0): 1, (800, 0): 0.5, (0, 400): 0.5, (400, 400): 0.5, (800, 400): 0.25
        }  # fmt: skip

    def test_a_draw_keeps_tiles_of_the_full_plan_and_counts_the_rest(self) -> None:
        full = planned(SMALL, TileSpec((0.25,), 50))
        some = planned(SMALL, TileSpec((0.25,), 50, max_tiles=100))
        assert corners(some) < corners(full)
        assert (len(some.l0_xy), some.dropped["max_tiles"]) == (100, 140)
        assert corners(planned(SMALL, TileSpec((0.25,), 50, max_tiles=60))) < corners(some)

    def test_a_draw_depends_on_seed_slide_and_resolution(self) -> None:
        spec = TileSpec((0.25,), 50, max_tiles=100)
        one = corners(planned(SMALL, spec))
        assert one == corners(planned(SMALL, spec))
        assert one != corners(planned(SMALL, spec, key="slide-b"))
        assert one != corners(planned(SMALL, TileSpec((0.25,), 50, max_tiles=100, seed=1)))

    def test_a_limit_that_is_not_reached_drops_nothing(self) -> None:
        plan = planned(SMALL, TileSpec((0.25,), 100, max_tiles=60))
        assert (len(plan.l0_xy), plan.dropped["max_tiles"]) == (60, 0)


class TestBounds:
    def test_the_grid_begins_where_the_scan_begins(self) -> None:
        plan = planned(SMALL, TileSpec((0.25,), 100), bounds=(37, 41, 250, 199))
        assert corners(plan) == {(37, 41), (137, 41)}
        assert plan.dropped["edge"] == 3 * 2 - 2

    @pytest.mark.parametrize("requested", [0.25, 0.5, 1.0, 1.3, 4.0])
    @pytest.mark.parametrize("bounds", [(0, 0, 8003, 6001), (1237, 801, 5001, 4003)])
    def test_tiles_stay_inside_the_scan_whatever_the_level(
        self, requested: float, bounds: tuple[int, int, int, int]
    ) -> None:
        levels = pyramid(8003, 6001, 1, 4, 16)
        plan = planned(levels, TileSpec((requested,), 64), bounds=bounds)
        x, y, width, height = bounds
        size = 64 * plan.read.l0_per_px[0]
        level = levels[plan.read.level]
        # Positions are rounded to level-0 pixels, downsamples to whole sizes of levels.
        slack = 0.5 + 0.01 * level.downsample_x
        assert (plan.l0_xy >= (x, y)).all()
        assert (plan.l0_xy + size <= np.array([x + width, y + height]) + slack).all()
        assert len(plan.l0_xy) >= (width // size - 1) * (height // size - 1)

    def test_tiles_taken_as_they_are_begin_on_pixels_of_their_level(self) -> None:
        levels = pyramid(8003, 6001, 1, 4, 16)
        plan = planned(levels, TileSpec((4.0,), 24), bounds=(1237, 801, 5001, 4003))
        level_xy = plan.l0_xy / (levels[2].downsample_x, levels[2].downsample_y)
        assert plan.read.as_is
        assert abs(level_xy - np.rint(level_xy)).max() < 0.5 / 16
        assert np.rint(level_xy).min(axis=0).tolist() == [78, 51]

    @pytest.mark.parametrize("off", [1 - 2e-6, 1, 1 + 2e-6])
    def test_a_level_that_just_fits_loses_no_tile_to_a_rounded_downsample(self, off: float) -> None:
        full, half = pyramid(4 * 256 * 7 + 3, 4 * 256 * 5 + 2, 1, 4)
        half = replace(half, downsample_x=half.downsample_x * off)
        plan = planned((full, half), TileSpec((1.0,), 256))
        assert (plan.read.level, len(plan.l0_xy)) == (1, 35)


def test_the_store_is_told_what_was_planned() -> None:
    spec = TileSpec((0.5,), 100, 80, shard_tiles=7)
    plan = planned(SMALL, spec, np.ones((6, 10), dtype=np.bool_))
    group = plan.group_plan(spec)
    assert group.layout.count == len(plan.l0_xy)
    assert (group.layout.tile_size, group.layout.shard_tiles) == (100, 7)
    assert ReadPlan.from_json(group.attributes) == plan.read
    assert group.attributes["stride"] == 80
    assert group.attributes["dropped"] == plan.dropped
    assert np.array_equal(np.stack([group.columns["x"], group.columns["y"]], 1), plan.l0_xy)
    assert np.array_equal(group.columns["tissue"], plan.tissue)


@RELAXED
@given(requested=st.floats(0.25, 3), shard_tiles=st.integers(1, 60))
def test_planning_twice_gives_the_same_order(requested: float, shard_tiles: int) -> None:
    spec = TileSpec((requested,), 32, max_tiles=200, shard_tiles=shard_tiles)
    mask = np.random.default_rng(0).random((30, 50)) < 0.7
    one, two = planned(SMALL, spec, mask), planned(SMALL, spec, mask)
    assume(len(one.l0_xy))
    assert np.array_equal(one.l0_xy, two.l0_xy)
    assert one.dropped == two.dropped
