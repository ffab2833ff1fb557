"""`histopretrain bench`: how fast this machine trains, and what it waits for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.console import Display, exit_codes, print_table
from pretrain.cli.options import config_options, make_config
from pretrain.cli.run import needs_extra

if TYPE_CHECKING:
    from pretrain.running.bench import BenchResult


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--steps", type=click.IntRange(1), default=10, show_default=True, help="Steps of a round."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@config_options()
def bench(manifest: Path, rounds: int, steps: int, as_json: bool, **flags: Any) -> None:
    """Measure how fast an encoder trains on MANIFEST, and whether it waits for data.

    Compares a run's whole step with the same step on a batch that already lies on the device.
    Writes nothing.
    """
    with exit_codes():
        config = make_config(flags)
        with needs_extra():
            from pretrain.running.bench import bench as measure
        with Display("rounds") as display:
            result = measure(config, manifest, rounds=rounds, steps=steps, tell=display.say)
        if as_json:
            click.echo(json.dumps(result.to_json(), indent=1))
        else:
            _print(result)


def _print(result: BenchResult) -> None:
    from rich import box
    from rich.table import Table

    click.echo(
        f"{result.arch}, {result.image_size} px, batches of {result.batch_size}, "
        f"{result.precision} on {result.device}, {result.threads} reading threads; "
        f"{result.rounds} rounds of {result.steps} steps"
    )
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("", "images/s", "least", "most"):
        table.add_column(name, justify="left" if not name else "right")
    rows = {
        "step on a fixed batch": result.fixed,
        "whole: with data and views": result.whole,
        "reading and decoding alone": result.reading,
        "both views alone": result.viewing,
    }
    for name, values in rows.items():
        table.add_row(name, *(f"{value:,.1f}" for value in values))
    print_table(table)
    click.echo(f"whole / fixed: {result.share:.2f} (1 is a run that never waits)")
    if result.gpu_memory_gb is not None:
        click.echo(f"GPU memory: {result.gpu_memory_gb:.1f} GiB at most")
