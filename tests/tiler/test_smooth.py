"""Smoothing in strips gives what scipy gives, to the last bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from tiler.smooth import gaussian, gaussian_matrix, quantile, row_strips, window_mean

pictures = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.floats(0, 255, width=32),
)


@given(pictures, st.floats(0.34, 3))
def test_the_gaussian_is_scipys(picture: npt.NDArray[np.float32], sigma: float) -> None:
    expected = ndimage.gaussian_filter(picture, sigma, truncate=3.0)
    np.testing.assert_array_equal(gaussian(picture, sigma), expected)


def test_strips_join_without_a_seam() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (700, 300), dtype=np.uint8)
    assert len(list(row_strips(*picture.shape))) > 5
    exact = picture.astype(np.float32)
    expected = ndimage.gaussian_filter(exact, 1.0, truncate=3.0)
    np.testing.assert_array_equal(gaussian(picture, 1.0), expected)
    np.testing.assert_array_equal(window_mean(picture, 7), ndimage.uniform_filter(exact, 7))


@given(pictures, st.sampled_from([3, 7]))
def test_the_mean_is_scipys(picture: npt.NDArray[np.float32], size: int) -> None:
    # scipy adds and takes away along a line, which rounds in another way.
    expected = ndimage.uniform_filter(picture, size)
    np.testing.assert_allclose(window_mean(picture, size), expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("sigma", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("length", [1, 2, 7, 60])
def test_the_matrix_is_scipys_gaussian(length: int, sigma: float) -> None:
    line = np.random.default_rng(length).random(length)
    expected = ndimage.gaussian_filter1d(line, sigma, mode="nearest", truncate=3.0)
    np.testing.assert_allclose(gaussian_matrix(length, sigma) @ line, expected, rtol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(0, 5), (1, 1), (5, 10**6), (10**4, 100), (3, 0)])
def test_strips_are_all_the_rows_in_order(rows: int, columns: int) -> None:
    strips = list(row_strips(rows, columns))
    assert [row for part in strips for row in range(part.start, part.stop)] == list(range(rows))


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-9, 9, width=32)))
def test_quantiles_are_numpys(values: npt.NDArray[np.float32]) -> None:
    assert np.float32(quantile(values, 0.5)) == np.median(values)
    for share in (0.0, 0.3, 0.99, 1.0):
        expected = np.quantile(values.astype(np.float64), share)
        assert quantile(values, share) == pytest.approx(expected, rel=1e-12, abs=1e-12)
