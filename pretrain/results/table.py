"""An evaluation as a table for a terminal: an encoder a row, values with their intervals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pretrain.results.result import (
    BASELINE,
    FIRST,
    EncoderResult,
    Evaluation,
    number_text,
)
from pretrain.results.settings import CLASSIFICATION, REGRESSION, SEGMENTATION

if TYPE_CHECKING:
    from rich.table import Table

    from pretrain.scoring.intervals import Interval

_COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    CLASSIFICATION: (
        ("k-NN F1", "knn", "macro_f1"),
        ("linear F1", "linear", "macro_f1"),
        ("balanced accuracy", "linear", "balanced_accuracy"),
        ("AUC", "linear", "auc"),
        ("fine-tuned F1", "finetune", "macro_f1"),
    ),
    REGRESSION: (
        ("k-NN L1", "knn", "l1"),
        ("linear L1", "linear", "l1"),
        ("linear R²", "linear", "r2"),
        ("fine-tuned L1", "finetune", "l1"),
    ),
    SEGMENTATION: (("Dice", "decoder", "dice"), ("IoU", "decoder", "iou")),
}
"""Heading, method and metric by task; balanced accuracy and AUC are the linear probe's."""
_FEW_UNITS = 10
_METHODS = {"linear": "linear", "finetune": "fine-tuned", "decoder": ""}
"""Methods whose gains are shown, and what they are called; k-NN's are in the JSON."""
_GAIN_OF = {CLASSIFICATION: "F1", REGRESSION: "L1", SEGMENTATION: "Dice"}


def score_table(evaluation: Evaluation) -> Table:
    """The scores of all encoders; columns that none has a value for are left out."""
    from rich import box
    from rich.table import Table

    columns = [
        column
        for column in _COLUMNS[evaluation.task]
        if any(_score(found, column) is not None for found in evaluation.encoders)
    ]
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("encoder")
    for heading, _, _ in columns:
        table.add_column(heading, justify="right")
    for found in evaluation.encoders:
        table.add_row(found.name, *(_shown(_score(found, column)) for column in columns))
    return table


def gain_table(evaluation: Evaluation) -> Table:
    """By how much each encoder is better than colours, and than the first encoder."""
    from rich import box
    from rich.table import Table

    encoders = [found for found in evaluation.encoders if found.gains]
    columns = [
        (against, method)
        for against in (BASELINE, FIRST)
        for method in _METHODS
        if any(method in found.gains.get(against, {}) for found in encoders)
    ]
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("better by")
    for against, method in columns:
        what = f"{_METHODS[method]} {_GAIN_OF[evaluation.task]}".strip()
        over = "colours" if against == BASELINE else encoders[0].name
        table.add_column(f"{what} than {over}", justify="right")
    for found in encoders:
        gains = (found.gains.get(against, {}).get(method) for against, method in columns)
        table.add_row(found.name, *(_shown(gain, "+") for gain in gains))
    return table


def sentences(evaluation: Evaluation) -> Iterator[str]:
    """What must be known to read the table, a line each."""
    split = evaluation.split
    counts = ", ".join(
        f"{name} {split.tiles[name]:,} tiles of {split.units[name]:,}" for name in split.tiles
    )
    yield f"{counts} (units are made by {evaluation.over})"
    if split.units["test"] > 1:
        yield (
            f"in brackets: {evaluation.level:.0%} intervals over the test units, "
            f"{evaluation.resamples:,} resamples"
        )
    else:
        yield "no intervals: test has one unit alone"
    if 1 < split.units["test"] < _FEW_UNITS:
        yield f"with fewer than {_FEW_UNITS} units, intervals are too narrow"
    if split.val_from_train:
        yield "there is no split val: a fifth of the training units took its place"
    for reason, tiles in sorted(split.left_out.items()):
        yield f"{tiles:,} tiles left out: {reason}"
    if (leaks := split.leaks) is not None:
        done = (
            "they were kept, so the scores may be too good"
            if leaks.policy == "keep"
            else f"{leaks.left_out:,} tiles were dropped from val and test"
        )
        yield f"{leaks.count:,} leaks between the splits: {done}"


def _score(found: EncoderResult, column: tuple[str, str, str]) -> Interval | None:
    return found.scores.get(column[1], {}).get(column[2])


def _shown(score: Interval | None, sign: str = "-") -> str:
    """A score with its bounds; with the sign "+", also numbers above 0 have one."""
    if score is None or score.value != score.value:
        return "-"
    value, low, high = (number_text(v, sign) for v in (score.value, score.low, score.high))
    return value if score.low != score.low else f"{value} ({low} to {high})"
