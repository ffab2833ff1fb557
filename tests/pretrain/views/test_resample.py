"""Sums of lines against dense matrices and against Pillow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch")

from pretrain.views.resample import LineSums, Taps, blur_taps, crop_taps  # noqa: E402

CPU = torch.device("cpu")


def crops(boxes: list[tuple[float, float, bool]], size: int, length: int) -> Taps:
    """Taps of crops (start, extent, flip)."""
    start, extent, flip = (np.array(values) for values in zip(*boxes, strict=True))
    return crop_taps(start, extent, flip, size, length, CPU)


def dense(taps: Taps, length: int) -> npt.NDArray[np.float64]:
    """The same sums as matrices (B, S, L)."""
    lines, weights = taps.lines.numpy(), taps.weights.numpy()
    matrices = np.zeros((*lines.shape[:2], length))
    for place in np.ndindex(*lines.shape):
        matrices[(*place[:2], lines[place])] += weights[place]
    return matrices


boxes = st.tuples(st.floats(0, 1), st.floats(0.05, 1), st.booleans()).map(
    lambda drawn: (drawn[0] * (1 - drawn[1]), *drawn[1:])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=3), st.integers(2, 12), st.integers(2, 30))
def test_each_line_is_a_mean_of_lines_around_the_place_that_it_shows(
    drawn: list[tuple[float, float, bool]], size: int, length: int
) -> None:
    matrices = dense(crops(drawn, size, length), length)
    np.testing.assert_allclose(matrices.sum(axis=2), 1, atol=1e-5)
    assert matrices.min() >= 0
    for (start, extent, flip), matrix in zip(drawn, matrices, strict=True):
        step = extent * length / size
        rows = matrix[::-1] if flip else matrix
        for line, row in enumerate(rows):
            centre = start * length + (line + 0.5) * step
            shown = np.flatnonzero(row > 1e-4) + 0.5
            assert np.abs(shown - centre).max() <= max(step, 1.0) + 1e-3


@pytest.mark.parametrize("size", [5, 13, 31])
def test_a_whole_picture_is_resampled_as_pillow_does_it(size: int) -> None:
    grey = np.random.default_rng(0).uniform(0, 1, (20, 9)).astype(np.float32)
    expected = Image.fromarray(grey).resize((9, size), Image.Resampling.BILINEAR)
    found = dense(crops([(0.0, 1.0, False)], size, 20), 20)[0] @ grey
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
@pytest.mark.parametrize("several", [(), (3,)])
def test_sums_are_products_with_dense_matrices(
    skip: bool, chunk: int, several: tuple[int, ...]
) -> None:
    taps = crops([(0.1, 0.8, False), (0.0, 0.2, True), (0.0, 1.0, False)], 7, 20)
    pictures: Any = torch.rand(*several, 3, 20, 5, generator=torch.Generator().manual_seed(0))
    sums = LineSums(taps, 20, chunk, skip=skip)
    parts = pictures.split(chunk, dim=-3)
    found = [sums.apply(part.contiguous(), number) for number, part in enumerate(parts)]
    expected = dense(taps, 20) @ pictures.double().numpy()
    np.testing.assert_allclose(torch.cat(found, dim=-3).numpy(), expected, atol=1e-6)


def test_a_sigma_of_nothing_blurs_nothing_beside_one_that_does() -> None:
    matrices = dense(blur_taps(np.array([0.0, 1.5]), 9, CPU), 9)
    np.testing.assert_array_equal(matrices[0], np.eye(9))
    assert matrices[1].diagonal().max() < 0.6


def test_a_blur_reaches_no_further_than_the_picture() -> None:
    matrices = dense(blur_taps(np.array([50.0]), 6, CPU), 6)
    np.testing.assert_allclose(matrices.sum(axis=2), 1, atol=1e-6)
