"""How well predictions agree with the truth: of classes, numbers and masks.

Classes are numbers from 0; N is tiles or pixels, C classes. A confusion matrix (C, C) counts rows
of class `i` (the row of the matrix) that were predicted as `j` (its column). What follows from it
is computed for any stack of matrices (..., C, C), also of weighted counts, so that a bootstrap can
compute a thousand at once. A mean over classes is one over those that can be scored, as
scikit-learn does it; where there is none, the result is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating] | npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_FLAT = 1e-12
"""A spread below this share of the squares that it is the difference of is rounding alone."""


def confusion(truth: Integers, predicted: Integers, classes: int) -> Integers:
    """How many rows of each class were predicted as each, int64 (C, C).

    Args:
        truth, predicted: class numbers, of one shape, each from 0 to `classes` - 1.

    Raises:
        ValueError: the shapes differ, or a number is out of range.
    """
    one = np.zeros(np.shape(truth), dtype=np.int64)
    matrix: Integers = confusion_by_unit(truth, predicted, classes, one, 1)[0]
    return matrix


def confusion_by_unit(
    truth: Integers, predicted: Integers, classes: int, units: Integers, count: int
) -> Integers:
    """The confusion matrix of each unit, int64 (U, C, C).

    Args:
        truth, predicted: class numbers, of one shape, each from 0 to `classes` - 1.
        units: the unit of each, of the same shape, from 0 to `count` - 1.
        count: U, how many units there are.

    Raises:
        ValueError: the shapes differ, or a number is out of range.
    """
    numbers, shapes = [], set()
    for given, limit in ((units, count), (truth, classes), (predicted, classes)):
        some = np.asarray(given)
        if some.size and not 0 <= some.min() <= some.max() < limit:
            raise ValueError(f"numbers from {some.min()} to {some.max()} are not all below {limit}")
        numbers.append(some.astype(np.int64).ravel())
        shapes.add(some.shape)
    if len(shapes) > 1:
        raise ValueError(f"truth, predictions and units have different shapes: {sorted(shapes)}")
    cells = (numbers[0] * classes + numbers[1]) * classes + numbers[2]
    counts = np.bincount(cells, minlength=count * classes * classes)
    return counts.reshape(count, classes, classes)


def f1_by_class(matrices: Array) -> Floats:
    """F1 of each class, which is its Dice coefficient, (..., C).

    2 TP / (2 TP + FP + FN); NaN for a class that is neither in the truth nor predicted.
    """
    right, either = _overlaps(matrices)
    return _ratio(2 * right, either)


def iou_by_class(matrices: Array) -> Floats:
    """Intersection over union of each class, (..., C).

    TP / (TP + FP + FN); NaN for a class that is neither in the truth nor predicted.
    """
    right, either = _overlaps(matrices)
    return _ratio(right, either - right)


def recall_by_class(matrices: Array) -> Floats:
    """Share of the rows of each class that were predicted as it, (..., C); NaN where none is."""
    counts = np.asarray(matrices, dtype=np.float64)
    return _ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1))


def mean_over_classes(values: Floats) -> Floats:
    """The mean of those values (..., C) that are not NaN; NaN where all are."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1))


def macro_f1(truth: Integers, predicted: Integers, classes: int) -> float:
    """Mean F1 of the classes that are in the truth or were predicted, 0 to 1."""
    return float(mean_over_classes(f1_by_class(confusion(truth, predicted, classes))))


def balanced_accuracy(truth: Integers, predicted: Integers, classes: int) -> float:
    """Mean share of rows that were predicted right, over the classes of the truth, 0 to 1."""
    return float(mean_over_classes(recall_by_class(confusion(truth, predicted, classes))))


def dice(truth: Integers, predicted: Integers, classes: int) -> float:
    """Mean Dice coefficient of the classes that are in the truth or were predicted, 0 to 1.

    Args:
        truth, predicted: class of each pixel, of one shape.
    """
    return macro_f1(truth, predicted, classes)


def iou(truth: Integers, predicted: Integers, classes: int) -> float:
    """Mean intersection over union of the classes in the truth or predicted, 0 to 1.

    Args:
        truth, predicted: class of each pixel, of one shape.
    """
    return float(mean_over_classes(iou_by_class(confusion(truth, predicted, classes))))


def auc(truth: Integers, scores: Array) -> float:
    """Area under the ROC curve, each class against the rest: their mean, 0 to 1.

    Only classes that some rows have and others have not; NaN if there is none. It compares the
    scores of one class over rows, so each row's should be shares or probabilities.

    Args:
        truth: class numbers (N,), from 0 to C - 1.
        scores: (N, C); the higher, the likelier is the class.

    Raises:
        ValueError: the shapes do not fit, or a score is NaN.
    """
    return float(weighted_auc(truth, scores)(np.ones((len(scores), 1)))[0])


def weighted_auc(truth: Integers, scores: Array) -> Callable[[Floats], Floats]:
    """`auc` for any weighting of the rows: what can be done once is done before weights are known.

    Args:
        truth: class numbers (N,), from 0 to C - 1.
        scores: (N, C).

    Returns:
        A function from weights (N, R), 0 or more, to the AUC of each weighting, (R,). A row of
        weight 2 counts as two equal rows.

    Raises:
        ValueError: the shapes do not fit, or a score is NaN.
    """
    if scores.ndim != 2 or len(truth) != len(scores):
        raise ValueError(f"{len(truth)} rows of truth do not fit scores of shape {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    duels = [_Duel.of(truth == c, scores[:, c]) for c in range(scores.shape[1])]
    return lambda weights: mean_over_classes(np.stack([d.auc(weights) for d in duels], axis=-1))


def mean_absolute_error(truth: Floats, predicted: Floats) -> float:
    """The mean distance of predictions from the truth (N,), in its unit: L1."""
    return float(np.mean(np.abs(np.asarray(truth, np.float64) - predicted)))


def r2(truth: Floats, predicted: Floats) -> float:
    """Share of the truth's variance that predictions (N,) explain: 1 at best, can be negative.

    NaN if all of the truth is one number: then there is nothing to explain.
    """
    return float(weighted_r2(*square_sums(truth, predicted))[0])


def square_sums(truth: Floats, predicted: Floats) -> tuple[Floats, Floats]:
    """What R² follows from, for any sum of rows: moments (N, 3) and squared errors (N,).

    The moments are 1, y and y², where y is the truth less its mean over all rows: without that,
    the difference of squares would lose digits.
    """
    truth = np.asarray(truth, dtype=np.float64)
    centred = truth - truth.mean()
    moments = np.stack([np.ones_like(centred), centred, centred**2], axis=-1)
    return moments, (truth - predicted) ** 2


def weighted_r2(moments: Floats, errors: Floats, weights: Floats | None = None) -> Floats:
    """R² of each of R weightings (R, N) of rows (see `square_sums`); one of all rows if None."""
    if weights is None:
        weights = np.ones((1, len(errors)))
    total = weights @ moments
    spread = total[:, 2] - _ratio(total[:, 1] ** 2, total[:, 0])
    spread = np.where(spread > _FLAT * total[:, 2], spread, 0.0)
    found: Floats = 1 - _ratio(weights @ errors, spread)
    return found


def _overlaps(matrices: Array) -> tuple[Floats, Floats]:
    """Of each class: the rows that are rightly it, and those of truth plus those predicted."""
    counts = np.asarray(matrices, dtype=np.float64)
    return np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1) + counts.sum(axis=-2)


def _ratio(above: Array, below: Array) -> Floats:
    """The quotient, float64; NaN where it is divided by zero."""
    empty = np.full(np.broadcast_shapes(np.shape(above), np.shape(below)), np.nan)
    quotient: Floats = np.divide(above, below, out=empty, where=np.asarray(below) != 0)
    return quotient


@dataclass(frozen=True, slots=True)
class _Duel:
    """The rows of one class (P) against the others (Q), by their scores."""

    mine: Integers
    """Rows of the class, (P,)."""
    others: Integers
    """The other rows, in the order of their scores, (Q,)."""
    below: Integers
    """How many of the others each of mine beats, (P,)."""
    not_above: Integers
    """How many it beats or equals, (P,)."""

    @classmethod
    def of(cls, positive: npt.NDArray[np.bool_], scores: Array) -> _Duel:
        """Prepare the duel of a class: `positive` are its rows, (N,), and `scores` its scores."""
        mine, others = np.flatnonzero(positive), np.flatnonzero(~positive)
        others = others[np.argsort(scores[others], kind="stable")]
        beaten = [np.searchsorted(scores[others], scores[mine], s) for s in ("left", "right")]
        return cls(mine, others, *beaten)

    def auc(self, weights: Floats) -> Floats:
        """The share of pairs in the right order, equal ones half, by weights (N, R): (R,)."""
        beaten = np.zeros((len(self.others) + 1, weights.shape[1]))
        np.cumsum(weights[self.others], axis=0, out=beaten[1:])
        own = weights[self.mine]
        pairs = np.einsum("pr,pr->r", own, beaten[self.below])
        pairs += np.einsum("pr,pr->r", own, beaten[self.not_above])
        return _ratio(pairs / 2, own.sum(axis=0) * beaten[-1])
