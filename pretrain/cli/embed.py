"""`histopretrain embed`: features of all tiles, in one folder beside the tile stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.console import Display, exit_codes
from pretrain.cli.options import setting_options
from pretrain.cli.run import needs_extra
from pretrain.embedding.settings import EmbedSettings

if TYPE_CHECKING:
    from pretrain.embedding.embed import EmbedResult

_SECONDS_PER_LINE = 5.0
_NAMED = 5


@click.command()
@click.argument("encoder")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Where features go; new, or of the same command before.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@setting_options(EmbedSettings)
def embed(encoder: str, manifest: Path, out: Path, as_json: bool, **flags: Any) -> None:
    """Embed the tiles of MANIFEST with ENCODER, and write the features to a folder.

    ENCODER is a file that histopretrain wrote, random:ARCH, imagenet:ARCH, timm:ARCH=FILE or
    torchvision:ARCH=FILE. Each store gets a Zarr store of features, row by row in the order of its
    tiles; with --format h5 an HDF5 file a slide, as CLAM and TRIDENT have them. The same command
    goes on where it was stopped.
    """
    with exit_codes():
        settings = EmbedSettings(**{k: v for k, v in flags.items() if v is not None})
        with needs_extra():
            from pretrain.embedding.embed import embed as work
        from pretrain.stopping import Stopper

        with Display("tiles", every_s=_SECONDS_PER_LINE) as display, Stopper() as stopper:
            shown = _Shown(display)
            with needs_extra():
                result = work(encoder, manifest, out, settings, shown, stopper=stopper)
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=1))
        else:
            _print(result)
        _print_missing(result)
    raise SystemExit(result.exit_code)


class _Shown:
    """Shows on stderr how far it is."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def started(self, text: str) -> None:
        self._display.say(text)

    def embedded(self, done: int, total: int, tiles_per_s: float) -> None:
        self._display.update(f"{tiles_per_s:,.0f} tiles/s", done, total, now=done == total)

    def noted(self, text: str) -> None:
        self._display.say(f"Note: {text}")


def _print(result: EmbedResult) -> None:
    if not result.stores:
        return
    click.echo(f"features: {result.out}")
    stores = f"{result.stores} store{'s' if result.stores != 1 else ''}"
    click.echo(f"{result.tiles} tiles of {stores}, {result.features} features each")
    if result.embedded:
        click.echo(f"{result.tiles_per_s:.1f} tiles/s over {result.seconds:.1f} s")
    elif not result.failed:
        click.echo("Nothing to do: all tiles are embedded.", err=True)


def _print_missing(result: EmbedResult) -> None:
    if result.damaged:
        named = ", ".join(result.damaged[:_NAMED])
        more = f" and {len(result.damaged) - _NAMED} more" if len(result.damaged) > _NAMED else ""
        click.echo(f"Note: damaged tiles without features: {named}{more}", err=True)
    if result.failed:
        what = "no store could be embedded" if not result.stores else "stores without features"
        click.echo(f"Note: {what}: {', '.join(sorted(result.failed)[:_NAMED])}", err=True)
