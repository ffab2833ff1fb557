"""`histotile manifest …`: commands that read and combine manifests.

Commands translate arguments, call one function and print its result; errors become exit codes in
`manifests.console`. Everything slow is imported inside the commands.
"""

from __future__ import annotations

from pathlib import Path

import click

from manifests.console import exit_codes


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def manifest() -> None:
    """Look into manifests."""


@manifest.command()
@click.argument("manifest_path", metavar="MANIFEST", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs, not a table.")
@exit_codes()
def show(manifest_path: Path, *, as_json: bool) -> None:
    """Print what MANIFEST holds: one row per slide, and totals.

    MANIFEST is a manifest.json or the folder that holds one.
    """
    from manifests.console import print_table
    from manifests.files import pretty_json
    from manifests.jsonfile import load_manifest
    from manifests.summary import summarise, summary_json, summary_table

    summary = summarise(load_manifest(manifest_path))
    if as_json:
        click.echo(pretty_json(summary_json(summary)).decode(), nl=False)
    else:
        print_table(summary_table(summary))
