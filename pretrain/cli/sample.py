"""`histopretrain sample`: what a run would draw, without running it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.console import exit_codes
from pretrain.cli.options import config_options, make_config
from pretrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pretrain.watch.montage import Row

_SETTINGS = (
    "seed",
    "batch_size",
    "image_size",
    "balance",
    "mix_temperature",
    "weight",
    "max_per_slide",
    "max_per_patient",
    "split",
    "resize",
)
_TILE_SIDE, _VIEW_SIDE = 96, 160


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--draws",
    type=click.IntRange(1, 10_000_000),
    default=10_000,
    show_default=True,
    help="Tiles to draw and count; few of them are read.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("sample"),
    show_default=True,
    help="Folder for the pictures, tiles.png and views.png.",
)
@click.option("--pictures/--no-pictures", default=True, help="Make pictures.  [default: on]")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@config_options(_SETTINGS)
def sample(
    manifest: Path, draws: int, out: Path, pictures: bool, as_json: bool, **flags: Any
) -> None:
    """Show what a run on MANIFEST would draw, without training.

    Prints the share of each stratum as stated and as drawn. Writes a picture of tiles by stratum
    (tiles.png), and one of tiles beside the two views that a run makes of them (views.png).
    """
    with exit_codes():
        from manifests.files import pretty_json
        from manifests.listing import print_listing
        from pretrain.watch.sample import sample_listing, take_sample, tile_rows

        taken = take_sample(make_config(flags), manifest, draws)
        if as_json:
            click.echo(pretty_json(taken.to_json()).decode(), nl=False)
        else:
            print_listing(sample_listing(taken))
        if not pictures:
            return
        rows = tile_rows(taken)
        _write(out / "tiles.png", rows, _TILE_SIDE)
        if more := len(taken.strata) - len(rows):
            click.echo(f"{out / 'tiles.png'} leaves out {more} more strata", err=True)
        try:
            from pretrain.watch.sample import view_rows

            rows = view_rows(taken)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            click.echo(
                "No views.png: that needs torch, pip install 'histotile[pretrain]'", err=True
            )
            return
        _write(out / "views.png", rows, _VIEW_SIDE, ("tile", "view 1", "view 2"))


def _write(file: Path, rows: Sequence[Row], side: int, headings: Sequence[str] = ()) -> None:
    from manifests.files import write_atomic
    from pretrain.watch.montage import montage

    data = io.BytesIO()
    montage(rows, side, headings).save(data, "PNG")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"{file.parent} is a file: give --out a folder") from error
    write_atomic(file, data.getvalue())
    click.echo(f"Picture: {file}", err=True)
