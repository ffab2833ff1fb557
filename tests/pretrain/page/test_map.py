"""Which tiles a page shows, and where they stand on a map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pretrain.page.map import choose_points, lay_out

GROUPS = 3
PER_GROUP = 14


def three_groups(seed: int = 0, width: int = 20) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Features of three groups in three directions, and the group of each row."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(GROUPS), PER_GROUP)
    rows = 5 * np.eye(width)[group] + random.normal(0, 0.3, (len(group), width))
    return rows.astype(np.float32), group.tolist()


@given(st.lists(st.integers(0, 5), min_size=0, max_size=80), st.integers(0, 40), st.integers(0, 99))
def test_points_are_drawn_as_evenly_over_classes_as_there_are_tiles(
    classes: list[int], most: int, seed: int
) -> None:
    targets = np.array(classes, dtype=np.int64)
    rows = choose_points(targets, most, seed)

    assert len(rows) == min(most, len(classes))
    assert rows.tolist() == sorted(set(rows.tolist()))
    taken, there = (np.bincount(values, minlength=6) for values in (targets[rows], targets))
    # A class that was not taken whole has, but for one, as many as any other.
    assert all(taken[c] >= taken.max() - 1 for c in range(6) if taken[c] < there[c])


def test_the_same_points_are_drawn_again_and_others_for_another_seed() -> None:
    targets = np.zeros(1000, dtype=np.int64)
    first = choose_points(targets, 50, 0).tolist()
    assert choose_points(targets, 50, 0).tolist() == first
    assert choose_points(targets, 50, 1).tolist() != first


def test_values_are_drawn_as_one_class() -> None:
    assert len(choose_points(np.linspace(-1, 1, 30), 20, 0)) == 20


def test_groups_of_features_stand_apart_on_a_map() -> None:
    features, group = three_groups()
    layout = lay_out(features, 0)
    assert layout.method == "t-SNE"
    apart = np.linalg.norm(layout.points[:, None] - layout.points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert [group[other] for other in apart.argmin(axis=1)] == group


def test_a_map_is_the_same_again_however_many_threads_there_are() -> None:
    from threadpoolctl import threadpool_limits

    features, _ = three_groups()
    with threadpool_limits(1):
        once = lay_out(features, 3).points
    with threadpool_limits(2):
        again = lay_out(features, 3).points
    assert once.tobytes() == again.tobytes()


def test_a_map_is_of_directions() -> None:
    features, _ = three_groups(width=4)
    few = features[:20]
    longer = few * np.linspace(1, 9, 20)[:, None]
    np.testing.assert_allclose(lay_out(longer, 0).points, lay_out(few, 0).points, atol=1e-6)


def test_a_few_tiles_stand_as_their_principal_components_do() -> None:
    from sklearn.decomposition import PCA

    features, _ = three_groups()
    few = features[::3]
    layout = lay_out(few, 0)
    assert layout.method == "PCA"
    expected = PCA(2).fit_transform(few / np.linalg.norm(few, axis=1, keepdims=True))
    for axis in range(2):
        assert abs(np.corrcoef(layout.points[:, axis], expected[:, axis])[0, 1]) > 1 - 1e-6


@settings(deadline=None, max_examples=30)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(0, 12), st.integers(1, 4)),
        elements=st.floats(-100, 100, width=32),
    )
)
def test_any_few_features_have_a_place_on_the_map(features: npt.NDArray[np.float32]) -> None:
    points = lay_out(features, 0).points
    assert points.shape == (len(features), 2)
    assert ((points >= -1e-9) & (points <= 1 + 1e-9)).all()


def test_tiles_that_are_all_alike_stand_in_one_point() -> None:
    layout = lay_out(np.ones((40, 6), dtype=np.float32), 0)
    assert np.ptp(layout.points, axis=0).tolist() == [0, 0]


def test_features_that_are_no_numbers_have_no_place() -> None:
    with pytest.raises(ValueError, match="finite"):
        lay_out(np.full((3, 2), np.nan, dtype=np.float32), 0)
