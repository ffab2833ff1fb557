"""Measuring encoders with `histopretrain evaluate`, a few at a time, and reading what it wrote.

A labelled set of a seed is measured with all encoders of that seed; results are found by the name
that `evaluate` gives an encoder: the folder of a run, or what stands behind `random:` or `timm:`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.reproduction.plan import Experiment, Variant
from docs.reproduction.steps import Bench

FOLDER = "evaluations"
AT_A_TIME = 30
"""Encoders in one call: they share the reading of tiles, and an interrupted call is lost."""
HISTOGRAM = "colour histogram"


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """What encoders are measured on: tiles with a truth, and a split of them for each seed."""

    name: str
    title: str
    manifest: str
    """With a place for the seed, if each has its own."""
    split: str
    label: str
    task: str
    by: str
    classes: str = ""
    """With commas between; all of them by default."""

    @property
    def main(self) -> str:
        """The metric that tables show."""
        return "l1" if self.task == "regression" else "macro_f1"

    @property
    def metric(self) -> str:
        """The same in words."""
        return "L1 ↓" if self.task == "regression" else "F1 ↑"


SETS = (
    LabelledSet(
        "lc25000",
        "LC25000",
        "lc25000-test-s{}.json",
        "lc25000-s{}.json",
        "label",
        "classification",
        "group",
    ),
    LabelledSet(
        "breast-tissue",
        "breast tissue",
        "breast",
        "breast-s{}.json",
        "label",
        "classification",
        "patient",
        classes="stroma,tumour",
    ),
    LabelledSet(
        "breast-share",
        "tumour share",
        "breast",
        "breast-s{}.json",
        "tumour_share",
        "regression",
        "patient",
    ),
)


def encoder_of(variant: Variant, seed: int) -> str:
    """An encoder as `histopretrain evaluate` takes it, in the out folder."""
    run = variant.run(seed)
    return variant.encoder if run is None else f"runs/{run.key}/encoder.safetensors"


def name_of(encoder: str) -> str:
    """What a result calls an encoder."""
    if ":" not in encoder:
        return Path(encoder).parent.name
    kind, equals, file = encoder.partition("=")
    return kind + (f"={Path(file).name}" if equals else "")


def read_results(bench: Bench, labelled: LabelledSet, seed: int) -> dict[str, dict[str, Any]]:
    """What is known of encoders on a set: name → the encoder's part of an evaluation."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted((bench.out / FOLDER).glob(f"{labelled.name}-s{seed}-*/evaluation.json")):
        for encoder in json.loads(file.read_text(encoding="utf-8"))["encoders"]:
            found.setdefault(encoder["name"], encoder)
    return found


def evaluate(bench: Bench, experiments: Sequence[Experiment], seeds: int, size: int) -> None:
    """Measure the encoders of some experiments on each labelled set, those that are new.

    Encoders whose training is not done are passed over.

    Args:
        size: pixels that tiles are brought to, as in training.
    """
    for seed in range(seeds):
        named = [encoder_of(one, seed) for what in experiments for one in what.variants]
        there = [text for text in dict.fromkeys(named) if _is_there(bench, text)]
        for labelled in SETS:
            known = read_results(bench, labelled, seed)
            todo = [text for text in there if name_of(text) not in known]
            for start in range(0, len(todo), AT_A_TIME):
                _measure(bench, labelled, seed, todo[start : start + AT_A_TIME], size)


def _is_there(bench: Bench, encoder: str) -> bool:
    file = encoder.rpartition("=")[2]
    return ("=" not in encoder and ":" in encoder) or (bench.out / file).is_file()


def _measure(
    bench: Bench, labelled: LabelledSet, seed: int, encoders: Sequence[str], size: int
) -> None:
    digest = hashlib.sha256("\n".join(encoders).encode()).hexdigest()[:6]
    name = f"{labelled.name}-s{seed}-{digest}"
    words = ["--label", labelled.label, "--task", labelled.task, "--by", labelled.by]
    words += ["--classes", labelled.classes] if labelled.classes else []
    words += ["--split", labelled.split.format(seed), "--leaks", "drop", "--no-curve"]
    # Training brought all tiles to one size, so it saw those of LC25000 at other µm per pixel.
    words += ["--any-mpp"]
    words += ["--image-size", str(size), "--seed", str(seed), "-o", f"{FOLDER}/{name}"]
    manifest = labelled.manifest.format(seed)
    command = ["histopretrain", "evaluate", *encoders, manifest, *words]
    bench.step(f"evaluate-{name}", lambda: bench.commands(command))
