"""`histotile manifest merge`: many manifests into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.cli.arguments import JSON, OUTPUT, VOCABULARY
from manifests.console import exit_codes

if TYPE_CHECKING:
    from manifests.combine.merge import Merged
    from manifests.model import Manifest


@click.command()
@click.argument(
    "manifest_paths",
    metavar="MANIFEST...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@OUTPUT
@click.option(
    "--on-conflict",
    type=click.Choice(["fail", "first", "drop"]),
    default="fail",
    show_default=True,
    help="What contradicts itself: list it and stop; believe the first manifest; or leave out all "
    "slides concerned.",
)
@click.option(
    "--require-same-spec",
    is_flag=True,
    help="Stop if stores differ in µm per pixel, tile size or codec.",
)
@click.option(
    "--prefix-ids",
    type=click.Choice(["dataset", "folder"]),
    help="Begin each id with its data set's name or its manifest's folder, where two use one id.",
)
@VOCABULARY
@JSON
@exit_codes()
def merge(manifest_paths: tuple[Path, ...], **options: Any) -> None:
    """Merge MANIFESTs (files, or folders that hold a manifest.json) into one.

    A store that several have is one entry, with what any of them knows of it; paths are written
    anew, so that the result works from where it lies. Neither order nor grouping matters. Fails
    with exit code 6 and the whole list if a store has two contents, a slide two organs, stains or
    labels, or a patient lies in two splits.
    """
    from manifests.combine.merge import merge as merge_all
    from manifests.jsonfile import load_manifest
    from manifests.placing import Destination
    from manifests.vocabulary import load_vocabulary

    out: Path = options["out"]
    destination = Destination(out)
    merged = merge_all(
        [(_name(path), load_manifest(path)) for path in manifest_paths],
        out.parent,
        vocabulary=load_vocabulary(options["vocabulary"]),
        on_conflict=options["on_conflict"],
        require_same_spec=options["require_same_spec"],
        prefix_ids=options["prefix_ids"],
    )
    destination.save(merged.manifest)
    for note in _notes(merged):
        click.echo(f"Note: {note}", err=True)
    _print(merged, out, as_json=options["as_json"])


def _name(path: Path) -> str:
    """A manifest's file and its folder, which tell people where entries came from."""
    file = path / "manifest.json" if path.is_dir() else path
    return "/".join(part for part in (file.resolve().parent.name, file.name) if part)


def _notes(merged: Merged) -> list[str]:
    notes = [conflict.sentence for conflict in merged.conflicts]
    notes += [
        f"{' and '.join(ids)} are one store: the same slide was cut alike twice; "
        "`histotile manifest duplicates --drop` keeps one"
        for ids in merged.twice
    ]
    return [*notes, *(unknown.sentence for unknown in merged.unknown_terms)]


def _print(merged: Merged, out: Path, *, as_json: bool) -> None:
    from manifests.combine.merge import specs
    from manifests.files import pretty_json
    from manifests.listing import many

    manifest = merged.manifest
    if as_json:
        click.echo(pretty_json(_json(merged)).decode(), nl=False)
        return
    entries = many(len(manifest.stores), "entry", "entries")
    tiles = many(sum(entry.tiles for entry in manifest.stores), "tile")
    inputs = many(len(manifest.inputs), "manifest")
    click.echo(f"{out}: {entries} and {tiles} of {inputs}; {merged.repeated:,} were there already")
    for (mpp, size, codec), (stores, spec_tiles) in specs(manifest.stores).items():
        cut = f"{many(spec_tiles, 'tile')} of {many(stores, 'store')}"
        click.echo(f"  {mpp} µm/px, {size} px, {codec}: {cut}")
    _print_inputs(manifest)


def _print_inputs(manifest: Manifest) -> None:
    from manifests.listing import many

    for key, source in sorted(manifest.inputs.items(), key=lambda item: item[1]):
        entries = many(source.stores, "entry", "entries")
        click.echo(f"  from {source.name} ({key}): {entries}")


def _json(merged: Merged) -> dict[str, Any]:
    from dataclasses import asdict

    from manifests.combine.merge import specs

    manifest = merged.manifest
    return {
        "entries": len(manifest.stores),
        "tiles": sum(entry.tiles for entry in manifest.stores),
        "repeated": merged.repeated,
        "inputs": {key: asdict(source) for key, source in manifest.inputs.items()},
        "conflicts": [asdict(conflict) for conflict in merged.conflicts],
        "listed_twice": [list(ids) for ids in merged.twice],
        "unknown_terms": [unknown._asdict() for unknown in merged.unknown_terms],
        "specs": [
            {"mpp": mpp, "tile_size": size, "codec": codec, "stores": stores, "tiles": tiles}
            for (mpp, size, codec), (stores, tiles) in specs(manifest.stores).items()
        ],
    }
