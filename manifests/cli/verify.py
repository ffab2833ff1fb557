"""`histotile manifest verify`: whether the stores of a manifest are there, and whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from manifests.cli.arguments import JSON, MANIFEST
from manifests.console import exit_codes
from manifests.errors import EXIT_BAD_DATA

if TYPE_CHECKING:
    from manifests.verify import Verified

_LONGEST_LINE = 10_000


@click.command()
@MANIFEST
@click.option(
    "--deep", is_flag=True, help="Read every byte, and check it against the checksums of the tiles."
)
@click.option(
    "--sha256",
    is_flag=True,
    help="Read every byte, and check it against the hashes of the commit records. Slower than "
    "--deep, and finds tiles that were replaced on purpose.",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), metavar="N", help="Threads; one per core by default."
)
@JSON
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@exit_codes()
def verify(
    manifest_path: Path,
    *,
    deep: bool,
    sha256: bool,
    workers: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check that every store of MANIFEST is there, whole, and the one that it lists.

    MANIFEST is a manifest.json or the folder that holds one. Without --deep, lengths of files and
    what stores say of themselves are checked, which takes a moment. Prints one line for each
    problem, and ends with exit code 5 if there is any.
    """
    from manifests.console import Display
    from manifests.files import pretty_json
    from manifests.jsonfile import load_manifest
    from manifests.verify import local_entries
    from manifests.verify import verify as verify_all

    manifest = load_manifest(manifest_path)
    entries = local_entries(manifest)
    reads = deep or sha256
    total = sum(entry.bytes for entry in entries) // 10**6 if reads else len(entries)
    with Display("MB" if reads else "stores", quiet=quiet) as display:
        found = verify_all(
            manifest,
            "sha256" if sha256 else "deep" if deep else "quick",
            workers=workers,
            progress=lambda stores, size: display.update(
                f"{stores:,} stores", size // 10**6 if reads else stores, total
            ),
        )
    if as_json:
        click.echo(pretty_json(found.to_json()).decode(), nl=False)
    else:
        _print(found)
    if found.problems:
        raise SystemExit(EXIT_BAD_DATA)


def _print(found: Verified) -> None:
    from manifests.checks import on_one_line

    for name in found.remote:
        click.echo(f"{on_one_line(name)}: not checked: remote")
    for problem in found.problems:
        click.echo(on_one_line(str(problem), _LONGEST_LINE))
    size = f"{found.bytes / 1e9:,.1f} GB" if found.bytes >= 1e9 else f"{found.bytes / 1e6:,.1f} MB"
    said = f"{found.stores:,} stores, {found.tiles:,} tiles, {size}"
    if found.problems:
        stores = len({problem.entry for problem in found.problems})
        click.echo(f"{said} checked: {len(found.problems):,} problems in {stores:,} stores")
    else:
        click.echo(f"{said} verified")
