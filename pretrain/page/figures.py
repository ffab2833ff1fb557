"""Figures of a page as numbers: where bars, lines, cells and points stand, and their words.

Positions are percent of a track, or units of a drawing (`WIDTH` by `HEIGHT`, x to the right, y
down). The template draws them; nothing here knows of HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pretrain.results.result import LESS_IS_BETTER, CurvePoint, EncoderResult, Matrix, number_text
from pretrain.scoring.intervals import Interval

COLOURS = 7
SHAPES = 4
"""Colour and shape of the classes take turns: 28 classes differ, with or without colour."""
STEPS = 5
"""Of the colours that stand for values: a fifth of the tiles each."""
WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 12, 44
_DEEP = 0.75

METRIC_NAMES = {
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "l1": "L1 error",
    "r2": "R²",
    "dice": "Dice",
    "iou": "IoU",
}
METHOD_NAMES = {
    "knn": "k nearest neighbours",
    "linear": "linear probe",
    "finetune": "fine-tuned",
    "decoder": "small decoder",
}
_UNBOUNDED = {"l1", "r2"}


@dataclass(frozen=True, slots=True)
class Key:
    """How a class, or an encoder in the curves, is drawn."""

    name: str
    colour: str
    """Class of the style sheet."""
    shape: int
    count: int = 0


@dataclass(frozen=True, slots=True)
class Bar:
    """A score and its interval on a track."""

    value: str
    bounds: str
    """Both bounds in words; empty where there are none."""
    start: float
    """Percent of the track where the bar begins: nought, if the track has it."""
    length: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A learning curve."""

    key: Key
    points: tuple[tuple[float, float], ...]
    path: str
    band: str
    """Corners of the area between the bounds; empty where there are none."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Learning curves, drawn and in words."""

    lines: tuple[Line, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    shares: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """Encoder, and a cell for each share."""
    sizes: tuple[str, ...]
    """Units and tiles of each share."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A count in a confusion matrix."""

    count: str
    share: float
    """Of its row, 0 to 1."""
    deep: bool
    """Whether its colour is so dark that its text must be light."""


@dataclass(frozen=True, slots=True)
class Scatter:
    """Truth against prediction."""

    points: tuple[tuple[float, float], ...]
    line: tuple[float, float, float, float]
    """Where both are equal: x1, y1, x2, y2."""
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    rows: tuple[tuple[str, ...], ...]
    """A fifth of the tiles each: range of the truth, tiles, means of both, mean distance."""


def metric_title(metric: str) -> str:
    """A metric's name, and which way is better where that is not plain."""
    name = METRIC_NAMES.get(metric, metric)
    return f"{name} (less is better)" if metric in LESS_IS_BETTER else name


def class_key(number: int, name: str, count: int = 0) -> Key:
    """How a class is drawn."""
    return Key(name, f"c{number % COLOURS}", number % SHAPES, count)


def axis_of(metric: str, scores: Iterable[Interval]) -> tuple[float, float]:
    """Both ends of an axis for some scores: 0 to 1, or as far as unbounded ones reach."""
    if metric not in _UNBOUNDED:
        return 0.0, 1.0
    seen = [v for s in scores for v in (s.value, s.low, s.high) if math.isfinite(v)]
    if metric == "l1":
        return 0.0, max(seen, default=1.0) or 1.0
    return max(-1.0, min([0.0, *seen])), 1.0


def bar(score: Interval, axis: tuple[float, float]) -> Bar:
    """A score on a track; what lies beyond its ends is cut there."""
    zero, value = _percent(0.0, axis), _percent(score.value, axis)
    bounded = math.isfinite(score.low) and math.isfinite(score.high)
    return Bar(
        number(score.value),
        f"{number(score.low)} to {number(score.high)}" if bounded else "",
        min(zero, value),
        round(abs(value - zero), 2),
        _percent(score.low, axis) if bounded else value,
        _percent(score.high, axis) if bounded else value,
    )


def _percent(value: float, axis: tuple[float, float]) -> float:
    low, high = axis
    share = (value - low) / (high - low) if math.isfinite(value) else 0.0
    return round(100 * min(1.0, max(0.0, share)), 2)


def number(value: float) -> str:
    """A score in words, with a minus as it is printed."""
    return number_text(value).replace("-", "−") if math.isfinite(value) else "–"


def curves(encoders: Sequence[EncoderResult], names: Sequence[str], metric: str) -> Curves | None:
    """The learning curves of all encoders; None where there are none.

    Shares stand at the distance of their logarithms.
    """
    drawn = [(i, e.curve) for i, e in enumerate(encoders) if e.curve]
    if not drawn:
        return None
    shares = sorted({point.share for _, curve in drawn for point in curve})
    axis = axis_of(metric, (point.score for _, curve in drawn for point in curve))
    start, end = math.log(shares[0]), math.log(shares[-1])

    def x(share: float) -> float:
        place = (math.log(share) - start) / (end - start) if end > start else 0.5
        return round(LEFT + place * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (100 - _percent(value, axis)) / 100 * (HEIGHT - TOP - BOTTOM), 1)

    lines = []
    for which, curve in drawn:
        good = [p for p in curve if math.isfinite(p.score.value)]
        spots = tuple((x(p.share), y(p.score.value)) for p in good)
        sure = [p for p in good if math.isfinite(p.score.low) and math.isfinite(p.score.high)]
        low = [(x(p.share), y(p.score.low)) for p in sure]
        high = [(x(p.share), y(p.score.high)) for p in sure]
        key = class_key(which, names[which])
        lines.append(Line(key, spots, _corners(spots), _corners([*low, *reversed(high)])))
    first = {point.share: point for _, curve in reversed(drawn) for point in curve}
    return Curves(
        tuple(lines),
        tuple(Tick(x(share), percent(share)) for share in shares),
        tuple(Tick(y(value), _short(value)) for value in _ticks(axis)),
        tuple(percent(share) for share in shares),
        tuple(
            (names[i], tuple(_curve_cell(curve, share) for share in shares)) for i, curve in drawn
        ),
        tuple(f"{first[share].units:,} / {first[share].tiles:,}" for share in shares),
    )


def _curve_cell(curve: Sequence[CurvePoint], share: float) -> str:
    for point in curve:
        if point.share == share:
            found = bar(point.score, (0, 1))
            return f"{found.value} ({found.bounds})" if found.bounds else found.value
    return "–"


def _corners(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.3g} %"


def _ticks(axis: tuple[float, float]) -> list[float]:
    """At most six round numbers on an axis."""
    span = axis[1] - axis[0]
    scale = 10.0 ** math.floor(math.log10(span / 5))
    step = next(scale * size for size in (1, 2, 2.5, 5, 10) if span / (scale * size) <= 5 + 1e-9)
    first = math.ceil(axis[0] / step - 1e-9)
    return [
        round(count * step, 12) for count in range(first, math.floor(axis[1] / step + 1e-9) + 1)
    ]


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def cells(matrix: Matrix) -> tuple[tuple[Cell, ...], ...]:
    """A confusion matrix, a row for each true class."""
    return tuple(
        tuple(Cell(f"{n:,}", round(s, 3), s > _DEEP) for n in row for s in [n / (sum(row) or 1)])
        for row in matrix
    )


def fifths(values: npt.NDArray[np.number]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """In which fifth of all values each lies, (n,), and the ranges of the fifths in words."""
    edges = np.quantile(values, np.linspace(0, 1, STEPS + 1)) if len(values) else np.zeros(6)
    places = np.searchsorted(edges[1:-1], values, side="left").astype(np.int64)
    names = tuple(f"{_short(low)} to {_short(high)}" for low, high in pairwise(edges.tolist()))
    return places, names


def scatter(truth: npt.NDArray[np.number], predicted: npt.NDArray[np.number]) -> Scatter:
    """Points of (truth, prediction) on two equal axes, and what lies in each fifth of the truth.

    Axes reach a quarter of the truth's span beyond it, so that plots of one truth can be compared;
    a prediction beyond them stands on their edge. (n,) each, n > 0.
    """
    low, high = float(truth.min()), float(truth.max())
    room = (high - low) / 4 if high > low else 0.5
    axis = (low - room, high + room)
    side = HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return round(LEFT + _percent(value, axis) / 100 * side, 1)

    def y(value: float) -> float:
        return round(TOP + (100 - _percent(value, axis)) / 100 * side, 1)

    places, names = fifths(truth)
    inside = [(name, places == place) for place, name in enumerate(names)]
    return Scatter(
        tuple((x(t), y(p)) for t, p in zip(truth.tolist(), predicted.tolist(), strict=True)),
        (x(axis[0]), y(axis[0]), x(axis[1]), y(axis[1])),
        tuple(Tick(x(value), _short(value)) for value in _ticks(axis)),
        tuple(Tick(y(value), _short(value)) for value in _ticks(axis)),
        tuple(
            (
                name,
                f"{int(here.sum()):,}",
                number(float(truth[here].mean())),
                number(float(predicted[here].mean())),
                number(float(np.abs(truth - predicted)[here].mean())),
            )
            for name, here in inside
            if here.any()
        ),
    )
