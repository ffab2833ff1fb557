"""`histotile manifest select`: choose tiles by expressions, by split, and by drawing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.cli.arguments import JSON, MANIFEST, OUTPUT_IF_WRITTEN, VOCABULARY
from manifests.console import exit_codes

if TYPE_CHECKING:
    from manifests.choose.selected import Selected

_COUNT = click.IntRange(min=1)


@click.command()
@MANIFEST
@OUTPUT_IF_WRITTEN
@click.option(
    "--where",
    multiple=True,
    metavar="EXPR",
    help="What must be true of a tile, as in 'organ == \"lung\" and focus > 0.1'. Given several "
    "times, all must be.",
)
@click.option("--split", metavar="NAME", help="Take only the tiles of this split.")
@click.option("--max-per-slide", type=_COUNT, metavar="N", help="Draw at most N tiles per store.")
@click.option(
    "--max-per-patient",
    type=_COUNT,
    metavar="N",
    help="Draw at most N tiles per patient; where none is known, per store.",
)
@click.option("--sample", type=_COUNT, metavar="N", help="Draw N tiles of the whole set.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all draws.")
@VOCABULARY
@click.option("--dry-run", is_flag=True, help="Count, and write nothing.")
@JSON
@exit_codes()
def select(manifest_path: Path, **options: Any) -> None:
    """Choose tiles of MANIFEST: a manifest that says which, and no copy of any.

    Readers, training and exports take the chosen tiles alone. What was selected before stays
    selected from. Prints how many tiles each condition passes and leaves. Draws come after the
    conditions, in the order in which they stand here; a larger one holds the smaller ones.

    \b
    compare    == != < <= > >=   in ("a", "b")   not in (…)   like "IHC*"
    join       and  or  not  ( )
    values     "text"  0.5  true  false  unknown

    Names: organ, stain, dataset, patient, ..., mpp, split, label; tissue, focus, x, y and other
    columns of the stores; columns of the slides table. Ends with 4 if no tile is left.
    """
    from manifests.choose.select import Draws, require_tiles
    from manifests.choose.select import select as choose
    from manifests.console import Display
    from manifests.jsonfile import load_manifest
    from manifests.placing import Destination
    from manifests.vocabulary import load_vocabulary

    _check(manifest_path, options)
    out: Path | None = options["out"]
    destination = None if out is None or options["dry_run"] else Destination(out)
    draws = ("max_per_slide", "max_per_patient", "sample", "seed")
    with Display("stores") as display:
        selected = choose(
            load_manifest(manifest_path),
            options["where"],
            split=options["split"],
            drawing=Draws(**{name: options[name] for name in draws}),
            vocabulary=load_vocabulary(options["vocabulary"]),
            progress=lambda done, total: display.update("selecting", done, total),
        )
    # Before anything is printed: whoever reads only the head of it should have the manifest too.
    if destination is not None and selected.after.tiles:
        destination.save(selected.manifest)
    _print(selected, as_json=options["as_json"])
    require_tiles(selected)
    if destination is not None:
        after = selected.after
        stores = f"{after.stores:,} {'store' if after.stores == 1 else 'stores'}"
        click.echo(f"{out}: {after.tiles:,} tiles of {stores}", err=True)


def _check(manifest_path: Path, options: Mapping[str, Any]) -> None:
    """Refuse what cannot be meant, before anything is read."""
    criteria = ("where", "split", "max_per_slide", "max_per_patient", "sample")
    if not any(options[name] for name in criteria):
        raise click.UsageError(
            "say what to select: --where, --split, --max-per-slide, --max-per-patient or --sample"
        )
    out: Path | None = options["out"]
    if options["dry_run"]:
        return
    if out is None:
        raise click.UsageError("give -o FILE, or --dry-run to count only")
    if not out.parent.is_dir():
        raise click.UsageError(f"{out} cannot be written: there is no folder {out.parent}")
    source = manifest_path / "manifest.json" if manifest_path.is_dir() else manifest_path
    if out.resolve() == source.resolve():
        raise click.UsageError(f"{out} is what you select from; give another file with -o")


def _print(selected: Selected, *, as_json: bool) -> None:
    from manifests.choose.selected import group_listing, selected_json, step_listing
    from manifests.files import pretty_json
    from manifests.listing import print_listing

    if as_json:
        click.echo(pretty_json(selected_json(selected)).decode(), nl=False)
        return
    print_listing(step_listing(selected))
    print_listing(group_listing(selected))
    for note in selected.notes:
        click.echo(f"Note: {note}.", err=True)
