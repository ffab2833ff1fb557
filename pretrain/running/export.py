"""From a run folder to an encoder file and its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from manifests.files import Json, write_atomic
from pretrain.errors import CheckpointError, ConfigError
from pretrain.network.card import is_card, model_card, read_curves
from pretrain.network.encoder import EncoderInfo, describe, is_encoder, save_encoder
from pretrain.network.model import build_encoder
from pretrain.running.checkpoint import newest_checkpoint

SUFFIX = ".safetensors"
_AVERAGED = "ema.encoder."
_LAST = "model.encoder."


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    encoder: Path
    card: Path
    info: EncoderInfo


def export_run(
    run: str | Path, out: str | Path, *, ema: bool | None = None, force: bool = False
) -> Exported:
    """Write the encoder of a run's newest checkpoint, and its card `NAME.md` beside it.

    Also of a run that is not at its end, or that is going on: the file says how many steps it had.

    Args:
        out: a name that ends in `.safetensors`, in a folder that is there.
        ema: the average of the weights, or those of the last step; None: the average if there is
            one.
        force: write over files of that name that histotile has not exported.

    Raises:
        ConfigError: `run` is no run or has no checkpoint yet, `out` cannot be meant, or there is no
            average.
        CheckpointError: no checkpoint of the run can be read.
        OSError: the disk is full, ...; older files are then untouched.
    """
    run, out = Path(run), Path(out)
    recipe, mix = (_read(run, name) for name in ("config.json", "mix.json"))
    card = _check_out(out, force)
    found = newest_checkpoint(run)
    if found is None:
        raise ConfigError(f"{run} has no checkpoint yet; wait for one, or run its command again")
    path, tensors, state = found
    averaged = _is_averaged(ema, tensors, run)
    progress = state["progress"]
    info = describe(
        recipe,
        mix,
        steps=progress["step"],
        averaged=averaged,
        damaged_tiles=len(progress["damaged"]),
    )
    encoder = build_encoder(info.arch, info.image_size)
    prefix = _AVERAGED if averaged else _LAST
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        encoder.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not hold the weights of a {info.arch}") from error
    save_encoder(out, encoder, info)
    text = model_card(info, out.name, read_curves(run, info.steps))
    write_atomic(card, text.encode())
    return Exported(out, card, info)


def _check_out(out: Path, force: bool) -> Path:
    """Where the card goes, if both files may be written."""
    if out.suffix != SUFFIX:
        raise ConfigError(f"{out} should end in {SUFFIX}: that is what an encoder file is")
    if not out.parent.is_dir():
        raise ConfigError(f"there is no folder {out.parent} to write {out.name} to")
    card = out.with_suffix(".md")
    for path, is_ours in ((out, is_encoder), (card, is_card)):
        if path.is_dir() or (path.exists() and not force and not is_ours(path)):
            raise ConfigError(
                f"{path} is there and was not exported by histotile; give another name, or --force"
            )
    return card


def _read(run: Path, name: str) -> Json:
    try:
        return json.loads((run / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{run} is not a run folder: its {name} cannot be read") from error


def _is_averaged(ema: bool | None, tensors: Mapping[str, Tensor], run: Path) -> bool:
    has_average = any(key.startswith(_AVERAGED) for key in tensors)
    if ema and not has_average:
        raise ConfigError(f"{run} keeps no average of its weights; leave --ema out")
    return has_average if ema is None else ema
