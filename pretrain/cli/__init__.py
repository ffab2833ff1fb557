"""The command `histopretrain`: options in, one sentence or a result out.

Imports neither torch nor anything else that is slow until a command runs. Results go to stdout,
progress and errors to stderr; exit codes are those of `manifests.errors`.
"""

from __future__ import annotations

import click

from pretrain.cli.bench import bench
from pretrain.cli.embed import embed
from pretrain.cli.evaluate import evaluate
from pretrain.cli.export import export
from pretrain.cli.robustness import robustness
from pretrain.cli.run import run
from pretrain.cli.sample import sample


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="histotile", message="histotile %(version)s")
def main() -> None:
    """Train encoders on tile stores, and put them to the test."""


for _command in (run, sample, export, embed, evaluate, robustness, bench):
    main.add_command(_command)
