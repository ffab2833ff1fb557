"""What to read for a requested resolution, and which tiles to keep. Pure functions, no I/O.

`l0_` is a level-0 pixel, `level_` a pixel of the level that is read, mpp µm per pixel; pairs are
(x, y). The tile count is known when planning ends, before the first pixel of a tile is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.files import Json
from manifests.layout import TilesLayout
from manifests.writer import GroupPlan
from tiler.errors import UnknownResolution
from tiler.grid import Ints, draw, make_grid, spatial_order
from tiler.options import TileSpec
from tiler.slides.base import Level, SlideFacts, mpp_problem
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
    scale: Pair
    """Pixels of that level per pixel of a tile; exactly 1 where the level is taken as it is."""
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
    def scale_error(self) -> float:
        """Largest relative difference of true and requested mpp."""
        return max(abs(value / self.mpp_requested - 1) for value in self.mpp)

    def to_json(self) -> dict[str, Json]:
        """Group attributes; `from_json` reads them back."""
        return {
            "mpp": list(self.mpp),
            "mpp_requested": self.mpp_requested,
            "level": self.level,
            "scale": list(self.scale),
            "l0_per_px": list(self.l0_per_px),
        }

    @classmethod
    def from_json(cls, data: Json) -> ReadPlan:
        """Read group attributes of a store."""
        pairs = {k: (float(data[k][0]), float(data[k][1])) for k in ("mpp", "scale", "l0_per_px")}
        return cls(mpp_requested=data["mpp_requested"], level=data["level"], **pairs)


def plan_read(levels: tuple[Level, ...], mpp: Pair, requested: float, spec: TileSpec) -> ReadPlan:
    """Choose the level and the scale for a requested mpp.

    A level whose mpp is within `spec.mpp_tolerance` of the request is taken as it is, and its true
    mpp recorded. Otherwise the coarsest level that is not coarser than the request is reduced.

    Raises:
        UnknownResolution: the slide is coarser than the request and upsampling was not allowed.
    """
    level_mpps = [(mpp[0] * lv.downsample_x, mpp[1] * lv.downsample_y) for lv in levels]
    errors = [max(abs(v / requested - 1) for v in pair) for pair in level_mpps]
    closest = min(range(len(levels)), key=errors.__getitem__)
    if errors[closest] <= spec.mpp_tolerance:
        level = closest
        scale, true_mpp = (1.0, 1.0), level_mpps[level]
    else:
        fine = [i for i, pair in enumerate(level_mpps) if max(pair) <= requested * (1 + _EPSILON)]
        if not fine and not spec.allow_upsample:
            raise UnknownResolution(
                f"the finest level has {max(mpp):.4g} µm/px, coarser than the requested "
                f"{requested:g} by more than {100 * spec.mpp_tolerance:g} %; ask for a larger "
                "--mpp or --mpp-tolerance, or accept blur with --allow-upsample"
            )
        level = max(fine, key=lambda i: level_mpps[i][0]) if fine else 0
        scale = (requested / level_mpps[level][0], requested / level_mpps[level][1])
        true_mpp = (requested, requested)
    read = levels[level]
    l0_per_px = (scale[0] * read.downsample_x, scale[1] * read.downsample_y)
    return ReadPlan(requested, true_mpp, level, scale, l0_per_px)


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

    def group_plan(self, spec: TileSpec) -> GroupPlan:
        """The same as the store wants it."""
        return GroupPlan(
            layout=TilesLayout(len(self.l0_xy), spec.tile_size, spec.shard_tiles, spec.codec),
            attributes={**self.read.to_json(), "stride": spec.step, "dropped": self.dropped},
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
    """
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
    kept = kept[spatial_order(column[kept], row[kept], spec.shard_tiles)]
    return TilePlan(read, l0_xy[kept], share[kept].astype(np.float32), dropped)


def _bounds_on_level(facts: SlideFacts, read: ReadPlan) -> tuple[Pair, Pair]:
    """The slide's bounds in level-0 pixels, snapped to whole pixels of the level that is read."""
    level = facts.levels[read.level]
    x, y, width, height = facts.bounds
    if not read.as_is:
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
