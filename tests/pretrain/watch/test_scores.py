"""Scores of features against loops that say the same thing slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.scoring.neighbours import VOTE_TEMPERATURE, Flags, Floats, Integers
from pretrain.watch.scores import alignment, knn_accuracy, scorable, uniformity


def cosine(one: Floats, other: Floats) -> float:
    """Similarity of two features, the plain way."""
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


def slow_accuracy(features: Floats, labels: Integers, allowed: Flags, k: int) -> float | None:
    """k-NN accuracy with loops and lists alone."""
    rights: dict[int, list[bool]] = {}
    for i, label in enumerate(labels.tolist()):
        others = [j for j in range(len(labels)) if allowed[i, j]]
        if label not in {labels[j] for j in others}:
            continue
        others.sort(key=lambda j: -cosine(features[i], features[j]))
        votes: dict[int, float] = {}
        for j in others[:k]:
            weight = math.exp(cosine(features[i], features[j]) / VOTE_TEMPERATURE)
            votes[int(labels[j])] = votes.get(int(labels[j]), 0.0) + weight
        rights.setdefault(label, []).append(max(votes, key=lambda c: votes[c]) == label)
    if not rights:
        return None
    return sum(sum(right) / len(right) for right in rights.values()) / len(rights)


@given(
    seed=st.integers(0, 2**32 - 1),
    tiles=st.integers(1, 25),
    classes=st.integers(1, 4),
    k=st.integers(1, 30),
    density=st.floats(0.0, 1.0),
)
def test_accuracy_is_that_of_the_loop(
    seed: int, tiles: int, classes: int, k: int, density: float
) -> None:
    random = np.random.default_rng(seed)
    features = random.normal(size=(tiles, 6))
    labels = random.integers(classes, size=tiles)
    allowed = (random.random((tiles, tiles)) < density) & ~np.eye(tiles, dtype=bool)
    fast = knn_accuracy(features, labels, allowed, k)
    assert fast == pytest.approx(slow_accuracy(features, labels, allowed, k))


def test_accuracy_counts_classes_alike_not_tiles() -> None:
    # Nine tiles of class 0 that find each other, and two of class 1 that find only class 0.
    features = np.array([[1.0, 0.01 * i] for i in range(9)] + [[1.0, 0.5], [1.0, -0.4]])
    labels = np.array([0] * 9 + [1] * 2)
    assert knn_accuracy(features, labels, ~np.eye(11, dtype=bool), 1) == 0.5


def test_a_tile_without_its_class_among_its_neighbours_is_not_scored() -> None:
    labels = np.array([0, 0, 1, 2])
    allowed = ~np.eye(4, dtype=bool)
    assert scorable(labels, allowed).tolist() == [True, True, False, False]
    assert knn_accuracy(np.eye(4), labels, allowed & (labels == 1)[None, :], 2) is None


def test_features_that_say_nothing_score_as_a_guess() -> None:
    random = np.random.default_rng(1)
    labels = np.arange(1000) % 4
    allowed = ~np.eye(1000, dtype=bool)
    found = knn_accuracy(random.normal(size=(1000, 64)), labels, allowed, 20)
    assert found == pytest.approx(0.25, abs=0.06)  # four standard deviations


@given(seed=st.integers(0, 2**32 - 1), tiles=st.integers(2, 20), dim=st.integers(1, 8))
def test_alignment_and_uniformity_are_those_of_the_loop(seed: int, tiles: int, dim: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(2, tiles, dim))
    near = [2 - 2 * cosine(one, other) for one, other in zip(first, second, strict=True)]
    assert alignment(first, second) == pytest.approx(sum(near) / tiles, abs=1e-9)
    apart = [
        math.exp(-2 * (2 - 2 * cosine(first[i], first[j]))) for i in range(tiles) for j in range(i)
    ]
    assert uniformity(first) == pytest.approx(math.log(sum(apart) / len(apart)), abs=1e-9)


def test_the_extremes_are_those_of_the_formulas() -> None:
    random = np.random.default_rng(2)
    spread = random.normal(size=(2000, 128))
    assert alignment(spread, 3 * spread) == pytest.approx(0.0, abs=1e-12)
    assert alignment(spread, -spread) == pytest.approx(4.0)
    assert alignment(spread[:1000], spread[1000:]) == pytest.approx(2.0, abs=0.03)
    # E exp(-4 + 4 cos) with cos of variance 1/128, nearly normal.
    assert uniformity(spread) == pytest.approx(-4 + 16 / (2 * 128), abs=0.01)
    assert uniformity(np.ones((50, 8))) == pytest.approx(0.0, abs=1e-12)
    assert uniformity(np.ones((1, 8))) == 0.0
