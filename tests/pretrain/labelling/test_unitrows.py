"""Validation units are spared from training without taking any class from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pretrain.errors import ConfigError
from pretrain.labelling.setrows import TEST, TRAIN, VAL
from pretrain.labelling.unitrows import UnitRows, spare_val


def numbered(units: list[int]) -> UnitRows:
    """Units by their numbers."""
    names = tuple(f"u{number}" for number in range(max(units) + 1))
    return UnitRows(np.array(units), names, ("group",), ("group",))


ROWS = st.lists(
    st.tuples(st.integers(0, 11), st.integers(0, 3)),  # unit, class
    min_size=2,
    max_size=60,
)


@given(ROWS, st.integers(0, 2**63 - 1))
def test_units_go_whole_and_every_class_keeps_one(rows: list[tuple[int, int]], seed: int) -> None:
    units, classes = (np.array(column) for column in zip(*rows, strict=True))
    sets = np.where(units % 4 == 3, np.int8(TEST), np.int8(TRAIN))
    try:
        found = spare_val(sets, numbered(units.tolist()), classes, seed)
    except ConfigError:
        assume(False)
    np.testing.assert_array_equal(found == TEST, sets == TEST)
    train, val = (set(units[found == number].tolist()) for number in (TRAIN, VAL))
    assert val
    assert not train & val
    assert set(classes[found == TRAIN].tolist()) == set(classes[sets == TRAIN].tolist())


def test_a_fifth_of_the_units_of_each_class() -> None:
    units, classes = np.repeat(np.arange(40), 3), np.repeat([0] * 30 + [1] * 10, 3)
    found = spare_val(np.zeros(120, dtype=np.int8), numbered(units.tolist()), classes, 0)
    assert [len(set(units[(found == VAL) & (classes == c)].tolist())) for c in (0, 1)] == [6, 2]


def test_which_units_go_depends_on_their_names_not_on_their_order() -> None:
    units = np.arange(20)
    sets, classes = np.zeros(20, dtype=np.int8), np.zeros(20, dtype=np.int64)
    one = spare_val(sets, numbered(units.tolist()), classes, 7)
    other = spare_val(sets, numbered(units[::-1].tolist()), classes, 7)
    np.testing.assert_array_equal(one, other[::-1])


def test_units_that_hold_two_classes_are_not_the_last_of_either() -> None:
    units, classes = np.array([0, 0, 1, 2]), np.array([0, 1, 0, 1])
    found = spare_val(np.zeros(4, dtype=np.int8), numbered(units.tolist()), classes, 0)
    assert set(classes[found == TRAIN].tolist()) == {0, 1}
    with pytest.raises(ConfigError, match="no unit can be spared"):
        spare_val(np.zeros(4, dtype=np.int8), numbered([0, 0, 0, 0]), classes, 0)
