"""Features are scored as the protocol says: fitted on train, chosen on val, told by test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, f1_score, mean_absolute_error
from sklearn.preprocessing import StandardScaler

from pretrain.evaluating.protocol import DRAWS, TEST, TRAIN, VAL, Rows, Truth, score_features
from pretrain.results.settings import CLASSIFICATION, NEIGHBOURS, REGRESSION, SHARES


def made(task: str = CLASSIFICATION, seed: int = 0) -> tuple[Rows, Truth]:
    """Features in which classes, or values, overlap a little; 60 units of 5 tiles."""
    random = np.random.default_rng(seed)
    units = np.repeat(np.arange(60), 5)
    kinds = units % 3
    features = random.normal(size=(300, 8)) + 1.2 * np.eye(8)[kinds] + 3
    values = features[:, 0] + 0.3 * random.normal(size=300)
    number = np.array([TRAIN, TRAIN, VAL, TEST])[units // 3 % 4].astype(np.int8)
    is_class = task == CLASSIFICATION
    return features, Truth(
        task=task,
        classes=3 if is_class else 0,
        targets=kinds if is_class else values,
        units=units,
        split=number,
        resamples=50,
        seed=3,
    )


def test_the_linear_probe_is_that_of_scikit_learn_at_the_chosen_c() -> None:
    features, truth = made()
    train, test = truth.of(TRAIN), truth.of(TEST)

    found = score_features(features, truth, curve=False)

    scaler = StandardScaler().fit(features[train])
    model = LogisticRegression(C=found.chosen["c"], max_iter=5000, tol=1e-8)
    model.fit(scaler.transform(features[train]), truth.targets[train])
    said = model.predict(scaler.transform(features[test]))
    assert np.mean(said == found.predicted["linear"]) > 0.98
    true = truth.targets[test]
    predicted = found.predicted["linear"]
    assert found.scores["linear"]["macro_f1"].value == pytest.approx(
        f1_score(true, predicted, average="macro")
    )
    assert np.array_equal(found.confusion["linear"], confusion_matrix(true, predicted))


@pytest.mark.parametrize("task", [CLASSIFICATION, REGRESSION])
def test_test_tiles_choose_nothing(task: str) -> None:
    features, truth = made(task)
    test = truth.of(TEST)
    targets = truth.targets.copy()
    targets[test] = np.roll(targets[test], 7)
    other = features.copy()
    other[test] += 1

    found = score_features(features, truth, curve=False)
    again = score_features(other, replace(truth, targets=targets), curve=False)

    assert found.chosen == again.chosen
    assert found.scores != again.scores


def test_validation_tiles_choose_how_many_neighbours_vote() -> None:
    features, truth = made()
    train, val = truth.of(TRAIN), truth.of(VAL)
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = rows[val] @ rows[train].T
    score_of = {}
    for k in NEIGHBOURS:
        said = []
        for near in similarity:
            nearest = np.argsort(-near)[:k]
            votes = np.zeros(3)
            for place in nearest:
                votes[truth.targets[train][place]] += np.exp(near[place] / 0.07)
            said.append(votes.argmax())
        score_of[k] = f1_score(truth.targets[val], said, average="macro")

    found = score_features(features, truth, curve=False)

    assert found.chosen["k"] == max(NEIGHBOURS, key=lambda k: score_of[k])


def test_the_curve_goes_over_whole_units_and_ends_at_the_whole_probe() -> None:
    features, truth = made()

    found = score_features(features, truth, curve=True)

    assert [point.share for point in found.curve] == list(SHARES)
    assert [len(point.draws) for point in found.curve] == [DRAWS] * 4 + [1]
    assert all(point.tiles == 5 * point.units for point in found.curve)
    units = [point.units for point in found.curve]
    assert units == sorted(units)
    assert units[0] == 3
    assert units[-1] == 30
    assert found.curve[-1].score == found.scores["linear"]["macro_f1"]
    for point in found.curve:
        assert point.score.value == pytest.approx(np.mean(point.draws))


def test_numbers_are_scored_by_their_distance() -> None:
    features, truth = made(REGRESSION)
    true = truth.targets[truth.of(TEST)]

    found = score_features(features, truth, curve=True)

    for method in ("knn", "linear"):
        expected = mean_absolute_error(true, found.predicted[method])
        assert found.scores[method]["l1"].value == pytest.approx(expected)
    assert found.scores["linear"]["r2"].value > 0.7
    assert found.confusion == {}
    assert found.curve[-1].score == found.scores["linear"]["l1"]
    assert found.curve[0].score.value > found.curve[-1].score.value


def test_neighbours_give_the_weighted_mean_of_their_values() -> None:
    features, truth = made(REGRESSION)
    train, test = truth.of(TRAIN), truth.of(TEST)
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    near = (rows[test] @ rows[train].T)[0]

    found = score_features(features, truth, curve=False)

    nearest = np.argsort(-near)[: int(found.chosen["k"])]
    weights = np.exp(near[nearest] / 0.07)
    expected = np.average(truth.targets[train][nearest], weights=weights)
    assert found.predicted["knn"][0] == pytest.approx(expected)
