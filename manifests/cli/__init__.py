"""`histotile manifest …` and `histotile catalog …`: read, combine and choose what is in a set.

Commands translate arguments, call one function and print its result; errors become exit codes in
`manifests.console`. Everything slow is imported inside the commands. A command that makes a
manifest writes it with `-o`, and says on stderr what it did.
"""

from __future__ import annotations

import click

from manifests.cli.changing import annotate, relink
from manifests.cli.combining import merge
from manifests.cli.duplicates import duplicates
from manifests.cli.export import export
from manifests.cli.looking import show, summary
from manifests.cli.select import select
from manifests.cli.split import split
from manifests.cli.terms import catalog, show_vocabulary
from manifests.cli.verify import verify

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_HELP)
def manifest() -> None:
    """Look into manifests, combine them, and choose from them."""


for command in (
    *(show, summary, verify, duplicates),
    *(merge, select, split, annotate, relink, export, show_vocabulary),
):
    manifest.add_command(command)

__all__ = ["catalog", "manifest"]
