"""Arguments that several commands on manifests share: each is defined once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

MANIFEST = click.argument("manifest_path", metavar="MANIFEST", type=click.Path(path_type=Path))
"""A manifest.json or the folder that holds one."""


def _output(*, required: bool) -> Callable[[Command], Command]:
    return click.option(
        "-o",
        "--out",
        required=required,
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The manifest to write. It must lie in a folder that all stores lie below.",
    )


OUTPUT = _output(required=True)
OUTPUT_IF_WRITTEN = _output(required=False)
"""For commands that can also look without writing."""
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
VOCABULARY = click.option(
    "--vocabulary",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="TOML",
    help="Your own organs, stains and synonyms, besides those of `histotile manifest vocabulary`.",
)
