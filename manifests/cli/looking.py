"""Commands that look and change nothing: `show`."""

from __future__ import annotations

from pathlib import Path

import click

from manifests.cli.arguments import JSON, MANIFEST
from manifests.console import exit_codes


@click.command()
@MANIFEST
@JSON
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
