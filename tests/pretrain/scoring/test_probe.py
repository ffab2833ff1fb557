"""Probes against scikit-learn's own models, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from pretrain.errors import ConfigError
from pretrain.scoring import probe as module
from pretrain.scoring.metrics import Floats, Integers, macro_f1, mean_absolute_error
from pretrain.scoring.probe import fit_linear, fit_ridge


def clouds(
    rows: int, features: int, classes: int, *, seed: int = 0, noise: float = 0.2
) -> tuple[Floats, Integers]:
    """Features of classes that overlap, some with a wrong label, and the classes."""
    random = np.random.default_rng(seed)
    truth = np.arange(rows) % classes
    centres = np.random.default_rng(99).normal(size=(classes, features))
    rows_of = 3 + 5 * (random.normal(size=(rows, features)) + 0.6 * centres[truth])
    wrong = random.random(rows) < noise
    return rows_of, np.where(wrong, random.integers(classes, size=rows), truth)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_linear_probe_is_scikit_learns_with_the_c_that_validation_chooses(
    classes: int,
) -> None:
    train, labels = clouds(150, 20, classes)
    val, val_labels = clouds(90, 20, classes, seed=1)
    probe = fit_linear(train, labels, val, val_labels, classes)
    scaler = StandardScaler().fit(train)
    best: tuple[float, float] = (-1.0, 0.0)
    for c in module.LINEAR_GRID:
        model = LogisticRegression(C=c, max_iter=5000, tol=1e-8)
        model.fit(scaler.transform(train), labels)
        reached = macro_f1(val_labels, model.predict(scaler.transform(val)), classes)
        if reached > best[0]:
            best, expected = (reached, c), model.predict_proba(scaler.transform(val))
    assert (probe.val_macro_f1, probe.c) == best
    assert probe.converged
    assert probe.scores(val) == pytest.approx(expected, abs=5e-3)
    assert probe.scores(val).sum(axis=1) == pytest.approx(1.0)
    assert probe.predict(val).tolist() == probe.scores(val).argmax(axis=1).tolist()


def test_test_rows_and_units_of_features_do_not_matter() -> None:
    train, labels = clouds(90, 8, 3)
    val, val_labels = clouds(60, 8, 3, seed=1)
    plain = fit_linear(train, labels, val, val_labels, 3)
    factor, shift = np.linspace(0.01, 100, 8), np.linspace(-50, 50, 8)
    scaled = fit_linear(train * factor + shift, labels, val * factor + shift, val_labels, 3)
    assert scaled.c == plain.c
    assert scaled.scores(val * factor + shift) == pytest.approx(plain.scores(val), abs=1e-6)


def test_of_equally_good_cs_the_smaller_is_kept() -> None:
    train, labels = clouds(60, 4, 2, noise=0.0)
    train += 100 * labels[:, None]
    probe = fit_linear(train, labels, train, labels, 2)
    assert (probe.c, probe.val_macro_f1) == (min(module.LINEAR_GRID), 1.0)


def test_validation_chooses_and_not_training() -> None:
    # Training labels are partly noise: the freest model fits them best, and validation worst.
    train, labels = clouds(80, 60, 2, noise=0.4)
    val, val_labels = clouds(400, 60, 2, seed=1, noise=0.0)
    probe = fit_linear(train, labels, val, val_labels, 2)
    free = fit_linear(train, labels, val, val_labels, 2, grid=[100.0])
    assert probe.c < 1
    assert macro_f1(labels, free.predict(train), 2) > macro_f1(labels, probe.predict(train), 2)
    assert probe.val_macro_f1 > free.val_macro_f1


def test_two_worse_cs_do_not_end_the_search_but_three_do(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = iter([0.5, 0.4, 0.4, 0.6, 0.5, 0.6, 0.5, 0.5, 0.5, 0.9])
    monkeypatch.setattr(module, "macro_f1", lambda *_: next(reached))
    train, labels = clouds(30, 3, 2)
    grid = [10.0**power for power in range(-6, 4)]
    probe = fit_linear(train, labels, train, labels, 2, grid=grid[::-1])
    assert (probe.c, probe.val_macro_f1) == (1e-3, 0.6)
    assert list(reached) == [0.9]


def test_a_solver_without_the_time_it_needs_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEPS", 1)
    train, labels = clouds(90, 8, 3)
    assert not fit_linear(train, labels, train, labels, 3).converged


def test_constant_features_say_nothing_even_if_they_change_later() -> None:
    train, labels = clouds(90, 8, 3)
    constant = np.full((90, 1), 0.1, dtype=np.float32)
    plain = fit_linear(train, labels, train, labels, 3)
    wider = fit_linear(
        np.hstack([train, constant]), labels, np.hstack([train, constant]), labels, 3
    )
    later = np.hstack([train, 1e9 * np.arange(90)[:, None]])
    assert wider.scores(later) == pytest.approx(plain.scores(train), abs=1e-9)


def test_a_class_without_training_rows_is_never_predicted() -> None:
    train, labels = clouds(90, 8, 3)
    labels = np.array([1, 2, 4])[labels]
    probe = fit_linear(train, labels, train, labels, 5)
    assert (probe.scores(train)[:, [0, 3]] == 0).all()
    assert set(probe.predict(train).tolist()) == {1, 2, 4}


def test_a_class_may_be_missing_in_validation() -> None:
    train, labels = clouds(90, 8, 3)
    few = labels != 2
    probe = fit_linear(train, labels, train[few], labels[few], 3)
    assert probe.val_macro_f1 == macro_f1(labels[few], probe.predict(train[few]), 3)


def test_float32_features_give_the_scores_of_float64() -> None:
    train, labels = clouds(90, 8, 3)
    small = train.astype(np.float32)
    exact = fit_linear(small.astype(np.float64), labels, small.astype(np.float64), labels, 3)
    probe = fit_linear(small, labels, small, labels, 3)
    assert probe.scores(small).dtype == np.float64
    assert probe.scores(small).tolist() == exact.scores(small.astype(np.float64)).tolist()


@pytest.mark.parametrize("features", [5, 120])
def test_the_ridge_probe_is_scikit_learns_with_the_alpha_that_validation_chooses(
    features: int,
) -> None:
    random = np.random.default_rng(0)
    train, val = 7 + 3 * random.normal(size=(2, 60, features))
    slope = random.normal(size=features)
    truth, val_truth = (x @ slope + 10 * random.normal(size=60) for x in (train, val))
    probe = fit_ridge(train, truth, val, val_truth)
    scaler = StandardScaler().fit(train)
    found = {}
    for alpha in module.RIDGE_GRID:
        model = Ridge(alpha=alpha, solver="svd").fit(scaler.transform(train), truth)
        predicted = model.predict(scaler.transform(val))
        found[alpha] = mean_absolute_error(val_truth, predicted), predicted
    best = min(found, key=lambda alpha: found[alpha][0])
    assert probe.alpha == best
    assert probe.val_l1 == pytest.approx(found[best][0])
    assert probe.predict(val) == pytest.approx(found[best][1])


def test_of_equally_good_alphas_the_larger_is_kept() -> None:
    train, flat = np.random.default_rng(0).normal(size=(20, 3)), np.full(20, 2.5)
    probe = fit_ridge(train, flat, train, flat)
    assert (probe.alpha, probe.val_l1) == (max(module.RIDGE_GRID), 0.0)


def test_what_cannot_be_fitted_is_said_in_one_sentence() -> None:
    rows, labels = clouds(12, 3, 2)
    with pytest.raises(ConfigError, match=r"two classes, but these 12 are all of class 1; "):
        fit_linear(rows, np.ones(12, np.int64), rows, labels, 2)
    with pytest.raises(ConfigError, match="needs validation tiles, but there are none"):
        fit_linear(rows, labels, rows[:0], labels[:0], 2)
    with pytest.raises(ConfigError, match="needs training tiles, but there are none"):
        fit_ridge(rows[:0], labels[:0] / 1, rows, labels / 1)
    lost = rows.copy()
    lost[[5, 7], 1] = np.nan, np.inf
    message = "features of 2 of 12 tiles are not finite numbers, first those of row 5"
    with pytest.raises(ConfigError, match=message):
        fit_linear(lost, labels, rows, labels, 2)
    with pytest.raises(ConfigError, match=message):
        fit_ridge(rows, labels / 1, lost, labels / 1)
    with pytest.raises(ConfigError, match=message):
        fit_linear(rows, labels, rows, labels, 2).predict(lost)
