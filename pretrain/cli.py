"""The command `histopretrain`: options in, one sentence or a result out.

Imports neither torch nor anything else that is slow until a command runs. Results go to stdout,
progress and errors to stderr; exit codes are those of `manifests.errors`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.console import Display, exit_codes
from pretrain.config import ARCHS, BATCH_SIZE, DEVICES, IMAGE_SIZE_PX, TrainConfig
from pretrain.errors import ConfigError

if TYPE_CHECKING:
    from pretrain.train import Plan, StepMetrics, TrainResult

_SECONDS_PER_LINE = 5.0
_DEFAULTS = {item.name: item.default for item in dataclasses.fields(TrainConfig)}
_EXTRA = ("torch", "torchvision", "safetensors")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="histotile", message="histotile %(version)s")
def main() -> None:
    """Train encoders on tile stores."""


@main.command()
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
@click.option(
    "--split",
    metavar="NAME",
    help="Train on the tiles of this split.  [default: train if the manifest has splits, else all]",
)
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
    with exit_codes():
        _run(manifest, out, settings)


def _run(manifest: Path, out: Path | None, settings: dict[str, Any]) -> None:
    try:
        from pretrain.train import train
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ConfigError(
            f"training needs {error.name}: pip install 'histotile[pretrain]'"
        ) from error
    config = TrainConfig(**settings)
    with Display("steps", every_s=_SECONDS_PER_LINE) as display:
        result = train(config, manifest, out or _new_folder(manifest), _Shown(display))
    _print_result(result)


class _Shown:
    """Says on stdout where a run goes, before anything else, and shows how far it is on stderr."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._steps = 0

    def started(self, plan: Plan) -> None:
        click.echo(f"run folder: {plan.out}")
        self._steps = plan.steps
        self._display.say(_described(plan))

    def stepped(self, metrics: StepMetrics) -> None:
        text = (
            f"epoch {metrics.epoch}  loss {metrics.loss:.3f}  lr {metrics.lr:.1e}  "
            f"{metrics.images_per_s:.0f} tiles/s  waited {metrics.data_wait:.0%}"
        )
        is_end = metrics.step in (1, self._steps)
        self._display.update(text, metrics.step, self._steps, now=is_end)


def _described(plan: Plan) -> str:
    mix, config = plan.mix, plan.config
    strata = ", ".join(f"{stratum.stain} {stratum.organ}" for stratum in mix.strata)
    resolutions = " and ".join(f"{mpp_x:.4g}" for mpp_x, _ in mix.mpps)
    part = "" if mix.split is None else f" in the split {mix.split}"
    return (
        f"{config.arch} on {config.device}: {mix.tiles} tiles of {len(mix.slides)} slides{part} "
        f"({strata}) at {resolutions} µm/px, views of {plan.image_size} px, "
        f"batches of {plan.batch_size}, "
        f"{plan.steps} steps"
    )


def _print_result(result: TrainResult) -> None:
    if result.damaged:
        slide, tile = result.damaged[0]
        click.echo(
            "Note: damaged tiles that others of their slides replaced: "
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
