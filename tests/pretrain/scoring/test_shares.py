"""Shares of labels: whole units, nested, every class, and as much as was asked for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.scoring.shares import label_subset

SHARES = (0.01, 0.05, 0.1, 0.3, 0.5, 0.9, 1.0)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 60),
    units=st.integers(1, 20),
    classes=st.integers(1, 4),
)
def test_shares_are_whole_units_nest_and_have_every_class(
    seed: int, rows: int, units: int, classes: int
) -> None:
    random = np.random.default_rng(seed)
    labels, of_row = random.integers(classes, size=rows), random.integers(units, size=rows) * 3
    taken = [label_subset(labels, of_row, share, seed) for share in SHARES]
    for some in taken:
        assert set(of_row[some]).isdisjoint(of_row[~some])
        assert set(labels[some]) == set(labels)
    for smaller, larger in pairwise(taken):
        assert (larger | ~smaller).all()
    assert taken[-1].all()


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_each_class_has_its_share_of_many_units(share: float) -> None:
    # 200 units of 5 tiles of a class, 100 of 5 of another.
    labels, units = np.array([0, 0, 1]).repeat(500), np.arange(300).repeat(5)
    taken = label_subset(labels, units, share, 0)
    counts = np.bincount(labels[taken]) / np.bincount(labels)
    assert counts.tolist() == pytest.approx([share, share], abs=0.01)


@pytest.mark.parametrize(("share", "taken"), [(0.1, 1), (0.3, 1), (0.4, 2), (0.6, 2), (0.9, 4)])
def test_of_few_units_as_many_are_taken_as_come_nearest(share: float, taken: int) -> None:
    units = np.arange(4).repeat(5)
    assert label_subset(np.zeros(20, np.int64), units, share, 0).sum() == 5 * taken


def test_units_that_hold_a_rare_class_are_kept_though_another_is_more() -> None:
    labels, units = np.array([0, 0, 0, 1] + [0] * 36), np.arange(10).repeat(4)
    for seed in range(5):
        taken = label_subset(labels, units, 0.01, seed)
        assert taken[:4].all()
        assert taken.sum() <= 8


def test_a_class_is_kept_by_a_unit_that_is_mostly_of_it() -> None:
    # Twenty units of class 0 with one tile of class 1 each, and one unit of class 1 alone.
    labels, units = np.array([0, 0, 0, 1] * 20 + [1] * 4), np.arange(21).repeat(4)
    for seed in range(5):
        taken = label_subset(labels, units, 0.01, seed)
        assert taken[-4:].all()
        assert taken.sum() == 8


def test_seeds_draw_different_units_and_one_seed_the_same() -> None:
    labels, units = np.zeros(100, dtype=np.int64), np.arange(100)
    drawn = [np.flatnonzero(label_subset(labels, units, 0.1, seed)).tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 10


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="not above 0"):
        label_subset(np.zeros(3, np.int64), np.arange(3), share, 0)


def test_units_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 labels, but 2 units"):
        label_subset(np.zeros(3, np.int64), np.arange(2), 0.5, 0)
