"""Commands that look and change nothing: `show` and `summary`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from manifests.cli.arguments import JSON, MANIFEST
from manifests.console import exit_codes

if TYPE_CHECKING:
    from manifests.describe.composition import Composition
    from manifests.model import Manifest

_CSV = click.option("--csv", "as_csv", is_flag=True, help="Print CSV for spreadsheets.")


@click.command()
@MANIFEST
@JSON
@_CSV
@exit_codes()
def show(manifest_path: Path, *, as_json: bool, as_csv: bool) -> None:
    """Print what MANIFEST holds: one row per slide, and totals.

    MANIFEST is a manifest.json or the folder that holds one.
    """
    from manifests.describe.summary import summarise, summary_csv, summary_json, summary_listing
    from manifests.files import pretty_json
    from manifests.jsonfile import load_manifest
    from manifests.listing import print_listing

    _one_format(as_json=as_json, as_csv=as_csv)
    summary = summarise(load_manifest(manifest_path))
    if as_json:
        click.echo(pretty_json(summary_json(summary)).decode(), nl=False)
    elif as_csv:
        click.echo(summary_csv(summary), nl=False)
    else:
        print_listing(summary_listing(summary))


@click.command()
@MANIFEST
@click.option(
    "--by",
    "fields",
    metavar="FIELD,…",
    help="What to group by: organ, stain, dataset, license, patient, site, scanner, sample_type, "
    "split, mpp, tile_size, codec, vendor, or columns of your slides table.  "
    "[default: organ,stain,dataset,mpp,scanner,site]",
)
@JSON
@_CSV
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a page with charts and pictures, too: one file that needs no network.",
)
@click.option(
    "--tiles-per-group",
    type=click.IntRange(0, 64),
    default=8,
    show_default=True,
    help="Pictures of each group on that page.",
)
@exit_codes()
def summary(
    manifest_path: Path,
    *,
    fields: str | None,
    as_json: bool,
    as_csv: bool,
    page: Path | None,
    tiles_per_group: int,
) -> None:
    """Print what the set is made of: slides, patients, tiles and bytes per group.

    Only tiles that a selection left in are counted. No store is opened but for the pictures of
    --html.
    """
    from manifests.describe.composition import (
        compose,
        composition_csv,
        composition_json,
        print_composition,
    )
    from manifests.describe.groups import DEFAULT_FIELDS
    from manifests.files import pretty_json
    from manifests.jsonfile import load_manifest

    _one_format(as_json=as_json, as_csv=as_csv)
    names = DEFAULT_FIELDS if fields is None else [*dict.fromkeys(fields.split(","))]
    manifest = load_manifest(manifest_path)
    found = compose(manifest, [name.strip() for name in names])
    if page is not None:
        _write_page(manifest, found, page, tiles_per_group, manifest_path)
    if as_json:
        click.echo(pretty_json(composition_json(found)).decode(), nl=False)
    elif as_csv:
        click.echo(composition_csv(found), nl=False)
    else:
        print_composition(found)


def _one_format(*, as_json: bool, as_csv: bool) -> None:
    if as_json and as_csv:
        raise click.UsageError("Give either --json or --csv.")


def _write_page(
    manifest: Manifest, found: Composition, page: Path, per_group: int, manifest_path: Path
) -> None:
    from manifests.console import Display
    from manifests.describe.gallery import write_page

    hint = ["--html"]
    if not page.parent.is_dir():
        raise click.BadParameter(f"There is no folder {page.parent}.", param_hint=hint)
    file = manifest_path / "manifest.json" if manifest_path.is_dir() else manifest_path
    if page.exists() and page.samefile(file):
        raise click.BadParameter(f"{page} is the manifest itself.", param_hint=hint)
    with Display("groups") as display:
        write_page(manifest, found, page, per_group, display)
        display.say(f"Page: {page}")
