"""Neighbours and their votes against loops that say the same thing slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.scoring import neighbours
from pretrain.scoring.neighbours import (
    VOTE_TEMPERATURE,
    Flags,
    Floats,
    Integers,
    ballots,
    nearest,
    vote,
)


def slow_nearest(
    queries: Floats, bank: Floats, k: int, allowed: Flags
) -> tuple[list[list[int]], list[list[float]]]:
    """Neighbours with loops and a sort alone."""
    numbers, near = [], []
    for i, query in enumerate(queries):
        found = []
        for j, other in enumerate(bank):
            if allowed[i, j]:
                cosine = query @ other / math.sqrt((query @ query) * (other @ other))
                found.append((-round(float(cosine), 12), j))
        found = sorted(found)[:k]
        missing = k - len(found)
        numbers.append([j for _, j in found] + [-1] * missing)
        near.append([-minus for minus, _ in found] + [-math.inf] * missing)
    return numbers, near


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 12),
    others=st.integers(1, 40),
    k=st.integers(1, 12),
    density=st.floats(0.0, 1.0),
    block=st.integers(1, 50),
)
def test_neighbours_are_those_of_the_loop_whatever_the_block(
    seed: int, rows: int, others: int, k: int, density: float, block: int
) -> None:
    random = np.random.default_rng(seed)
    # Whole numbers, so that many rows are equal or lie on one line.
    queries = random.integers(1, 4, size=(rows, 2)).astype(np.float64)
    bank = random.integers(1, 4, size=(others, 2)).astype(np.float64)
    allowed = random.random((rows, others)) < density
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_QUERIES", 5)
        patch.setattr(neighbours, "_BANK", block)
        numbers, near = nearest(queries, bank, k, allowed=allowed)
    slow_numbers, slow_near = slow_nearest(queries, bank, k, allowed)
    assert numbers.tolist() == slow_numbers
    assert near == pytest.approx(np.array(slow_near), abs=2e-12)


@given(seed=st.integers(0, 2**32 - 1), block=st.integers(1, 30))
def test_tiles_of_the_own_unit_are_no_neighbours(seed: int, block: int) -> None:
    random = np.random.default_rng(seed)
    rows, units = random.normal(size=(30, 4)), random.integers(5, size=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_BANK", block)
        found, near = nearest(rows, rows, 30, query_units=units, bank_units=units)
    by_matrix = nearest(rows, rows, 30, allowed=units[:, None] != units[None, :])
    assert found.tolist() == by_matrix[0].tolist()
    assert near == pytest.approx(by_matrix[1], abs=2e-12)
    for row, those in enumerate(found):
        assert set(those[those >= 0]) == set(np.flatnonzero(units != units[row]))


def test_neighbours_come_nearest_first_and_only_where_allowed() -> None:
    features = np.array([[1, 0], [2, 0.2], [1, 1], [0, 3], [-1, 0]], dtype=np.float64)
    allowed = ~np.eye(5, dtype=bool)
    allowed[0] = [False, False, True, True, False]
    numbers, similarity = nearest(features, features, 3, allowed=allowed)
    assert numbers[0].tolist() == [2, 3, -1]
    assert similarity[0].tolist() == pytest.approx([math.sqrt(0.5), 0.0, -math.inf])
    assert numbers[3].tolist() == [2, 1, 0]


def test_equal_neighbours_come_in_the_order_of_their_numbers() -> None:
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(1, 300)), 40, axis=0)
    features *= random.uniform(0.5, 2.0, size=(40, 1))
    numbers, _ = nearest(features, features, 39, allowed=~np.eye(40, dtype=bool))
    assert numbers[7].tolist() == [n for n in range(40) if n != 7]
    few, _ = nearest(features, features, 5)
    assert (few == np.arange(5)).all()


def test_rows_that_are_not_finite_have_no_neighbours_and_are_none() -> None:
    rows = np.array([[1.0, 0.0], [np.nan, 1.0], [1.0, 1.0], [np.inf, 0.0]])
    numbers, near = nearest(rows, rows, 3)
    assert numbers.tolist() == [[0, 2, -1], [-1, -1, -1], [2, 0, -1], [-1, -1, -1]]
    assert np.isneginf(near[[1, 3]]).all()


def test_an_empty_side_has_no_neighbours() -> None:
    rows, nothing = np.ones((3, 2)), np.ones((0, 2))
    assert nearest(rows, nothing, 2)[0].tolist() == [[-1, -1]] * 3
    assert nearest(nothing, rows, 2)[0].shape == (0, 2)


def test_units_are_given_for_both_sides() -> None:
    with pytest.raises(ValueError, match="both sides"):
        nearest(np.ones((2, 2)), np.ones((2, 2)), 1, query_units=np.zeros(2, np.int64))


def test_a_near_neighbour_outvotes_two_far_ones() -> None:
    labels = np.array([0, 0, 1, 1])
    numbers = np.array([[1, 2, 3], [2, 3, -1], [-1, -1, -1]])
    similarity = np.array([[0.95, 0.8, 0.8], [0.9, 0.9, -np.inf], [-np.inf] * 3])
    assert vote(numbers, similarity, labels, 2).tolist() == [0, 1, -1]
    shares = ballots(numbers, similarity, labels, 2)
    first = math.exp(0.95 / VOTE_TEMPERATURE), 2 * math.exp(0.8 / VOTE_TEMPERATURE)
    assert shares[0].tolist() == pytest.approx([first[0] / sum(first), first[1] / sum(first)])
    assert shares[1:].tolist() == [[0.0, 1.0], [0.0, 0.0]]


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 15), classes=st.integers(1, 4))
def test_shares_of_votes_are_those_of_the_loop(seed: int, k: int, classes: int) -> None:
    random = np.random.default_rng(seed)
    queries, bank = random.normal(size=(6, 5)), random.normal(size=(12, 5))
    labels: Integers = random.integers(classes, size=12)
    votes = np.zeros((6, classes))
    for i, those in enumerate(slow_nearest(queries, bank, k, np.ones((6, 12), bool))[0]):
        for j in those:
            if j >= 0:
                cosine = queries[i] @ bank[j]
                cosine /= np.linalg.norm(queries[i]) * np.linalg.norm(bank[j])
                votes[i, labels[j]] += math.exp(cosine / VOTE_TEMPERATURE)
    expected = votes / votes.sum(axis=1, keepdims=True)
    assert ballots(*nearest(queries, bank, k), labels, classes) == pytest.approx(expected)
