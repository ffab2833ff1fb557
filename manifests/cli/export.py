"""`histotile manifest export`: a set as a table or a description for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.cli.arguments import MANIFEST
from manifests.console import exit_codes

if TYPE_CHECKING:
    from manifests.model import Manifest

_ABOUT = ("name", "license", "url", "description")


@click.command()
@MANIFEST
@click.option(
    "--to",
    "target",
    type=click.Choice(["csv", "parquet", "croissant"]),
    required=True,
    help="Parquet needs `pip install 'histotile[parquet]'`.",
)
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file to write. Croissant belongs next to the manifest, and writes its slides to a "
    "second file, *.slides.json.",
)
@click.option("--tiles", is_flag=True, help="A row per tile instead of one per slide.")
@click.option("--name", metavar="TEXT", help="Croissant: what the set is called.")
@click.option("--license", metavar="TEXT", help="Croissant: the licence, if not the slides' own.")
@click.option("--url", metavar="URL", help="Croissant: the set's page.")
@click.option("--description", metavar="TEXT", help="Croissant: what the set is.")
@exit_codes()
def export(manifest_path: Path, **options: Any) -> None:
    """Write MANIFEST as a table (CSV, Parquet), or describe it in Croissant (JSON-LD).

    Only tiles that a selection left are written; those that could not be read whole from their
    slide have `unread` above 0. Paths are those of the manifest, relative to its folder.
    """
    target, out = options["target"], options["out"]
    file = manifest_path / "manifest.json" if manifest_path.is_dir() else manifest_path
    about = {name: options[name] for name in _ABOUT}
    if target != "croissant" and any(about.values()):
        raise click.UsageError("--name, --license, --url and --description go with --to croissant")
    if target == "croissant" and options["tiles"]:
        raise click.UsageError("--tiles goes with --to csv and parquet: Croissant describes slides")
    if out.resolve() == file.resolve():
        raise click.UsageError(f"-o {out} is the manifest itself; name another file")
    if not out.parent.is_dir():
        raise click.UsageError(f"there is no folder {out.parent} to write {out.name} to")
    if target == "croissant":
        _describe(file, out, about)
    else:
        _tabulate(file, out, target, tiles=options["tiles"])


def _describe(file: Path, out: Path, about: dict[str, str | None]) -> None:
    from manifests.exports.croissant import About, slides_file, write_croissant

    manifest = write_croissant(file, out, About(**about))
    _say_what_is_missing(manifest, about)
    click.echo(f"{out}: {len(manifest.stores):,} slides, which are in {slides_file(out).name}")


def _say_what_is_missing(manifest: Manifest, about: dict[str, str | None]) -> None:
    without = sum(entry.license is None for entry in manifest.stores)
    if without and not about["license"]:
        click.echo(f"Note: {without:,} slides have no licence; --license says it for all", err=True)
    remote = sum(entry.is_remote for entry in manifest.stores)
    if remote:
        click.echo(
            f"Note: {remote:,} stores behind URLs are no files of the description; the slides "
            "name their URLs",
            err=True,
        )


def _tabulate(file: Path, out: Path, target: str, *, tiles: bool) -> None:
    from manifests.console import Display
    from manifests.exports.export import write_csv, write_parquet
    from manifests.exports.tables import slides_table, tiles_table
    from manifests.jsonfile import load_manifest

    manifest = load_manifest(file)
    total = sum(entry.tiles for entry in manifest.committed()) if tiles else len(manifest.stores)
    write = write_csv if target == "csv" else write_parquet
    with Display("rows") as display:
        display.update("opening the stores" if tiles else "writing", 0, total)
        table = tiles_table(manifest) if tiles else slides_table(manifest)
        rows = write(table, out, lambda done: display.update("writing", done, total))
    click.echo(f"{out}: {rows:,} rows")
