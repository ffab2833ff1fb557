"""The command `histopretrain`: options in, one sentence or a result out.

Imports neither torch nor anything else that is slow until a command runs. Results go to stdout,
progress and errors to stderr; exit codes are those of `manifests.errors`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from manifests.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_TRY_LATER,
    EXIT_USAGE,
    HistotileError,
)
from pretrain.config import ARCHS, BATCH_SIZE, DEVICES, IMAGE_SIZE_PX, TrainConfig

if TYPE_CHECKING:
    from pretrain.progress import Display
    from pretrain.train import Plan, StepMetrics, TrainResult

_DEFAULTS = {item.name: item.default for item in dataclasses.fields(TrainConfig)}
_EXTRA = ("torch", "torchvision", "safetensors")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    sys.exit(_exit_code(arguments))


def _exit_code(arguments: Sequence[str] | None) -> int:
    try:
        code = cli.main(arguments, prog_name="histopretrain", standalone_mode=False)
    except HistotileError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), EXIT_USAGE)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; the run folder keeps the last whole epoch", EXIT_INTERRUPTED)
    except OSError as error:
        return _fail(f"{error.filename or 'the system'}: {error.strerror}", EXIT_TRY_LATER)
    return code if isinstance(code, int) else EXIT_DONE


def _fail(message: str, code: int) -> int:
    click.echo(f"histopretrain: {message}", err=True)
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="histotile", message="histotile %(version)s")
def cli() -> None:
    """Train encoders on tile stores."""


@cli.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder, new or empty.  [default: runs/NAME, NAME after the data]",
)
@click.option("--arch", type=click.Choice(ARCHS), default=_DEFAULTS["arch"], help="Encoder.")
@click.option(
    "--epochs",
    type=int,
    default=_DEFAULTS["epochs"],
    help="Passes over as many tiles as there are.",
)
@click.option(
    "--batch-size",
    type=int,
    help=f"Tiles a step.  [default: {BATCH_SIZE['cuda']} on a GPU, {BATCH_SIZE['cpu']} on a CPU, "
    "no more than there are]",
)
@click.option(
    "--image-size",
    type=int,
    help=f"Pixels of a view's side.  [default: {IMAGE_SIZE_PX['cuda']} on a GPU, "
    f"{IMAGE_SIZE_PX['cpu']} on a CPU, no more than the tiles have]",
)
@click.option("--lr", type=float, default=_DEFAULTS["lr"], help="Highest learning rate.")
@click.option(
    "--temperature", type=float, default=_DEFAULTS["temperature"], help="Of the NT-Xent loss."
)
@click.option(
    "--projection-dim",
    type=int,
    default=_DEFAULTS["projection_dim"],
    help="Width of the embedding that the loss sees.",
)
@click.option("--max-steps", type=int, help="Stop after so many steps.  [default: all epochs]")
@click.option("--seed", type=int, default=_DEFAULTS["seed"], help="Weights, order and views.")
@click.option(
    "--device",
    type=click.Choice(DEVICES),
    default=_DEFAULTS["device"],
    help="auto takes a GPU if there is one.",
)
def run(manifest: Path, out: Path | None, **settings: Any) -> None:
    """Train an encoder with SimCLR on the tiles of MANIFEST.

    Stains and organs are drawn evenly, and so are the slides of each. The run folder gets the
    encoder (encoder.safetensors), the settings, the mix and a line of metrics a step.
    """
    try:
        from pretrain.train import train
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise click.UsageError(
            f"training needs {error.name}: pip install 'histotile[pretrain]'"
        ) from error
    from pretrain.progress import display_on

    config = TrainConfig(**settings)
    with display_on(sys.stderr) as display:
        result = train(config, manifest, out or _new_folder(manifest), _Announced(display))
    _print_result(result)


class _Announced:
    """Says on stdout where a run goes, before anything else is printed."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def started(self, plan: Plan) -> None:
        click.echo(f"run folder: {plan.out}")
        self._display.started(plan)

    def stepped(self, metrics: StepMetrics) -> None:
        self._display.stepped(metrics)


def _print_result(result: TrainResult) -> None:
    if result.damaged:
        slide, tile = result.damaged[0]
        click.echo(
            "histopretrain: damaged tiles that others of their slides replaced: "
            f"{len(result.damaged)}, the first is tile {tile} of {slide}",
            err=True,
        )
    click.echo(
        f"loss {result.first_loss:.3f} at step 1, {result.final_loss:.3f} at step {result.steps}"
    )
    click.echo(f"encoder: {result.encoder}")


def _new_folder(manifest: Path) -> Path:
    """A folder below runs/ that is not there yet, named after the data set or its folder."""
    from manifests import load_manifest

    datasets = {entry.dataset for entry in load_manifest(manifest).committed()}
    only = datasets.pop() if len(datasets) == 1 else None
    folder = manifest.resolve() if manifest.is_dir() else manifest.resolve().parent
    kept = [c if c.isalnum() or c in "-_" else "-" for c in (only or folder.name)]
    name = "".join(kept)[:80].strip("-").lower() or "run"
    candidate, number = Path("runs") / name, 1
    while candidate.exists():
        number += 1
        candidate = Path("runs") / f"{name}-{number}"
    return candidate
