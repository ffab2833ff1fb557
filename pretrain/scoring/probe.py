"""Linear models on frozen features: what a straight cut through them can tell.

Features are (N, F), standardised with the mean and standard deviation of the training rows; a
feature that is the same in all of them is left out. How strongly a model is held back is chosen on
validation rows alone, out of a grid; test rows are not seen. scikit-learn is imported where it is
used, since commands must start without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pretrain.errors import ConfigError
from pretrain.scoring.metrics import Array, Floats, Integers, macro_f1, mean_absolute_error

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

LINEAR_GRID = tuple(10.0**power for power in range(-6, 3))
"""C of scikit-learn: the sum of losses weighs C times as much as half the squared weights."""
RIDGE_GRID = tuple(10.0**power for power in range(-2, 8))
"""How much the squared weights weigh against the sum of squared errors."""

_STEPS = 1000
"""Most steps of the solver for one C; it goes on from the last one's weights."""
_WORSE = 3
"""Values of C in a row that are worse than the best before; larger ones are then not tried."""
_CONSTANT = 1e-6
"""A spread below this share of the largest value is rounding of float32, not a feature."""


@dataclass(frozen=True, slots=True)
class _Scaler:
    """The mean and spread of the training rows' features, (F,) each."""

    mean: Floats
    factor: Floats
    """One over the standard deviation; 0 for a feature that is the same in all rows."""

    def __call__(self, rows: Array) -> Floats:
        scaled: Floats = rows - self.mean
        scaled *= self.factor
        return scaled


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A multinomial logistic regression on standardised features."""

    scaler: _Scaler
    weights: Floats
    """(F, C)."""
    bias: Floats
    """(C,); -inf for a class without training rows."""
    c: float
    """What the validation rows chose; the larger, the freer is the model."""
    val_macro_f1: float
    """Macro-F1 of the validation rows."""
    converged: bool
    """Whether the solver came to its end, up to this C; if not, the weights are those it had."""

    def scores(self, x: Array) -> Floats:
        """The probability of each class, (N, C); rows sum to 1.

        Raises:
            ConfigError: a feature is not a finite number.
        """
        _check_finite(x)
        return _softmax(self.scaler(x) @ self.weights + self.bias)

    def predict(self, x: Array) -> Integers:
        """The most probable class of each row, (N,); the first of equal ones."""
        predicted: Integers = self.scores(x).argmax(axis=1)
        return predicted


@dataclass(frozen=True, slots=True)
class RidgeProbe:
    """A ridge regression on standardised features."""

    scaler: _Scaler
    weights: Floats
    """(F,), in the unit of the target for each standard deviation of the feature."""
    bias: float
    alpha: float
    """What the validation rows chose; the larger, the more is the model held back."""
    val_l1: float
    """Mean absolute error of the validation rows."""

    def predict(self, x: Array) -> Floats:
        """The number of each row, (N,).

        Raises:
            ConfigError: a feature is not a finite number.
        """
        _check_finite(x)
        predicted: Floats = self.scaler(x) @ self.weights + self.bias
        return predicted


def fit_linear(
    train_x: Array,
    train_y: Integers,
    val_x: Array,
    val_y: Integers,
    classes: int,
    *,
    grid: Sequence[float] = LINEAR_GRID,
) -> LinearProbe:
    """Fit the probe with each C, and keep the one of the best macro-F1 on the validation rows.

    Of equally good ones, the smaller C is kept. They are tried from the smallest on, until three in
    a row are worse than the best. A class without training rows is never predicted.
    Memory is that of both features in float64, plus as much again while it fits.

    Args:
        train_x, val_x: features (N, F) and (M, F).
        train_y, val_y: class numbers, from 0 to `classes` - 1.
        classes: C.
        grid: values of C.

    Raises:
        ConfigError: there are no rows to choose by, the training rows are all of one class, or a
            feature is not a finite number.
    """
    from sklearn.linear_model import LogisticRegression

    _check_rows(train_x, val_x)
    if len(there := np.unique(train_y)) < 2:
        raise ConfigError(
            f"a linear probe needs training tiles of two classes, but these {len(train_y)} are "
            f"all of class {there[0]}; split so that every class has training tiles"
        )
    scaler = _scaler_of(train_x)
    rows, val_rows = scaler(train_x), scaler(val_x)
    model = LogisticRegression(warm_start=True, max_iter=_STEPS)
    best: LinearProbe | None = None
    converged, worse = True, 0
    for c in sorted(grid):
        converged &= _fit(model.set_params(C=c), rows, train_y)
        weights, bias = _weights_of(model, classes)
        reached = macro_f1(val_y, (val_rows @ weights + bias).argmax(axis=1), classes)
        if best is None or reached > best.val_macro_f1:
            best = LinearProbe(scaler, weights, bias, c, reached, converged)
        worse = worse + 1 if reached < best.val_macro_f1 else 0
        if worse == _WORSE:
            break
    if best is None:
        raise ValueError("the grid of a probe is empty")
    return best


def fit_ridge(
    train_x: Array,
    train_y: Floats,
    val_x: Array,
    val_y: Floats,
    *,
    grid: Sequence[float] = RIDGE_GRID,
) -> RidgeProbe:
    """Fit the probe with each alpha, and keep that of the least L1 on the validation rows.

    Of equally good ones, the larger alpha is kept. All alphas share one decomposition (Hastie et
    al., The Elements of Statistical Learning, 2nd edition, equations 3.47 and 18.13 to 18.15).

    Args:
        train_x, val_x: features (N, F) and (M, F).
        train_y, val_y: numbers (N,) and (M,).
        grid: values of alpha, above 0.

    Raises:
        ConfigError: there are no rows to choose by, or a feature is not a finite number.
    """
    _check_rows(train_x, val_x)
    scaler = _scaler_of(train_x)
    rows, val_rows = scaler(train_x), scaler(val_x)
    bias = float(np.mean(train_y))
    weights_of = _ridge(rows, np.asarray(train_y, dtype=np.float64) - bias)
    best: RidgeProbe | None = None
    for alpha in sorted(grid, reverse=True):
        weights = weights_of(alpha)
        reached = mean_absolute_error(val_y, val_rows @ weights + bias)
        if best is None or reached < best.val_l1:
            best = RidgeProbe(scaler, weights, bias, alpha, reached)
    if best is None:
        raise ValueError("the grid of a probe is empty")
    return best


def _check_rows(train_x: Array, val_x: Array) -> None:
    for rows, name in ((train_x, "training"), (val_x, "validation")):
        if not len(rows):
            raise ConfigError(f"a probe needs {name} tiles, but there are none; split anew")
        _check_finite(rows)


def _check_finite(rows: Array) -> None:
    lost = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(lost):
        raise ConfigError(
            f"the features of {len(lost)} of {len(rows)} tiles are not finite numbers, first those "
            f"of row {lost[0]}; leave damaged tiles out, or check the encoder"
        )


def _scaler_of(rows: Array) -> _Scaler:
    mean, spread = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    varies = spread > _CONSTANT * np.abs(rows).max(axis=0)
    return _Scaler(mean, np.divide(1.0, spread, out=np.zeros_like(spread), where=varies))


def _fit(model: LogisticRegression, rows: Floats, labels: Integers) -> bool:
    """Fit a model further; whether the solver came to its end."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(rows, labels)
    return not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _weights_of(model: LogisticRegression, classes: int) -> tuple[Floats, Floats]:
    """Weights (F, C) and bias (C,) of all classes, also of those without training rows."""
    weights, bias = model.coef_, model.intercept_
    if len(weights) == 1:
        # Two classes: scikit-learn tells the second from the first by one row of weights.
        weights, bias = np.stack([0 * weights[0], weights[0]]), np.array([0.0, bias[0]])
    all_weights = np.zeros((weights.shape[1], classes))
    all_bias = np.full(classes, -np.inf)
    all_weights[:, model.classes_] = weights.T
    all_bias[model.classes_] = bias
    return all_weights, all_bias


def _ridge(rows: Floats, target: Floats) -> Callable[[float], Floats]:
    """The ridge weights (F,) of any alpha, by the eigenvalues of the smaller product of rows."""
    if len(rows) < rows.shape[1]:
        strength, axes = np.linalg.eigh(rows @ rows.T)
        along = axes.T @ target
        return lambda alpha: rows.T @ (axes @ (along / (np.maximum(strength, 0.0) + alpha)))
    strength, axes = np.linalg.eigh(rows.T @ rows)
    along = axes.T @ (rows.T @ target)
    return lambda alpha: axes @ (along / (np.maximum(strength, 0.0) + alpha))


def _softmax(logits: Floats) -> Floats:
    shares: Floats = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares
