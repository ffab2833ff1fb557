"""The model card: what an encoder is, in Markdown, for people who find the file.

All of it is taken from what the file itself says, and from the run's curves. The same run gives the
same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from manifests.files import Json
from pretrain.network.encoder import EncoderInfo
from pretrain.network.model import timm_name

MARK = "model card of histotile"
"""Stands in every card, so that other files of that name are told apart."""

_TEMPLATE = "card.md.j2"
_MOST_STRATA = 40
_NEAR = 1.2
"""Resolutions up to so many times the smallest are told as one range."""
_MEASURES = {
    "loss": "loss",
    "knn": "k-NN accuracy",
    "alignment": "alignment",
    "uniformity": "uniformity",
}
"""What is shown of `metrics.jsonl`; speed says more of the machine than of the encoder."""
_SETTINGS = (
    *("epochs", "batch_size", "image_size", "init", "head", "projection_dim"),
    *("temperature", "decoupled", "optimizer", "lr", "lr_rule", "warmup", "weight_decay"),
    *("accumulate", "grad_cache", "ema", "precision", "balance", "mix_temperature", "weight"),
    *("max_per_slide", "max_per_patient", "split", "resize", "seed"),
)

Curves = Mapping[str, tuple[float, float]]


def read_curves(run: Path, steps: int) -> dict[str, tuple[float, float]]:
    """The first and the last value of each measure in a run's `metrics.jsonl`, up to a step.

    Lines that cannot be read are passed over, and so is a file that is not there: a card without
    curves is one all the same.
    """
    found: dict[str, tuple[float, float]] = {}
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or row.get("step", 0) > steps:
            continue
        for name in _MEASURES:
            if isinstance(value := row.get(name), (int, float)):
                found[name] = found.get(name, (value,))[0], value
    return found


def model_card(info: EncoderInfo, file: str, curves: Curves) -> str:
    """The card of an encoder as Markdown.

    Args:
        file: name of the encoder file.
        curves: first and last value by measure, of `read_curves`.
    """
    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701 - Markdown; `cell` escapes what others wrote
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    template = files("pretrain.network").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    train = info.config.get("train", {})
    strata = info.mix.get("strata", [])
    return environment.from_string(template).render(
        title=f"{info.arch}, {Path(file).stem}",
        info=info,
        file=file,
        mark=MARK,
        mpp=_resolutions(info),
        library=_library(info),
        facts=_facts(info),
        seen=_seen(info),
        strata=[_stratum(stratum) for stratum in strata[:_MOST_STRATA]],
        more_strata=max(len(strata) - _MOST_STRATA, 0),
        licences=info.mix.get("licences") or [],
        recipe=[(name.replace("_", " "), _text(train.get(name))) for name in _SETTINGS]
        + [("views", _views(train.get("views", {})))],
        curves=[
            (label, f"{curves[name][0]:.4g}", f"{curves[name][1]:.4g}")
            for name, label in _MEASURES.items()
            if name in curves
        ],
    )


def is_card(path: Path) -> bool:
    """Whether a file is a card that histotile wrote."""
    try:
        return f"<!-- {MARK} -->" in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _facts(info: EncoderInfo) -> list[tuple[str, str]]:
    weights = "average over steps (EMA)" if info.averaged else "of the last step"
    return [
        ("Encoder", f"{info.arch} ({info.library})"),
        ("Features", f"{info.features}"),
        ("Tiles", f"{info.tile_size} px at {_resolutions(info)}"),
        ("Views in training", f"{info.image_size} px"),
        ("Steps", f"{info.steps:,}"),
        ("Weights", weights),
        ("Manifest (SHA-256)", info.manifest_sha256),
    ]


def _seen(info: EncoderInfo) -> str:
    mix = info.mix
    split = f" of the split {_cell(str(mix['split']))}" if mix.get("split") else ""
    damaged = f"; {info.damaged_tiles:,} could not be read" if info.damaged_tiles else ""
    return f"{mix.get('tiles', 0):,} tiles{split} at {_resolutions(info)}{damaged}."


def _stratum(stratum: Json) -> dict[str, str]:
    return {
        "name": str(stratum.get("name", "")),
        "share": f"{stratum.get('share', 0):.1%}",
        "tiles": f"{stratum.get('tiles', 0):,}",
        "slides": f"{len(stratum.get('slides', ())):,}",
    }


def _resolutions(info: EncoderInfo) -> str:
    return f"{' or '.join(resolution_texts(info.mpp))} µm/px"


def resolution_texts(mpps: Sequence[tuple[float, float]]) -> list[str]:
    """µm per pixel in (x, y) as texts, those near each other as one range, `0.499 to 0.503`.

    Each scanner has its own: thousands of slides would make a list that nobody reads.
    """
    groups: list[list[tuple[float, float]]] = []
    for mpp in sorted(mpps):
        if groups and mpp[0] <= _NEAR * groups[-1][0][0]:
            groups[-1].append(mpp)
        else:
            groups.append([mpp])
    both = [[_range(values) for values in zip(*group, strict=True)] for group in groups]
    return [x if x == y else f"{x} × {y}" for x, y in both]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _library(info: EncoderInfo) -> str:
    if info.library == "timm":
        return f"`timm.create_model({timm_name(info.arch)!r}, num_classes=0)`"
    return f"`torchvision.models.{info.arch}()`"


def _views(views: Json) -> str:
    """The preset, and how large a crop is: what matters most."""
    low, high = (*views.get("crop_area", ()), 0.0, 0.0)[:2]
    return f"{views.get('preset', 'unknown')}, crops of {low:g} to {high:g} of a tile"


def _text(value: Any) -> str:
    if value is None or value == [] or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    """A text that may stand in a table: one line, and nothing in it is Markdown or HTML."""
    line = " ".join(text.split())
    for char in "\\`*_[]<>|":
        line = line.replace(char, f"\\{char}")
    return line
