"""`histopretrain export`: an encoder file and its model card from a run folder."""

from __future__ import annotations

from pathlib import Path

import click

from manifests.console import exit_codes
from pretrain.cli.run import needs_extra


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Encoder file, .safetensors; its card gets the same name with .md.  "
    "[default: encoder.safetensors in RUN]",
)
@click.option(
    "--ema/--no-ema",
    default=None,
    help="The average of the weights, or those of the last step.  [default: the average if any]",
)
@click.option("--force", is_flag=True, help="Write over files that histotile has not exported.")
def export(run: Path, out: Path | None, ema: bool | None, force: bool) -> None:
    """Write the encoder of the run folder RUN, and a model card beside it.

    It is the newest checkpoint's, so a run need not be at its end. In Python,
    pretrain.load_encoder(FILE) gives the model and the transform for its tiles.
    """
    with exit_codes():
        with needs_extra():
            from pretrain.network.encoder import ENCODER_FILE
            from pretrain.running.export import export_run
        exported = export_run(run, out or run / ENCODER_FILE, ema=ema, force=force)
        info = exported.info
        click.echo(f"encoder: {exported.encoder} ({info.arch}, {info.features} features)")
        click.echo(f"card: {exported.card}")
        end = info.config.get("steps", info.steps)
        if info.steps < end:
            click.echo(f"Note: the run is at step {info.steps} of {end}", err=True)
