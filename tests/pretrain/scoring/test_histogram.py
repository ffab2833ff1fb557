"""Colour histograms against numpy's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.scoring.histogram import colour_histogram


@given(seed=st.integers(0, 2**32 - 1), bins=st.sampled_from([1, 2, 16, 64, 256]))
def test_shares_are_those_of_numpy(seed: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    tiles = random.integers(random.integers(1, 257), size=(3, 5, 4, 3)).astype(np.uint8)
    found = colour_histogram(tiles, bins)
    assert found.shape == (3, 3 * bins)
    assert found.dtype == np.float32
    for row, tile in enumerate(tiles):
        for channel in range(3):
            counts, _ = np.histogram(tile[:, :, channel], bins=bins, range=(0, 256))
            part = found[row, channel * bins : (channel + 1) * bins]
            assert part == pytest.approx(counts / 20)


def test_pure_colours_fall_into_the_first_and_last_bins() -> None:
    tile = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    tile[..., 0], tile[0, 0, 0, 2] = 255, 16
    found = colour_histogram(tile).reshape(3, 16)
    assert found[0].tolist() == [0.0] * 15 + [1.0]
    assert found[1].tolist() == [1.0] + [0.0] * 15
    assert found[2].tolist() == [0.75, 0.25] + [0.0] * 14


def test_no_tiles_have_no_rows() -> None:
    assert colour_histogram(np.zeros((0, 4, 4, 3), dtype=np.uint8)).shape == (0, 48)


def test_what_is_no_batch_of_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not uint8 \(B, H, W, 3\)"):
        colour_histogram(np.zeros((4, 4, 3), dtype=np.uint8))
