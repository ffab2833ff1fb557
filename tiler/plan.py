"""What to read for a requested resolution, and which tiles to keep. Pure functions, no I/O.

`l0_` is a level-0 pixel, `level_` a pixel of the level that is read, mpp µm per pixel; pairs are
(x, y). The tile count is known when planning ends, before the first pixel of a tile is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from manifests.files import Json
from manifests.layout import TilesLayout
from manifests.writer import GroupPlan
from tiler.errors import NoNativeTiles, UnknownResolution
from tiler.grid import Ints, draw, make_grid, spatial_order
from tiler.options import TileSpec
from tiler.slides.base import REDUCTIONS, Level, SlideFacts, mpp_problem
from tiler.tissue import tissue_share

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SlideMpp:
    """The µm per level-0 pixel that is used for a slide."""

    mpp: Pair
    source: str
    """`openslide`, `ome-xml`, `tiff tags`, `slides table`, `--assume-mpp`."""
    warning: str | None = None
    """Set when the user's value contradicts the file's."""


def slide_mpp(facts: SlideFacts, table_mpp: float | None, assumed_mpp: float | None) -> SlideMpp:
    """Decide on a slide's mpp: the slides table wins, then the file, then `--assume-mpp`.

    Raises:
        UnknownResolution: none of them gives a believable value.
    """
    if table_mpp is not None:
        problem = mpp_problem(table_mpp, table_mpp)
        if problem is not None:
            raise UnknownResolution(f"the slides table gives {problem}")
        warning = None
        if facts.mpp is not None and abs(facts.mpp[0] / table_mpp - 1) > 0.02:
            warning = f"the slides table says {table_mpp:g} µm/px, the file {facts.mpp[0]:g}"
        return SlideMpp((table_mpp, table_mpp), "slides table", warning)
    if facts.mpp is not None:
        return SlideMpp(facts.mpp, facts.mpp_source)
    if assumed_mpp is not None:
        problem = mpp_problem(assumed_mpp, assumed_mpp)
        if problem is not None:
            raise UnknownResolution(f"--assume-mpp gives {problem}")
        return SlideMpp((assumed_mpp, assumed_mpp), "--assume-mpp", facts.mpp_problem)
    found = facts.mpp_problem or "the file carries no µm per pixel"
    raise UnknownResolution(
        f"{found}; give it in the column mpp of --slides, or for all such slides by --assume-mpp"
    )


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How tiles of one resolution are read from a slide."""

    mpp_requested: float
    mpp: Pair
    """True µm per pixel of the tiles."""
    level: int
    """Level that is read."""
    reduce: int
    """Pixels of that level, in x and in y, that decoding makes one of: 1, 2, 4 or 8."""
    scale: Pair
    """Pixels of that level per pixel of a tile; exactly `reduce` where nothing is left to do."""
    l0_per_px: Pair
    """Level-0 pixels per pixel of a tile."""

    @property
    def group(self) -> str:
        """Name of the group in the store."""
        return f"{self.mpp_requested:g}"

    @property
    def as_is(self) -> bool:
        """Whether pixels are taken from the level without resampling."""
        return self.scale == (1.0, 1.0)

    @property
    def rest(self) -> Pair:
        """Decoded pixels per pixel of a tile; exactly 1 where they are taken as they are."""
        return self.scale[0] / self.reduce, self.scale[1] / self.reduce

    @property
    def scale_error(self) -> float:
        """Largest relative difference of true and requested mpp."""
        return max(abs(value / self.mpp_requested - 1) for value in self.mpp)

    def to_json(self) -> dict[str, Json]:
        """Group attributes; `from_json` reads them back."""
        return {
            "mpp": list(self.mpp),
            "mpp_requested": self.mpp_requested,
            "level": self.level,
            "reduce": self.reduce,
            "scale": list(self.scale),
            "l0_per_px": list(self.l0_per_px),
        }

    @classmethod
    def from_json(cls, data: Json) -> ReadPlan:
        """Read group attributes of a store."""
        pairs = {k: (float(data[k][0]), float(data[k][1])) for k in ("mpp", "scale", "l0_per_px")}
        whole = (data["level"], data["reduce"])
        return cls(data["mpp_requested"], pairs["mpp"], *whole, pairs["scale"], pairs["l0_per_px"])


def reduced(level: Level, reduce: int) -> Level:
    """A level as it looks when `reduce` x `reduce` of its pixels become one while it is decoded."""
    if reduce == 1:
        return level
    return Level(
        width=level.width // reduce,
        height=level.height // reduce,
        downsample_x=level.downsample_x * reduce,
        downsample_y=level.downsample_y * reduce,
        cell_width=level.cell_width // reduce,
        cell_height=level.cell_height // reduce,
    )


def plan_read(levels: tuple[Level, ...], mpp: Pair, requested: float, spec: TileSpec) -> ReadPlan:
    """Choose the level and the scale for a requested mpp.

    A level whose mpp is within `spec.mpp_tolerance` of the request is taken as it is, and its true
    mpp recorded; failing that, so is the half, quarter or eighth of a level. Otherwise the coarsest
    level that is not coarser than the request is reduced: by one of these factors while it is
    decoded, unless `spec.exact`, and by area averaging for the rest.

    Raises:
        UnknownResolution: the slide is coarser than the request and upsampling was not allowed.
    """
    taken = _within_tolerance(levels, mpp, requested, spec)
    if taken is not None:
        level, reduce = taken
        read = reduced(levels[level], reduce)
        per_px = (read.downsample_x, read.downsample_y)
        true_mpp = (mpp[0] * per_px[0], mpp[1] * per_px[1])
        return ReadPlan(requested, true_mpp, level, reduce, (float(reduce), float(reduce)), per_px)
    level = _coarsest_fine_enough(levels, mpp, requested, spec)
    place = levels[level]
    level_mpp = (mpp[0] * place.downsample_x, mpp[1] * place.downsample_y)
    scale = (requested / level_mpp[0], requested / level_mpp[1])
    possible = (1,) if spec.exact else reductions(place)
    reduce = max(f for f in possible if f == 1 or _keeps_detail(scale, f))
    per_px = (scale[0] * place.downsample_x, scale[1] * place.downsample_y)
    return ReadPlan(requested, (requested, requested), level, reduce, scale, per_px)


def _keeps_detail(scale: Pair, reduce: int) -> bool:
    """Whether averaging what was decoded at 1 / reduce comes close to averaging all pixels.

    Above 40 dB if whole pixels are averaged, or at least two of them: measured on tissue. Tiles
    of 1.1 pixels each would be blurred (36 dB).
    """
    rest = (scale[0] / reduce, scale[1] / reduce)
    is_whole = all(round(s) >= 1 and abs(s - round(s)) < _EPSILON for s in rest)
    return is_whole or min(rest) >= _LEAST_AVERAGED


_LEAST_AVERAGED = 2.0


def _within_tolerance(
    levels: tuple[Level, ...], mpp: Pair, requested: float, spec: TileSpec
) -> tuple[int, int] | None:
    """The (level, reduce) that is close enough to be taken as it is: the fewest pixels win."""
    found = [
        (reduce, error, level)
        for level, place in enumerate(levels)
        for reduce in reductions(place)
        if (error := _mpp_error(place, mpp, reduce, requested)) <= spec.mpp_tolerance
    ]
    reduce, _, level = min(found, default=(0, 0.0, 0))
    return (level, reduce) if reduce else None


def _mpp_error(place: Level, mpp: Pair, reduce: int, requested: float) -> float:
    pair = (mpp[0] * place.downsample_x * reduce, mpp[1] * place.downsample_y * reduce)
    return max(abs(value / requested - 1) for value in pair)


def reductions(place: Level) -> tuple[int, ...]:
    """Factors that leave whole cells whole."""
    return tuple(
        factor
        for factor in REDUCTIONS
        if place.cell_width % factor == place.cell_height % factor == 0
        and min(place.width, place.height) >= factor
    ) or (1,)


def _coarsest_fine_enough(
    levels: tuple[Level, ...], mpp: Pair, requested: float, spec: TileSpec
) -> int:
    level_mpps = [(mpp[0] * lv.downsample_x, mpp[1] * lv.downsample_y) for lv in levels]
    fine = [i for i, pair in enumerate(level_mpps) if max(pair) <= requested * (1 + _EPSILON)]
    if not fine and not spec.allow_upsample:
        raise UnknownResolution(
            f"the finest level has {max(mpp):.4g} µm/px, coarser than the requested "
            f"{requested:g} by more than {100 * spec.mpp_tolerance:g} %; ask for a larger "
            "--mpp or --mpp-tolerance, or accept blur with --allow-upsample"
        )
    return max(fine, key=lambda i: level_mpps[i][0]) if fine else 0


_EPSILON = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class TileMask:
    """Where tiles may lie, as a picture of the slide from its top-left corner."""

    pixels: npt.NDArray[np.bool_]
    """bool (h, w)."""
    l0_per_px: Pair
    """Level-0 pixels per pixel of the mask, (x, y)."""


@dataclass(frozen=True, slots=True)
class TilePlan:
    """The tiles of one resolution of one slide."""

    read: ReadPlan
    l0_xy: Ints
    """Level-0 pixel of each tile's top-left corner, int32 (N, 2) as (x, y), in storage order."""
    tissue: npt.NDArray[np.float32]
    """Share of each tile's area that is tissue, float32 (N,)."""
    dropped: dict[str, int]
    """Grid positions that each filter dropped."""
    tile_size: int
    """Side of a tile in px."""
    stride: int
    """Distance of neighbouring tiles in px of the tile."""

    def group_plan(self, spec: TileSpec) -> GroupPlan:
        """The same as the store wants it."""
        return GroupPlan(
            layout=TilesLayout(len(self.l0_xy), self.tile_size, spec.shard_tiles, spec.codec),
            attributes={**self.read.to_json(), "stride": self.stride, "dropped": self.dropped},
            columns={"x": self.l0_xy[:, 0], "y": self.l0_xy[:, 1], "tissue": self.tissue},
        )


def plan_tiles(
    facts: SlideFacts,
    read: ReadPlan,
    spec: TileSpec,
    mask: TileMask | None,
    draw_key: str,
) -> TilePlan:
    """Choose the tiles of one resolution.

    Args:
        mask: where tiles may lie. None: everywhere.
        draw_key: tells this slide from others in a draw of `spec.max_tiles`.

    Raises:
        NoNativeTiles: the file's own tiles were asked for, and cannot be taken as they are.
    """
    if spec.native:
        spec = replace(spec, native=False, tile_size=_native_side(facts, read))
        origin, extent = _native_bounds(facts, read, spec)
    else:
        origin, extent = _bounds_on_level(facts, read)
    grid = make_grid(origin, extent, read.l0_per_px, spec.tile_size, spec.step, spec.edge)
    column, row = grid.cells()
    l0_xy = grid.l0_positions(column, row)
    share = _mask_share(mask, l0_xy, grid.l0_size)
    kept = np.flatnonzero((share > 0) & (share >= spec.min_tissue - _EPSILON))
    dropped = {"edge": grid.dropped_at_edge, "tissue": len(share) - len(kept), "max_tiles": 0}
    if spec.max_tiles is not None and len(kept) > spec.max_tiles:
        dropped["max_tiles"] = len(kept) - spec.max_tiles
        drawn = draw(column[kept], row[kept], spec.max_tiles, spec.seed, f"{draw_key}/{read.group}")
        kept = kept[drawn]
    band = _band_rows(reduced(facts.levels[read.level], read.reduce), read, spec)
    # Along the shorter side, so that the borders between parts of a slide are short.
    along, across = (row, column) if grid.columns > grid.rows else (column, row)
    kept = kept[spatial_order(along[kept], across[kept], band)]
    chosen = share[kept].astype(np.float32)
    return TilePlan(read, l0_xy[kept], chosen, dropped, spec.tile_size, spec.step)


def _band_rows(place: Level, read: ReadPlan, spec: TileSpec) -> int:
    """Rows of tiles that are walked together: as many as a shard is wide, if memory allows."""
    rest, cell = max(read.rest), max(place.cell_width, place.cell_height)
    row_bytes = 3 * (spec.tile_size * rest + cell) * spec.step * rest
    return max(1, min(math.ceil(math.sqrt(spec.shard_tiles)), int(_BAND_BYTES / row_bytes)))


_BAND_BYTES = 64e6
"""Decoded pixels that one step along a band keeps."""


def _native_side(facts: SlideFacts, read: ReadPlan) -> int:
    level = facts.levels[read.level]
    asked = f"--tile-size native at {read.mpp_requested:g} µm/px: "
    if not read.as_is:
        raise NoNativeTiles(
            f"{asked}the nearest level has {read.mpp[0] / read.scale[0]:.4g} µm/px; ask for a "
            "level's --mpp, or give a --tile-size in px"
        )
    if facts.pixels != "direct":
        raise NoNativeTiles(
            f"{asked}the file's tiles cannot be reached, {facts.pixels_why}; give a --tile-size in "
            "px"
        )
    if level.cell_width != level.cell_height:
        raise NoNativeTiles(
            f"{asked}the file's tiles are {level.cell_width} x {level.cell_height} px and not "
            "square; give a --tile-size in px"
        )
    return level.cell_width


def _native_bounds(facts: SlideFacts, read: ReadPlan, spec: TileSpec) -> tuple[Pair, Pair]:
    """The bounds in level-0 pixels, from a corner of the grid of the file's own tiles on."""
    level = facts.levels[read.level]
    origin, extent = _bounds_on_level(facts, read)
    begins, sizes = [], []
    for start, length, downsample in zip(
        origin, extent, (level.downsample_x, level.downsample_y), strict=True
    ):
        step = spec.tile_size * downsample
        whole = start / step
        index = math.floor(whole) if spec.edge == "pad" else math.ceil(whole - _EPSILON)
        begins.append(index * step)
        sizes.append(max(0.0, start + length - index * step))
    return (begins[0], begins[1]), (sizes[0], sizes[1])


def _bounds_on_level(facts: SlideFacts, read: ReadPlan) -> tuple[Pair, Pair]:
    """The slide's bounds in level-0 pixels, snapped to whole pixels of what is decoded."""
    level = reduced(facts.levels[read.level], read.reduce)
    x, y, width, height = facts.bounds
    if read.rest != (1.0, 1.0):
        return (float(x), float(y)), (float(width), float(height))
    left, top = math.ceil(x / level.downsample_x), math.ceil(y / level.downsample_y)
    right = min(level.width, math.floor((x + width) / level.downsample_x + _SNAP))
    bottom = min(level.height, math.floor((y + height) / level.downsample_y + _SNAP))
    origin = (left * level.downsample_x, top * level.downsample_y)
    return origin, ((right - left) * level.downsample_x, (bottom - top) * level.downsample_y)


_SNAP = 0.01
"""Downsamples are ratios of rounded sizes: a level may be this much of a pixel short."""


def _mask_share(mask: TileMask | None, l0_xy: Ints, l0_size: Pair) -> npt.NDArray[np.float64]:
    if mask is None:
        return np.ones(len(l0_xy))
    rects = np.empty((len(l0_xy), 4), dtype=np.float64)
    rects[:, :2] = l0_xy / np.asarray(mask.l0_per_px)
    rects[:, 2:] = np.asarray(l0_size) / np.asarray(mask.l0_per_px)
    return tissue_share(mask.pixels, rects)
