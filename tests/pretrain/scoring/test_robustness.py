"""The robustness index against examples by hand and a loop; votes against scikit-learn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sklearn")

from sklearn.metrics import balanced_accuracy_score

from pretrain.scoring.robustness import (
    CANDIDATES,
    Kinds,
    best_k,
    candidates_within,
    chance_index,
    common_k,
    count_kinds,
    possible_kinds,
    scorable,
    vote,
    vote_accuracy,
)

Integers = npt.NDArray[np.int64]


def of(*values: int) -> Integers:
    return np.array(values, dtype=np.int64)


TUMOUR, NORMAL = 0, 1
HERE, THERE = 0, 1
# Eight tiles, one per patient; two tiles of each pair of tissue and site.
BIOLOGY = of(TUMOUR, TUMOUR, TUMOUR, TUMOUR, NORMAL, NORMAL, NORMAL, NORMAL)
SITE = of(HERE, HERE, THERE, THERE, HERE, HERE, THERE, THERE)
UNITS = np.arange(8)
EVERY = np.ones(8, np.bool_)


def nearest_by_loop(features: npt.NDArray[np.float64], units: Integers, k: int) -> Integers:
    """Cosine neighbours of other units, one tile at a time."""
    lengths = np.sqrt((features**2).sum(axis=1))
    numbers = np.full((len(features), k), -1, dtype=np.int64)
    for i in range(len(features)):
        near = [
            (-float(features[i] @ features[j]) / (lengths[i] * lengths[j]), j)
            for j in range(len(features))
            if units[j] != units[i]
        ]
        for place, (_, j) in enumerate(sorted(near)[:k]):
            numbers[i, place] = j
    return numbers


def test_three_neighbours_by_hand() -> None:
    # Tile 0 is a tumour from here. Tile 1 says nothing (same tissue, same site), tile 2 speaks for
    # the tissue, tile 4 for the site: 1 / (1 + 1).
    numbers = of(1, 2, 4)[None, :].repeat(8, axis=0)
    kinds = count_kinds(numbers, BIOLOGY, SITE, 3)
    assert (kinds.so[0], kinds.os[0], kinds.all[0]) == (1, 1, 3)
    assert kinds.index(np.arange(8) == 0) == 0.5


def test_counts_are_added_up_before_the_ratio_is_taken() -> None:
    # Tile 0: one SO, no OS; tile 1: one SO, three OS. 2 / (2 + 3), not the mean of 1 and 1/4.
    kinds = Kinds(so=of(1, 1), os=of(0, 3), all=of(4, 4))
    assert kinds.index(np.ones(2, np.bool_)) == pytest.approx(2 / 5)


def test_an_encoder_that_knows_the_tissue_alone_has_one_and_the_site_alone_zero() -> None:
    tissue = np.eye(2)[BIOLOGY] + 0.01 * np.eye(2)[SITE][:, ::-1]
    site = np.eye(2)[SITE] + 0.01 * np.eye(2)[BIOLOGY][:, ::-1]
    for features, expected in ((tissue, 1.0), (site, 0.0)):
        numbers = nearest_by_loop(features, UNITS, 3)
        assert count_kinds(numbers, BIOLOGY, SITE, 3).index(EVERY) == expected


def test_missing_neighbours_do_not_count() -> None:
    kinds = count_kinds(of(2, -1, -1)[None, :].repeat(8, axis=0), BIOLOGY, SITE, 3)
    assert (kinds.so[0], kinds.os[0], kinds.all[0]) == (1, 0, 1)


def test_without_any_kind_there_is_no_index() -> None:
    kinds = count_kinds(of(1)[None, :].repeat(8, axis=0), BIOLOGY, SITE, 1)
    assert kinds.index(np.arange(8) < 2) is None


@st.composite
def tile_sets(draw: st.DrawFn) -> tuple[Integers, Integers, Integers]:
    count = draw(st.integers(2, 24))
    column = st.lists(st.integers(0, 3), min_size=count, max_size=count)
    biology, confounder, units = (np.array(draw(column), dtype=np.int64) for _ in range(3))
    return biology, confounder, units


@given(tile_sets(), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_index_is_the_looped_one(
    tiles: tuple[Integers, Integers, Integers], k: int, seed: int
) -> None:
    biology, confounder, units = tiles
    features = np.random.default_rng(seed).standard_normal((len(biology), 5))
    numbers = nearest_by_loop(features, units, k)
    so = os = 0
    for i, row in enumerate(numbers.tolist()):
        for j in (j for j in row if j >= 0):
            so += biology[i] == biology[j] and confounder[i] != confounder[j]
            os += biology[i] != biology[j] and confounder[i] == confounder[j]
    expected = so / (so + os) if so + os else None
    index = count_kinds(numbers, biology, confounder, k).index(np.ones(len(biology), np.bool_))
    assert index == (None if expected is None else pytest.approx(expected))


@given(tile_sets())
def test_possible_kinds_are_those_of_all_tiles_of_other_units(
    tiles: tuple[Integers, Integers, Integers],
) -> None:
    biology, confounder, units = tiles
    everyone = np.full((len(units), len(units)), -1, dtype=np.int64)
    for i in range(len(units)):
        others = np.flatnonzero(units != units[i])
        everyone[i, : len(others)] = others
    looped = count_kinds(everyone, biology, confounder, len(units))
    possible = possible_kinds(biology, confounder, units)
    assert np.array_equal(possible.so, looped.so)
    assert np.array_equal(possible.os, looped.os)
    assert np.array_equal(possible.all, looped.all)


def test_chance_is_one_half_in_a_balanced_set_and_not_in_others() -> None:
    assert chance_index(possible_kinds(BIOLOGY, SITE, UNITS), EVERY) == pytest.approx(0.5)
    # Two tissues at three sites: of the others, two SO for each OS.
    biology, site = np.repeat(of(0, 1), 3), np.tile(of(0, 1, 2), 2)
    possible = possible_kinds(biology, site, np.arange(6))
    assert chance_index(possible, np.ones(6, np.bool_)) == pytest.approx(2 / 3)


def test_neighbours_at_random_have_the_chance_index() -> None:
    random = np.random.default_rng(0)
    biology, site = random.integers(0, 2, 600), random.integers(0, 3, 600)
    units = random.integers(0, 60, 600)
    numbers = np.stack([random.permutation(np.flatnonzero(units != u))[:20] for u in units])
    every = np.ones(600, np.bool_)
    index = count_kinds(numbers, biology, site, 20).index(every)
    assert index == pytest.approx(
        chance_index(possible_kinds(biology, site, units), every), abs=0.02
    )


def test_a_tile_crosses_if_both_kinds_of_neighbours_are_possible() -> None:
    # Tissue 1 is at one site only: it has no SO. Site 2 has one tissue only: it has no OS.
    biology, site = of(0, 0, 1, 0), of(0, 1, 0, 2)
    assert possible_kinds(biology, site, np.arange(4)).crossing.tolist() == [
        True,
        False,
        False,
        False,
    ]


def test_the_vote_is_that_of_the_majority_and_the_nearest_decides_between_equals() -> None:
    labels = of(0, 1, 1, 2)
    numbers = of(3, 1, 2, 0)[None, :]
    assert vote(numbers, labels, 3, (1, 2, 3, 4)).ravel().tolist() == [2, 2, 1, 1]


def test_who_has_no_neighbours_has_no_vote() -> None:
    assert vote(of(-1, -1)[None, :], of(0), 1, (1, 2)).ravel().tolist() == [-1, -1]


@given(tile_sets(), st.integers(0, 2**32 - 1))
def test_votes_are_those_of_a_count(tiles: tuple[Integers, Integers, Integers], seed: int) -> None:
    labels, _, units = tiles
    features = np.random.default_rng(seed).standard_normal((len(labels), 4))
    numbers = nearest_by_loop(features, units, 7)
    for k, said in zip((1, 3, 7), vote(numbers, labels, 4, (1, 3, 7)), strict=True):
        for i, row in enumerate(numbers[:, :k].tolist()):
            votes = [int(labels[j]) for j in row if j >= 0]
            # max takes the first of equals, and a dict keeps the nearest first.
            expected = max(dict.fromkeys(votes), key=votes.count) if votes else -1
            assert said[i] == expected


def test_the_accuracy_is_scikit_learns_balanced_one() -> None:
    random = np.random.default_rng(1)
    truth, said = random.integers(0, 3, 90), random.integers(0, 3, 90)
    accuracy = vote_accuracy(truth, said, np.ones(3, np.bool_))
    assert accuracy == pytest.approx(balanced_accuracy_score(truth, said))


def test_a_class_of_one_unit_cannot_be_scored() -> None:
    assert scorable(of(0, 0, 1, 1, -1), of(0, 1, 2, 2, 3), 2).tolist() == [True, False]


def test_the_number_of_neighbours_is_the_one_that_tells_the_tissue_best() -> None:
    # The nearest neighbour is always wrong, the next two are right.
    numbers = np.stack([of(2, 1, 1), of(2, 0, 0), of(0, 3, 3), of(0, 2, 2)])
    labels = of(0, 0, 1, 1)
    assert best_k(numbers, labels, np.ones(2, np.bool_), (1, 3)) == 3
    assert common_k([1, 3, 11]) == 3
    assert common_k([41, 51]) == 46  # as PathoROB's 46 for its third set


def test_no_more_neighbours_than_every_tile_has() -> None:
    units = of(*[0] * 10, *range(1, 6))
    assert candidates_within(possible_kinds(units * 0, units, units)) == (1, 3, 5)
    assert CANDIDATES[:8] == (1, 3, 5, 7, 9, 11, 21, 31)
    assert CANDIDATES[-1] == 591
