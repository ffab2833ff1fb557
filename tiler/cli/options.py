"""Options that several commands share: each is defined once, grouped by what it is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from manifests.cli.arguments import VOCABULARY

Command = TypeVar("Command", bound=Callable[..., Any])

NATIVE = "native"
ANY_PATH = click.Path(path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class TileSize(click.ParamType[int | str]):
    """A number of pixels, or `native`."""

    name = "tile size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Read the option's text."""
        if value == NATIVE or isinstance(value, int):
            return value  # type: ignore[no-any-return]
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of pixels nor {NATIVE}", param, ctx)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


SOURCES = with_options(
    click.argument("paths", nargs=-1, required=True, type=ANY_PATH),
    click.option(
        "--slides",
        type=_FILE,
        metavar="CSV",
        help="Table with a row per slide: the column slide, and any of organ, stain, dataset, "
        "license, patient, site, scanner, mpp, id, roi, or columns of your own.",
    ),
    click.option(
        "--assume-mpp",
        type=float,
        metavar="MPP",
        help="µm/px of slides and pictures that carry none.",
    ),
)
TILES = with_options(
    click.option(
        "--mpp",
        "mpps",
        type=float,
        multiple=True,
        metavar="MPP",
        help="µm per pixel of the tiles; give it several times for several resolutions.",
    ),
    click.option(
        "--tile-size",
        type=TileSize(),
        default=256,
        show_default=True,
        metavar="PX|native",
        help="Side of a tile; native: the slide's own tiles, kept as they are where they are JPEG.",
    ),
    click.option(
        "--stride",
        type=int,
        metavar="PX",
        help="Distance of neighbouring tiles; default: the tile size.",
    ),
    click.option(
        "--edge",
        type=click.Choice(["drop", "pad"]),
        default="drop",
        show_default=True,
        help="Tiles that reach over the slide's edge: leave them out, or pad them.",
    ),
    click.option(
        "--min-tissue",
        type=float,
        metavar="SHARE",
        help="Least share of a tile that is tissue; default 0.5.",
    ),
    click.option("--no-tissue", is_flag=True, help="Keep tiles without tissue too."),
    click.option(
        "--roi",
        type=click.Path(exists=True, path_type=Path),
        metavar="GEOJSON",
        help="Regions from QuPath to keep or exclude: a file, or a folder with one per slide.",
    ),
    click.option(
        "--roi-exclude",
        multiple=True,
        metavar="CLASS",
        help="Class of regions to exclude, besides Ignore*, Exclude*, Artifact*, Pen.",
    ),
    click.option(
        "--max-tiles",
        type=int,
        metavar="K",
        help="Keep at most K tiles per slide and resolution, drawn uniformly.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of that draw."),
    click.option(
        "--mpp-tolerance",
        type=float,
        default=0.01,
        show_default=True,
        metavar="SHARE",
        help="Take a level as it is if its mpp is this close to the one asked for.",
    ),
    click.option(
        "--allow-upsample",
        is_flag=True,
        help="Interpolate slides that are coarser than --mpp instead of failing them.",
    ),
    click.option(
        "--exact",
        is_flag=True,
        help="Decode all pixels in full and average them, instead of decoding at half scale and so "
        "on.",
    ),
    click.option(
        "--reader",
        type=click.Choice(["auto", "openslide"]),
        default="auto",
        show_default=True,
        help="auto decodes a slide's own tiles where it can; openslide reads through OpenSlide.",
    ),
    click.option(
        "--no-quality",
        is_flag=True,
        help="Leave out the columns focus, brightness, saturation and pen.",
    ),
    click.option(
        "--codec",
        type=click.Choice(["jpeg", "zstd"]),
        default="jpeg",
        show_default=True,
        help="jpeg (small) or zstd (lossless).",
    ),
    click.option(
        "--quality",
        type=click.IntRange(1, 100),
        default=90,
        show_default=True,
        help="JPEG quality.",
    ),
    click.option(
        "--subsampling",
        type=click.Choice(["444", "422", "420"]),
        default="444",
        show_default=True,
        help="JPEG chroma subsampling.",
    ),
    click.option(
        "--shard-tiles", type=int, default=512, show_default=True, help="Tiles in a shard."
    ),
)
KNOWN = with_options(
    click.option("--organ", metavar="NAME", help="Organ of all slides."),
    click.option("--stain", metavar="NAME", help="Stain of all slides."),
    click.option(
        "--dataset",
        metavar="NAME",
        help="Dataset that all slides belong to. One of the catalogue gives organ, stain, licence "
        "and mpp where nothing else does.",
    ),
    click.option("--license", "licence", metavar="NAME", help="Licence of all slides."),
    VOCABULARY,
)
WORKERS = with_options(
    click.option(
        "--workers",
        type=click.IntRange(0),
        metavar="N",
        help="Worker processes; default: one per CPU; 0: in this process.",
    ),
    click.option("--scheduler", metavar="tcp://HOST:PORT", help="Use a running Dask scheduler."),
    click.option(
        "--scheduler-file", type=_FILE, metavar="FILE", help="The same, by its scheduler file."
    ),
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
