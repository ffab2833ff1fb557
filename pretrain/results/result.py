"""What an evaluation found: plain frozen data, and the JSON that it becomes.

The form is held by `docs/reference/evaluate.md`. Nothing in it says where on a disk anything lies.
Counts are tiles and units; a unit is what belongs together, such as all tiles of a patient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from manifests.files import Json
from pretrain.results.settings import CLASSIFICATION, REGRESSION, SEGMENTATION

if TYPE_CHECKING:
    from pretrain.scoring.intervals import Interval

FORMAT = "histotile-evaluation"
VERSION = 1

METRICS: Mapping[str, tuple[str, ...]] = {
    CLASSIFICATION: ("macro_f1", "balanced_accuracy", "auc"),
    REGRESSION: ("l1", "r2"),
    SEGMENTATION: ("dice", "iou"),
}
"""What is measured for each task; the first is what everything is chosen by."""
LESS_IS_BETTER = frozenset({"l1"})
BASELINE, FIRST = "baseline", "first"
"""What an encoder is compared with: the baseline, and the first encoder that was given."""
HISTOGRAM = "colour histogram"
MOST_SENTENCES = 20
_DIGITS = 6
_SMALL = 5e-4
"""Would be 0.000: an L1 may be in any unit."""

Matrix = tuple[tuple[int, ...], ...]
"""Counts: a row for each true class, a column for each predicted one."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The linear probe on a share of the training labels."""

    share: float
    """Of the training units, 0 to 1."""
    tiles: int
    """Training tiles; the mean over the draws, rounded."""
    units: int
    """Training units; the mean over the draws, rounded."""
    draws: tuple[float, ...]
    """The score of each draw of labels."""
    score: Interval
    """Their mean; the bounds are means of the draws' bounds over test units."""


@dataclass(frozen=True, slots=True)
class EncoderResult:
    """What one encoder, or the baseline, reached on the test tiles."""

    name: str
    arch: str
    library: str
    features: int
    sha256: str | None
    """Of the weights; None for a baseline."""
    mpp: tuple[tuple[float, float], ...]
    """µm per pixel that it was trained on; () where that is not known."""
    kind: str
    """`encoder` or `baseline`."""
    scores: Mapping[str, Mapping[str, Interval]]
    """Method (`knn`, `linear`, `finetune`; `decoder`) → metric → value and bounds."""
    chosen: Mapping[str, float]
    """What the validation tiles chose: `k`, `c` or `alpha`, `epoch`."""
    gains: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    """`BASELINE`, `FIRST` → method → by how much the task's first metric is better than theirs."""
    confusion: Mapping[str, Matrix] = field(default_factory=dict)
    """Method → counts of test tiles (of pixels for segmentation); {} for regression."""
    curve: tuple[CurvePoint, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """`embed` and `score`, and `finetune`."""
    damaged: int = 0
    """Tiles that could not be read; they count for no encoder."""


@dataclass(frozen=True, slots=True)
class LeakNote:
    """What lay in two splits, and what was done about it."""

    policy: str
    """`drop` or `keep`."""
    count: int
    sentences: tuple[str, ...]
    """The first 20."""
    left_out: int
    """Tiles of val and test that were dropped for it."""


@dataclass(frozen=True, slots=True)
class SplitNote:
    """The tiles and units of each split that count."""

    by: tuple[str, ...]
    """What units are made by."""
    tiles: Mapping[str, int]
    units: Mapping[str, int]
    manifest_sha256: str | None = None
    """Of the split file; None where the manifest's own splits count."""
    near: bool = True
    """Whether tiles that look the same were looked for in two splits."""
    val_from_train: bool = False
    """Whether val was taken from train, for want of one."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason → tiles that do not count."""
    leaks: LeakNote | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that `evaluation.json` holds."""

    task: str
    label: str | None
    classes: tuple[str, ...]
    """() for regression."""
    manifest_sha256: str
    image_size: int | None
    """Pixels that tiles were brought to; None: as each encoder needs it."""
    seed: int
    resamples: int
    split: SplitNote
    encoders: tuple[EncoderResult, ...]
    """In the order they were given; the baseline is the last."""
    level: float = 0.95

    @property
    def over(self) -> str:
        """What the intervals resample, in a word."""
        return "+".join(self.split.by)

    def to_json(self) -> Json:
        """The evaluation as JSON; the same result gives the same text."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "task": self.task,
            "label": self.label,
            "classes": list(self.classes),
            "manifest_sha256": self.manifest_sha256,
            "image_size": self.image_size,
            "seed": self.seed,
            "split": _split_json(self.split),
            "interval": {"level": self.level, "resamples": self.resamples, "over": self.over},
            "encoders": [_encoder_json(found, self.task) for found in self.encoders],
        }


def _split_json(split: SplitNote) -> Json:
    leaks = split.leaks
    return {
        "by": list(split.by),
        "tiles": dict(split.tiles),
        "units": dict(split.units),
        "manifest_sha256": split.manifest_sha256,
        "near": split.near,
        "val_from_train": split.val_from_train,
        "left_out": dict(split.left_out),
        "leaks": None
        if leaks is None
        else {
            "policy": leaks.policy,
            "count": leaks.count,
            "sentences": list(leaks.sentences[:MOST_SENTENCES]),
            "left_out": leaks.left_out,
        },
    }


def _encoder_json(found: EncoderResult, task: str) -> Json:
    main = METRICS[task][0]
    return {
        "name": found.name,
        "arch": found.arch,
        "library": found.library,
        "features": found.features,
        "sha256": found.sha256,
        "mpp": [list(pair) for pair in found.mpp],
        "kind": found.kind,
        "seconds": {name: round(value, 3) for name, value in found.seconds.items()},
        "scores": {
            method: {name: interval_json(value) for name, value in metrics.items()}
            for method, metrics in found.scores.items()
        },
        "gains": {
            against: {method: interval_json(value) for method, value in methods.items()}
            for against, methods in found.gains.items()
        },
        "chosen": dict(found.chosen),
        "confusion": {name: [list(row) for row in rows] for name, rows in found.confusion.items()},
        "curve": [
            {
                "share": point.share,
                "tiles": point.tiles,
                "units": point.units,
                "draws": [_rounded(value) for value in point.draws],
                main: interval_json(point.score),
            }
            for point in found.curve
        ],
        "damaged": found.damaged,
    }


def interval_json(interval: Interval) -> Json:
    """`value`, `low` and `high`; a bound that cannot be had is null."""
    return {name: _rounded(getattr(interval, name)) for name in ("value", "low", "high")}


def number_text(value: float, sign: str = "-") -> str:
    """A score in words: three digits behind the point, or three significant ones of small numbers.

    Args:
        sign: "+" where numbers above 0 are to have a sign, too.
    """
    tiny = 0 < abs(value) < _SMALL
    return f"{value:{sign}.3g}" if tiny else f"{value:{sign}.3f}"


def _rounded(value: float) -> float | None:
    """Six significant digits, whatever the unit; None where it is no number."""
    return float(f"{value:.{_DIGITS}g}") if abs(value) < float("inf") else None
