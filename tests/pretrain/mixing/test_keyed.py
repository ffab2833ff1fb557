"""Keyed permutations are permutations, and keyed numbers are uniform and their own row's only."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.mixing.keyed import key_of, permute, subkey, uniforms

KEYS = st.integers(0, 2**64 - 1)


@settings(deadline=None)
@given(key=KEYS, size=st.integers(1, 500))
def test_every_position_is_taken_exactly_once(key: int, size: int) -> None:
    assert sorted(permute(key, size, i) for i in range(size)) == list(range(size))


@settings(deadline=None)
@given(key=KEYS, size=st.integers(1, 10**12), data=st.data())
def test_huge_ranges_stay_in_range(key: int, size: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, size - 1))
    assert 0 <= permute(key, size, position) < size


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_over_many_keys_each_place_is_equally_likely(size: int) -> None:
    counts = np.zeros((size, size))
    for seed in range(2000):
        key = key_of(seed, "test")
        for position in range(size):
            counts[position, permute(key, size, position)] += 1
    # Five standard deviations of a binomial share.
    spread = 5 * np.sqrt(2000 * (1 / size) * (1 - 1 / size))
    assert np.abs(counts - 2000 / size).max() < spread


def test_a_long_permutation_keeps_no_neighbours_together() -> None:
    order = np.array([permute(key_of(3), 5000, i) for i in range(5000)])
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.002
    assert abs(np.corrcoef(np.arange(5000), order)[0, 1]) < 0.05


def test_a_position_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="position 3"):
        permute(0, 3, 3)


def test_keys_depend_on_every_part_and_on_order() -> None:
    keys = {key_of(), key_of(0), key_of(0, 0), key_of(1, 0), key_of(0, 1), key_of("a"), key_of("0")}
    assert len(keys) == 7


def test_keys_of_many_things_differ_from_each_other_and_from_those_of_another_key() -> None:
    keys = [subkey(key, number) for key in (0, 1, key_of(5)) for number in range(1000)]
    assert len(set(keys)) == 3000
    assert all(0 <= key < 2**64 for key in keys)


def test_orders_of_neighbouring_keys_have_nothing_in_common() -> None:
    orders = np.array([[permute(subkey(7, k), 50, i) for i in range(50)] for k in range(400)])
    same = (orders[1:] == orders[:-1]).mean()
    # Five standard deviations around one in fifty.
    assert abs(same - 0.02) < 5 * np.sqrt(0.02 * 0.98 / (399 * 50))
    # Pairs of places, too: each of all pairs of values is equally likely.
    pairs = Counter((int(a) // 10, int(b) // 10) for a, b in orders[:, :2])
    assert len(pairs) == 25


def test_a_row_of_numbers_does_not_depend_on_the_others() -> None:
    numbers = np.array([5, 0, 2**40], dtype=np.int64)
    together = uniforms(9, numbers, 6)
    for row, number in enumerate(numbers):
        np.testing.assert_array_equal(together[row], uniforms(9, np.array([number]), 6)[0])


def test_numbers_are_uniform_and_uncorrelated() -> None:
    drawn = uniforms(key_of(1), np.arange(20_000), 4)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.abs(drawn.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(drawn.var(axis=0) - 1 / 12).max() < 0.005
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.03
