"""`histopretrain evaluate`: encoders side by side on tiles whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.console import Display, exit_codes, print_table
from pretrain.cli.options import setting_options
from pretrain.cli.run import needs_extra
from pretrain.results.settings import EvaluateSettings

if TYPE_CHECKING:
    from pretrain.results.result import Evaluation


@click.command()
@click.argument("encoders", nargs=-1, required=True, metavar="ENCODER...")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("evaluation"),
    show_default=True,
    metavar="FOLDER",
    help="Gets evaluation.json and report.html.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@setting_options(EvaluateSettings)
def evaluate(
    encoders: tuple[str, ...], manifest: Path, out: Path, as_json: bool, **flags: Any
) -> None:
    """Compare encoders on the tiles of MANIFEST whose truth is known.

    An ENCODER is a file of histopretrain, random:ARCH, imagenet:ARCH, timm:ARCH=FILE or
    torchvision:ARCH=FILE. Each is used frozen, by its nearest neighbours and a linear probe; a
    histogram of colours runs along. Everything is fitted on train and chosen on val; intervals are
    over the patients or groups of test.
    """
    with exit_codes():
        settings = EvaluateSettings(**{n: v for n, v in flags.items() if v is not None})
        with needs_extra():
            from pretrain.evaluating.evaluate import evaluate_fully
            from pretrain.evaluating.folder import PAGE_FILE, check_folder, write_folder
        check_folder(out)
        with needs_extra(), Display("tiles") as display:
            found = evaluate_fully(encoders, manifest, settings, display)
        write_folder(out, found.evaluation, found.extras)
        if as_json:
            from manifests.files import pretty_json

            click.echo(pretty_json(found.evaluation.to_json()).decode(), nl=False)
        else:
            _print(found.evaluation)
        click.echo(f"page: {out / PAGE_FILE}", err=True)


def _print(evaluation: Evaluation) -> None:
    from pretrain.results.table import gain_table, score_table, sentences

    what = evaluation.label or "masks"
    classes = f": {', '.join(evaluation.classes)}" if evaluation.classes else ""
    click.echo(f"{evaluation.task} of {what}{classes}")
    print_table(score_table(evaluation))
    print_table(gain_table(evaluation))
    for line in sentences(evaluation):
        click.echo(line)
