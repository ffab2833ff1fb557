"""What a run is asked for: every parameter that changes which tiles are cut or what is in them.

Checked on construction. `TileSpec.to_json` is the part of a store's identity that the user chose;
stores made with another spec are never mixed or overwritten silently. Sizes are pixels of the
output tile, resolutions µm per pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from manifests.codec import TileCodec
from manifests.files import Json
from tiler.errors import TilerError

Edge = Literal["drop", "pad"]
Reader = Literal["auto", "openslide"]

TISSUE_VERSION = 2
"""Counts changes of the tissue mask that change which tiles are kept."""

PIXEL_VERSION = 2
"""Counts changes of reading and resampling that change pixels."""

QUALITY_VERSION = 2
"""Counts changes of the quality columns."""


@dataclass(frozen=True, slots=True)
class TileSpec:
    """How tiles are cut."""

    mpps: tuple[float, ...]
    """Requested µm/px, ascending; one group per value. Empty: as the pictures are (packed only)."""
    tile_size: int = 256
    """Side of a tile in px."""
    stride: int | None = None
    """Distance of neighbouring tiles in px of the tile; None: the tile size, no overlap."""
    edge: Edge = "drop"
    """`drop` tiles that reach over the edge, or `pad` them with the background colour."""
    min_tissue: float = 0.5
    """Share of a tile's area that must be tissue, 0 to 1."""
    tissue: bool = True
    """Whether a tissue mask decides at all."""
    max_tiles: int | None = None
    """Keep at most so many tiles per slide and resolution, drawn uniformly."""
    seed: int = 0
    """Seed of that draw."""
    mpp_tolerance: float = 0.01
    """Relative scale error up to which a level is taken as it is instead of resampled."""
    allow_upsample: bool = False
    """Whether tiles finer than the slide's finest level may be interpolated."""
    shard_tiles: int = 512
    """Tiles in a shard, the unit of work and of writing."""
    codec: TileCodec = field(default_factory=lambda: TileCodec("jpeg"))
    quality: bool = True
    """Whether the quality columns are measured."""
    exact: bool = False
    """Whether all pixels are decoded in full and averaged, none decoded at a smaller scale."""
    native: bool = False
    """Take the file's own tiles as they are: their side and grid replace size and stride."""
    reader: Reader = "auto"
    """`openslide` reads all pixels through OpenSlide; `auto` decodes a file's own tiles."""

    def __post_init__(self) -> None:
        for mpp in self.mpps:
            _require(
                math.isfinite(mpp) and 0.01 <= mpp <= 1000,
                f"--mpp {mpp:g} is not in 0.01 to 1000 µm/px",
            )
        object.__setattr__(self, "mpps", tuple(sorted(set(self.mpps))))
        for finer, coarser in pairwise(self.mpps):
            # Groups are named by six digits.
            _require(
                f"{finer:g}" != f"{coarser:g}",
                f"--mpp {finer} and {coarser} are too close to be told apart; give one of them",
            )
        _require(
            1 <= self.tile_size <= 8192, f"--tile-size {self.tile_size} is not in 1 to 8192 px"
        )
        _require(
            self.stride is None or self.stride >= 1, f"--stride {self.stride} is not at least 1 px"
        )
        _require(
            not (self.native and self.stride is not None),
            "--stride needs a --tile-size in px; native tiles lie edge to edge",
        )
        _require(self.reader in ("auto", "openslide"), f"--reader {self.reader} is not known")
        _require(self.edge in ("drop", "pad"), f"--edge {self.edge} is neither drop nor pad")
        _require(0 <= self.min_tissue <= 1, f"--min-tissue {self.min_tissue:g} is not in 0 to 1")
        _require(
            self.max_tiles is None or self.max_tiles >= 1,
            f"--max-tiles {self.max_tiles} is not at least 1",
        )
        _require(0 <= self.seed < 2**63, f"--seed {self.seed} is not in 0 to 2^63 - 1")
        _require(
            0 <= self.mpp_tolerance < 0.5,
            f"--mpp-tolerance {self.mpp_tolerance:g} is not in 0 to 0.5",
        )
        _require(
            1 <= self.shard_tiles <= 65536, f"--shard-tiles {self.shard_tiles} is not in 1 to 65536"
        )

    @property
    def step(self) -> int:
        """Distance of neighbouring tiles in px of the tile."""
        return self.tile_size if self.stride is None else self.stride

    def to_json(self) -> dict[str, Json]:
        """Every parameter that changes pixels or positions, for hashing and for people."""
        return {
            "mpps": list(self.mpps),
            "tile_size": "native" if self.native else self.tile_size,
            "stride": None if self.native else self.step,
            "edge": self.edge,
            "min_tissue": self.min_tissue if self.tissue else None,
            "max_tiles": self.max_tiles,
            "seed": self.seed if self.max_tiles is not None else None,
            "mpp_tolerance": self.mpp_tolerance,
            "allow_upsample": self.allow_upsample,
            "shard_tiles": self.shard_tiles,
            "codec": self.codec.to_json(),
            "quality_columns": self.quality,
            "exact": self.exact,
            "reader": self.reader,
            "versions": {
                "tissue": TISSUE_VERSION,
                "pixels": PIXEL_VERSION,
                "quality": QUALITY_VERSION,
            },
        }


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise TilerError(sentence)
