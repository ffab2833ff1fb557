"""Metrics against scikit-learn, and where they are not defined."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn")

from sklearn import metrics as oracle

from pretrain.scoring.metrics import (
    Floats,
    Integers,
    auc,
    balanced_accuracy,
    confusion,
    confusion_by_unit,
    dice,
    f1_by_class,
    iou,
    iou_by_class,
    macro_f1,
    mean_absolute_error,
    r2,
    weighted_auc,
)

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=40)
@given(seed=SEEDS, rows=st.integers(1, 40), classes=st.integers(1, 6), used=st.integers(1, 6))
def test_metrics_of_classes_are_those_of_scikit_learn(
    seed: int, rows: int, classes: int, used: int
) -> None:
    random = np.random.default_rng(seed)
    # Of few rows or few used classes, some classes are missing in the truth, in the other or both.
    truth, predicted = random.integers(min(classes, used), size=(2, rows))
    predicted = np.minimum(predicted + random.integers(2, size=rows), classes - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are missing on one side
        matrix = oracle.confusion_matrix(truth, predicted, labels=np.arange(classes))
        mean_f1 = oracle.f1_score(truth, predicted, average="macro")
        mean_iou = oracle.jaccard_score(truth, predicted, average="macro")
        balanced = oracle.balanced_accuracy_score(truth, predicted)
    assert confusion(truth, predicted, classes).tolist() == matrix.tolist()
    assert macro_f1(truth, predicted, classes) == pytest.approx(mean_f1, abs=1e-14)
    assert dice(truth, predicted, classes) == pytest.approx(mean_f1, abs=1e-14)
    assert iou(truth, predicted, classes) == pytest.approx(mean_iou, abs=1e-14)
    assert balanced_accuracy(truth, predicted, classes) == pytest.approx(balanced, abs=1e-14)


@given(seed=SEEDS, rows=st.integers(1, 40), classes=st.integers(1, 5))
def test_dice_and_iou_of_a_class_are_overlaps_of_sets(seed: int, rows: int, classes: int) -> None:
    truth, predicted = np.random.default_rng(seed).integers(classes, size=(2, rows, 3))
    matrix = confusion(truth, predicted, classes)
    for c in range(classes):
        true = set(np.flatnonzero(truth.ravel() == c).tolist())
        said = set(np.flatnonzero(predicted.ravel() == c).tolist())
        both, either = len(true & said), len(true | said)
        f1 = 2 * both / (len(true) + len(said)) if either else np.nan
        share = both / either if either else np.nan
        assert f1_by_class(matrix)[c] == pytest.approx(f1, nan_ok=True)
        assert iou_by_class(matrix)[c] == pytest.approx(share, nan_ok=True)


@settings(max_examples=40)
@given(seed=SEEDS, rows=st.integers(2, 40), classes=st.integers(2, 5), levels=st.integers(2, 50))
def test_auc_is_the_mean_of_scikit_learns_over_classes_that_have_both(
    seed: int, rows: int, classes: int, levels: int
) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=rows)
    scores = random.integers(levels, size=(rows, classes)) / levels  # few levels: many ties
    some = [c for c in range(classes) if 0 < (truth == c).sum() < rows]
    each = [oracle.roc_auc_score(truth == c, scores[:, c]) for c in some]
    expected = np.mean(each) if each else np.nan
    assert auc(truth, scores) == pytest.approx(expected, abs=1e-13, nan_ok=True)


@given(seed=SEEDS, rows=st.integers(1, 20))
def test_a_weight_counts_a_row_as_often(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    truth, scores = random.integers(3, size=rows), random.integers(5, size=(rows, 3)) / 5
    weights = random.integers(4, size=(rows, 4))
    found = weighted_auc(truth, scores)(weights.astype(np.float64))
    expected = [auc(truth.repeat(w), scores.repeat(w, axis=0)) for w in weights.T]
    assert found == pytest.approx(np.array(expected), abs=1e-13, nan_ok=True)


@given(seed=SEEDS, rows=st.integers(2, 40), offset=st.sampled_from([0.0, 1e6, -1e9]))
def test_metrics_of_numbers_are_those_of_scikit_learn(seed: int, rows: int, offset: float) -> None:
    random = np.random.default_rng(seed)
    truth = offset + random.normal(size=rows)
    predicted = truth + random.normal(size=rows)
    expected = oracle.mean_absolute_error(truth, predicted)
    assert mean_absolute_error(truth, predicted) == pytest.approx(expected, rel=1e-12)
    assert r2(truth, predicted) == pytest.approx(oracle.r2_score(truth, predicted), rel=1e-6)


def test_a_mean_of_all_classes_counts_those_that_are_there() -> None:
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])
    # Class 3 is nowhere; class 2 was predicted, but is not true.
    assert macro_f1(truth, predicted, 4) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert balanced_accuracy(truth, predicted, 4) == pytest.approx((1 + 1 / 2) / 2)


def test_what_is_not_defined_is_nan() -> None:
    nothing: Integers = np.zeros(0, dtype=np.int64)
    no_numbers: Floats = np.zeros((0, 2))
    assert np.isnan(macro_f1(nothing, nothing, 3))
    assert np.isnan(auc(nothing, no_numbers))
    assert np.isnan(auc(np.array([1, 1]), np.array([[0.2, 0.8], [0.3, 0.7]])))
    assert np.isnan(r2(np.array([0.1, 0.1, 0.1]), np.array([0.1, 0.2, 0.3])))


@given(seed=SEEDS, units=st.integers(1, 5))
def test_matrices_of_units_are_those_of_their_rows(seed: int, units: int) -> None:
    random = np.random.default_rng(seed)
    truth, predicted, of_row = random.integers(3, size=(3, 30)) % np.array([[3], [3], [units]])
    found = confusion_by_unit(truth, predicted, 3, of_row, units)
    for unit in range(units):
        mine = of_row == unit
        assert found[unit].tolist() == confusion(truth[mine], predicted[mine], 3).tolist()


@pytest.mark.parametrize(
    ("truth", "predicted"), [([0, 3], [0, 1]), ([0, 1], [-1, 1]), ([0, 1, 2], [0, 1])]
)
def test_numbers_that_are_no_class_are_refused(truth: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match=r"not all below 3|shapes"):
        confusion(np.array(truth), np.array(predicted), 3)


def test_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        auc(np.array([0, 1, 1]), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="NaN"):
        auc(np.array([0, 1]), np.array([[0.1, 0.9], [np.nan, 0.5]]))
