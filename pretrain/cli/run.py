"""`histopretrain run`: one command from a manifest to an encoder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manifests.console import Display, exit_codes
from pretrain.cli.options import config_options, make_config
from pretrain.errors import ConfigError

if TYPE_CHECKING:
    from pretrain.config import TrainConfig
    from pretrain.running.plan import Plan
    from pretrain.running.progress import StepMetrics, TrainResult
    from pretrain.watch.scores import Scores

_SECONDS_PER_LINE = 5.0
_STRATA_SHOWN = 12
_EXTRA = ("torch", "torchvision", "safetensors", "timm", "tensorboard", "sklearn", "h5py")


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Say how to get what a command imports, where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ConfigError(f"this needs {error.name}: pip install 'histotile[pretrain]'") from error


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder.  [default: runs/NAME, NAME after the data]",
)
@click.option(
    "--resume",
    type=click.Choice(("auto", "never")),
    default="auto",
    show_default=True,
    help="auto goes on with a run of the same settings where it stopped.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@config_options()
def run(manifest: Path, out: Path | None, resume: str, as_json: bool, **flags: Any) -> None:
    """Train an encoder with SimCLR on the tiles of MANIFEST.

    Stains and organs are drawn evenly, and so are the slides of each. The run folder gets the
    encoder (encoder.safetensors), the settings, the mix, checkpoints and a line of metrics a step.
    Running the same command again continues where it stopped. Under torchrun, all processes share
    each batch.
    """
    with exit_codes():
        _run(manifest, out, resume, as_json, flags)


def _run(
    manifest: Path, out: Path | None, resume: str, as_json: bool, flags: dict[str, Any]
) -> None:
    config = make_config(flags)
    with needs_extra():
        from pretrain.running.train import train
        from pretrain.stopping import Stopper
    if out is None:
        out = _default_folder(manifest, config, resume)
    is_first = os.environ.get("RANK", "0") == "0"
    with Display("steps", every_s=_SECONDS_PER_LINE, quiet=not is_first) as display:
        shown = _Shown(display, is_quiet=as_json)
        with Stopper() as stopper:
            result = train(config, manifest, out, shown, resume=resume, stopper=stopper)
    if not is_first:
        return
    if as_json:
        found = {**dataclasses.asdict(result), "encoder": str(result.encoder), "out": str(out)}
        click.echo(json.dumps(found, indent=1))
    else:
        _print_result(result)


class _Shown:
    """Says on stdout where a run goes, before anything else, and shows how far it is on stderr."""

    def __init__(self, display: Display, *, is_quiet: bool) -> None:
        self._display, self._is_quiet = display, is_quiet
        self._steps = 0

    def started(self, plan: Plan, step: int) -> None:
        if not self._is_quiet:
            click.echo(f"run folder: {plan.out}")
        self._steps = plan.steps
        self._display.say(_described(plan))
        if plan.config.accumulate > 1:
            part = plan.batch_size // plan.config.accumulate
            self._display.say(
                f"Note: --accumulate {plan.config.accumulate} makes one update of a batch, but a "
                f"tile's negatives come from its part of {part} tiles alone"
            )
        if step:
            self._display.say(f"Going on after step {step} of {plan.steps}")

    def stepped(self, metrics: StepMetrics) -> None:
        memory = metrics.gpu_memory_gb
        text = (
            f"epoch {metrics.epoch}  loss {metrics.loss:.3f}  lr {metrics.lr:.1e}  "
            f"{metrics.images_per_s:.0f} tiles/s  waited {metrics.data_wait:.0%}"
            + ("" if memory is None else f"  GPU {memory:.1f} GiB")
        )
        is_end = metrics.step in (1, self._steps)
        self._display.update(text, metrics.step, self._steps, now=is_end)

    def noted(self, text: str) -> None:
        self._display.say(f"Note: {text}")

    def looked(self, step: int, scores: Scores) -> None:
        self._display.say(f"Features after step {step}: {_scored(scores)}")

    def damaged(self, tile: str) -> None:
        self._display.say(f"Note: tile {tile} is damaged; another of its slide is taken")


def _scored(scores: Scores) -> str:
    text = f"alignment {scores.alignment:.3f}, uniformity {scores.uniformity:.3f}"
    if scores.knn is None:
        return text
    chance = 1 / scores.classes
    return f"k-NN {scores.knn:.3f} over {scores.classes} classes (chance {chance:.3f}), {text}"


def _described(plan: Plan) -> str:
    from pretrain.network.card import resolution_texts

    mix, config = plan.mix, plan.config
    names = [stratum.name for stratum in mix.strata]
    shown = ", ".join(names[:_STRATA_SHOWN])
    if len(names) > _STRATA_SHOWN:
        shown += f" and {len(names) - _STRATA_SHOWN} more"
    resolutions = " and ".join(resolution_texts(mix.mpps))
    part = "" if mix.split is None else f" in the split {mix.split}"
    return (
        f"{config.arch} on {config.device}: {mix.tiles} tiles of {len(mix.slides)} slides{part} "
        f"({shown}) at {resolutions} µm/px, views of {plan.image_size} px, "
        f"batches of {plan.batch_size}, {plan.steps} steps"
    )


def _print_result(result: TrainResult) -> None:
    if result.was_done:
        click.echo("Nothing to do: this run is finished.", err=True)
    if result.damaged:
        click.echo(
            "Note: damaged tiles that others of their slides replaced: "
            f"{len(result.damaged)}, the first is {result.damaged[0]}",
            err=True,
        )
    click.echo(
        f"loss {result.first_loss:.3f} at step 1, {result.final_loss:.3f} at step {result.steps}"
    )
    if result.scores is not None:
        click.echo(f"features: {_scored(result.scores)}")
    click.echo(f"encoder: {result.encoder}")


def _default_folder(manifest: Path, config: TrainConfig, resume: str) -> Path:
    """A folder below runs/ named after the data: that of a like run which can go on, else new."""
    from manifests import load_manifest
    from pretrain.running.runfolder import can_go_on

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes train together here: give --out, one for all of them")
    datasets = {entry.dataset for entry in load_manifest(manifest).committed()}
    only = datasets.pop() if len(datasets) == 1 else None
    folder = manifest.resolve() if manifest.is_dir() else manifest.resolve().parent
    kept = [c if c.isalnum() or c in "-_" else "-" for c in (only or folder.name)]
    name = "".join(kept)[:80].strip("-").lower() or "run"
    candidate, number, last = Path("runs") / name, 1, None
    while candidate.exists():
        number += 1
        last, candidate = candidate, Path("runs") / f"{name}-{number}"
    if last is not None and resume == "auto" and can_go_on(last, config):
        return last
    return candidate
