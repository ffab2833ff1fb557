"""`histopretrain run`: one command from a manifest to an encoder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.console import Display, exit_codes
from pretrain.cli.options import config_options, make_config
from pretrain.errors import ConfigError

if TYPE_CHECKING:
    from pretrain.train import Plan, StepMetrics, TrainResult

_SECONDS_PER_LINE = 5.0
_EXTRA = ("torch", "torchvision", "safetensors", "timm", "tensorboard")


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Say how to get what a command imports, where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ConfigError(
            f"training needs {error.name}: pip install 'histotile[pretrain]'"
        ) from error


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder.  [default: runs/NAME, NAME after the data]",
)
@config_options()
def run(manifest: Path, out: Path | None, **flags: Any) -> None:
    """Train an encoder with SimCLR on the tiles of MANIFEST.

    Stains and organs are drawn evenly, and so are the slides of each. The run folder gets the
    encoder (encoder.safetensors), the settings, the mix and a line of metrics a step.
    """
    with exit_codes():
        _run(manifest, out, flags)


def _run(manifest: Path, out: Path | None, flags: dict[str, Any]) -> None:
    config = make_config(flags)
    with needs_extra():
        from pretrain.train import train
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
